"""``EMAIL_BACKEND`` that sends now, through the active SMTP configuration."""

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
    """Sends each message before returning: no queue, no row, no retry."""

    def __init__(self, fail_silently: bool = False, **options: Any) -> None:
        """Refuse the options of ``MailOptions``: they are for mail that waits. Raises ``ImproperlyConfigured``."""
        wrong = sorted(MailKeywords.__annotations__.keys() & options.keys())
        if wrong:
            raise ImproperlyConfigured(
                f"{__name__} sends at once and takes no {', '.join(wrong)}; email_integration.backends.queued does."
            )
        super().__init__(fail_silently, **options)

    @with_secrets
    def _take(self, messages: Iterable[EmailMessage]) -> int:
        """Send the messages and return how many the server accepted for at least one recipient.

        Raises ``InvalidMail``, or ``NotSent`` (a ``smtplib.SMTPException``), for the first that it did not, or
        ``DatabaseError`` where it cannot ask how to send it, unless ``fail_silently``.
        """
        sent = 0
        for message in messages:
            try:
                if not has_recipients(message):
                    continue
                # What is borne leaves a transaction of the caller's as it was.
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
            logger.warning("%d recipients of a mail were refused (%s).", len(accepted.refused), codes)
