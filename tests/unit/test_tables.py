"""The tables at the end of a test run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.tables import GUESTS, SERVERS, TABLE, guests, lines


def report(kind: str, *row: Any) -> Any:
    return SimpleNamespace(user_properties=[(kind, [*row]), ("other", 1)])


def test_no_row_makes_no_table() -> None:
    assert lines([SimpleNamespace(), SimpleNamespace(user_properties=[("other", 1)])]) == []


def test_rows_come_in_the_order_of_their_places() -> None:
    reports = [report(TABLE, 10, "second", 2, 2, 0, 0, 0), report(TABLE, 9, "first", 1, 1, 0, 0, 0)]
    head, first, second = lines(reports)
    assert head.split() == ["submitted", "arrived", "twice", "failed", "refused", "attempts"]
    assert first.split() == ["first", "1", "1", "0", "0", "0"]
    assert second.split() == ["second", "2", "2", "0", "0", "0"]


def test_a_server_that_is_not_run_has_one_row() -> None:
    reports = [
        report(SERVERS, "Exim", 1, "down", 10, 10, 0, 0, 1, 2.5),
        *[report(SERVERS, "Postfix", 0, "not run: it can be run by root alone")] * 3,
    ]
    head, exim, postfix = lines(reports)
    assert head.split()[-1] == "seconds"
    assert exim.split() == ["Exim:", "down", "10", "10", "0", "0", "1", "2.5"]
    assert postfix == "Postfix: not run: it can be run by root alone"


def test_host_projects_come_in_the_order_of_their_items() -> None:
    def guest(*row: Any, **how: bool) -> Any:
        return SimpleNamespace(user_properties=[(GUESTS, [*row])], **{"passed": False, "skipped": False, **how})

    reports = [
        guest(10, "two terminals", "said", passed=True),
        guest(9, "a replica", "asked the primary"),
        guest(2, "a silent database", "given up", skipped=True),
        SimpleNamespace(user_properties=[("other", 1)], passed=True, skipped=False),
    ]
    assert guests(reports) == [
        "item  host project       result",
        "   2  a silent database  not run",
        "   9  a replica          BROKEN",
        "  10  two terminals      said",
    ]
    assert guests([]) == []
