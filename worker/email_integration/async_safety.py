"""A decorator for functions that would block the event loop; its error names the function to await instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from django.utils.asyncio import async_unsafe

P = ParamSpec("P")
R = TypeVar("R")


def sync_only(what: str, *, instead: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that makes a function raise ``SynchronousOnlyOperation`` when it is called in async code.

    The error is raised before the function does anything. Its message contains ``what``, a name for the call, and
    ``instead``, the function to await. As with Django's own functions, DJANGO_ALLOW_ASYNC_UNSAFE in the environment
    allows the call.
    """
    refuse = async_unsafe(f"{what} cannot be called in async code; await {instead}.")
    return cast("Callable[[Callable[P, R]], Callable[P, R]]", refuse)
