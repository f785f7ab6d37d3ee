"""Intervals begin on the full units of the local clock, and drawings stay within their chart."""

from __future__ import annotations

import datetime as dt
import itertools

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from email_integration.dashboard import drawing
from email_integration.dashboard.intervals import PERIODS

MOMENTS = st.integers(1_600_000_000, 2_200_000_000).map(lambda second: dt.datetime.fromtimestamp(second, tz=dt.UTC))
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"])


@given(now=MOMENTS, zone=ZONES, name=st.sampled_from(sorted(PERIODS)))
def test_intervals_follow_each_other_up_to_now(now: dt.datetime, zone: str, name: str) -> None:
    """The last interval contains the present moment, and each begins on a full interval of the local clock."""
    period = PERIODS[name]
    with timezone.override(zone):
        intervals = period.intervals(now)
        assert len(intervals) == period.count
        assert intervals[-1].start <= now < intervals[-1].end
        assert all(one.end == following.start for one, following in itertools.pairwise(intervals))
        last = timezone.localtime(intervals[-1].start)
        begun = timezone.localtime(now).utcoffset() == last.utcoffset()  # except on the day of a clock change
        assert not begun or (last.hour * 3600 + last.minute * 60 + last.second) % period.width == 0
        assert sum(map(period.is_mark, (each.start for each in intervals))) >= 3


@given(values=st.lists(st.integers(0, 10_000_000), min_size=1, max_size=30))
def test_bars_are_as_high_as_what_they_stand_for(values: list[int]) -> None:
    """No bar is higher than the axis, and the axis is at most five times as high as the highest bar."""
    bars, marks = drawing.bars(values, [str(number) for number in range(len(values))])
    assert len(bars) == sum(map(bool, values))
    for bar in bars:
        assert drawing.ABOVE <= float(bar.y) <= drawing.HEIGHT
        assert float(bar.y) + float(bar.height) == pytest.approx(drawing.HEIGHT, abs=0.2)
    assert len({bar.number for bar in bars if bar.number}) == any(values)
    assert float(marks[0].at) == drawing.HEIGHT
    assert float(marks[-1].at) == drawing.ABOVE
    if any(values):
        reached = drawing.HEIGHT - min(float(bar.y) for bar in bars)
        assert reached * 5 >= drawing.HEIGHT - drawing.ABOVE - 1


@given(values=st.lists(st.none() | st.floats(0, 10_000_000), min_size=1, max_size=30))
def test_lines_stay_in_their_chart_and_break_where_nothing_is_known(values: list[float | None]) -> None:
    (line, same), marks = drawing.lines((values, values), [str(number) for number in range(len(values))])
    assert len(marks) >= 2
    assert len(line.points) == sum(value is not None for value in values)
    for point in line.points:
        assert drawing.ABOVE <= float(point.y) <= drawing.HEIGHT
    joined = sum(one is not None and other is not None for one, other in itertools.pairwise(values))
    assert sum(point.before is not None for point in line.points) == joined
    assert float(line.end) - float(same.end) >= drawing.BETWEEN - 0.1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (0.214, "0.21 s"),
        (9.96, "10 s"),
        (60, "60 s"),
        (600, "10 min"),
        (36_000, "10 h"),
        (432_000, "5 days"),
    ],
)
def test_a_time_has_the_unit_that_suits_it(seconds: float, words: str) -> None:
    assert drawing.duration(seconds) == words
