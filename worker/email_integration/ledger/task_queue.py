"""The interface between deliveries and the task queue that wakes the workers.

The database is the truth; a wake-up names a queue and no mail. A lost, repeated or late wake-up costs time, never mail.
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
    """What a task queue provides. Its queues are named by ``queues.key_of``."""

    def notify(self, queues: Collection[str], *, message_priority: int | None = None) -> set[str]:
        """Wake each of these queues, in which mail was committed, unless a worker is bound to look there anyway.

        Returns those that could not be woken, in about a second even if the broker is dead: the sweeper finds the mail.
        """

    def wake(self, queues: Collection[str], *, message_priority: int | None = None, joins: bool = False) -> set[str]:
        """Have a worker look for mail in each of these queues, now; return those that could not be woken.

        Returns in about a second even if the broker is dead. ``message_priority`` is the task queue's own number for
        the wake-up among other tasks; one that ``joins`` has that as its argument, and calls ``wakeups.joined``. Raises
        what the broker raises when it is away, so that none may have been woken.
        """

    def call_for_sweep(self, *, after: float = 0.0) -> None:
        """Have a worker sweep in ``after`` seconds, 0 being now.

        Returns in about a second even if the broker is dead. Raises what it raises.
        """

    def message_priority_of(self, delivery: Delivery) -> int | None:
        """The number that the caller has given for the task, None for none."""

    def result_rows(self, deliveries: Collection[Delivery]) -> Mapping[str, Sequence[Row]]:
        """The rows with the results of these deliveries, by their ids, to be written with them in one commit."""

    def stores_results_elsewhere(self) -> bool:
        """Whether results are stored elsewhere, by ``store_result``."""

    def store_result(self, delivery: Delivery) -> None:
        """Store the result where there is no such row; called once the delivery is committed."""

    def has_continuation(self, delivery: Delivery) -> bool:
        """Whether something follows the delivery's end."""

    def continue_(self, delivery: Delivery) -> None:
        """Publish what follows a finished delivery; again, under the same ids, if it was published before.

        Raises what the broker and the result backend raise.
        """


class _Nobody:
    """No task queue is installed: the sweep of one that is will find the delivery."""

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


_installed: TaskQueue = _Nobody()


def install(task_queue: TaskQueue) -> None:
    """Make ``task_queue`` the one that is used."""
    global _installed  # one per process, set when the app starts
    _installed = task_queue


def installed() -> TaskQueue:
    """The task queue in use."""
    return _installed


def notify(queues: Collection[str], *, message_priority: int | None = None) -> set[str]:
    """Wake these queues, as ``TaskQueue.notify`` does; return those that could not be woken. Never raises."""
    with recursion.within_wake_up():
        try:
            return _installed.notify(queues, message_priority=message_priority)
        except Exception as error:  # the mail is safe in the database, whatever this is
            logger.warning("Could not wake %d queue(s) (%s); the sweeper will.", len(queues), type(error).__name__)
            return set(queues)


def notify_on_commit(*deliveries: Delivery, using: str) -> None:
    """Wake the queues of these deliveries once the transaction is committed, each once in a transaction.

    Nothing is woken for what was rolled back, be that to a savepoint. The deliveries are not held until then.
    """
    queues: dict[int | None, list[str]] = {}
    for delivery in deliveries:
        together, key = queues.setdefault(_installed.message_priority_of(delivery), []), key_of(delivery)
        if key not in together:
            together.append(key)
    connection = transaction.get_connection(using)
    if not connection.in_atomic_block and connection.get_autocommit():
        # It is committed: there is nothing to wait for, nor others to wait with.
        for message_priority, found in queues.items():
            notify(found, message_priority=message_priority)
    elif queues:
        notification = _Notification(queues, using)
        _waiting.of(using).add(notification)
        transaction.on_commit(notification, using=using)


class _Waiting(threading.local):
    """The notifications of this thread that wait for a commit, by database.

    Django alone keeps them alive: it lets go of those that are rolled back, and they are gone from here too.
    """

    def __init__(self) -> None:
        self.by_database: dict[str, weakref.WeakSet[_Notification]] = {}

    def of(self, using: str) -> weakref.WeakSet[_Notification]:
        return self.by_database.setdefault(using, weakref.WeakSet())


_waiting = _Waiting()


class _Notification:
    """A hook of one savepoint. The first to run after a commit notifies for all, so that each queue is woken once."""

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
    """Have what is due looked for once the transaction is committed, or ``after`` so many seconds more.

    Else the next sweep does.
    """
    call = functools.partial(_installed.call_for_sweep, after=after)
    after_commit("call for a sweep, the next of which comes by itself", call, using=using)


def rows_of(steps: Sequence[Step]) -> list[Sequence[Row]]:
    """The rows of each step, with those of its result."""
    to_store = [step.delivery for step in steps if step.stores_result]
    results = installed().result_rows(to_store) if to_store else {}
    if not results:
        return [step.rows for step in steps]
    return [(*step.rows, *(results.get(step.delivery.id, ()) if step.stores_result else ())) for step in steps]
