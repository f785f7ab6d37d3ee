"""The last hour, day, week, month or quarter, in intervals that begin at round times of the clock."""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils.formats import date_format
from django.utils.translation import gettext_lazy as _

from email_integration import conf
from email_integration.models import Delivery
from email_integration.timezones import as_stored, local_time

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as Text


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The time from ``start`` (included) to ``end`` (excluded)."""

    start: dt.datetime
    end: dt.datetime


@dataclass(frozen=True, kw_only=True)
class Period:
    """A number of intervals (``count``) of ``width`` seconds each. The last one is still running.

    ``refresh`` is how often, in seconds, an open page counts again.
    """

    title: Text
    width: int
    count: int
    refresh: int

    @property
    def has_days(self) -> bool:
        """Whether its intervals are whole days, which begin at midnight also when the clocks are changed."""
        return self.width >= _DAY

    def intervals(self, now: dt.datetime) -> list[Interval]:
        """Return the intervals, oldest first. The last contains ``now``."""
        edges = self._midnights(now) if self.has_days else self._edges(now)
        moments = [as_stored(edge) for edge in edges]
        return [Interval(start=start, end=end) for start, end in itertools.pairwise(moments)]

    def _edges(self, now: dt.datetime) -> list[dt.datetime]:
        offset = (local_time(now).utcoffset() or dt.timedelta()).total_seconds()
        on_the_wall = local_time(now).timestamp() + offset
        begun = on_the_wall - on_the_wall % self.width - offset
        edges = [begun + self.width * (number + 1 - self.count) for number in range(self.count + 1)]
        return [dt.datetime.fromtimestamp(edge, tz=dt.UTC) for edge in edges]

    def _midnights(self, now: dt.datetime) -> list[dt.datetime]:
        local, days = local_time(now), self.width // _DAY
        begun = local.toordinal() - local.toordinal() % days  # so an interval stays the same from day to day
        dates = [dt.date.fromordinal(begun + days * (number + 1 - self.count)) for number in range(self.count + 1)]
        return [dt.datetime.combine(date, dt.time(), tzinfo=local.tzinfo) for date in dates]

    def is_mark(self, moment: dt.datetime) -> bool:
        """Return whether the axis has a mark at ``moment``: every ten minutes, every four hours, at midnight, weekly.

        The marks of three months are fifteen days apart.
        """
        local = local_time(moment)
        if self.has_days:
            return local.toordinal() % (7 if self.width == _DAY else 15) in (0, 1, 2)[: self.width // _DAY]
        if self.width >= _DAY // 4:
            return local.hour < self.width // _HOUR
        return local.hour % 4 == 0 if self.width >= _HOUR else local.minute % 10 == 0

    def mark(self, moment: dt.datetime) -> str:
        """Return the label of the mark: the time, the day of the week, or the date."""
        return date_format(local_time(moment), _DATE if self.has_days else "D" if self.width >= _DAY // 4 else "H:i")

    def name(self, interval: Interval) -> str:
        """Return the shortest name that distinguishes the interval from the others."""
        start, end = local_time(interval.start), local_time(interval.end)
        if self.has_days:
            last = end - dt.timedelta(hours=12)
            first = date_format(start, _DATE)
            return first if last.date() == start.date() else f"{first} – {date_format(last, _DATE)}"
        day = f"{date_format(start, 'D')} " if self.width >= _HOUR else ""
        return f"{day}{date_format(start, 'H:i')}–{date_format(end, 'H:i')}"


_HOUR, _DAY = 3600, 24 * 3600

#: A date of the last months.
_DATE = "j M"

#: By the value in the URL of the page.
PERIODS = {
    "hour": Period(title=_("Last hour"), width=120, count=30, refresh=15),
    "day": Period(title=_("Last day"), width=_HOUR, count=24, refresh=60),
    "week": Period(title=_("Last week"), width=_DAY // 4, count=28, refresh=300),
    "month": Period(title=_("Last 30 days"), width=_DAY, count=30, refresh=900),
    "quarter": Period(title=_("Last 90 days"), width=3 * _DAY, count=30, refresh=900),
}


def offered() -> dict[str, Period]:
    """Return the periods of which rows are kept: each is longer than the one before, by RETENTION_DAYS."""
    days = conf.get("RETENTION_DAYS")
    shorter = {"hour": 0, "day": 0, "week": 0, "month": 7, "quarter": 30}
    return {name: period for name, period in PERIODS.items() if days > shorter[name]}


def fitting(now: dt.datetime) -> str:
    """Return the period to show first: the last hour while the oldest mail is not older, and else the last day."""
    oldest = Delivery.objects.order_by("created_at").values_list("created_at", flat=True).first()
    return "hour" if oldest is None or oldest > now - dt.timedelta(hours=1) else "day"
