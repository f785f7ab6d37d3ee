"""The last hour, day or week, in intervals that begin at round times of the clock."""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils.formats import date_format
from django.utils.translation import gettext_lazy as _

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
    """A number of intervals (``count``) of ``width`` seconds each. The last one is still running."""

    title: Text
    width: int
    count: int

    def intervals(self, now: dt.datetime) -> list[Interval]:
        """Return the intervals, oldest first. The last contains ``now``."""
        offset = (local_time(now).utcoffset() or dt.timedelta()).total_seconds()
        on_the_wall = local_time(now).timestamp() + offset
        begun = on_the_wall - on_the_wall % self.width - offset
        edges = [begun + self.width * (number + 1 - self.count) for number in range(self.count + 1)]
        moments = [as_stored(dt.datetime.fromtimestamp(edge, tz=dt.UTC)) for edge in edges]
        return [Interval(start=start, end=end) for start, end in itertools.pairwise(moments)]

    def is_mark(self, moment: dt.datetime) -> bool:
        """Return whether the axis has a mark at ``moment``: every ten minutes, every four hours, or at midnight."""
        local = local_time(moment)
        if self.width >= _DAY // 4:
            return local.hour < self.width // _HOUR
        return local.hour % 4 == 0 if self.width >= _HOUR else local.minute % 10 == 0

    def mark(self, moment: dt.datetime) -> str:
        """Return the label of the mark: the time, or the day of the week."""
        return date_format(local_time(moment), "D" if self.width >= _DAY // 4 else "H:i")

    def name(self, interval: Interval) -> str:
        """Return the shortest name that distinguishes the interval from the others."""
        start, end = local_time(interval.start), local_time(interval.end)
        day = f"{date_format(start, 'D')} " if self.width >= _HOUR else ""
        return f"{day}{date_format(start, 'H:i')}–{date_format(end, 'H:i')}"


_HOUR, _DAY = 3600, 24 * 3600

#: By the value in the URL of the page.
PERIODS = {
    "hour": Period(title=_("Last hour"), width=120, count=30),
    "day": Period(title=_("Last day"), width=_HOUR, count=24),
    "week": Period(title=_("Last week"), width=_DAY // 4, count=28),
}
