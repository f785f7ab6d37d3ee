"""Mail amid the work on another: a handler of the log may mail what that work logs, and log about that mail again."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType

#: A mail and one about it; a mail about that one too would be followed by another, and so on.
_DEEPEST = 2

#: What the row of a mail about a mail keeps: a worker that fails with it must not have a mail about that one sent.
ABOUT_MAIL = '{"about_mail": true}'

#: In how many mails this context is at work.
_depth: ContextVar[int] = ContextVar("email_integration.depth", default=0)

#: In how many a worker was before it came to the delivery that it tries now; None outside of workers' tasks.
_outer: ContextVar[int | None] = ContextVar("email_integration.outer", default=None)


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


@contextlib.contextmanager
def within_attempts() -> Iterator[None]:
    """Try deliveries inside: what is logged meanwhile is about mail, of which ``comes_to`` says more."""
    outer = max(_depth.get(), 1)
    tokens = _outer.set(outer), _depth.set(outer)
    try:
        yield
    finally:
        _outer.reset(tokens[0])
        _depth.reset(tokens[1])


def comes_to(kept: str) -> None:
    """Note that from now on it is about a delivery whose row keeps this; no effect outside of ``within_attempts``."""
    outer = _outer.get()
    if outer is not None:
        _depth.set(max(outer, _DEEPEST) if kept == ABOUT_MAIL else outer)


def within_delivery(kept: str, act: Callable[..., object], *arguments: object) -> None:
    """Do what is about a delivery whose row keeps this, and go back then to what it was about before."""
    token = _depth.set(_depth.get())
    try:
        comes_to(kept)
        act(*arguments)
    finally:
        _depth.reset(token)


def to_keep() -> str:
    """Return what the rows of mails that are submitted now have to keep."""
    return ABOUT_MAIL if _depth.get() >= _DEEPEST and _is_of_the_log() else ""


def _is_of_the_log() -> bool:
    """Whether a handler of the log is among the callers. Receivers of signals may send mail amid mail as they like."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False
