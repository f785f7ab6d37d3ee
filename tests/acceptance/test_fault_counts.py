"""The fault matrix detects a broken promise: it names the broken one and no other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.faults import faketime, matrix
from tests.faults.cases import Case, Counts
from tests.faults.world import Setting

GOOD = Counts(
    submitted=6,
    arrived=6,
    refused=0,
    lost=0,
    duplicated=0,
    in_doubt=0,
    unexplained=0,
    held=0,
    stuck=0,
    not_followed=0,
    followed_twice=0,
    seconds=1.0,
)


def case(policy: str = "resend", **changes: object) -> Case:
    return dataclasses.replace(
        Case(group="group", name="name", setting=Setting(policy=policy), act=lambda run: None), **changes
    )


@pytest.mark.parametrize("policy", ["resend", "hold"])
def test_counts_of_a_good_case_break_no_promise(policy: str) -> None:
    assert GOOD.broken(case(policy)) == []


@pytest.mark.parametrize(
    ("policy", "changes", "words"),
    [
        ("resend", {"lost": 1}, "1 lost"),
        ("resend", {"stuck": 2}, "2 stuck"),
        ("resend", {"submitted": 0}, "no mail was submitted"),
        ("resend", {"duplicated": 1, "unexplained": 1}, "1 duplicated without a record of doubt"),
        ("resend", {"held": 1}, "1 held although the policy is resend"),
        ("resend", {"not_followed": 1}, "1 not continued"),
        ("resend", {"followed_twice": 1}, "1 continued twice"),
        ("resend", {"complaints": ("too slow",)}, "too slow"),
        ("hold", {"duplicated": 1, "in_doubt": 1}, "1 duplicated although the policy is hold"),
    ],
)
def test_a_broken_promise_is_named(policy: str, changes: dict[str, object], words: str) -> None:
    assert dataclasses.replace(GOOD, **changes).broken(case(policy)) == [words]


@pytest.mark.parametrize(
    ("policy", "changes"),
    [
        ("resend", {"duplicated": 1, "in_doubt": 1}),
        ("hold", {"held": 1, "in_doubt": 1, "arrived": 5}),
        ("resend", {"refused": 1, "arrived": 5}),
    ],
)
def test_what_a_doubt_or_a_refusal_explains_breaks_no_promise(policy: str, changes: dict[str, object]) -> None:
    assert dataclasses.replace(GOOD, **changes).broken(case(policy, refuses=1)) == []


def test_more_refused_than_the_server_meant_to_is_named() -> None:
    found = dataclasses.replace(GOOD, refused=2, arrived=4)
    assert found.broken(case(refuses=1)) == ["2 refused, expected at most 1"]


def test_a_doubt_where_there_can_be_none_is_named() -> None:
    """Such a doubt means that the fault struck elsewhere than the case says, or that a mail was claimed too early."""
    assert dataclasses.replace(GOOD, in_doubt=1).broken(case(doubts=range(1))) == ["1 in doubt, expected 0 to 0"]


def test_the_same_seed_chooses_the_same_parts_and_another_one_others() -> None:
    assert matrix.parts(1) == matrix.parts(1)
    for one, other in zip(matrix.parts(1), matrix.parts(2), strict=True):
        assert one != other


@pytest.mark.parametrize("seed", range(5))
def test_the_parts_are_of_every_group(seed: int) -> None:
    """The first part has cases of each group with fast cases. The second has other cases, some of each remaining group.

    Exempt are the clock's cases, which need a quiet machine, and the cases that only root can run.
    """
    first, further = matrix.parts(seed)
    assert {case.group for case in first} == {case.group for case in matrix.CASES if not case.slow}
    assert {case.group for case in further} == {case.group for case in matrix.CASES if case not in first} - {"clock"}
    calm = {case.setting for case in matrix.CASES if case.group not in ("storm", "clock") and not case.setting.root}
    assert {case.setting for case in [*first, *further]} >= calm
    assert 35 <= len(first) <= 45
    assert 45 <= len(further) <= 80
    assert len({*first, *further}) == len(first) + len(further)


def test_no_two_cases_have_the_same_name() -> None:
    """The name includes the setting's policy and database."""
    names = [str(case) for case in matrix.CASES]
    assert len(names) == len(set(names))


def test_a_machine_without_libfaketime_is_known_and_lacks_nothing_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cases that need it report that it is missing, and are not run."""
    monkeypatch.setattr(faketime, "LIBRARIES", tmp_path)
    assert Setting(clock=True).missing == "libfaketime is not installed"
    assert {case.group for case in matrix.CASES if case.setting.missing} == {"clock"}
    (tmp_path / "x86_64-linux-gnu" / "faketime").mkdir(parents=True)
    (tmp_path / "x86_64-linux-gnu" / "faketime" / "libfaketime.so.1").touch()
    assert Setting(clock=True).missing == ""
