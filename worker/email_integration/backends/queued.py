"""``EMAIL_BACKEND`` that submits: ``send_mail()`` returns once the mail is in the database."""

from __future__ import annotations

from collections.abc import Iterable

from django.core.mail import EmailMessage
from django.db import transaction

from email_integration.delivery import rows
from email_integration.delivery.submit import submit
from email_integration.exceptions import InvalidMail

from .base import ActiveConfigBackend


class EmailBackend(ActiveConfigBackend):
    """Submits each message; it is sent through the SMTP configuration that is active by then."""

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Submit the messages, all in one transaction, and return how many that were.

        A message without recipients is passed over, as Django does. Raises ``InvalidMail``, and submits none, unless
        ``fail_silently``.
        """
        submitted = 0
        with transaction.atomic(using=rows.database()):  # one commit and one ring for all of them
            for message in email_messages:
                if not message.recipients():
                    continue
                try:
                    submit(message, default_from_is_open=True)
                except InvalidMail:
                    if not self._silent:
                        raise
                else:
                    submitted += 1
        return submitted
