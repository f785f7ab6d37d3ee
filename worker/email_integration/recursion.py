"""A guard against endless mail about mail: a log handler may mail a log line, and mailing logs again."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType

#: Maximum depth: a mail, and one mail about it. A mail about the second one could be followed by another, without end.
_DEEPEST = 2

#: Stored with a mail about a mail: when a worker fails with it, it must not send a mail about that failure.
ABOUT_MAIL = '{"about_mail": true}'

#: The number of mails that this context works on, one inside the other.
_depth: ContextVar[int] = ContextVar("email_integration.depth", default=0)

#: The depth of a worker outside the delivery that it is trying now; None outside workers' tasks.
_outer: ContextVar[int | None] = ContextVar("email_integration.outer", default=None)


@contextlib.contextmanager
def within_mail() -> Iterator[bool]:
    """Run the block as work on a mail; yield False where the log mails itself without end: send nothing then."""
    depth = _depth.get()
    if depth >= _DEEPEST and _is_of_the_log():
        yield False
        return
    token = _depth.set(depth + 1)
    try:
        yield True
    finally:
        _depth.reset(token)


@contextlib.contextmanager
def within_wake_up() -> Iterator[None]:
    """Run the block that wakes submitted mail, at once or at the commit: log lines inside are about a mail."""
    token = _depth.set(max(_depth.get(), 1))
    try:
        yield
    finally:
        _depth.reset(token)


@contextlib.contextmanager
def within_attempts() -> Iterator[None]:
    """Run the block that tries deliveries: log lines inside are about mail, and ``comes_to`` names the delivery."""
    outer = max(_depth.get(), 1)
    tokens = _outer.set(outer), _depth.set(outer)
    try:
        yield
    finally:
        _outer.reset(tokens[0])
        _depth.reset(tokens[1])


def comes_to(kept: str) -> None:
    """Note that the following work is about a delivery whose row holds ``kept``.

    It has no effect outside ``within_attempts``.
    """
    outer = _outer.get()
    if outer is not None:
        _depth.set(max(outer, _DEEPEST) if kept == ABOUT_MAIL else outer)


def within_delivery(kept: str, act: Callable[..., object], *arguments: object) -> None:
    """Call ``act`` for a delivery whose row holds ``kept``, and restore the depth afterwards."""
    token = _depth.set(_depth.get())
    try:
        comes_to(kept)
        act(*arguments)
    finally:
        _depth.reset(token)


def to_keep() -> str:
    """Return the value that the rows of mails submitted now must hold."""
    return ABOUT_MAIL if _depth.get() >= _DEEPEST and _is_of_the_log() else ""


def _is_of_the_log() -> bool:
    """Return whether a log handler is among the callers. Signal receivers may send mail about mail without limit."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False
