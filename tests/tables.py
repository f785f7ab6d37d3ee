"""The tables that tests print. Each test gives a row, and the end of the run shows them together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

#: The property of a test's report that holds its row: its place, its name and its numbers.
TABLE = "row of servers-scripted"
#: For a real server: its name, the case's place and name, and the numbers. Without numbers the name has the reason.
SERVERS = "row of servers"
#: For an attack: the number of its way, the name of the way, and the attack.
ATTACKS = "row of attacks"
#: For a host project: the number of its item, its description, and the result.
GUESTS = "row of guests"
#: Longest shown name of an attack, in characters.
_LONGEST = 80

_COLUMNS = ("submitted", "arrived", "twice", "failed", "refused attempts")


def lines(reports: Iterable[Any]) -> list[str]:
    """Return the tables of the rows in these reports, or an empty list."""
    given = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    scripted, real = (sorted({tuple(value) for name, value in given if name == kind}) for kind in (TABLE, SERVERS))
    return [
        *_table([row[1:] for row in scripted], _COLUMNS),
        *_table([(f"{server}: {case}", *numbers) for server, _, case, *numbers in real], (*_COLUMNS, "seconds")),
    ]


def _table(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> list[str]:
    if not rows:
        return []
    width = max((len(row[0]) for row in rows if len(row) > 1), default=0)
    head = " ".join([" " * width, *(column.rjust(len(column) + 1) for column in columns)])
    return [head, *(_line(row[0].ljust(width), row[1:], columns) for row in rows)]


def _line(name: str, numbers: Sequence[Any], columns: Sequence[str]) -> str:
    if not numbers:
        return name.rstrip()
    return " ".join([name, *(str(n).rjust(len(c) + 1) for n, c in zip(numbers, columns, strict=True))])


def attacks(reports: Iterable[Any]) -> list[str]:
    """Return the table of the attacks in these reports with their results, or an empty list."""
    rows = sorted(
        [*value[:2], value[2][:_LONGEST], "repelled" if report.passed else "GOT THROUGH"]
        for report in reports
        if not report.skipped
        for name, value in getattr(report, "user_properties", ())
        if name == ATTACKS
    )
    widths = [max((len(str(row[column])) for row in rows), default=0) for column in range(3)]
    return [
        f"{number:>{widths[0]}}  {item.ljust(widths[1])}  {attack.ljust(widths[2])}  {outcome}"
        for number, item, attack, outcome in rows
    ]


def guests(reports: Iterable[Any]) -> list[str]:
    """Return the table of the host projects in these reports with their results, or an empty list."""
    rows = sorted(
        (*value[:2], value[2] if report.passed else "not run" if report.skipped else "BROKEN")
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == GUESTS
    )
    width = max((len(host) for _, host, _ in rows), default=0)
    head = [f"item  {'host project'.ljust(width)}  result"]
    return [*(head if rows else ()), *(f"{item:>4}  {host.ljust(width)}  {outcome}" for item, host, outcome in rows)]
