"""Wake-ups: when a process that commits mail requests a worker, and when a dispatcher may leave.

A wake-up is published only if no other wake-up is outstanding for its queue, and no dispatcher stays there. Correctness
depends on an order. A process that publishes nothing has made a request less than QUIET seconds ago, and the queue's
key was in the cache then. A dispatcher that leaves deletes the key, waits for QUIET seconds, and checks once more. That
check sees all mail whose commit published nothing. A process that makes a request later finds no key, and publishes.
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

#: Seconds for which a process makes no new request (T), by its monotonic clock. It must be the same in every process,
#: so it is not a setting.
QUIET = 0.02

#: Seconds for which a queue's key stays in the cache. A dispatcher that stays sets the key again after half of them.
KEPT = 2

#: Seconds for which a process does not use a cache that has just failed.
_PAUSE = 5.0

#: A failure of the cache within this many seconds is a failure of its connection.
_AT_ONCE = 0.2

#: The time of this process's last request for each queue and message priority, by ``time.monotonic``.
_asked: dict[tuple[str, int | None], float] = {}

#: Limit on the queues in ``_asked``, because callers may use many queues.
_MOST = 1000

_away_until = 0.0

#: Whether the cache has ever answered this process. If so, a connection to it may have been idle since.
_has_answered = False

_NEVER = float("-inf")

#: The ``add`` of a cache that returns False only when the key exists.
_ADD_OR_RAISE = RedisCache.add


def notify(queues: Collection[str], *, message_priority: int | None = None) -> set[str]:
    """Wake each of these queues, in which mail was committed, unless it was woken or a dispatcher stays there.

    ``message_priority`` is the task queue's number for the wake-up. A caller that sets it requests this very wake-up,
    so an outstanding wake-up does not replace it. Return the queues that could not be woken; the sweeper finds them.
    Never raises.
    """
    now = time.monotonic()
    wanted = [queue for queue in dict.fromkeys(queues) if now - _asked.get((queue, message_priority), _NEVER) >= QUIET]
    if len(_asked) > _MOST:
        _asked.clear()
    # Set before the cache is asked, so the cache's answer is later than this time.
    _asked.update(dict.fromkeys(((queue, message_priority) for queue in wanted), now))
    if not wanted:
        return set()
    return _publish(wanted, _is_first if message_priority is None else _always, message_priority=message_priority)


def wake(queues: Collection[str]) -> set[str]:
    """Wake each of these queues even if a wake-up is outstanding.

    Return the queues that could not be woken. Never raises.
    """
    return _publish(list(dict.fromkeys(queues)), _is_set)


def _publish(queues: Collection[str], wants: Callable[[str], bool], *, message_priority: int | None = None) -> set[str]:
    """Publish separately for each queue that ``wants`` it. Return the queues that could not be woken.

    A failure leaves no state that would suppress other wake-ups.
    """
    over: set[str] = set()
    asked: set[str] = set()
    try:
        for queue in queues:
            asked.add(queue)
            if not wants(queue) or not task_queue.installed().wake({queue}, message_priority=message_priority):
                over.add(queue)
    except Exception as error:  # the broker is down: do not try it for each queue
        count = len(set(queues) - over)
        logger.warning("Could not wake %d queue(s) (%s); the sweeper will wake them.", count, type(error).__name__)
    finally:  # also after an error that ends the process or task
        for queue in set(queues) - over:
            _asked.pop((queue, message_priority), None)
            if queue in asked and message_priority is None:
                _delete(_key(queue))
    return set(queues) - over


class Stay:
    """A dispatcher's stay at a queue. No wake-up is published meanwhile, because the dispatcher polls the queue.

    It ends with one of ``ended``, ``handed_over`` and ``failed``. None of them raises an error of the cache or the
    broker.
    """

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._key = _key(queue)
        self._set()

    def refresh(self) -> None:
        """Record that the dispatcher stays. Call it at each check; it accesses the cache about once a second."""
        if time.monotonic() - self._set_at >= KEPT / 2:
            self._set()

    def ended(self, look: Callable[[], _T]) -> _T:
        """Leave, unless ``look()`` finds something. Return the result of ``look``; if it is true, the dispatcher stays.

        The order is essential: the key is deleted, then the dispatcher waits for QUIET seconds, then ``look`` is
        called. ``look`` must query the database again, without any low-water mark. Its errors are raised after the key
        is deleted.
        """
        _delete(self._key)
        time.sleep(QUIET)
        found = look()
        if found:
            self._set()
        return found

    def handed_over(self) -> bool:
        """Leave although more mail may be due, and wake another dispatcher. Return False when that failed.

        An outstanding wake-up to join counts as this wake-up; otherwise each of them would add one dispatcher. It
        counts for no longer than any other, because the worker that took it from the broker may be killed.
        """
        key = _join_key(self._queue)
        if key is not None and _in_cache(lambda cache: cache.get(key)):
            return _is_set(self._queue)
        return not wake({self._queue})

    def failed(self) -> None:
        """Leave after a database error. The next mail or the sweeper wakes a dispatcher."""
        _delete(self._key)

    def join(self) -> None:
        """Wake one more dispatcher for this queue, unless such a wake-up is outstanding."""
        key = _join_key(self._queue)
        if key is None or not _in_cache(lambda cache: cache.add(key, 1, timeout=KEPT)):
            return
        try:
            failed = task_queue.installed().wake({self._queue}, joins=True)
        except Exception as error:  # one dispatcher is already at work
            logger.debug("Could not wake another dispatcher (%s).", type(error).__name__)
            failed = {self._queue}
        if failed:
            _delete(key)

    def _set(self) -> None:
        self._set_at = time.monotonic()
        _is_set(self._queue)


def joined(queue: str) -> None:
    """Record that the wake-up to join the dispatchers of a queue has arrived, even if there is no place for it."""
    _delete(_join_key(queue))


def forget() -> None:
    """Reset this process's record of wake-ups, and of answers and failures of the cache."""
    global _away_until, _has_answered  # state of this process
    _asked.clear()
    _away_until = 0.0
    _has_answered = False


# -- the cache ------------------------------------------------------------------------------------------------------


def _is_first(queue: str) -> bool:
    """Put the queue's key into the cache. Return False if it was there. Without a cache, always return True."""
    key = _key(queue)
    if key is None:
        return True

    tries = 0

    def add(cache: BaseCache) -> bool:
        nonlocal tries
        tries += 1
        # On a retry, the key may come from the first try. Some caches, except Django's own for Redis, also return False
        # when they could not write.
        is_new = cache.add(key, 1, timeout=KEPT) or tries > 1
        return is_new or (type(cache).add is not _ADD_OR_RAISE and cache.get(key) is None)

    return _in_cache(add) is not False


def _is_set(queue: str) -> bool:
    """Put the queue's key into the cache, if there is one, even if the key is there. Always return True."""
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
    """Call ``act`` with the shared cache. Return None when there is no cache, or it is unreachable."""
    global _away_until, _has_answered  # state of this process
    asked_at = time.monotonic()
    if asked_at < _away_until:
        return None
    try:
        try:
            found = _ask(act)
        except Exception:
            # A connection that was idle too long fails immediately, and a new one works. The very first one was not
            # idle.
            if not _has_answered or time.monotonic() - asked_at > _AT_ONCE:
                raise
            found = _ask(act)
        _has_answered = True
        return found
    except Exception as error:  # each cache backend has its own errors
        _away_until = time.monotonic() + _PAUSE
        logger.warning("The shared cache did not answer (%s); more wake-ups are published.", type(error).__name__)
        return None


def _ask(act: Callable[[BaseCache], _T]) -> _T | None:
    if not _serves(caches[conf.get("CACHE")]):
        return None
    # A request before the broker's may use only a part of the time that submitting may wait for the broker.
    with shared_cache(within=conf.get("BROKER_TIMEOUT") / 4) as cache:
        return act(cache)


def _serves(cache: BaseCache) -> bool:
    """Return whether all processes see a write immediately.

    In a transaction they would see it only after the commit.
    """
    in_transaction = any(transaction.get_connection(alias).in_atomic_block for alias in databases(cache))
    return is_shared(cache) and not in_transaction


#: Characters that every cache accepts in a key.
_PLAIN = re.compile(r"[\w.:@/+-]{0,100}", re.ASCII)


def _key(queue: str, *, kind: str = "wake") -> str | None:
    """Return the queue's key; None while the database cannot identify this installation."""
    name = queue if _PLAIN.fullmatch(queue) else f"#{hashlib.sha256(queue.encode(errors='replace')).hexdigest()}"
    try:
        return f"email_integration:{kind}:{installation.identity()}:{name}"
    except (DatabaseError, InterfaceError) as error:
        logger.debug("The id of this installation cannot be read (%s).", type(error).__name__)
        return None


def _join_key(queue: str) -> str | None:
    return _key(queue, kind="join")
