"""How much mail is not finished, and how late the oldest of it is: asked of the index that claims use.

What is finished is never counted here: there may be millions of it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from django.db.models import Case, Count, F, Min, Q, QuerySet, Value, When
from django.utils import timezone

from email_integration.ledger.rows import database
from email_integration.models import FINAL, Delivery, Lane, Status

#: What waits for nobody but a worker, once it is due.
WAITING = (Status.QUEUED, Status.DEFERRED)


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """``unfinished`` are numbers of deliveries by status ('damaged' for none of ours) and lane, without those in doubt
    that wait for a person, which are ``held``.

    The other two are in seconds, by lane, for lanes that have any: for how long the oldest that is due has been due,
    and since when the oldest that was put off has been there.
    """

    unfinished: Mapping[tuple[str, str], int]
    held: int
    oldest_due: Mapping[str, float]
    oldest_deferred: Mapping[str, float]


def backlog() -> Backlog:
    """What is not finished, now. Raises ``DatabaseError``."""
    now = timezone.now()
    rows = Delivery.objects.using(database())
    open_ = rows.filter(next_at__isnull=False).exclude(status__in=FINAL).order_by()
    # What is claimed is 'sending', whatever its row says.
    counted = open_.annotate(now=Case(When(batch="", then=F("status")), default=Value(Status.SENDING.value)))
    found = list(
        counted.values("now", "lane").annotate(
            number=Count("pk"),
            due=Min("due_at", filter=Q(due_at__lte=now, now__in=WAITING)),
            created=Min("created_at", filter=Q(now=Status.DEFERRED)),
        )
    )
    unfinished: dict[tuple[str, str], int] = {}
    for row in found:
        key = (row["now"] if row["now"] in Status.values else "damaged", lane_of(row["lane"]))
        unfinished[key] = unfinished.get(key, 0) + row["number"]
    return Backlog(
        unfinished=unfinished,
        # The first condition is the index's own: SQLite does not see that it follows from the second.
        held=rows.exclude(status=Status.ACCEPTED).filter(status=Status.IN_DOUBT).count(),
        oldest_due=_ages([(row["lane"], row["due"]) for row in found], now),
        oldest_deferred=_ages([(row["lane"], row["created"]) for row in found], now),
    )


def oldest_due() -> Mapping[str, float]:
    """For how many seconds the oldest mail of each lane that is due has been due. Raises ``DatabaseError``."""
    now = timezone.now()
    due = unclaimed().filter(due_at__lte=now)
    return _ages(list(due.order_by().values_list("lane").annotate(Min("due_at"))), now)


def unclaimed() -> QuerySet[Delivery]:
    """What waits for its time or a worker, and is not being sent."""
    return Delivery.objects.using(database()).filter(next_at__isnull=False, status__in=WAITING, batch="")


def lane_of(lane: str) -> str:
    """The lane that a mail waits in: what somebody has damaged in the database is a mail like any other."""
    return lane if lane in Lane.values else Lane.NORMAL.value


def _ages(found: list[tuple[str, dt.datetime | None]], now: dt.datetime) -> dict[str, float]:
    ages: dict[str, float] = {}
    for lane, since in found:
        if since is not None:
            age = max(0.0, (now - since).total_seconds())
            ages[lane_of(lane)] = max(age, ages.get(lane_of(lane), 0.0))
    return ages
