"""``EMAIL_BACKEND`` that sends immediately, through the active SMTP configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage

from email_integration.exceptions import DeliveryDeferred, DeliveryFailed, EmailIntegrationError, NotSent
from email_integration.ledger import rows
from email_integration.message.limits import has_recipients
from email_integration.message.options import MailKeywords
from email_integration.models import CircuitBreaker
from email_integration.savepoints import savepoint
from email_integration.secrecy import with_secrets
from email_integration.sending.direct import send_directly

from .base import BORNE, ActiveConfigBackend

logger = logging.getLogger(__name__)


class EmailBackend(ActiveConfigBackend):
    """Sends each message before returning, without a queue, a row or retries."""

    def __init__(self, fail_silently: bool = False, **options: Any) -> None:
        """Create the backend.

        Raises ``ImproperlyConfigured`` for options of ``MailOptions``, which are for queued mail.
        """
        wrong = sorted(MailKeywords.__annotations__.keys() & options.keys())
        if wrong:
            raise ImproperlyConfigured(
                f"{__name__} sends immediately and does not accept {', '.join(wrong)}. Remove the option, or use "
                "email_integration.backends.queued."
            )
        super().__init__(fail_silently, **options)

    @with_secrets
    def _take(self, messages: Iterable[EmailMessage]) -> int:
        """Send the messages, and return how many the server accepted for at least one recipient.

        Unless ``fail_silently``, raises ``InvalidMail`` or ``NotSent`` (a ``smtplib.SMTPException``) for the first
        message that was not accepted, and ``DatabaseError`` when the configuration cannot be read.
        """
        sent = 0
        for message in messages:
            try:
                if not has_recipients(message):
                    continue
                # A suppressed error leaves the caller's transaction unchanged.
                with savepoint(*({rows.database(), CircuitBreaker.objects.db} if self.fail_silently else ())):
                    self._send(message)
            except EmailIntegrationError:
                if not self.fail_silently:
                    raise
            except BORNE as error:
                if not self.fail_silently:
                    raise
                self._say_lost(error)
            else:
                sent += 1
        return sent

    def _send(self, message: EmailMessage) -> None:
        try:
            accepted = send_directly(message, default_from_is_open=True)
        except DeliveryFailed as error:
            raise NotSent(error.code, error.reason, error.status) from None
        except DeliveryDeferred as error:
            raise NotSent(error.code, error.reason, "deferred") from None
        if accepted.refused:
            codes = ", ".join(sorted({reply.short for reply in accepted.refused.values()}))
            logger.warning("The server refused %d recipients of a mail (%s).", len(accepted.refused), codes)
