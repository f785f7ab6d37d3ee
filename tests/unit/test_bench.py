"""The benchmark: a run would not show a goal that is not measured or wrongly judged."""

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
    """A scenario measures every goal, and the goal has either a lower or an upper bound."""
    assert goal.scenario in SCENARIOS
    assert (goal.at_least is None) != (goal.at_most is None)


@pytest.mark.parametrize(
    ("goal", "reached", "met"),
    [(AT_LEAST, 2.0, True), (AT_LEAST, 1.9, False), (AT_MOST, 2.0, True), (AT_MOST, 2.1, False)],
)
def test_a_bound_itself_is_met(goal: Goal, reached: float, met: bool) -> None:
    """A goal is met at its bound, and missed beyond it."""
    assert goal.is_met(reached) is met


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.scenario} {goal.metric}")
def test_the_target_of_a_goal_is_stricter_than_its_bound(goal: Goal) -> None:
    """A result that reaches the longer-term target also meets the goal."""
    assert goal.towards is None or (goal.is_met(goal.towards) and goal.beyond)


def test_a_goal_that_is_worked_towards_is_met_at_its_bound() -> None:
    """Only the bound is judged, not the longer-term target."""
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
    """A goal's contender belongs to the goal's scenario; smtp-source uses as many sessions as this project."""
    scenario = SCENARIOS[goal.scenario]
    assert isinstance(scenario, Throughput)
    if goal.metric == goals.TIMES_SOURCE:
        assert scenario.sessions[-1] == OUR_SESSIONS
    else:
        assert goal.metric in map(goals.times, scenario.contenders)


@pytest.mark.parametrize("scenario", THROUGHPUT, ids=lambda scenario: scenario.name)
def test_a_scenario_has_ours_and_knows_its_contenders(scenario: Throughput) -> None:
    """This project is in the quick and the full run, is never among the slow ones, and all names are different."""
    assert OURS in scenario.few
    assert OURS in scenario.contenders
    assert OURS not in scenario.slow
    assert {*scenario.few, *scenario.slow} <= {*scenario.contenders}
    assert len({one.name for one in scenario.contenders}) == len(scenario.contenders)
    assert bool(scenario.slow) == any(scenario.fewer)


@pytest.mark.parametrize("scenario", THROUGHPUT, ids=lambda scenario: scenario.name)
def test_contenders_that_run_together_use_separate_databases_of_the_broker(scenario: Throughput) -> None:
    """All contenders of one front keep running; two in one database would take each other's messages."""
    same = [other for other in THROUGHPUT if other.front == scenario.front]
    running = {one for other in same for one in (*other.contenders, *other.few) if one.works == "celery"}
    assert len(running) <= DATABASES


def test_wide_variants_have_as_many_sessions_as_ours() -> None:
    """The wide variants of the other projects get as many sessions as two processes of this project."""
    assert OURS.processes * NEAR == OUR_SESSIONS
    assert OURS.processes * conf.DEFAULTS["SESSIONS"] == OUR_SESSIONS_FAR
    assert contenders.CELERY_EMAIL_10_WIDE.processes == OUR_SESSIONS
    assert 2 * int(contenders.POST_OFFICE_WIDE.env["BENCH_THREADS"]) == OUR_SESSIONS


def test_what_was_not_measured_is_neither_met_nor_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scenario that was left out or that broke is distinguished from a missed goal."""
    monkeypatch.setattr(goals, "GOALS", (AT_LEAST, replace(AT_LEAST, scenario="two")))
    assert [verdict.words for verdict in judge([_result()])] == ["not measured", "not measured"]


def test_the_page_says_what_was_aimed_at_reached_and_what_limits_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missed goal is on the page with its metric, its verdict, the smaller scale and the reason."""
    monkeypatch.setattr(goals, "GOALS", (AT_LEAST,))
    result = _result(metric=1.5)
    result.scale = "with 10 mails"
    result.words = "The same mails to another server. " * 10
    verdicts = judge([result])
    report.write_page(
        [result], verdicts, {"one": result.title}, {"date": "today", "CPU": "Z80", "cores": "1"}, tmp_path
    )
    page = (tmp_path / "performance.md").read_text()
    assert "| One | more | at least 2.00 × | 4.00 × | 1.50 × (with 10 mails) | **not met** |" in page
    assert "- *One*: nothing but the speed of light." in page
    assert "0 of 1 goals are met." in page
    assert "(CPU: Z80, cores: 1)" in page
    assert " ".join(result.words.split()) in " ".join(page.split())
    assert all(len(line) <= 100 for line in page.splitlines() if not line.startswith("|"))


def test_statements_are_alike_but_for_their_values() -> None:
    """Statements that differ only in values or in the name of a savepoint are counted together."""
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
    """A library call counts for our function that made it; without a function of ours it counts for the library."""
    assert part(stack) == whose


class Clock:
    """A clock that advances only through its own ``sleep()``."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("beyond", ["450", "421"])
def test_a_mail_beyond_the_rate_is_refused_until_the_second_is_over(beyond: str) -> None:
    """The rate limits the mails in each second of the clock; refused mails are not counted."""
    clock = Clock()
    rate = Rate(2, beyond, clock=clock, sleep=clock.sleep)
    assert [rate.refusal() for _ in range(4)] == [b"", b"", BEYOND[beyond], BEYOND[beyond]]
    clock.now += 1
    assert [rate.refusal() for _ in range(3)] == [b"", b"", BEYOND[beyond]]
    rate.wait()
    assert clock.now == 101


def test_a_server_that_takes_its_time_refuses_nothing_and_takes_mails_evenly() -> None:
    """The first mail is accepted at once, each later one after its share of the second. Idle time is not saved up."""
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
    """Yield a client's connection to a session of the sink that has sent its greeting."""
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
    """Return the codes of the next ``number`` single-line replies."""
    return [stream.readline()[:3].decode() for _ in range(number)]


_CONTENT = b"Message-ID: <%d@example.com>\r\n\r\nHello\r\n"


def _mail(number: int) -> bytes:
    """Return all commands of a mail in one piece, with its content in a chunk (RFC 3030)."""
    content = _CONTENT % number
    return b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nBDAT %d LAST\r\n%s" % (len(content), content)


def _counted(counts: Counts) -> dict[str, float]:
    report = counts.report()
    return {name: report[name] for name in ("messages", "begun", "refused", "at_once")}


def test_a_refused_mail_is_not_counted_and_the_session_goes_on() -> None:
    """After 450 to MAIL, the rest of the transaction is refused, including a chunk's content. The next is accepted."""
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
    """The reply reaches a client that has already sent more; then the connection ends."""
    counts, clock = Counts(), Clock()
    with _sink(counts, rate=Rate(1, "421", clock=clock, sleep=clock.sleep)) as stream:
        stream.write(_mail(1) + _mail(2))
        assert _codes(stream, 4) == ["250", "250", "250", "421"]
        assert stream.read() == b""
    assert _counted(counts) == {"messages": 1, "begun": 2, "refused": 1, "at_once": 1}


def test_sessions_at_once_are_those_that_mail_was_sent_over() -> None:
    """An open idle session does not count, and neither does one that had already ended."""
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
    """The counts of one contender must not go to another whose sessions are still open."""
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
    """Mails neither accepted nor waiting are lost. Our lost or duplicate mails are an error of the run."""
    count = rate_limit._Count(seconds=10, arrived=60, attempts=90, refused=30, sessions=4, waiting=30, twice=1)
    monkeypatch.setattr(rate_limit, "_all_at_once", lambda *_: [(OURS, count), (contenders.RETRYING, count)])
    bench = Bench(cast("Services", None), quick=True, scale=QUICK)
    ours, other, *_ = rate_limit.limited(bench).rows
    assert ours == ("this project", "refuses with 450", "6.0", "1.50", "0.50", "4", "60", "10", "30", "1")
    assert other[1:] == ours[1:]
    assert bench.wrong == [f"limited, {beyond}: 100 mails, 10 lost, 1 twice" for beyond in BEYOND]
