"""The mail that shows that a relay works."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.utils.translation import gettext as _

from email_integration.addresses import envelope_address
from email_integration.exceptions import InvalidMail
from email_integration.message.rendering import render
from email_integration.outcomes.causes import Cause
from email_integration.sending import sandbox
from email_integration.smtp import Envelope, Relay
from email_integration.smtp.connection_test import ConnectionTestMail


def build_test_mail(relay: Relay, *, to: str) -> ConnectionTestMail:
    """A mail to ``to`` with the sender of ``relay``, for ``smtp.connection_test``.

    REDIRECT_ALL_TO and ALLOWED_RECIPIENTS hold for it too. Raises ``InvalidMail`` for either address, and when
    nobody is left to write to.
    """
    message = EmailMessage(
        subject=_("Test mail"),
        body=_("This test mail went through %(relay)s.\n") % {"relay": relay},
        from_email=relay.from_email,
        to=[to],
    )
    # Without a sender of the relay's own Django puts DEFAULT_FROM_EMAIL in, as for any mail.
    rendered = render(message)
    try:
        plan = sandbox.plan_now(rendered.recipients)
    except ImproperlyConfigured as error:
        raise InvalidMail(str(error)) from error
    if not plan.envelope:
        raise InvalidMail(f"The address {to!r} is {Cause.WITHHELD.words}.")
    envelope = Envelope(sender=envelope_address(rendered.from_header), recipients=plan.envelope)
    return ConnectionTestMail(envelope=envelope, content=rendered.content)
