"""The time of the next attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_integration.outcomes.schedule import LONGEST_HINT, backoff, doubled, hint, probe_wait, wait_for_probe

waits = st.floats(0.001, 10_000)


@given(st.integers(1, 10**9), waits, waits, st.floats(0, 1))
def test_backoff_is_bounded(attempts: int, first: float, longest: float, chance: float) -> None:
    assert 0 <= backoff(attempts, first=first, longest=longest, chance=chance) <= longest


@given(st.integers(1, 60), waits, waits, st.floats(0, 1))
def test_backoff_never_shrinks_with_attempts(attempts: int, first: float, longest: float, chance: float) -> None:
    def wait(number: int) -> float:
        return backoff(number, first=first, longest=longest, chance=chance)

    assert wait(attempts) <= wait(attempts + 1)


def test_backoff_doubles_and_is_fully_jittered() -> None:
    assert [backoff(n, first=5, longest=900, chance=1) for n in (1, 2, 3, 4, 9, 99)] == [5, 10, 20, 40, 900, 900]
    assert backoff(9, first=5, longest=900, chance=0) == 0


@pytest.mark.parametrize(
    ("times", "longest", "seconds"), [(0, 900, 30), (1, 900, 60), (5, 900, 900), (10**9, 900, 900), (6, None, 1920)]
)
def test_a_wait_doubles_up_to_the_longest(times: int, longest: float | None, seconds: float) -> None:
    assert (doubled(30, times) if longest is None else doubled(30, times, longest=longest)) == seconds


@given(st.floats(0, 10**6), st.floats(0, 1))
def test_a_hint_is_honoured_up_to_the_longest_wait(hint: float, chance: float) -> None:
    wait = backoff(1, first=5, longest=900, chance=chance, hint=hint)
    assert min(hint, 900) <= wait <= min(hint, 900) * 1.1


@given(st.floats(0, 1))
def test_a_hint_of_nothing_means_at_once(chance: float) -> None:
    assert backoff(9, first=5, longest=900, chance=chance, hint=0) == 0


@pytest.mark.parametrize(
    ("failures", "hint", "seconds"),
    [
        (1, None, 5),
        (2, None, 10),
        (4, None, 40),
        (5, None, 45),
        (10**9, None, 45),
        (1, 0, 5),
        (2, 8, 10),
        (2, 60, 60),
        (9, 10**6, 900),
    ],
)
def test_probes_come_at_doubled_intervals_and_not_before_a_hint(
    failures: int, hint: float | None, seconds: float
) -> None:
    """The hint may be longer than the longest interval."""
    assert probe_wait(failures, first=5, longest=45, longest_hint=900, hint=hint) == seconds


@given(st.integers(1, 10**9), waits, waits, waits, st.none() | st.floats(0, 10**6))
def test_a_wait_for_a_probe_is_bounded(
    failures: int, first: float, longest: float, longest_hint: float, hint: float | None
) -> None:
    wait = probe_wait(failures, first=first, longest=longest, longest_hint=longest_hint, hint=hint)
    assert min(first, longest) <= wait <= max(longest, longest_hint)


@given(waits, st.floats(0, 1))
def test_a_mail_waits_longer_than_it_takes_until_a_probe(longest: float, chance: float) -> None:
    assert longest <= wait_for_probe(longest, chance=chance) <= 2 * longest


def test_mails_that_wait_for_a_probe_do_not_come_back_at_once() -> None:
    assert [wait_for_probe(900, chance=chance) for chance in (0, 0.5, 1)] == [900, 1350, 1800]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Greylisted, try again in 300 seconds", 300),
        ("Greylisted for 60 seconds", 60),
        ("Greylisted for XX sec.", None),
        ("4.7.1 Greylisting in action, please come back in 00:04:59", 299),
        ("retry after 00:05:00", 300),
        ("come back after 5 minutes", 300),
        ("retry in 20s", 20),
        ("wait 5 min", 300),
        ("Please wait at least 1 hour and 30 minutes", 5400),
        ("delayed by 1.5 minutes", 90),
        ("try again in 4m59s.", 299),
        ("451 deferred, 300s", 300),
        ("Too many connections in 60 seconds, try again in 5 minutes", 300),
        ("try again in 2 HOURS", 7200),
        ("try again in 3 days", 3 * 86400),
        ("try again in 999999999 days", LONGEST_HINT),
        ("try again in 00:00:00", None),
        ("try again in 0 seconds", None),
        ("try again in 500 ms", None),
        ("try again later", None),
        ("in 3 ways", None),
        ("300s", None),
        ("at 12:30:00 we said: try again later", None),
        ("Later d2-20020a170902.15s-9h - gsmtp", None),
        ("come back in " + "9" * 5000 + " seconds", None),
    ],
)
def test_a_hint_when_to_come_back_is_read(said: str, seconds: float | None) -> None:
    assert hint(said) == seconds


amounts = st.builds(
    lambda word, number, unit: f"{word} {number}{unit}",
    st.sampled_from(["in", "after", "wait", "again", ""]),
    st.one_of(st.integers(0, 10**12), st.text("0123456789:.²٣", max_size=12)),
    st.sampled_from(["", "s", " seconds", " min", "h", " days", ":00:00"]),
)


@given(st.one_of(st.text(), amounts, st.lists(amounts).map(" and ".join)))
def test_a_hint_is_bounded_whatever_is_said(text: str) -> None:
    found = hint(text)
    assert found is None or 0 < found <= LONGEST_HINT
