"""Submitting many mails at once, for nobody who waits for their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Unpack

from django.core.mail import EmailMessage
from django.utils.asyncio import async_unsafe

from email_integration.delivery import bulk
from email_integration.delivery.options import MailKeywords, MailOptions
from email_integration.models import Lane

from . import canvas


@async_unsafe("submit_many() writes to the database: in async code, await email_integration.asubmit_many().")
def submit_many(
    messages: Iterable[EmailMessage],
    *,
    idempotency_key: Callable[[EmailMessage], str] | None = None,
    ignore_result: bool = True,
    batch_size: int = bulk.BATCH,
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
    options.setdefault("priority", Lane.BULK)
    return bulk.submit_many(
        messages,
        MailOptions(**options),
        kept=canvas.NO_RESULT if ignore_result else "",
        idempotency_key=idempotency_key,
        batch_size=batch_size,
        on_progress=on_progress,
    )
