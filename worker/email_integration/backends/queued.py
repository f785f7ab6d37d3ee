"""``EMAIL_BACKEND`` that submits: ``send_mail()`` returns once the mail is in the database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.core.mail import EmailMessage
from django.db import transaction
from django.utils.asyncio import async_unsafe

from email_integration.delivery import bulk, rows
from email_integration.delivery.options import MailKeywords, MailOptions
from email_integration.delivery.submit import make
from email_integration.exceptions import InvalidMail
from email_integration.models import Delivery

from .base import ActiveConfigBackend


class EmailBackend(ActiveConfigBackend):
    """Submits each message; it is sent through the SMTP configuration that is active by then."""

    def __init__(self, fail_silently: bool = False, **options: Any) -> None:
        """Take the options of ``MailOptions`` for all its messages. Raises ``InvalidMail`` for a wrong one."""
        names = MailKeywords.__annotations__.keys() & options.keys()
        self._options = MailOptions(**{name: options.pop(name) for name in names})
        super().__init__(fail_silently, **options)

    @async_unsafe(
        "This backend writes to the database: in async code, await email_integration.asend_email(), or "
        "sync_to_async(send_mail)()."
    )
    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Submit the messages, all in one transaction, and return how many that were.

        A message without recipients is passed over, as Django does. Raises ``InvalidMail``, and submits none, unless
        ``fail_silently``.
        """
        using = rows.database()
        with transaction.atomic(using=using):  # one commit and one ring for all of them
            return sum(len(bulk.store(batch, using=using)) for batch in bulk.batches(self._made(email_messages)))

    def _made(self, email_messages: Iterable[EmailMessage]) -> Iterator[Delivery]:
        for message in email_messages:
            if not message.recipients():
                continue
            try:
                yield make(message, self._options, default_from_is_open=True)
            except InvalidMail:
                if not self.fail_silently:
                    raise
