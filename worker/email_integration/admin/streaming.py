"""Responses that are sent in pieces, so that a large mail or a long list is never in memory as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest


def in_pieces(
    request: HttpRequest, pieces: Generator[bytes, None, None]
) -> Generator[bytes, None, None] | AsyncIterator[bytes]:
    """Return ``pieces`` for a ``StreamingHttpResponse``. Under ASGI, Django would collect a generator in a list."""
    return _asynchronous(pieces) if isinstance(request, ASGIRequest) else pieces


async def _asynchronous(pieces: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
    try:
        while (piece := await sync_to_async(_next)(pieces)) is not None:
            yield piece
    finally:
        await sync_to_async(pieces.close)()


def _next(pieces: Generator[bytes, None, None]) -> bytes | None:
    return next(pieces, None)
