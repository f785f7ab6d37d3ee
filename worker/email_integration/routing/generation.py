"""The configuration generation: a short text in the shared cache; it changes when the active relay may have changed.

A writer marks it dirty before it commits, and makes a new one afterwards. A process may use its copy of the
configuration only while the generation is the one that the process read before it read the database.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import Any

from django.db import transaction

from email_integration import conf
from email_integration.caching import shared_cache
from email_integration.django_internals import is_waiting_for_commit

logger = logging.getLogger(__name__)

KEY = "email_integration:generation"
DIRTY = "dirty"

#: A rolled-back transaction leaves the generation dirty; the mark expires after this many seconds. A longer transaction
#: is still covered: its commit makes a new generation.
_DIRTY_SECONDS = 60


#: Seconds after the read request for which a generation is trusted without another read. It must be the same in every
#: process, so it is not a setting.
TRUSTED = 0.1

#: Maximum time in seconds for an answer of the cache or of the database to be trusted. The answer describes some moment
#: since the request, and no later one. Not longer than TRUSTED, which is the time that a writer waits.
PROMPT = 0.1

#: The factor by which a writer waits longer than TRUSTED: sending MAIL after the last read of the generation takes time
#: too.
_MARGIN = 1.5

# The generation that was read last, and the time of that request by 'time.monotonic'; replaced as a whole, so readers
# need no lock.
_last: tuple[str, float] | None = None


class NotKept(Exception):
    """The cache did not store the new value."""


def read() -> str | None:
    """Return the generation, a new one if there was none; None if it is dirty, or the cache is unreachable or too slow.

    The returned value was valid TRUSTED seconds ago, or later.
    """
    last, asked_at = _last, time.monotonic()
    if last is not None and asked_at - last[1] < TRUSTED:
        return last[0]
    generation = _read()
    if generation is not None and not is_recent(asked_at):
        logger.warning("The shared cache took longer than %s s to answer; the database is asked instead.", PROMPT)
        generation = None
    _remember(None if generation is None else (generation, asked_at))
    return generation


def is_recent(asked_at: float) -> bool:
    """Return whether a new answer may be trusted; ``asked_at`` is the time of its request by ``time.monotonic``.

    The answer may describe any moment since then. When a writer returns, its change has been readable for longer.
    """
    return time.monotonic() - asked_at < PROMPT


def forget() -> None:
    """Make this process read the generation again."""
    _remember(None)


def _remember(last: tuple[str, float] | None) -> None:
    global _last  # the one of this process
    _last = last


def _read() -> str | None:
    try:
        generation = _ask()
    except Exception as error:  # each cache backend has its own exceptions
        logger.warning("The shared cache did not answer (%s); the database is asked each time.", type(error).__name__)
        return None
    return None if generation == DIRTY else generation


def is_reachable() -> bool:
    """Return whether the shared cache answers.

    If not, workers see a change only when their copy is CONFIG_CACHE_TTL seconds old.
    """
    try:
        return _ask() is not None  # otherwise the cache stores nothing, without an error
    except Exception:  # see read()
        return False


def _ask() -> str | None:
    """Return the cached value, a new one if there was none; None if the cache stores nothing.

    Raises the errors of the cache.
    """
    with shared_cache() as cache:
        generation: str | None = cache.get(KEY)
        if generation is None:
            # 'add', not 'set': a writer's newer generation, or its dirty mark, must not be overwritten.
            cache.add(KEY, _new(), timeout=None)
            generation = cache.get(KEY)
    return generation


def mark_dirty(**kwargs: Any) -> None:
    """Mark the generation as dirty because a change has begun; receiver of the signals sent before a write."""
    _write(DIRTY, timeout=_DIRTY_SECONDS)


def renew_on_commit(*, using: str | None = None, **kwargs: Any) -> None:
    """Make a new generation after the change is committed; receiver of the signals sent after a write."""
    connection = transaction.get_connection(using)
    # Once for all writes of a transaction, or of a part of it that can only be rolled back together.
    if not is_waiting_for_commit(connection, renew):
        transaction.on_commit(renew, using=using)


def renew() -> None:
    """Make a new generation: when this returns, no process uses an older copy."""
    _write(_new(), timeout=None)
    # Also after a failed write: other processes cannot read the cache either, and read the database.
    time.sleep(TRUSTED * _MARGIN)


def _write(generation: str, *, timeout: float | None) -> None:
    forget()
    try:
        with shared_cache() as cache:
            before = cache.get(KEY)
            cache.set(KEY, generation, timeout=timeout)
            # The database cache reports no failed write. The generation of another writer is as good as this one.
            if before not in (None, DIRTY, generation) and cache.get(KEY) == before:
                raise NotKept
    except Exception as error:  # see read()
        logger.error(
            "The shared cache did not answer (%s): workers see the changed SMTP configuration after up to %s s.",
            type(error).__name__,
            conf.get("CONFIG_CACHE_TTL"),
        )


def _new() -> str:
    return secrets.token_hex(8)
