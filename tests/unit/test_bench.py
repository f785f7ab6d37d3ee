"""The benchmark: a goal that nobody measures, or that is judged wrongly, would not be seen in a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import goals, report
from bench.__main__ import SCENARIOS
from bench.bench import Result
from bench.goals import GOALS, Goal, judge
from bench.profile import part
from bench.services import alike

AT_LEAST = Goal(scenario="one", words="more", figure="figure", at_least=2.0)
AT_MOST = Goal(scenario="one", words="less", figure="figure", at_most=2.0)


def _result(**figures: float) -> Result:
    result = Result(name="one", title="One", columns=("who", "what"), rows=[("this project", "1")], figures=figures)
    result.limits = "nothing but the speed of light"
    return result


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.scenario} {goal.figure}")
def test_a_goal_is_of_a_scenario_that_exists_and_has_one_bound(goal: Goal) -> None:
    """Every goal is measured by a scenario, and says either the least or the most."""
    assert goal.scenario in SCENARIOS
    assert (goal.at_least is None) != (goal.at_most is None)


@pytest.mark.parametrize(
    ("goal", "reached", "met"),
    [(AT_LEAST, 2.0, True), (AT_LEAST, 1.9, False), (AT_MOST, 2.0, True), (AT_MOST, 2.1, False)],
)
def test_a_bound_itself_is_met(goal: Goal, reached: float, met: bool) -> None:
    """A goal is met at its bound, and not beyond it."""
    assert goal.is_met(reached) is met


def test_what_was_not_measured_is_neither_met_nor_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scenario that was left out, and one that broke, are told apart from a goal that was missed."""
    monkeypatch.setattr(goals, "GOALS", (AT_LEAST, replace(AT_LEAST, scenario="two")))
    assert [verdict.words for verdict in judge([_result()])] == ["not measured", "not measured"]


def test_the_page_says_what_was_aimed_at_reached_and_what_limits_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A goal that is not met stands in the page with its figure, its verdict, the smaller scale and the reason."""
    monkeypatch.setattr(goals, "GOALS", (AT_LEAST,))
    result = _result(figure=1.5)
    result.scale = "with 10 mails"
    verdicts = judge([result])
    report.write_page([result], verdicts, {"one": result.title}, {"date": "today"}, tmp_path)
    page = (tmp_path / "performance.md").read_text()
    assert "| One | more | at least 2.00 × | 1.50 × (with 10 mails) | **not met** |" in page
    assert "- *One*: nothing but the speed of light." in page
    assert "0 of 1 goals are met." in page


def test_statements_are_alike_but_for_their_values() -> None:
    """The same statement with other values, and a savepoint of another name, are counted together."""
    assert alike("SELECT 'a' FROM t WHERE id = 5") == alike("SELECT 'b''s' FROM t  WHERE id = 77")
    assert alike('SAVEPOINT "s139936509709184_x68"') == alike('SAVEPOINT "s139936509709199_x7"')


@pytest.mark.parametrize(
    ("stack", "whose"),
    [
        (
            "main (celery/bin.py:1);run (email_integration/tasks/a.py:5);save (django/db/models/base.py:7)",
            "tasks/a.py run()",
        ),
        ("main (celery/bin.py:1);read (/site-packages/kombu/transport/redis.py:9)", "kombu.transport"),
        ("main (celery/bin.py:1);loads (json/__init__.py:9)", "celery.bin"),
        ("loads (json/__init__.py:9)", "Python"),
    ],
)
def test_a_sample_counts_for_our_innermost_function(stack: str, whose: str) -> None:
    """What a library does for a function of ours is that function's; where we are not at all it is the library's."""
    assert part(stack) == whose
