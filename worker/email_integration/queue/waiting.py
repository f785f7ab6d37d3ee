"""How much mail is not finished, and how late the oldest of it is: asked of the index that claims use.

What is finished is never counted here: there may be millions of it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from django.db.models import Case, Count, F, Min, Q, QuerySet, Value, When
from django.utils import timezone

from email_integration.models import FINAL, Delivery, Priority, Status

#: What waits for nobody but a worker, once it is due.
WAITING = (Status.QUEUED, Status.DEFERRED)


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """``unfinished`` are numbers of deliveries by status ('damaged' for none of ours) and priority, without those in
    doubt that wait for a person, which are ``held``.

    The other two are in seconds, by priority, for priorities that have any: for how long the oldest that is due has
    been due, and since when the oldest that was put off has been there.
    """

    unfinished: Mapping[tuple[str, str], int]
    held: int
    oldest_due: Mapping[str, float]
    oldest_deferred: Mapping[str, float]


def backlog() -> Backlog:
    """What is not finished, now. Raises ``DatabaseError``."""
    now = timezone.now()
    open_ = Delivery.objects.filter(next_at__isnull=False).exclude(status__in=FINAL).order_by()
    # What is claimed is 'sending', whatever its row says.
    counted = open_.annotate(now=Case(When(batch="", then=F("status")), default=Value(Status.SENDING.value)))
    found = list(
        counted.values("now", "priority").annotate(
            number=Count("pk"),
            due=Min("due_at", filter=Q(due_at__lte=now, now__in=WAITING)),
            created=Min("created_at", filter=Q(now=Status.DEFERRED)),
        )
    )
    unfinished: dict[tuple[str, str], int] = {}
    for row in found:
        key = (row["now"] if row["now"] in Status.values else "damaged", priority_of(row["priority"]))
        unfinished[key] = unfinished.get(key, 0) + row["number"]
    return Backlog(
        unfinished=unfinished,
        # The first condition is the index's own: SQLite does not see that it follows from the second.
        held=Delivery.objects.exclude(status=Status.ACCEPTED).filter(status=Status.IN_DOUBT).count(),
        oldest_due=_ages([(row["priority"], row["due"]) for row in found], now),
        oldest_deferred=_ages([(row["priority"], row["created"]) for row in found], now),
    )


def oldest_due() -> Mapping[str, float]:
    """For how many seconds the oldest mail of each priority that is due has been due. Raises ``DatabaseError``."""
    now = timezone.now()
    due = unclaimed().filter(due_at__lte=now)
    return _ages(list(due.order_by().values_list("priority").annotate(Min("due_at"))), now)


def unclaimed() -> QuerySet[Delivery]:
    """What waits for its time or a worker, and is not being sent."""
    return Delivery.objects.filter(next_at__isnull=False, status__in=WAITING, batch="")


def priority_of(priority: str) -> str:
    """The priority of a mail: what somebody has damaged in the database is a mail like any other."""
    return priority if priority in Priority.values else Priority.NORMAL.value


def _ages(found: list[tuple[str, dt.datetime | None]], now: dt.datetime) -> dict[str, float]:
    ages: dict[str, float] = {}
    for priority, since in found:
        if since is not None:
            age = max(0.0, (now - since).total_seconds())
            ages[priority_of(priority)] = max(age, ages.get(priority_of(priority), 0.0))
    return ages
