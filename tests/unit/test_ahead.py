"""One delivery goes ahead to a relay at a time, while the others wait for its outcome."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from config.local.processes import PATIENCE
from email_integration.sending.ahead import Ahead, Lead
from email_integration.smtp import Relay

RELAY = Relay(name="test", host="localhost", port=25, from_email="noreply@example.com", timeout=PATIENCE)


@pytest.fixture
def ahead() -> Ahead:
    return Ahead()


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def gone(ahead: Ahead, relay: Relay = RELAY) -> Lead:
    lead = ahead.go(relay)
    assert lead is not None
    return lead


def waits(one: Future[Lead | None]) -> bool:
    """Return whether it still waits after enough time for anything else."""
    try:
        one.result(0.1)
    except TimeoutError:
        return True
    return False


def test_others_go_on_once_it_went_well(ahead: Ahead, others: ThreadPoolExecutor) -> None:
    lead = gone(ahead)
    waiting = [others.submit(ahead.go, RELAY) for _ in range(2)]
    assert all(waits(one) for one in waiting)
    ahead.end(lead, well=True)
    assert [one.result(PATIENCE) for one in waiting] == [None, None]
    gone(ahead)


def test_another_one_goes_ahead_where_it_did_not_go_well(ahead: Ahead, others: ThreadPoolExecutor) -> None:
    lead = gone(ahead)
    waiting = others.submit(ahead.go, RELAY)
    assert waits(waiting)
    ahead.end(lead, well=False)
    second = waiting.result(PATIENCE)
    assert second is not None
    third = others.submit(ahead.go, RELAY)
    ahead.end(lead, well=True)  # the first has already ended; this does not end the second
    assert waits(third)
    ahead.end(second, well=True)
    assert third.result(PATIENCE) is None


def test_each_relay_has_its_own_lead(ahead: Ahead) -> None:
    gone(ahead)
    gone(ahead, replace(RELAY, host="other.example.com"))


def test_a_trip_without_end_is_waited_for_as_long_as_for_the_server(ahead: Ahead) -> None:
    relay = replace(RELAY, timeout=0.01)
    gone(ahead, relay)
    assert ahead.go(relay) is None


# Newer Pythons warn about forks with threads; this test proves that the fork is harmless here.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_inherits_no_lead(ahead: Ahead) -> None:
    relay = replace(RELAY, timeout=0.01)
    lead = gone(ahead, relay)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if ahead.go(relay) is not None else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ahead.go(relay) is None
    ahead.end(lead, well=True)
    gone(ahead, relay)
