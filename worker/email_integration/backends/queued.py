"""``EMAIL_BACKEND`` that submits mail: ``send_mail()`` returns after the mail is stored in the database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.mail import EmailMessage
from django.db import transaction

from email_integration import recursion
from email_integration.exceptions import InvalidMail
from email_integration.ledger import rows
from email_integration.message.limits import has_recipients
from email_integration.message.options import MailKeywords, MailOptions
from email_integration.queue.bulk import Submission
from email_integration.secrecy import with_secrets

from .base import BORNE, ActiveConfigBackend


class EmailBackend(ActiveConfigBackend):
    """Submits each message. It is sent through the SMTP configuration that is active at that time."""

    def __init__(self, fail_silently: bool = False, **options: Any) -> None:
        """Create the backend, with the options of ``MailOptions`` for all messages.

        Raises ``InvalidMail`` for a wrong one.
        """
        names = MailKeywords.__annotations__.keys() & options.keys()
        self._options = MailOptions(**{name: options.pop(name) for name in names})
        super().__init__(fail_silently, **options)

    @with_secrets
    def _take(self, messages: Iterable[EmailMessage]) -> int:
        """Submit the messages in one transaction, and return their number.

        A message without recipients is skipped, as in Django. Unless ``fail_silently``, raises ``InvalidMail``,
        ``DatabaseError`` or ``ImproperlyConfigured``, and submits none.
        """
        submission = Submission(self._options, kept=recursion.to_keep())
        try:
            with transaction.atomic(using=rows.database()):  # one commit for all of them
                for message in messages:
                    try:
                        if has_recipients(message):
                            submission.take(message)
                    except InvalidMail:
                        if not self.fail_silently:
                            raise
                submission.store()
        except BORNE as error:
            if not self.fail_silently:
                raise
            self._say_lost(error)
            return 0
        return len(submission.ids)
