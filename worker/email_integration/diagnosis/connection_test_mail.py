"""The mail that a connection test sends."""

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
    """Return a mail to ``to`` with the sender of ``relay``, for ``smtp.connection_test``.

    REDIRECT_ALL_TO and ALLOWED_RECIPIENTS apply to it too. Raises ``InvalidMail`` if either address is invalid or no
    recipient is left.
    """
    message = EmailMessage(
        subject=_("Test mail"),
        body=_("This test mail went through %(relay)s.\n") % {"relay": relay},
        from_email=relay.from_email,
        to=[to],
    )
    # If the relay has no sender, Django uses DEFAULT_FROM_EMAIL, as for any mail.
    rendered = render(message)
    try:
        plan = sandbox.plan_now(rendered.recipients)
    except ImproperlyConfigured as error:
        raise InvalidMail(str(error)) from error
    if not plan.envelope:
        raise InvalidMail(f"The address {to!r} is {Cause.WITHHELD.words}.")
    envelope = Envelope(sender=envelope_address(rendered.from_header), recipients=plan.envelope)
    return ConnectionTestMail(envelope=envelope, content=rendered.content)
