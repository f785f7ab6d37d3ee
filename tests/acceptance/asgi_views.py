"""Async views of a project. A mail that they submit joins the transaction of the synchronous code around it."""

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

#: Seconds between two readings of the clock.
_TICK = 0.001

#: For each submission in progress, the pauses measured so far.
under_way: list[list[float]] = []


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """Record by how many seconds each sleep of the event loop exceeds the requested time."""
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
    """Submit a mail within ``atomic()``; then commit or roll back."""

    def step() -> str:
        with transaction.atomic():
            result = async_to_sync(asend_email)(ending, "Text", to=["kim@example.com"])
            transaction.set_rollback(ending == "rollback")
        return result.id

    async with watched() as pauses:
        delivery_id = await sync_to_async(step)()
    return JsonResponse({"id": delivery_id, "pauses": len(pauses), "longest": max(pauses, default=0.0)})


async def alive(request: HttpRequest) -> JsonResponse:
    """Return how often each submission in progress has read the clock; the event loop must be free to answer."""
    return JsonResponse({"looks": [len(pauses) for pauses in under_way]})


async def wrong(request: HttpRequest) -> JsonResponse:
    """Call the synchronous function and return its error."""
    try:
        send_email.delay("Subject", "Text", to=["kim@example.com"])
    except Exception as error:
        return JsonResponse({"error": type(error).__name__, "text": str(error)})
    return JsonResponse({})


urlpatterns = [path("submit/<ending>", submit), path("alive", alive), path("wrong", wrong)]
