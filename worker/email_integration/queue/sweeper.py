"""Wake each queue that has due, unclaimed mail; recover lost work; and record a heartbeat."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from django.db import connections
from django.db.models import Exists, Min, Q, QuerySet

from email_integration import recursion, routing
from email_integration.caching import shared_cache
from email_integration.django_internals import can_index_a_part
from email_integration.ledger import installation, task_queue
from email_integration.ledger.queues import queue_of
from email_integration.ledger.rows import database
from email_integration.models import CircuitBreaker, DatabaseTime, Delivery, DeliveryBatch, Installation, Priority
from email_integration.routing import breaker
from email_integration.smtp import Relay

from . import continuing, retry_now, wakeups

logger = logging.getLogger(__name__)

_F = TypeVar("_F", bound=Callable[[], object])

#: The key of the sweeper's heartbeat in the shared cache.
HEARTBEAT_KEY = "email_integration:sweeper_heartbeat"

#: Seconds after which a queue with due mail is woken regardless of the cache.
OVERDUE = 30.0

_also: list[Callable[[], object]] = []
_where_leases_ended: list[Callable[[], object]] = []


def also(recover: _F) -> _F:
    """Register ``recover``, which every sweep calls first. Packages above this one use it. Its errors are logged."""
    _also.append(recover)
    return recover


def where_leases_ended(recover: _F) -> _F:
    """Register ``recover``, which each sweep calls when it finds a batch whose lease has expired.

    Its errors are logged.
    """
    _where_leases_ended.append(recover)
    return recover


def sweep() -> int:
    """Wake the queues that have due mail and return how many were woken. Several sweeps may run at once.

    Raises ``DatabaseError``.
    """
    _recover(_also)
    found = _ask(_questions("") | _beyond_queues())
    if found["leases"]:
        _recover(_where_leases_ended)
    if found["probes"]:
        _have_the_relay_tried()
    if found["leases"] or found["probes"]:
        found = _ask(_questions("") | _beyond_queues())
    due = _due_by_priority(found) | (_due_by_own_queue() if found["own"] else {})
    unheard = _wake(due)
    if found["continuations"]:
        continuing.publish_due()
    leave_heartbeat()
    return len(due.keys() - unheard)


def _recover(functions: Collection[Callable[[], object]]) -> None:
    for recover in functions:
        try:
            recover()
        except Exception as error:  # a failed recovery must not delay due mail
            logger.error("Could not recover the mail of lost workers (%s).", type(error).__name__)


def _wake(due: Mapping[str, bool]) -> set[str]:
    """Wake these queues, and return the queues that could not be woken.

    ``due`` says for each queue whether its mail is late. A late queue is woken even if a wake-up is outstanding.
    """
    soon = [queue for queue, is_late in due.items() if not is_late]
    late = [queue for queue, is_late in due.items() if is_late]
    with recursion.within_wake_up():
        unheard = wakeups.wake(late) if late else set()
    return unheard | (task_queue.notify(soon) if soon else set())


def _have_the_relay_tried() -> None:
    """Wake one delivery that waits for a relay whose probe is due. The process that had to do it may be gone."""
    due = breaker.due()
    relay = routing.active_relay() if due else None
    if not isinstance(relay, Relay):
        return
    if breaker.key(relay) in due:
        retry_now.wake_one()
    elif routing.password_is_elsewhere(relay) and breaker.forget_former(relay):
        retry_now.wake()


# -- what is due ----------------------------------------------------------------------------------------------------
#
# Each question names the queue and the priority, so the index answers it immediately, regardless of how much mail waits
# or is deferred. One statement asks all of them.


def _due_by_priority(found: Mapping[str, bool]) -> dict[str, bool]:
    """Return the queues of the priorities that have due mail, and for each whether its mail is late."""
    priorities = _due_priorities("", found)
    late = _ask({priority: _due("", priority, since=OVERDUE) for priority in priorities}) if priorities else {}
    due: dict[str, bool] = {}
    for priority in priorities:
        due[queue_of(priority)] = late[priority] or due.get(queue_of(priority), False)
    return due


def _due_by_own_queue() -> dict[str, bool]:
    """Return the queues chosen by callers that have due mail, and for each whether its mail is late."""
    due: dict[str, bool] = {}
    for queue in _own_queues():
        priorities = _due_priorities(queue, _ask(_questions(queue)))
        if priorities:
            due[queue] = any(_ask({priority: _due(queue, priority, since=OVERDUE) for priority in priorities}).values())
    return due


def _due_priorities(queue: str, found: Mapping[str, bool]) -> list[str]:
    """Return the priorities that have due mail in a queue. Damaged priorities in the database are set to normal."""
    priorities = [priority for priority in Priority.values if found[priority]]
    if any(found[name] for name in found if name.startswith(_DAMAGED)):
        # No claim selects a damaged priority, so such mail would never be sent.
        damaged = _rows().filter(queue=queue, next_at__isnull=False).exclude(priority__in=Priority.values)
        damaged.update(priority=Priority.NORMAL)
        if _ask({"due": _due(queue, Priority.NORMAL)})["due"]:
            priorities = list(dict.fromkeys([*priorities, Priority.NORMAL.value]))
    return priorities


def _own_queues() -> Iterator[str]:
    """Yield the queues that callers have chosen for mail that is unfinished, or was until recently."""
    queue = ""
    while True:
        after = _rows().filter(_is_indexed(), queue__gt=queue).aggregate(next=Min("queue"))["next"]
        if after is None:
            return
        yield after
        queue = after


def _questions(queue: str) -> dict[str, QuerySet[Delivery]]:
    """Return queries for due mail of each priority in a queue, and for mail whose priority does not exist."""
    waiting = _rows().filter(queue=queue, next_at__isnull=False)
    known = sorted(Priority.values)
    between = [
        Q(priority__lt=known[0]),
        *(Q(priority__gt=below, priority__lt=above) for below, above in itertools.pairwise(known)),
        Q(priority__gt=known[-1]),
    ]
    damaged = {f"{_DAMAGED}{number}": waiting.filter(one) for number, one in enumerate(between)}
    return {priority: _due(queue, priority) for priority in Priority.values} | damaged


_DAMAGED = "damaged_"


_Questions = Mapping[str, "QuerySet[Delivery] | QuerySet[DeliveryBatch] | QuerySet[CircuitBreaker]"]


def _beyond_queues() -> dict[str, Any]:
    return {
        "leases": DeliveryBatch.objects.filter(lease_until__lt=DatabaseTime()),
        "own": _rows().filter(_is_indexed(), queue__gt=""),
        "continuations": _rows().filter(continue_after__lte=DatabaseTime()),
        "probes": CircuitBreaker.objects.filter(probe_at__lte=DatabaseTime()),
    }


def _due(queue: str, priority: str, *, since: float = 0.0) -> QuerySet[Delivery]:
    """Return the mail that has been due for at least ``since`` seconds and is not claimed."""
    return _rows().filter(queue=queue, priority=priority, next_at__lte=DatabaseTime(ahead=-since), batch="")


def _is_indexed() -> Q:
    """Return the condition of the index of waiting mail, or none if the database has no partial indexes."""
    return Q(next_at__isnull=False) if can_index_a_part(connections[database()]) else Q()


def _ask(questions: _Questions) -> dict[str, bool]:
    """Return for each question whether it has a row, in one statement."""
    asked = Installation.objects.values(**{name: Exists(rows) for name, rows in questions.items()})
    found: Any = asked.first()  # its field names are known only at run time
    if found is None:  # the installation's row is missing
        installation.forget()
        installation.identity()
        found = asked.get()
    return dict(found)


def _rows() -> QuerySet[Delivery]:
    return Delivery.objects.order_by()


# -- the heartbeat --------------------------------------------------------------------------------------------------


def leave_heartbeat() -> None:
    """Record the time of this sweep. Never raises, because a missing heartbeat must not stop a sweep."""
    try:
        with shared_cache() as cache:
            cache.set(HEARTBEAT_KEY, time.time(), timeout=None)
    except Exception as error:  # each cache backend has its own errors
        logger.debug("The sweeper could not write its heartbeat to the cache (%s).", type(error).__name__)


def last_heartbeat() -> float | None:
    """Return the time of the last sweep, in seconds since the epoch by the clock of its host; None if unknown.

    Raises the errors of the cache.
    """
    with shared_cache() as cache:
        found = cache.get(HEARTBEAT_KEY)
    return float(found) if found is not None else None
