"""The mail that has waited for longest, and the mail that goes out, by priority."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from email_integration.models import Delivery, DeliveryAttempt, Priority, Status
from email_integration.queue.waiting import unclaimed

from . import statistics
from .intervals import Interval

#: Minutes over which the throughput is averaged.
MINUTES = 5


@dataclass(frozen=True, kw_only=True)
class Overdue:
    """The mail of a priority that should have been sent first, and since when."""

    pk: str
    since: dt.datetime


def longest_overdue(now: dt.datetime) -> Mapping[str, Overdue]:
    """Return the mail of each priority that has been due for longest and is not being sent.

    Mail that is held, because sending is paused or the server is not working, counts from its first attempt, or from
    its submission if none was made. A mail that is deferred on its own is overdue when it is due again.
    """
    found = {}
    for priority in Priority.values:
        candidates = list(_candidates(priority, now))
        if candidates:
            found[priority] = min(candidates, key=lambda each: each.since)
    return found


def _candidates(priority: str, now: dt.datetime) -> Iterator[Overdue]:
    rows = unclaimed().filter(priority=priority)
    due = rows.filter(due_at__lte=now, waits_for_relay=False).order_by("due_at").values_list("pk", "due_at")
    held: QuerySet[Delivery] = rows.filter(status=Status.DEFERRED, waits_for_relay=True).order_by("created_at")
    first = DeliveryAttempt.objects.filter(delivery=OuterRef("pk")).order_by("number", "pk").values("started_at")
    since = held.annotate(since=Coalesce(Subquery(first[:1]), "created_at")).values_list("pk", "since")
    for pk, moment in (*due[:1], *since[:1]):
        yield Overdue(pk=pk, since=moment)


def per_minute(now: dt.datetime) -> Mapping[str, float]:
    """Return the number of accepted mails a minute by priority, on average over the last MINUTES minutes."""
    (counted,) = statistics.flows([Interval(start=now - dt.timedelta(minutes=MINUTES), end=now)])
    return {
        priority: statistics.total(counted, statistics.Choice(priority=priority)).accepted / MINUTES
        for priority in Priority.values
    }
