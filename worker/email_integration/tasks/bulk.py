"""Submit many mails at once. Their results are in their deliveries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Unpack

from django.core.mail import EmailMessage

from email_integration.async_safety import sync_only
from email_integration.message.options import MailKeywords, MailOptions
from email_integration.models import Priority
from email_integration.queue.bulk import BATCH, Submission

from . import canvas


@sync_only("submit_many()", instead="email_integration.asubmit_many()")
def submit_many(
    messages: Iterable[EmailMessage],
    *,
    idempotency_key: Callable[[EmailMessage], str] | None = None,
    ignore_result: bool = True,
    batch_size: int = BATCH,
    on_progress: Callable[[int], None] | None = None,
    **options: Unpack[MailKeywords],
) -> list[str]:
    """Submit many messages and return the ids of their deliveries, in the same order.

    ``messages`` may be a generator. Each batch of ``batch_size`` messages (fewer if they are large) is in memory at
    once, has one commit, and is sent from then on. ``on_progress`` is called after each batch with the number of
    messages so far. Inside ``atomic()`` all messages are committed, or rolled back, with the caller's transaction.

    Raises ``InvalidMail`` for a message that cannot be sent, with its number, counted from 1, and any error that
    ``messages`` raises. Then all messages before it are submitted, and that message and those after it are not. With
    ``idempotency_key``, which returns the key of a message, the call can be repeated: a message whose key was submitted
    before is not sent twice, and the id of its first delivery is returned.

    A missing sender is that of the active configuration. ``options`` are those of ``MailOptions``, for every message;
    ``priority`` is 'bulk' by default. The status of a mail is in its delivery. With ``ignore_result``, the default,
    Celery's result backend stores no result, and ``AsyncResult.get()`` would wait forever.
    """
    submission = submission_of(
        ignore_result=ignore_result,
        idempotency_key=idempotency_key,
        batch_size=batch_size,
        on_progress=on_progress,
        options=options,
    )
    try:
        for number, message in enumerate(messages, 1):
            submission.take(message, number=number)
    finally:
        submission.store()  # also if the next message is invalid or the iterator fails
    return submission.ids


def submission_of(*, ignore_result: bool, options: MailKeywords, **how: Any) -> Submission:
    """Return a submission for the arguments of ``submit_many``. ``how`` is passed on. Raises ``InvalidMail``."""
    options.setdefault("priority", Priority.BULK)
    return Submission(MailOptions(**options), kept=canvas.NO_RESULT if ignore_result else "", **how)
