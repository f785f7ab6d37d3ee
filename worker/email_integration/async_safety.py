"""Refuses what would block the event loop, and names what to await instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from django.utils.asyncio import async_unsafe

P = ParamSpec("P")
R = TypeVar("R")


def sync_only(what: str, *, instead: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a function raise ``SynchronousOnlyOperation`` in async code, before it has done anything.

    ``what`` the caller has asked for, and what to await ``instead``, are in the message. As for Django's own
    functions, DJANGO_ALLOW_ASYNC_UNSAFE in the environment allows it.
    """
    refuse = async_unsafe(f"{what} cannot be called in async code; await {instead}.")
    return cast("Callable[[Callable[P, R]], Callable[P, R]]", refuse)
