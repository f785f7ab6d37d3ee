"""``EMAIL_BACKEND`` that sends now, through the active SMTP configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from django.core.mail import EmailMessage
from django.utils.asyncio import async_unsafe

from email_integration.delivery.direct import send_now
from email_integration.exceptions import DeliveryDeferred, DeliveryFailed, EmailIntegrationError, NotSent

from .base import ActiveConfigBackend

logger = logging.getLogger(__name__)


class EmailBackend(ActiveConfigBackend):
    """Sends each message before returning: no queue, no row, no retry."""

    @async_unsafe(
        "This backend talks to database and server: in async code, await email_integration.asend_email(), or "
        "sync_to_async(send_mail)()."
    )
    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send the messages and return how many the server accepted for at least one recipient.

        Raises ``InvalidMail``, or ``NotSent`` (a ``smtplib.SMTPException``), for the first that it did not, unless
        ``fail_silently``.
        """
        sent = 0
        for message in email_messages:
            if not message.recipients():
                continue
            try:
                self._send(message)
            except EmailIntegrationError:
                if not self.fail_silently:
                    raise
            else:
                sent += 1
        return sent

    def _send(self, message: EmailMessage) -> None:
        try:
            accepted = send_now(message, default_from_is_open=True)
        except DeliveryFailed as error:
            raise NotSent(error.code, error.reason, error.status) from None
        except DeliveryDeferred as error:
            raise NotSent(error.code, error.reason, "deferred") from None
        if accepted.refused:
            codes = ", ".join(sorted({reply.short for reply in accepted.refused.values()}))
            logger.warning("%d recipients of a mail were refused (%s).", len(accepted.refused), codes)
