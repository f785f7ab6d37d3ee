"""The coordinates of the bars, lines and marks of a chart.

Horizontal values are percentages: a chart is as wide as its page, and its text keeps its size. Vertical values are
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.formats import number_format
from django.utils.translation import gettext_lazy as _

#: Pixels: height of a chart, space above its highest mark, least distance between two labels.
HEIGHT, ABOVE, BETWEEN = 104, 16, 16


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A grid line, ``at`` percent from the left or pixels from the top, and its label."""

    at: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The bar of one interval. ``text`` names the interval and its value.

    ``number`` is the label above the highest bar, at ``middle``.
    """

    x: str
    width: str
    y: str
    height: str
    text: str
    middle: str
    number: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """The point of one interval, and the line from the point before if that interval has a value."""

    x: str
    y: str
    text: str
    before: tuple[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """The points of one curve. ``end`` is the vertical position of its name, beside the last point."""

    points: Sequence[Point]
    end: str


def bars(values: Sequence[int], names: Sequence[str]) -> tuple[list[Bar], list[Mark]]:
    """Return a bar for each value, and the marks of the axis. The text of a bar has its name and its value."""
    highest = max(values, default=0)
    top = _round_up(highest)
    share = 100 / max(1, len(values))
    drawn = [
        Bar(
            x=_percent(share * (place + 0.1)),
            width=_percent(share * 0.8),
            y=_pixels(_down(value / top)),
            height=_pixels(HEIGHT - _down(value / top)),
            text=f"{name}: {number_format(value)}",
            middle=_percent(share * (place + 0.5)),
            number=number_format(value) if value == highest and value not in values[:place] else "",
        )
        for place, (value, name) in enumerate(zip(values, names, strict=True))
        if value
    ]
    middle = [top // 2] if top % 2 == 0 else []
    return drawn, [Mark(at=_pixels(_down(value / top)), text=_short(value)) for value in (0, *middle, top)]


def lines(curves: Sequence[Sequence[float | None]], names: Sequence[str]) -> tuple[list[Line], list[Mark]]:
    """Return lines of times in seconds on one axis, and its marks, each about ten times the one below.

    The axis is logarithmic, because half of all mails take a second and some take an hour: on a linear axis all lines
    except the slowest would be at the bottom. The last of ``curves`` is the highest.
    """
    known = [value for values in curves for value in values if value is not None]
    marks = _marks_around(min(known, default=1.0), max(known, default=1.0))
    drawn = [_line(values, names, marks) for values in curves]
    ends = _apart([line.points[-1].y if line.points else _pixels(HEIGHT) for line in drawn])
    drawn = [Line(points=line.points, end=end) for line, end in zip(drawn, ends, strict=True)]
    return drawn, [Mark(at=_pixels(_down(_up(mark, marks))), text=duration(mark)) for mark in marks]


def duration(value: float) -> str:
    """Return a time, given in seconds, in a suitable unit: '0.21 s', '12 min'."""
    seconds, name = next((seconds, name) for limit, seconds, name in _UNITS if value >= limit)
    return f"{_plain(value / seconds)} {name}"


def across(number: int, count: int) -> str:
    """Return the left edge of interval ``number`` of ``count``, in percent."""
    return _percent(100 * number / count)


def _line(values: Sequence[float | None], names: Sequence[str], marks: Sequence[float]) -> Line:
    share = 100 / max(1, len(values))
    points: list[Point] = []
    before: tuple[str, str] | None = None
    for number, (value, name) in enumerate(zip(values, names, strict=True)):
        if value is None:
            before = None
            continue
        x, y = _percent(share * (number + 0.5)), _pixels(_down(_up(value, marks)))
        points.append(Point(x=x, y=y, text=f"{name}: {duration(value)}", before=before))
        before = (x, y)
    return Line(points=points, end="")


#: Possible marks of a time axis, in seconds.
_MARKS = (0.01, 0.1, 1, 10, 60, 600, 3600, 10 * 3600, 4 * 86400, 40 * 86400)


def _marks_around(lowest: float, highest: float) -> Sequence[float]:
    """Return at least two marks, from the last not above ``lowest`` to the first not below ``highest``."""
    first = max((place for place, mark in enumerate(_MARKS) if mark <= lowest), default=0)
    last = min((place for place, mark in enumerate(_MARKS) if mark >= highest), default=len(_MARKS) - 1)
    first = min(first, len(_MARKS) - 2)
    return _MARKS[first : max(last, first + 1) + 1]


def _up(value: float, marks: Sequence[float]) -> float:
    """Return the height of ``value`` as a share of the axis: 0 at the first mark, 1 at the last."""
    lowest, highest = math.log(marks[0]), math.log(marks[-1])
    return min(1.0, max(0.0, (math.log(max(value, marks[0])) - lowest) / (highest - lowest)))


def _apart(places: Sequence[str]) -> list[str]:
    """Return the positions, ordered from the lowest to the highest, moved apart so that each label can be read."""
    free, found = float(HEIGHT), []
    for place in places:
        free = min(free, float(place))
        found.append(free)
        free -= BETWEEN
    lacking = max(0.0, ABOVE - min(found, default=ABOVE))
    return [_pixels(place + lacking) for place in found]


def _down(share: float) -> float:
    return HEIGHT - (HEIGHT - ABOVE) * share


def _round_up(value: int) -> int:
    """Return the next of 1, 2, 5, 10, 20 and so on that is not less than ``value``."""
    size: int = 10 ** (len(str(value)) - 1)
    return next(size * step for step in (1, 2, 5, 10) if size * step >= value)


#: Units of time: the least time in seconds for which the unit is used, its seconds, its name.
_UNITS: tuple[tuple[float, float, Any], ...] = (
    (2 * 86400, 86400, _("days")),
    (2 * 3600, 3600, "h"),
    (120, 60, "min"),
    (0, 1, "s"),
)


def _plain(value: float) -> str:
    """Return ``value`` with two significant digits."""
    digits = 0 if value >= 9.95 or value == round(value) else 1 if value >= 0.995 else 2
    return number_format(round(value, digits), digits)  # number_format alone would truncate


def _short(value: float) -> str:
    """Return a short number, '20 k' for 20,000: there is little space beside the axis."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{_plain(value / size)} {letter}"
    return number_format(round(value))


def _percent(value: float) -> str:
    return f"{value:.2f}%"


def _pixels(value: float) -> str:
    return f"{value:.1f}"
