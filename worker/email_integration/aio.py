"""Submit and decide from async code: the functions of ``email_integration.delivery`` and of ``tasks``, to be awaited.

Each works in the thread that Django keeps for async code (``sync_to_async``, thread-sensitive): the event loop goes on
meanwhile, and a mail joins the transaction of the sync code around it.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from asgiref.sync import async_to_sync, sync_to_async
from django.core.mail import EmailMessage

from email_integration import delivery
from email_integration.delivery.bulk import BATCH
from email_integration.delivery.options import MailKeywords
from email_integration.tasks import send_email
from email_integration.tasks.bulk import submit_many

if TYPE_CHECKING:
    from email_integration.models import Delivery
    from email_integration.tasks.outbox import DeliveryResult

T = TypeVar("T")


async def asend_email(*args: Any, **kwargs: Any) -> DeliveryResult:
    """Submit a mail as ``send_email.delay()`` does, and return its ``AsyncResult``.

    Takes what ``send_email`` takes, and raises what ``send_email.delay()`` raises.
    """
    return cast("DeliveryResult", await sync_to_async(send_email.delay)(*args, **kwargs))


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

    ``messages`` may be an async iterable, which is asked for the next message in the event loop. A plain one, and
    ``idempotency_key`` and ``on_progress``, are called in the thread. Raises what ``submit_many`` raises.
    """
    return await sync_to_async(submit_many)(
        _in_turn(messages) if isinstance(messages, AsyncIterable) else messages,
        idempotency_key=idempotency_key,
        ignore_result=ignore_result,
        batch_size=batch_size,
        on_progress=on_progress,
        **options,
    )


async def acancel(delivery_id: str) -> bool:
    """Cancel a delivery; see ``email_integration.delivery.cancel``."""
    return await sync_to_async(delivery.cancel)(delivery_id)


async def asend_now(delivery_id: str) -> bool:
    """Make a delivery due at once; see ``email_integration.delivery.send_now``."""
    return await sync_to_async(delivery.send_now)(delivery_id)


async def arelease(delivery_id: str) -> bool:
    """Send again what is in doubt; see ``email_integration.delivery.release``."""
    return await sync_to_async(delivery.release)(delivery_id)


async def adiscard(delivery_id: str) -> bool:
    """Never send again what is in doubt; see ``email_integration.delivery.discard``."""
    return await sync_to_async(delivery.discard)(delivery_id)


async def aresend(delivery_id: str) -> Delivery:
    """Submit a copy of a delivery; see ``email_integration.delivery.resend``."""
    return await sync_to_async(delivery.resend)(delivery_id)


def _in_turn(messages: AsyncIterable[T]) -> Iterator[T]:
    """Iterate in a thread of ``sync_to_async`` over what the event loop gives."""
    iterator, end = aiter(messages), object()

    @async_to_sync
    async def following() -> T | object:
        return await anext(iterator, end)

    while (message := following()) is not end:
        yield message  # type: ignore[misc]  # the end is told apart by identity
