"""Submitting many mails at once, whose results are in their deliveries."""

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

    ``messages`` may be a generator: a batch of ``batch_size`` (fewer, if they are large) is in memory at a time, is
    committed by itself and is on its way at once. ``on_progress`` is called after each, with the number of messages so
    far. Inside of ``atomic()`` all are committed, or rolled back, with the rest of it.

    Raises ``InvalidMail`` for a message that cannot be sent, with its number, counted from 1, and passes on what
    ``messages`` raises: all messages before are submitted then, that one and those after it are not. With
    ``idempotency_key``, which gives the key of a message, the same can be run again: what was submitted under its key
    before is not sent twice, and its first id is returned.

    A sender that is left out is the active configuration's. ``options`` are those of ``MailOptions``, for every
    message; ``priority`` is 'bulk' by default. How a mail stands is in its delivery; unless ``ignore_result`` is
    False, Celery's result backend is told nothing, and ``AsyncResult.get()`` of it would wait for ever.
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
        submission.store()  # also when the next message is wrong, or cannot be made
    return submission.ids


def submission_of(*, ignore_result: bool, options: MailKeywords, **how: Any) -> Submission:
    """Return a submission of what ``submit_many`` was called with. Raises ``InvalidMail``."""
    options.setdefault("priority", Priority.BULK)
    return Submission(MailOptions(**options), kept=canvas.NO_RESULT if ignore_result else "", **how)
