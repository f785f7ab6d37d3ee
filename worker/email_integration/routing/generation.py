"""The configuration generation: a short text in the shared cache, another whenever what is active may have changed.

A writer marks it dirty before it commits and makes a new one afterwards. A process may use its copy of the
configuration only while the generation is the one that it had read before it asked the database.
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

#: A rolled-back transaction leaves the generation dirty; after so many seconds it goes by itself. A transaction that
#: takes longer is still covered: its commit makes a new generation.
_DIRTY_SECONDS = 60


#: Seconds since the question for which a generation is relied on without being read again. The same in every process,
#: so it is no setting.
TRUSTED = 0.1

#: Seconds that an answer may take, of the cache or of the database, to be relied on. It says how things stood at some
#: moment since the question, and nothing later. No longer than TRUSTED, which is what a writer waits for.
PROMPT = 0.1

#: How much longer than TRUSTED a writer waits: from the last read of the generation to the octets of MAIL takes a
#: moment too.
_MARGIN = 1.5

# The generation that was read last, and when it was asked for by 'time.monotonic'; replaced whole, so readers need no
# lock.
_last: tuple[str, float] | None = None


class NotKept(Exception):
    """The cache still has what it had before."""


def read() -> str | None:
    """Return the generation, made now if there was none; None when it is dirty, or the cache out of reach or too slow.

    It was the generation TRUSTED seconds ago, or later.
    """
    last, asked_at = _last, time.monotonic()
    if last is not None and asked_at - last[1] < TRUSTED:
        return last[0]
    generation = _read()
    if generation is not None and not is_recent(asked_at):
        logger.warning("The shared cache took longer than %s s to answer; asking the database.", PROMPT)
        generation = None
    _remember(None if generation is None else (generation, asked_at))
    return generation


def is_recent(asked_at: float) -> bool:
    """Whether an answer that has just come may be relied on; it was asked for at ``asked_at``, by ``time.monotonic``.

    The moment that it speaks of may be any since then. When a writer returns, it is longer ago that its change was
    there to be read.
    """
    return time.monotonic() - asked_at < PROMPT


def forget() -> None:
    """Have this process read the generation again."""
    _remember(None)


def _remember(last: tuple[str, float] | None) -> None:
    global _last  # the one of this process
    _last = last


def _read() -> str | None:
    try:
        generation = _ask()
    except Exception as error:  # every cache backend has exceptions of its own
        logger.warning("The shared cache is out of reach (%s); asking the database each time.", type(error).__name__)
        return None
    return None if generation == DIRTY else generation


def is_reachable() -> bool:
    """Whether the shared cache answers. If not, workers see a change only once their copy is CONFIG_CACHE_TTL old."""
    try:
        return _ask() is not None  # else it keeps nothing, and does not say so
    except Exception:  # see read()
        return False


def _ask() -> str | None:
    """What the cache has, made now if there was nothing; None where it keeps nothing. Raises what the cache raises."""
    with shared_cache() as cache:
        generation: str | None = cache.get(KEY)
        if generation is None:
            # 'add', not 'set': a writer's newer generation, or its dirty mark, must not be overwritten.
            cache.add(KEY, _new(), timeout=None)
            generation = cache.get(KEY)
    return generation


def mark_dirty(**kwargs: Any) -> None:
    """Say that a change is under way; receiver of the signals sent before a write."""
    _write(DIRTY, timeout=_DIRTY_SECONDS)


def renew_on_commit(*, using: str | None = None, **kwargs: Any) -> None:
    """Make a new generation once the change is committed; receiver of the signals sent after a write."""
    connection = transaction.get_connection(using)
    # Once for all writes of a transaction, of those that are rolled back together if they are.
    if not is_waiting_for_commit(connection, renew):
        transaction.on_commit(renew, using=using)


def renew() -> None:
    """Make a new generation: once this returns, no process uses a copy made before."""
    _write(_new(), timeout=None)
    # Also if it could not be written: they cannot read any other, and ask the database.
    time.sleep(TRUSTED * _MARGIN)


def _write(generation: str, *, timeout: float | None) -> None:
    forget()
    try:
        with shared_cache() as cache:
            before = cache.get(KEY)
            cache.set(KEY, generation, timeout=timeout)
            # The database cache does not say when it could not write. Another writer's generation is as good as this.
            if before not in (None, DIRTY, generation) and cache.get(KEY) == before:
                raise NotKept
    except Exception as error:  # see read()
        logger.error(
            "The shared cache is out of reach (%s): workers see the changed SMTP configuration after up to %s s.",
            type(error).__name__,
            conf.get("CONFIG_CACHE_TTL"),
        )


def _new() -> str:
    return secrets.token_hex(8)
