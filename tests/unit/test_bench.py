"""The benchmark: a goal that is not measured, or that is judged wrongly, would not be seen in a run."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from bench import contenders, goals, rate_limit, report
from bench.__main__ import SCENARIOS
from bench.bench import QUICK, Bench, Result
from bench.contenders import OUR_SESSIONS, OUR_SESSIONS_FAR, OURS
from bench.goals import GOALS, Goal, judge
from bench.profiling import part
from bench.rate import BEYOND, Rate
from bench.running import DATABASES
from bench.services import Services, alike
from bench.sink import Counts, Session
from bench.throughput import Throughput
from email_integration import conf
from email_integration.sending.distance import NEAR

AT_LEAST = Goal(scenario="one", words="more", metric="metric", at_least=2.0, towards=4.0)
AT_MOST = Goal(scenario="one", words="less", metric="metric", at_most=2.0)


def _result(**metrics: float) -> Result:
    result = Result(name="one", title="One", columns=("who", "what"), rows=[("this project", "1")], metrics=metrics)
    result.limits = "nothing but the speed of light"
    return result


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.scenario} {goal.metric}")
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


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.scenario} {goal.metric}")
def test_what_a_goal_goes_towards_lies_beyond_its_bound(goal: Goal) -> None:
    """Who reaches what is worked towards has met the goal."""
    assert goal.towards is None or (goal.is_met(goal.towards) and goal.beyond)


def test_a_goal_that_is_worked_towards_is_met_at_its_bound() -> None:
    """Only the bound is judged."""
    assert [verdict.is_met for verdict in _judged(2.0)] == [True]
    assert [verdict.is_met for verdict in _judged(1.9)] == [False]


def _judged(metric: float) -> list[goals.Verdict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(goals, "GOALS", (AT_LEAST,))
        return judge([_result(metric=metric)])


THROUGHPUT = [scenario for scenario in SCENARIOS.values() if isinstance(scenario, Throughput)]


@pytest.mark.parametrize(
    "goal", [goal for goal in GOALS if goal.metric.startswith("times ")], ids=lambda goal: goal.words
)
def test_a_goal_beside_a_contender_is_of_one_that_has_its_turn(goal: Goal) -> None:
    """A contender that a goal names is one of its scenario's; smtp-source is on as many sessions as ours."""
    scenario = SCENARIOS[goal.scenario]
    assert isinstance(scenario, Throughput)
    if goal.metric == goals.TIMES_SOURCE:
        assert scenario.sessions[-1] == OUR_SESSIONS
    else:
        assert goal.metric in map(goals.times, scenario.contenders)


@pytest.mark.parametrize("scenario", THROUGHPUT, ids=lambda scenario: scenario.name)
def test_a_scenario_has_ours_and_knows_its_contenders(scenario: Throughput) -> None:
    """Ours is in the quick run and in the whole one, is never among the slow, and no name stands for two."""
    assert OURS in scenario.few
    assert OURS in scenario.contenders
    assert OURS not in scenario.slow
    assert {*scenario.few, *scenario.slow} <= {*scenario.contenders}
    assert len({one.name for one in scenario.contenders}) == len(scenario.contenders)
    assert bool(scenario.slow) == any(scenario.fewer)


@pytest.mark.parametrize("scenario", THROUGHPUT, ids=lambda scenario: scenario.name)
def test_who_runs_at_a_time_has_a_database_of_the_broker_each(scenario: Throughput) -> None:
    """All of one front stay: with two of them in one database one would take the other's messages."""
    same = [other for other in THROUGHPUT if other.front == scenario.front]
    running = {one for other in same for one in (*other.contenders, *other.few) if one.works == "celery"}
    assert len(running) <= DATABASES


def test_as_many_sessions_as_ours_are_as_many() -> None:
    """What the peers' variants are given is what two processes of ours have."""
    assert OURS.processes * NEAR == OUR_SESSIONS
    assert OURS.processes * conf.DEFAULTS["SESSIONS"] == OUR_SESSIONS_FAR
    assert contenders.CELERY_EMAIL_10_WIDE.processes == OUR_SESSIONS
    assert 2 * int(contenders.POST_OFFICE_WIDE.env["BENCH_THREADS"]) == OUR_SESSIONS


def test_what_was_not_measured_is_neither_met_nor_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scenario that was left out, and one that broke, are told apart from a goal that was missed."""
    monkeypatch.setattr(goals, "GOALS", (AT_LEAST, replace(AT_LEAST, scenario="two")))
    assert [verdict.words for verdict in judge([_result()])] == ["not measured", "not measured"]


def test_the_page_says_what_was_aimed_at_reached_and_what_limits_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A goal that is not met stands in the page with its metric, its verdict, the smaller scale and the reason."""
    monkeypatch.setattr(goals, "GOALS", (AT_LEAST,))
    result = _result(metric=1.5)
    result.scale = "with 10 mails"
    verdicts = judge([result])
    report.write_page(
        [result], verdicts, {"one": result.title}, {"date": "today", "CPU": "Z80", "cores": "1"}, tmp_path
    )
    page = (tmp_path / "performance.md").read_text()
    assert "| One | more | at least 2.00 × | 4.00 × | 1.50 × (with 10 mails) | **not met** |" in page
    assert "- *One*: nothing but the speed of light." in page
    assert "0 of 1 goals are met." in page
    assert "(CPU: Z80, cores: 1)" in page


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


class Clock:
    """A clock that goes on when one sleeps by it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("beyond", ["450", "421"])
def test_a_mail_beyond_the_rate_is_refused_until_the_second_is_over(beyond: str) -> None:
    """So many are taken in each second of the clock; what is refused counts for nothing."""
    clock = Clock()
    rate = Rate(2, beyond, clock=clock, sleep=clock.sleep)
    assert [rate.refusal() for _ in range(4)] == [b"", b"", BEYOND[beyond], BEYOND[beyond]]
    clock.now += 1
    assert [rate.refusal() for _ in range(3)] == [b"", b"", BEYOND[beyond]]
    rate.wait()
    assert clock.now == 101


def test_a_server_that_takes_its_time_refuses_nothing_and_takes_mails_evenly() -> None:
    """The first is taken at once, each other one after its part of the second; a rest saves nothing up."""
    clock = Clock()
    rate = Rate(4, "slow", clock=clock, sleep=clock.sleep)
    taken = []
    for _ in range(3):
        assert rate.refusal() == b""
        rate.wait()
        taken.append(clock.now)
    clock.now = 110.0
    for _ in range(2):
        rate.wait()
        taken.append(clock.now)
    assert taken == [100.0, 100.25, 100.5, 110.0, 110.25]


@contextmanager
def _sink(counts: Counts, *, rate: Rate | None = None) -> Iterator[BinaryIO]:
    """A client's connection to a session of the sink, which has said its greeting."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.create_connection(server.getsockname(), timeout=20))
        thread = threading.Thread(target=Session(server.accept()[0], counts, None, rate=rate).run)
        thread.start()
        stack.callback(thread.join, 20)
        stream = stack.enter_context(client.makefile("rwb", buffering=0))
        stack.callback(client.shutdown, socket.SHUT_WR)
        assert _codes(stream, 1) == ["220"]
        yield stream  # type: ignore[misc]


def _codes(stream: BinaryIO, number: int) -> list[str]:
    """The codes of so many replies of one line."""
    return [stream.readline()[:3].decode() for _ in range(number)]


_CONTENT = b"Message-ID: <%d@example.com>\r\n\r\nHello\r\n"


def _mail(number: int) -> bytes:
    """All commands of a mail at once, with its content in a chunk (RFC 3030)."""
    content = _CONTENT % number
    return b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nBDAT %d LAST\r\n%s" % (len(content), content)


def _counted(counts: Counts) -> dict[str, float]:
    report = counts.report()
    return {name: report[name] for name in ("messages", "begun", "refused", "at_once")}


def test_a_refused_mail_is_not_counted_and_the_session_goes_on() -> None:
    """After 450 to MAIL the rest of that transaction is refused too, a chunk with its content; the next is taken."""
    counts, clock = Counts(), Clock()
    with _sink(counts, rate=Rate(1, "450", clock=clock, sleep=clock.sleep)) as stream:
        stream.write(_mail(1) + _mail(2))
        assert _codes(stream, 6) == ["250", "250", "250", "450", "503", "503"]
        stream.write(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nRSET\r\n")
        assert _codes(stream, 4) == ["450", "503", "503", "250"]
        clock.now += 1
        stream.write(_mail(2))
        assert _codes(stream, 3) == ["250", "250", "250"]
    assert _counted(counts) == {"messages": 2, "begun": 4, "refused": 2, "at_once": 1}


def test_a_server_that_says_421_closes_after_it() -> None:
    """The reply reaches a client that had sent more already, and then the connection ends."""
    counts, clock = Counts(), Clock()
    with _sink(counts, rate=Rate(1, "421", clock=clock, sleep=clock.sleep)) as stream:
        stream.write(_mail(1) + _mail(2))
        assert _codes(stream, 4) == ["250", "250", "250", "421"]
        assert stream.read() == b""
    assert _counted(counts) == {"messages": 1, "begun": 2, "refused": 1, "at_once": 1}


def test_sessions_at_once_are_those_that_mail_was_sent_over() -> None:
    """One that is open and says nothing does not count, nor does one that had ended before."""
    counts = Counts()
    with _sink(counts):
        with _sink(counts) as first, _sink(counts) as second:
            for stream in (first, second):
                stream.write(_mail(1))
                assert _codes(stream, 3) == ["250", "250", "250"]
        with _sink(counts) as third:
            third.write(_mail(2))
            assert _codes(third, 3) == ["250", "250", "250"]
    assert counts.report()["sessions"] == 4
    assert counts.report()["at_once"] == 2


def test_a_session_that_stays_counts_anew_after_a_reset() -> None:
    """What is counted for one contender is not another's whose sessions are still open."""
    counts = Counts()
    with _sink(counts) as first, _sink(counts) as second:
        for stream in (first, second):
            stream.write(_mail(1))
            _codes(stream, 3)
        counts.reset()
        second.write(_mail(2))
        _codes(second, 3)
        assert counts.report()["at_once"] == 1


def test_what_a_limited_server_did_not_take_is_lost_or_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mails neither taken nor waiting are lost; of ours that is an error of the run, as is one that came twice."""
    count = rate_limit._Count(seconds=10, arrived=60, attempts=90, refused=30, sessions=4, waiting=30, twice=1)
    monkeypatch.setattr(rate_limit, "_all_at_once", lambda *_: [(OURS, count), (contenders.RETRYING, count)])
    bench = Bench(cast("Services", None), quick=True, scale=QUICK)
    ours, other, *_ = rate_limit.limited(bench).rows
    assert ours == ("this project", "refuses with 450", "6.0", "1.50", "0.50", "4", "60", "10", "30", "1")
    assert other[1:] == ours[1:]
    assert bench.wrong == [f"limited, {beyond}: 100 mails, 10 lost, 1 twice" for beyond in BEYOND]
