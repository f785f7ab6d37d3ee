"""Statistics of mail over time: how many, how fast, and the causes of failure.

Each query selects intervals of time by an index, so its cost does not depend on older deliveries. One statement, with a
part for each interval, covers all intervals.

A delivery counts in the interval in which it finished, a deferred attempt in the interval in which it was made. A mail
that was deferred three times and then accepted counts three times as deferred and once as accepted.
"""

from __future__ import annotations

import collections
import datetime as dt
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections
from django.db.models import Count, QuerySet, Value

from email_integration.ledger.rows import database
from email_integration.models import Delivery, DeliveryAttempt, Status
from email_integration.outcomes.causes import NOT_BY_SERVER

from .intervals import Interval

#: Finished without acceptance, and not by a person's decision.
LOST = (Status.FAILED, Status.EXPIRED, Status.QUARANTINED)

#: Each interval has PARTS parts. The times are those of at most OF_EACH_PART mails of each part, its last ones.
PARTS, OF_EACH_PART = 4, 25

#: Causes are counted over this many attempts: the last ones that the server did not accept.
ATTEMPTS = 20_000

#: How many causes are shown, of servers and of all else.
CAUSES = 8

#: A priority and a configuration.
Group = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The selected priority and configuration. None selects all of them."""

    priority: str | None = None
    configuration: str | None = None

    def takes(self, group: Group) -> bool:
        """Return whether ``group`` is selected."""
        return all(
            wanted in (None, has) for wanted, has in zip((self.priority, self.configuration), group, strict=True)
        )

    def among(self, rows: Any, *, priority_column: str) -> Any:
        """Return the selected ones of ``rows``, whose priority is in ``priority_column``."""
        given = {priority_column: self.priority, "smtp_config": self.configuration}
        return rows.filter(**{name: value for name, value in given.items() if value is not None})


def _finished() -> Any:
    return Delivery.objects.order_by()


def _not_accepted() -> Any:
    """Return the attempts that no server accepted."""
    return DeliveryAttempt.objects.exclude(outcome=Status.ACCEPTED).order_by()


def _within(rows: Any, interval: Interval) -> Any:
    return rows.filter(finished_at__gte=interval.start, finished_at__lt=interval.end)


# -- counts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The numbers of an interval: accepted mails, deferred attempts, lost mails."""

    accepted: int = 0
    deferred: int = 0
    failed: int = 0

    def __add__(self, other: Flow) -> Flow:
        return Flow(
            accepted=self.accepted + other.accepted,
            deferred=self.deferred + other.deferred,
            failed=self.failed + other.failed,
        )


#: The numbers of an interval, by group.
Flows = Mapping[Group, Flow]


def flows(intervals: Sequence[Interval]) -> list[Flows]:
    """Count the deliveries and attempts of each interval.

    The accepted deliveries are all finished ones minus the failed, expired, cancelled and quarantined ones: the index
    of finished deliveries has no status, and the index of those others is small.
    """
    others = _finished().exclude(status=Status.ACCEPTED)
    every = _counted(_finished(), intervals, priority_column="priority")
    rest = _counted(others, intervals, priority_column="priority")
    lost = _counted(others.filter(status__in=LOST), intervals, priority_column="priority")
    deferred = _counted(
        _not_accepted().filter(outcome=Status.DEFERRED), intervals, priority_column="delivery__priority"
    )
    return [
        {
            group: Flow(
                accepted=max(0, every[number][group] - rest[number][group]),
                deferred=deferred[number][group],
                failed=lost[number][group],
            )
            for group in {*every[number], *deferred[number]}
        }
        for number in range(len(intervals))
    ]


def _counted(rows: Any, intervals: Sequence[Interval], *, priority_column: str) -> list[collections.Counter[Group]]:
    first, *others = (
        _within(rows, interval)
        .annotate(interval=Value(number))
        .values_list("interval", priority_column, "smtp_config")
        .annotate(number=Count("*"))
        for number, interval in enumerate(intervals)
    )
    found: list[collections.Counter[Group]] = [collections.Counter() for _ in intervals]
    for number, priority, configuration, count in first.union(*others, all=True).order_by():
        found[number][priority, configuration] = count
    return found


def total(flows: Flows, choice: Choice) -> Flow:
    """Return the sum of the flows that ``choice`` selects."""
    return sum((flow for group, flow in flows.items() if choice.takes(group)), Flow())


# -- times ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds from submission to acceptance: the median and the 95th percentile."""

    median: float
    p95: float


def times(choice: Choice, intervals: Sequence[Interval]) -> list[Times | None]:
    """Return the times of a sample of each interval's mails, or None for an interval without accepted mail."""
    taken = sample([(choice, part) for interval in intervals for part in _parts(interval)], OF_EACH_PART)
    return [
        of_sample([(seconds, 1.0) for part in taken[place : place + PARTS] for seconds in part])
        for place in range(0, len(taken), PARTS)
    ]


def sample(asked: Sequence[tuple[Choice, Interval]], limit: int) -> list[list[float]]:
    """Return for each choice and interval the seconds that its last ``limit`` mails took, by one query.

    At most 500 pairs: SQLite allows no more parts in a compound query.
    """
    parts, parameters = [], list[Any]()
    quoted = connections[database()].ops.quote_name
    table = quoted(Delivery._meta.db_table)
    for number, (choice, interval) in enumerate(asked):
        given = [
            ("finished_at", ">=", interval.start),
            ("finished_at", "<", interval.end),
            ("status", "=", Status.ACCEPTED.value),
            ("priority", "=", choice.priority),
            ("smtp_config", "=", choice.configuration),
        ]
        conditions = [(f"{table}.{quoted(name)} {sign} %s", value) for name, sign, value in given if value is not None]
        # On SQLite, Django cannot combine queries with a LIMIT, because SQLite needs each of them in a subquery.
        parts.append(
            f"SELECT * FROM (SELECT {number} AS part, id, created_at, finished_at FROM {table} "  # noqa: S608  # ours
            f"WHERE {' AND '.join(text for text, _ in conditions)} "
            f"ORDER BY finished_at DESC LIMIT {limit}) AS part{number}"
        )
        parameters.extend(value for _, value in conditions)
    found: list[list[float]] = [[] for _ in asked]
    rows: Iterable[Any] = Delivery.objects.raw(" UNION ALL ".join(parts), parameters) if parts else ()
    for row in rows:
        found[row.part].append(max(0.0, (row.finished_at - row.created_at).total_seconds()))
    return found


def _parts(interval: Interval) -> list[Interval]:
    length: dt.timedelta = (interval.end - interval.start) / PARTS
    edges = [interval.start + length * number for number in range(PARTS)] + [interval.end]
    return [Interval(start=start, end=end) for start, end in itertools.pairwise(edges)]


def of_sample(weighed: Sequence[tuple[float, float]]) -> Times | None:
    """Return the times of a sample of (seconds, number of mails that it represents), or None if it is empty."""
    if not weighed:
        return None
    ordered = sorted(weighed)
    return Times(median=_percentile(ordered, 0.5), p95=_percentile(ordered, 0.95))


def _percentile(ordered: Sequence[tuple[float, float]], share: float) -> float:
    """Return the smallest time that this share of the mails does not exceed."""
    wanted = share * sum(weight for _, weight in ordered) * (1 - 1e-9)  # sums of fractions are not exact
    reached = itertools.accumulate(weight for _, weight in ordered)
    return next(seconds for (seconds, _), sum_ in zip(ordered, reached, strict=True) if sum_ >= wanted)


# -- causes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CauseCount:
    """A cause, the number of attempts that ended with it, and the number of their mails."""

    outcome: str
    cause: str
    attempts: int
    mails: int


@dataclass(frozen=True, kw_only=True)
class FrequentCauses:
    """The causes, most frequent first: those of servers, and all others. They are counted in ``within``.

    ``since`` is set if earlier attempts were left out.
    """

    of_servers: Sequence[CauseCount]
    others: Sequence[CauseCount]
    within: Interval
    since: dt.datetime | None


def frequent_causes(choice: Choice, whole: Interval) -> FrequentCauses:
    """Return the causes of attempts that were not accepted, counted over the last ATTEMPTS such attempts at most."""
    attempts, since = not_accepted(choice, whole)
    counted = attempts.values("outcome", "cause").annotate(attempts=Count("*"), mails=Count("delivery", distinct=True))
    found = [CauseCount(**row) for row in counted.order_by("-attempts", "cause")]
    return FrequentCauses(
        of_servers=[each for each in found if each.cause not in NOT_BY_SERVER][:CAUSES],
        others=[each for each in found if each.cause in NOT_BY_SERVER][:CAUSES],
        within=whole,
        since=since,
    )


def not_accepted(choice: Choice, whole: Interval) -> tuple[QuerySet[DeliveryAttempt], dt.datetime | None]:
    """Return the attempts that no server accepted, the last ATTEMPTS at most, and the time after which all of them are.

    The time is None if no attempt was left out.
    """
    attempts = choice.among(_within(_not_accepted(), whole), priority_column="delivery__priority")
    beyond = attempts.order_by("-finished_at").values_list("finished_at", flat=True)[ATTEMPTS : ATTEMPTS + 1]
    since: dt.datetime | None = next(iter(beyond), None)
    return (attempts if since is None else attempts.filter(finished_at__gt=since)), since
