"""The useful number of sessions, derived from the duration of mails."""

from __future__ import annotations

import time

import pytest

from email_integration.sending.distance import Distance

MOST = 10


@pytest.mark.parametrize(
    ("took", "sessions"),
    [
        ([], 4),
        ([0.05] * 19, 4),
        ([0.05] * 20, MOST),
        ([0.05] * 19 + [0.001], 4),
        ([0.001] + [0.05] * 38, 4),
        ([0.05] * 20 + [0.001] * 20, 4),
        ([0.05] * 20 + [0.001] * 19, MOST),
        ([0.001] * 20 + [0.05] * 20, MOST),
    ],
)
def test_the_quickest_of_twenty_counts(took: list[float], sessions: int) -> None:
    """A busy machine makes some mails slow, and a distant server makes all of them slow."""
    distance = Distance()
    for seconds in took:
        distance.see(seconds)
    assert distance.sessions(MOST) == sessions


@pytest.mark.parametrize("most", [1, 3])
def test_there_are_never_more_than_there_may_be(most: int) -> None:
    distance = Distance()
    assert distance.sessions(most) == most
    for _ in range(20):
        distance.see(1.0)
    assert distance.sessions(most) == most


def test_those_that_all_wait_count_before_one_has_ended() -> None:
    now = time.monotonic()
    distance = Distance()
    distance.see_under_way([now - 5, now])
    distance.see_under_way([now - 5, None])
    distance.see_under_way([])
    assert distance.sessions(MOST) == 4
    distance.see_under_way([now - 5, now - 4])
    assert distance.sessions(MOST) == MOST
