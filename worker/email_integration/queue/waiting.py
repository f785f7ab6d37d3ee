"""Count the unfinished mail, and measure how late the oldest is, with the index that claims use.

Finished mail is never counted here, because there may be millions of rows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from django.db.models import Case, Count, F, Min, Q, QuerySet, Value, When
from django.utils import timezone

from email_integration.models import FINAL, Delivery, Priority, Status

#: Statuses of mail that needs only a worker once it is due.
WAITING = (Status.QUEUED, Status.DEFERRED)


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """Unfinished mail, and the age of the oldest.

    - ``unfinished``: numbers of deliveries by status ('damaged' for an unknown status) and priority. It excludes
      ``held``.
    - ``held``: number of deliveries in doubt that wait for a person.
    - ``oldest_due``: for how many seconds the oldest due mail has been due, by priority.
    - ``oldest_deferred``: the age in seconds of the oldest deferred mail, by priority.

    A priority that has no such mail is missing.
    """

    unfinished: Mapping[tuple[str, str], int]
    held: int
    oldest_due: Mapping[str, float]
    oldest_deferred: Mapping[str, float]


def backlog() -> Backlog:
    """Return the current backlog. Raises ``DatabaseError``."""
    now = timezone.now()
    open_ = Delivery.objects.filter(next_at__isnull=False).exclude(status__in=FINAL).order_by()
    # Claimed mail is 'sending', regardless of the status in its row.
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
        # The first condition is that of the index. SQLite does not infer it from the second.
        held=Delivery.objects.exclude(status=Status.ACCEPTED).filter(status=Status.IN_DOUBT).count(),
        oldest_due=_ages([(row["priority"], row["due"]) for row in found], now),
        oldest_deferred=_ages([(row["priority"], row["created"]) for row in found], now),
    )


def oldest_due() -> Mapping[str, float]:
    """Return for how many seconds the oldest due mail has been due, by priority. Raises ``DatabaseError``."""
    now = timezone.now()
    due = unclaimed().filter(due_at__lte=now)
    return _ages(list(due.order_by().values_list("priority").annotate(Min("due_at"))), now)


def unclaimed() -> QuerySet[Delivery]:
    """Return the mail that waits for its time or a worker, and is not being sent."""
    return Delivery.objects.filter(next_at__isnull=False, status__in=WAITING, batch="")


def priority_of(priority: str) -> str:
    """Return the priority of a mail. A damaged value in the database counts as normal."""
    return priority if priority in Priority.values else Priority.NORMAL.value


def _ages(found: list[tuple[str, dt.datetime | None]], now: dt.datetime) -> dict[str, float]:
    ages: dict[str, float] = {}
    for priority, since in found:
        if since is not None:
            age = max(0.0, (now - since).total_seconds())
            ages[priority_of(priority)] = max(age, ages.get(priority_of(priority), 0.0))
    return ages
