"""All the cases, and the part of them that 'make test' runs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator

from . import brokers, clocks, contents, crashes, endings, outages, refusals, storms
from .cases import Case
from .world import Setting

CASES: list[Case] = [
    *crashes.CASES,
    *refusals.CASES,
    *brokers.CASES,
    *endings.CASES,
    *outages.CASES,
    *contents.CASES,
    *clocks.CASES,
    *storms.CASES,
]


def by_setting(cases: Iterable[Case]) -> Iterator[tuple[Setting, list[Case]]]:
    """The cases of each setting, which can share a world."""
    ordered = sorted(cases, key=lambda case: repr(case.setting))
    for setting, group in itertools.groupby(ordered, key=lambda case: case.setting):
        yield setting, list(group)


def part(seed: int) -> list[Case]:
    """Some forty of the fast cases, with some of each group and setting; the same for the same seed."""
    chance = random.Random(seed)
    fast = [case for case in CASES if not case.slow]
    chosen: list[Case] = []
    for _, of_setting in by_setting(fast):
        of_setting.sort(key=lambda case: case.group)
        for _, of_group in itertools.groupby(of_setting, key=lambda case: case.group):
            among = list(of_group)
            chosen += chance.sample(among, min(len(among), _OF_A_KIND))
    return chosen


#: So many cases of a group and a setting are in the part that 'make test' runs.
_OF_A_KIND = 7
