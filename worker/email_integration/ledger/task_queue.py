"""The interface between deliveries and the task queue that wakes the workers.

The database is authoritative. A wake-up names a queue but no mail, so a lost, repeated or late wake-up costs time and
never loses mail.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from django.db import transaction

from email_integration import recursion
from email_integration.models import Delivery
from email_integration.on_commit import after_commit

from .queues import key_of
from .steps import Row, Step

logger = logging.getLogger(__name__)


class TaskQueue(Protocol):
    """The interface of a task queue. ``queues.key_of`` names its queues."""

    def notify(self, queues: Collection[str], *, message_priority: int | None = None) -> set[str]:
        """Wake each of these queues, in which mail was committed, unless a worker will check it anyway.

        Return the queues that could not be woken; the sweeper finds their mail. This takes about a second at most, even
        if the broker is down. ``message_priority`` is as in ``wake``.
        """

    def wake(self, queues: Collection[str], *, message_priority: int | None = None, joins: bool = False) -> set[str]:
        """Make a worker check each of these queues for mail now. Return the queues that could not be woken.

        This takes about a second at most, even if the broker is down. ``message_priority`` is the task queue's number
        for the wake-up among other tasks. A wake-up that ``joins`` carries that as its argument, and calls
        ``wakeups.joined``. Raises the broker's error when it is down; then possibly no queue was woken.
        """

    def call_for_sweep(self, *, after: float = 0.0) -> None:
        """Make a worker sweep in ``after`` seconds; 0 means now.

        This takes about a second at most, even if the broker is down. Raises the broker's errors.
        """

    def message_priority_of(self, delivery: Delivery) -> int | None:
        """Return the priority number that the caller has set for the task; None if there is none."""

    def result_rows(self, deliveries: Collection[Delivery]) -> Mapping[str, Sequence[Row]]:
        """Return the rows with the results of these deliveries, by id. They are written in the deliveries' commit."""

    def stores_results_elsewhere(self) -> bool:
        """Return whether ``store_result`` stores results elsewhere."""

    def store_result(self, delivery: Delivery) -> None:
        """Store the result if it has no such row. Called after the delivery is committed."""

    def has_continuation(self, delivery: Delivery) -> bool:
        """Return whether the delivery has a continuation."""

    def continue_(self, delivery: Delivery) -> None:
        """Publish the continuation of a finished delivery; if it was published before, again with the same ids.

        Raises the errors of the broker and the result backend.
        """


class _NotInstalled:
    """The task queue while none is installed. The sweep of a process that has one finds the deliveries."""

    def notify(self, queues: Collection[str], *, message_priority: int | None = None) -> set[str]:
        return self.wake(queues)

    def wake(self, queues: Collection[str], *, message_priority: int | None = None, joins: bool = False) -> set[str]:
        logger.warning("No task queue is installed; mail waits in %d queues.", len(queues))
        return set(queues)

    def call_for_sweep(self, *, after: float = 0.0) -> None:
        pass

    def message_priority_of(self, delivery: Delivery) -> int | None:
        return None

    def result_rows(self, deliveries: Collection[Delivery]) -> Mapping[str, Sequence[Row]]:
        return {}

    def stores_results_elsewhere(self) -> bool:
        return False

    def store_result(self, delivery: Delivery) -> None:
        pass

    def has_continuation(self, delivery: Delivery) -> bool:
        return False

    def continue_(self, delivery: Delivery) -> None:
        pass


_installed: TaskQueue = _NotInstalled()


def install(task_queue: TaskQueue) -> None:
    """Make ``task_queue`` the one in use."""
    global _installed  # one per process, set when the app starts
    _installed = task_queue


def installed() -> TaskQueue:
    """Return the task queue in use."""
    return _installed


def notify(queues: Collection[str], *, message_priority: int | None = None) -> set[str]:
    """Wake these queues as ``TaskQueue.notify`` does. Return those that could not be woken. Never raises."""
    with recursion.within_wake_up():
        try:
            return _installed.notify(queues, message_priority=message_priority)
        except Exception as error:  # the mail is safe in the database, whatever this is
            logger.warning(
                "Could not wake %d queue(s) (%s); the sweeper will wake them.", len(queues), type(error).__name__
            )
            return set(queues)


def notify_on_commit(*deliveries: Delivery, using: str) -> None:
    """Wake the queues of these deliveries after the commit, each queue once per transaction.

    Deliveries that were rolled back, even to a savepoint, wake no queue. The deliveries are not kept in memory until
    then. ``using`` is the alias of the database.
    """
    queues: dict[int | None, list[str]] = {}
    for delivery in deliveries:
        together, key = queues.setdefault(_installed.message_priority_of(delivery), []), key_of(delivery)
        if key not in together:
            together.append(key)
    connection = transaction.get_connection(using)
    if not connection.in_atomic_block and connection.get_autocommit():
        # Already committed: there is no commit to wait for, and no other notifications to combine.
        for message_priority, found in queues.items():
            notify(found, message_priority=message_priority)
    elif queues:
        notification = _Notification(queues, using)
        _waiting.of(using).add(notification)
        transaction.on_commit(notification, using=using)


class _Waiting(threading.local):
    """The notifications of this thread that wait for a commit, by database.

    Only Django holds references to them. When Django drops those of a rollback, they also vanish here.
    """

    def __init__(self) -> None:
        self.by_database: dict[str, weakref.WeakSet[_Notification]] = {}

    def of(self, using: str) -> weakref.WeakSet[_Notification]:
        return self.by_database.setdefault(using, weakref.WeakSet())


_waiting = _Waiting()


class _Notification:
    """An on-commit hook. The first one to run after a commit notifies for all, so each queue is woken once."""

    def __init__(self, queues: Mapping[int | None, Sequence[str]], using: str) -> None:
        self._queues = queues
        self._using = using

    def __call__(self) -> None:
        together: dict[int | None, dict[str, None]] = {}
        waiting = _waiting.of(self._using)
        for notification in (self, *waiting):
            for message_priority, queues in notification._queues.items():
                together.setdefault(message_priority, {}).update(dict.fromkeys(queues))
            notification._queues = {}
        waiting.clear()
        for message_priority, found in together.items():
            notify(list(found), message_priority=message_priority)


def call_for_sweep(*, using: str, after: float = 0.0) -> None:
    """Make a worker look for due mail after the commit, or ``after`` seconds later.

    If that fails, the next periodic sweep does it. ``using`` is the alias of the database.
    """
    call = functools.partial(_installed.call_for_sweep, after=after)
    after_commit("request a sweep before the scheduled one", call, using=using)


def rows_of(steps: Sequence[Step]) -> list[Sequence[Row]]:
    """Return the rows of each step, including those of its result."""
    to_store = [step.delivery for step in steps if step.stores_result]
    results = installed().result_rows(to_store) if to_store else {}
    if not results:
        return [step.rows for step in steps]
    return [(*step.rows, *(results.get(step.delivery.id, ()) if step.stores_result else ())) for step in steps]
