"""Mail amid the work on another: a handler of the log may mail what that work logs, and log about that mail again."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType

#: A mail and one about it; a mail about that one too would be followed by another, and so on.
_DEEPEST = 2

#: In how many mails this context is at work.
_depth: ContextVar[int] = ContextVar("email_integration.depth", default=0)


@contextlib.contextmanager
def within_mail() -> Iterator[bool]:
    """Work on a mail inside; give False, and do not, where the log mails itself without end."""
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
    """Wake what was submitted, be that at once or at the commit: what is logged meanwhile is about a mail."""
    token = _depth.set(max(_depth.get(), 1))
    try:
        yield
    finally:
        _depth.reset(token)


def _is_of_the_log() -> bool:
    """Whether a handler of the log is among the callers. Receivers of signals may send mail amid mail as they like."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False
