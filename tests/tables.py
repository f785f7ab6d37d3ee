"""The tables that tests print: each test gives a row, and the end of the run shows them together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: The property of a test's report that holds its row: its place, its name and its figures.
TABLE = "row of servers-scripted"
#: The same of an attack: the number of its way, what that is called, and the attack.
ATTACKS = "row of attacks"
#: Characters of an attack's name that are shown.
_LONGEST = 80

_COLUMNS = ("submitted", "arrived", "twice", "failed", "refused attempts")


def lines(reports: Iterable[Any]) -> list[str]:
    """The table of the rows in these reports; empty where there are none."""
    rows = sorted(
        value for report in reports for name, value in getattr(report, "user_properties", ()) if name == TABLE
    )
    if not rows:
        return []
    width = max(len(row[1]) for row in rows)
    head = " ".join([" " * width, *(column.rjust(len(column) + 1) for column in _COLUMNS)])
    body = [
        " ".join([row[1].ljust(width), *(str(n).rjust(len(c) + 1) for n, c in zip(row[2:], _COLUMNS, strict=True))])
        for row in rows
    ]
    return [head, *body]


def attacks(reports: Iterable[Any]) -> list[str]:
    """The table of the attacks in these reports, with what came of each; empty where there are none."""
    rows = sorted(
        [*value[:2], value[2][:_LONGEST], "repelled" if report.passed else "GOT THROUGH"]
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == ATTACKS
    )
    widths = [max((len(str(row[column])) for row in rows), default=0) for column in range(3)]
    return [
        f"{number:>{widths[0]}}  {item.ljust(widths[1])}  {attack.ljust(widths[2])}  {outcome}"
        for number, item, attack, outcome in rows
    ]
