"""What became of mail over time: how many, how soon, and why not.

Each question is about a stretch of time that an index knows: it costs the same however much was finished before.

A delivery counts when it came to its end, an attempt that was put off when it was made. A mail that was put off three
times is there three times as deferred, and once as accepted.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Q

from email_integration.delivery.rows import database
from email_integration.models import Delivery, DeliveryAttempt, Status

from .spans import Interval

#: Ended without a server that took it, and not by a person.
LOST = (Status.FAILED, Status.EXPIRED, Status.QUARANTINED)

#: Times are those of so many mails at most, in each so manieth part of an interval: the last in that part.
PARTS, OF_EACH_PART = 4, 25

#: Replies are looked for among so many attempts, the last that the server did not take.
ATTEMPTS = 20_000

#: So many of them are told.
REPLIES = 8


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Of which lane and of which configuration; '' is all of them."""

    lane: str = ""
    configuration: str = ""

    def finished(self, interval: Interval) -> Any:
        """The deliveries that came to their end then."""
        given = {"lane": self.lane, "smtp_config": self.configuration}
        rows = Delivery.objects.using(database()).order_by()
        return _within(rows, interval).filter(**{name: value for name, value in given.items() if value})

    def not_accepted(self, interval: Interval) -> Any:
        """The attempts of then that no server took."""
        given = {"delivery__lane": self.lane, "smtp_config": self.configuration}
        rows = DeliveryAttempt.objects.using(database()).exclude(outcome=Status.ACCEPTED).order_by()
        return _within(rows, interval).filter(**{name: value for name, value in given.items() if value})


def _within(rows: Any, interval: Interval) -> Any:
    return rows.filter(finished_at__gte=interval.start, finished_at__lt=interval.end)


# -- how many -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Numbers of an interval: mails accepted, attempts put off, mails lost."""

    accepted: int
    deferred: int
    failed: int


def flow(choice: Choice, interval: Interval) -> Flow:
    """Count what happened in the interval.

    Accepted are those that are neither failed, expired, cancelled nor quarantined: the index of all that is finished
    has no states, and that of those others is small.
    """
    finished = choice.finished(interval)
    others = finished.exclude(status=Status.ACCEPTED).aggregate(
        all=Count("status"), lost=Count("status", filter=Q(status__in=LOST))
    )
    return Flow(
        accepted=max(0, finished.count() - others["all"]),
        deferred=choice.not_accepted(interval).filter(outcome=Status.DEFERRED).count(),
        failed=others["lost"],
    )


# -- how soon -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Times:
    """In seconds, from submission to acceptance: of half of the mails at most, and of 95 in a hundred."""

    median: float
    p95: float


def times(choice: Choice, interval: Interval) -> Times | None:
    """Of a sample of the interval's mails; None when none was accepted."""
    taken: list[float] = []
    for part in _parts(interval):
        accepted = choice.finished(part).filter(status=Status.ACCEPTED).order_by("-finished_at")
        found = accepted.values_list("created_at", "finished_at")[:OF_EACH_PART]
        taken.extend(max(0.0, (finished - created).total_seconds()) for created, finished in found)
    if not taken:
        return None
    taken.sort()
    return Times(median=_percentile(taken, 0.5), p95=_percentile(taken, 0.95))


def _parts(interval: Interval) -> list[Interval]:
    length: dt.timedelta = (interval.end - interval.start) / PARTS
    edges = [interval.start + length * number for number in range(PARTS)] + [interval.end]
    return [Interval(start=edges[number], end=edges[number + 1]) for number in range(PARTS)]


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of ``ordered`` that so large a share of them does not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


# -- why not --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reason, in our words, and at how many attempts it was given."""

    outcome: str
    reason: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Replies:
    """The most frequent first; ``since`` is set when only attempts since then were looked at."""

    found: Sequence[Reply]
    since: dt.datetime | None


def replies(choice: Choice, whole: Interval) -> Replies:
    """Why attempts were not accepted, of all of them or of the last so many."""
    attempts = choice.not_accepted(whole)
    beyond = attempts.order_by("-finished_at").values_list("finished_at", flat=True)[ATTEMPTS : ATTEMPTS + 1]
    since: dt.datetime | None = next(iter(beyond), None)
    if since is not None:
        attempts = attempts.filter(finished_at__gt=since)
    counted = attempts.values("outcome", "reason").annotate(number=Count("*")).order_by("-number", "reason")
    return Replies(found=[Reply(**row) for row in counted[:REPLIES]], since=since)
