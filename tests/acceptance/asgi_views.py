"""Async views of a project: what it submits joins the transaction of the sync code around it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from asgiref.sync import async_to_sync, sync_to_async
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

from email_integration import asend_email
from email_integration.tasks import send_email

#: Seconds between two looks at the clock.
_TICK = 0.001

#: The pauses so far of each submission that is under way.
under_way: list[list[float]] = []


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """Note the pauses of the event loop, in seconds, beyond what was asked for."""
    pauses: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(_TICK)
            pauses.append(time.monotonic() - before - _TICK)

    ticking = asyncio.create_task(tick())
    under_way.append(pauses)
    try:
        yield pauses
    finally:
        under_way.remove(pauses)
        ticking.cancel()


async def submit(request: HttpRequest, ending: str) -> JsonResponse:
    """Submit a mail within ``atomic()``, and commit or roll back."""

    def step() -> str:
        with transaction.atomic():
            result = async_to_sync(asend_email)(ending, "Text", to=["kim@example.com"])
            transaction.set_rollback(ending == "rollback")
        return result.id

    async with watched() as pauses:
        delivery_id = await sync_to_async(step)()
    return JsonResponse({"id": delivery_id, "pauses": len(pauses), "longest": max(pauses, default=0.0)})


async def alive(request: HttpRequest) -> JsonResponse:
    """Answer, if the event loop goes on, how often each submission that is under way has looked at the clock."""
    return JsonResponse({"looks": [len(pauses) for pauses in under_way]})


async def wrong(request: HttpRequest) -> JsonResponse:
    """Call the sync function, and tell what it says."""
    try:
        send_email.delay("Subject", "Text", to=["kim@example.com"])
    except Exception as error:
        return JsonResponse({"error": type(error).__name__, "text": str(error)})
    return JsonResponse({})


urlpatterns = [path("submit/<ending>", submit), path("alive", alive), path("wrong", wrong)]
