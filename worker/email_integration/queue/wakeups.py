"""Wake-ups: when a process that has committed mail asks for a worker, and when a dispatcher may leave.

A wake-up is published only if no other is outstanding for its queue, and no dispatcher stays there. This rests on an
order. A process that is silent has asked less than QUIET seconds ago, and the key of the queue was there when it asked.
A dispatcher that leaves deletes the key, waits for QUIET seconds, and looks once more: it sees all mail that was
committed in silence. A process that asks after that finds no key, and publishes.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Collection
from typing import TypeVar

from django.core.cache import BaseCache, caches
from django.core.cache.backends.redis import RedisCache
from django.db import DatabaseError, InterfaceError, transaction

from email_integration import conf
from email_integration.caching import databases, is_shared, shared_cache
from email_integration.ledger import installation, task_queue
from email_integration.ledger.queues import key_of, priorities_of, queue_of

__all__ = ["KEPT", "QUIET", "Stay", "forget", "joined", "key_of", "notify", "priorities_of", "queue_of", "wake"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Seconds for which a process is silent after it has asked (T), by its own monotonic clock. The same in every process,
#: so it is no setting.
QUIET = 0.02

#: Seconds for which the key of a queue is in the cache; a dispatcher that stays sets it anew after half of them.
KEPT = 2

#: Seconds for which a process does without a cache that has just failed.
_PAUSE = 5.0

#: Seconds within which a failure of the cache is one of its connection.
_AT_ONCE = 0.2

#: When this process last asked for each queue and message priority, by ``time.monotonic``.
_asked: dict[tuple[str, int | None], float] = {}

#: Of queues; callers may have many of their own.
_MOST = 1000

_away_until = 0.0

#: Whether the cache has ever answered this process, so that a connection to it may have idled since.
_has_answered = False

_NEVER = float("-inf")

#: How a cache adds a key that says no for a key that is there alone.
_ADD_OR_RAISE = RedisCache.add


def notify(queues: Collection[str], *, message_priority: int | None = None) -> set[str]:
    """Wake each of these queues, in which mail was committed, unless it was woken or a dispatcher stays there.

    ``message_priority`` is the task queue's own number for the wake-up; a caller who gives one wants it, so that it
    waits for no other that is outstanding. Returns those that could not be woken, which the sweeper finds. Never
    raises.
    """
    now = time.monotonic()
    wanted = [queue for queue in dict.fromkeys(queues) if now - _asked.get((queue, message_priority), _NEVER) >= QUIET]
    if len(_asked) > _MOST:
        _asked.clear()
    # Before the cache is asked: what the key says is of a later moment then.
    _asked.update(dict.fromkeys(((queue, message_priority) for queue in wanted), now))
    if not wanted:
        return set()
    return _publish(wanted, _is_first if message_priority is None else _always, message_priority=message_priority)


def wake(queues: Collection[str]) -> set[str]:
    """Wake each of these queues whatever is outstanding; return those that could not be woken. Never raises."""
    return _publish(list(dict.fromkeys(queues)), _is_set)


def _publish(queues: Collection[str], wants: Callable[[str], bool], *, message_priority: int | None = None) -> set[str]:
    """Publish for each queue that ``wants`` it, by itself: what fails leaves nothing that would silence others."""
    over: set[str] = set()
    asked: set[str] = set()
    try:
        for queue in queues:
            asked.add(queue)
            if not wants(queue) or not task_queue.installed().wake({queue}, message_priority=message_priority):
                over.add(queue)
    except Exception as error:  # the broker is away: not tried for each queue
        count = len(set(queues) - over)
        logger.warning("Could not wake %d queue(s) (%s); the sweeper will.", count, type(error).__name__)
    finally:  # also of what ends the process, or the task
        for queue in set(queues) - over:
            _asked.pop((queue, message_priority), None)
            if queue in asked and message_priority is None:
                _delete(_key(queue))
    return set(queues) - over


class Stay:
    """A dispatcher's time at a queue. While it lasts no wake-up is published, for the dispatcher looks again by itself.

    Ends with one of ``ended``, ``handed_over`` and ``failed``. None of them raises what the cache or the broker raises.
    """

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._key = _key(queue)
        self._set()

    def refresh(self) -> None:
        """Say that the dispatcher stays; to be called at each look. Asks the cache about once a second."""
        if time.monotonic() - self._set_at >= KEPT / 2:
            self._set()

    def ended(self, look: Callable[[], _T]) -> _T:
        """Leave, unless ``look()`` finds something: return what it does, in which case the dispatcher stays on.

        The order is the point: the key is deleted, then nothing is done for QUIET seconds, then ``look`` is called. It
        must ask the database anew, without any low-water mark. What it raises is passed on, with the key deleted.
        """
        _delete(self._key)
        time.sleep(QUIET)
        found = look()
        if found:
            self._set()
        return found

    def handed_over(self) -> bool:
        """Leave although there may be more: another dispatcher is woken. False when that failed.

        A wake-up to join that is outstanding is the one: else there were one more with each that comes. It counts for
        no longer than any other, for the worker that has taken it from the broker may be killed.
        """
        key = _join_key(self._queue)
        if key is not None and _in_cache(lambda cache: cache.get(key)):
            return _is_set(self._queue)
        return not wake({self._queue})

    def failed(self) -> None:
        """Leave after an error of the database: the next mail wakes a dispatcher, or the sweeper does."""
        _delete(self._key)

    def join(self) -> None:
        """Wake one more dispatcher to work here too, unless a wake-up to do so is outstanding."""
        key = _join_key(self._queue)
        if key is None or not _in_cache(lambda cache: cache.add(key, 1, timeout=KEPT)):
            return
        try:
            failed = task_queue.installed().wake({self._queue}, joins=True)
        except Exception as error:  # there is one at work, after all
            logger.debug("Could not wake another dispatcher (%s).", type(error).__name__)
            failed = {self._queue}
        if failed:
            _delete(key)

    def _set(self) -> None:
        self._set_at = time.monotonic()
        _is_set(self._queue)


def joined(queue: str) -> None:
    """The wake-up to join the dispatchers of a queue has come, whether there is a place for it or not."""
    _delete(_join_key(queue))


def forget() -> None:
    """Have this process know of no wake-up, and of no answer or failure of the cache."""
    global _away_until, _has_answered  # those of this process
    _asked.clear()
    _away_until = 0.0
    _has_answered = False


# -- the cache ------------------------------------------------------------------------------------------------------


def _is_first(queue: str) -> bool:
    """Put the key of the queue into the cache; False if it was there. Without a cache each is the first."""
    key = _key(queue)
    if key is None:
        return True

    tries = 0

    def add(cache: BaseCache) -> bool:
        nonlocal tries
        tries += 1
        # When asked again, the key may be that of the first time. And some caches, but for Django's own for Redis, say
        # that they have added nothing when they could not write.
        is_new = cache.add(key, 1, timeout=KEPT) or tries > 1
        return is_new or (type(cache).add is not _ADD_OR_RAISE and cache.get(key) is None)

    return _in_cache(add) is not False


def _is_set(queue: str) -> bool:
    """Put the key of the queue into the cache, if there is one, whether it was there or not."""
    key = _key(queue)
    if key is not None:
        _in_cache(lambda cache: cache.set(key, 1, timeout=KEPT))
    return True


def _always(queue: str) -> bool:
    return True


def _delete(key: str | None) -> None:
    if key is not None:
        _in_cache(lambda cache: cache.delete(key))


def _in_cache(act: Callable[[BaseCache], _T]) -> _T | None:
    """Do something in the shared cache; None when there is none, or it is away."""
    global _away_until, _has_answered  # those of this process
    asked_at = time.monotonic()
    if asked_at < _away_until:
        return None
    try:
        try:
            found = _ask(act)
        except Exception:
            # A connection that idled too long fails at once, and a new one works. The first of all has not idled.
            if not _has_answered or time.monotonic() - asked_at > _AT_ONCE:
                raise
            found = _ask(act)
        _has_answered = True
        return found
    except Exception as error:  # every cache backend has exceptions of its own
        _away_until = time.monotonic() + _PAUSE
        logger.warning("The shared cache is out of reach (%s); more wake-ups are published.", type(error).__name__)
        return None


def _ask(act: Callable[[BaseCache], _T]) -> _T | None:
    if not _serves(caches[conf.get("CACHE")]):
        return None
    # What is asked before the broker takes a part of the time that submitting may wait for that.
    with shared_cache(within=conf.get("BROKER_TIMEOUT") / 4) as cache:
        return act(cache)


def _serves(cache: BaseCache) -> bool:
    """Whether all processes see at once what is put into it; in a transaction they would see it after the commit."""
    in_transaction = any(transaction.get_connection(alias).in_atomic_block for alias in databases(cache))
    return is_shared(cache) and not in_transaction


#: What every cache takes in a key.
_PLAIN = re.compile(r"[\w.:@/+-]{0,100}", re.ASCII)


def _key(queue: str, *, kind: str = "wake") -> str | None:
    """The key of a queue; None while the database does not say which installation this is."""
    name = queue if _PLAIN.fullmatch(queue) else f"#{hashlib.sha256(queue.encode(errors='replace')).hexdigest()}"
    try:
        return f"email_integration:{kind}:{installation.identity()}:{name}"
    except (DatabaseError, InterfaceError) as error:
        logger.debug("Which installation this is cannot be told (%s).", type(error).__name__)
        return None


def _join_key(queue: str) -> str | None:
    return _key(queue, kind="join")
