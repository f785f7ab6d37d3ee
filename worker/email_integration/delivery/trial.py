"""The mail that shows that a relay works."""

from __future__ import annotations

from django.core.mail import EmailMessage
from django.utils.translation import gettext as _

from email_integration.addresses import envelope_address
from email_integration.smtp import Envelope, Relay
from email_integration.smtp.probe import TrialMail

from .render import render


def trial_mail(relay: Relay, *, to: str) -> TrialMail:
    """A mail to ``to`` with the sender of ``relay``, for ``smtp.probe``. Raises ``InvalidMail`` for either address."""
    message = EmailMessage(
        subject=_("Test mail"),
        body=_("This test mail went through %(relay)s.\n") % {"relay": relay},
        from_email=relay.from_email,
        to=[to],
    )
    # Without a sender of the relay's own Django puts DEFAULT_FROM_EMAIL in, as for any mail.
    rendered = render(message)
    envelope = Envelope(sender=envelope_address(rendered.from_header), recipients=rendered.recipients)
    return TrialMail(envelope=envelope, content=rendered.content)
