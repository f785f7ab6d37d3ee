"""Wake each queue in which mail is due that no worker has in hand, recover what was lost, and leave a heartbeat."""

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

#: Seconds after which mail that is due has its queue woken whatever the cache says of it.
OVERDUE = 30.0

_also: list[Callable[[], object]] = []
_where_leases_ended: list[Callable[[], object]] = []


def also(recover: _F) -> _F:
    """Have every sweep call ``recover`` first, for what lies above this package. What it raises is logged."""
    _also.append(recover)
    return recover


def where_leases_ended(recover: _F) -> _F:
    """Have ``recover`` called by each sweep that finds a batch whose lease has run out. What it raises is logged."""
    _where_leases_ended.append(recover)
    return recover


def sweep() -> int:
    """Wake the queues that have mail due and return how many. Any number of sweeps may run at once.

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
        except Exception as error:  # the mail that waits is not to wait for this too
            logger.error("Could not recover what may be lost (%s).", type(error).__name__)


def _wake(due: Mapping[str, bool]) -> set[str]:
    """Wake these queues, and those for whose mail it is late whatever is outstanding; return those that failed."""
    soon = [queue for queue, is_late in due.items() if not is_late]
    late = [queue for queue, is_late in due.items() if is_late]
    with recursion.within_wake_up():
        unheard = wakeups.wake(late) if late else set()
    return unheard | (task_queue.notify(soon) if soon else set())


def _have_the_relay_tried() -> None:
    """Wake one of the mails that wait for a relay that may be tried again: whoever was to do it may be gone."""
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
# Each question names the queue and the priority, so that the index answers it at once, however much waits or is
# deferred. All of them together are one statement.


def _due_by_priority(found: Mapping[str, bool]) -> dict[str, bool]:
    """The queues of the priorities for which mail is due, each with whether it is late."""
    priorities = _due_priorities("", found)
    late = _ask({priority: _due("", priority, since=OVERDUE) for priority in priorities}) if priorities else {}
    due: dict[str, bool] = {}
    for priority in priorities:
        due[queue_of(priority)] = late[priority] or due.get(queue_of(priority), False)
    return due


def _due_by_own_queue() -> dict[str, bool]:
    """The queues that callers have chosen and that have mail due, each with whether it is late."""
    due: dict[str, bool] = {}
    for queue in _own_queues():
        priorities = _due_priorities(queue, _ask(_questions(queue)))
        if priorities:
            due[queue] = any(_ask({priority: _due(queue, priority, since=OVERDUE) for priority in priorities}).values())
    return due


def _due_priorities(queue: str, found: Mapping[str, bool]) -> list[str]:
    """The priorities for which mail is due in a queue; where they are damaged in the database they are made normal."""
    priorities = [priority for priority in Priority.values if found[priority]]
    if any(found[name] for name in found if name.startswith(_DAMAGED)):
        # No claim asks for them: what somebody has damaged is a mail like any other.
        damaged = _rows().filter(queue=queue, next_at__isnull=False).exclude(priority__in=Priority.values)
        damaged.update(priority=Priority.NORMAL)
        if _ask({"due": _due(queue, Priority.NORMAL)})["due"]:
            priorities = list(dict.fromkeys([*priorities, Priority.NORMAL.value]))
    return priorities


def _own_queues() -> Iterator[str]:
    """The queues that callers have chosen for mail that is not finished, or was not long ago."""
    queue = ""
    while True:
        after = _rows().filter(_is_indexed(), queue__gt=queue).aggregate(next=Min("queue"))["next"]
        if after is None:
            return
        yield after
        queue = after


def _questions(queue: str) -> dict[str, QuerySet[Delivery]]:
    """Whether mail of each priority is due in a queue, and whether any has a priority that there is not."""
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
    """Mail that is due for ``since`` seconds and that nobody has in hand."""
    return _rows().filter(queue=queue, priority=priority, next_at__lte=DatabaseTime(ahead=-since), batch="")


def _is_indexed() -> Q:
    """What the index of waiting mail is of: of all where the database knows no index of a part."""
    return Q(next_at__isnull=False) if can_index_a_part(connections[database()]) else Q()


def _ask(questions: _Questions) -> dict[str, bool]:
    """Whether there is any row of each, in one statement."""
    asked = Installation.objects.values(**{name: Exists(rows) for name, rows in questions.items()})
    found: Any = asked.first()  # its names are known at run time only
    if found is None:  # the row that it is asked by is missing
        installation.forget()
        installation.identity()
        found = asked.get()
    return dict(found)


def _rows() -> QuerySet[Delivery]:
    return Delivery.objects.order_by()


# -- the heartbeat --------------------------------------------------------------------------------------------------


def leave_heartbeat() -> None:
    """Record that a sweep was made now. Never raises: sweeping matters, the heartbeat does not."""
    try:
        with shared_cache() as cache:
            cache.set(HEARTBEAT_KEY, time.time(), timeout=None)
    except Exception as error:  # every cache backend has exceptions of its own
        logger.debug("The sweeper could not leave its heartbeat in the cache (%s).", type(error).__name__)


def last_heartbeat() -> float | None:
    """When the last sweep was made, in seconds since the epoch by the clock of its host; None if none is known.

    Raises what the cache raises.
    """
    with shared_cache() as cache:
        found = cache.get(HEARTBEAT_KEY)
    return float(found) if found is not None else None
