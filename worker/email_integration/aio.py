"""Async versions of the functions of ``email_integration.delivery`` and ``email_integration.tasks``.

Each runs in the thread that Django keeps for async code (``sync_to_async``, thread-sensitive). The event loop continues
meanwhile, and the mail joins the transaction of the surrounding sync code.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Unpack, cast

from asgiref.sync import sync_to_async
from django.core.mail import EmailMessage

from email_integration import delivery
from email_integration.message.options import MailKeywords
from email_integration.queue.bulk import BATCH
from email_integration.secrecy import with_secrets
from email_integration.tasks import send_email
from email_integration.tasks.bulk import submission_of, submit_many

if TYPE_CHECKING:
    from email_integration.message.composition import Attachment
    from email_integration.models import Delivery
    from email_integration.tasks.outbox import DeliveryResult


@with_secrets
async def asend_email(
    subject: str,
    body: str,
    from_email: str | None = None,
    to: Sequence[str] = (),
    *,
    cc: Sequence[str] = (),
    bcc: Sequence[str] = (),
    reply_to: Sequence[str] = (),
    html_body: str | None = None,
    attachments: Sequence[Attachment] = (),
    headers: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    **options: Unpack[MailKeywords],
) -> DeliveryResult:
    """Submit a mail as ``send_email.delay()`` does, and return its ``AsyncResult``.

    The arguments are those of ``send_email``. Raises the errors of ``send_email.delay()``.
    """
    result = await sync_to_async(send_email.delay)(
        subject,
        body,
        from_email,
        to,
        cc=cc,
        bcc=bcc,
        reply_to=reply_to,
        html_body=html_body,
        attachments=attachments,
        headers=headers,
        idempotency_key=idempotency_key,
        **options,
    )
    return cast("DeliveryResult", result)


@with_secrets
async def asubmit(
    message: EmailMessage,
    *,
    delivery_id: str | None = None,
    idempotency_key: str | None = None,
    **options: Unpack[MailKeywords],
) -> Delivery:
    """Submit a message; see ``email_integration.delivery.submit``."""
    return await sync_to_async(delivery.submit)(
        message, delivery_id=delivery_id, idempotency_key=idempotency_key, **options
    )


@with_secrets
async def asubmit_many(
    messages: Iterable[EmailMessage] | AsyncIterable[EmailMessage],
    *,
    idempotency_key: Callable[[EmailMessage], str] | None = None,
    ignore_result: bool = True,
    batch_size: int = BATCH,
    on_progress: Callable[[int], None] | None = None,
    **options: Unpack[MailKeywords],
) -> list[str]:
    """Submit many messages as ``submit_many`` does, and return the ids of their deliveries in the same order.

    ``messages`` may be an async iterable, which is iterated in the event loop. A plain iterable, ``idempotency_key``
    and ``on_progress`` run in the thread. ``batch_size`` is in messages. Raises the errors of ``submit_many``. When the
    call is cancelled, the messages that were read before are submitted.
    """
    if not isinstance(messages, AsyncIterable):
        return await sync_to_async(submit_many)(
            messages,
            idempotency_key=idempotency_key,
            ignore_result=ignore_result,
            batch_size=batch_size,
            on_progress=on_progress,
            **options,
        )
    submission = submission_of(
        ignore_result=ignore_result,
        idempotency_key=idempotency_key,
        batch_size=batch_size,
        on_progress=on_progress,
        options=options,
    )
    take, number = sync_to_async(submission.take), 0
    try:
        async for message in messages:
            number += 1
            await asyncio.shield(take(message, number=number))
    finally:
        await asyncio.shield(sync_to_async(submission.store)())  # runs after the last take(), in the same thread
    return submission.ids


async def acancel(delivery_id: str) -> bool:
    """Cancel a delivery; see ``email_integration.delivery.cancel``."""
    return await sync_to_async(delivery.cancel)(delivery_id)


async def asend_now(delivery_id: str) -> bool:
    """Make a delivery due at once; see ``email_integration.delivery.send_now``."""
    return await sync_to_async(delivery.send_now)(delivery_id)


async def arelease(delivery_id: str) -> bool:
    """Send a delivery in doubt again; see ``email_integration.delivery.release``."""
    return await sync_to_async(delivery.release)(delivery_id)


async def adiscard(delivery_id: str) -> bool:
    """Give up a delivery in doubt, so it is never sent again; see ``email_integration.delivery.discard``."""
    return await sync_to_async(delivery.discard)(delivery_id)


async def aresend(delivery_id: str, *, idempotency_key: str | None = None) -> Delivery:
    """Submit a copy of a delivery; see ``email_integration.delivery.resend``."""
    return await sync_to_async(delivery.resend)(delivery_id, idempotency_key=idempotency_key)
