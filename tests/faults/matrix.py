"""All cases, and the parts of them that 'make test' and 'make test-extra' run."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator

from . import brokers, bulk, clocks, contents, crashes, endings, journals, outages, refusals, storms
from .cases import Case
from .world import Setting

CASES: list[Case] = [
    *crashes.CASES,
    *refusals.CASES,
    *bulk.CASES,
    *brokers.CASES,
    *endings.CASES,
    *outages.CASES,
    *contents.CASES,
    *journals.CASES,
    *clocks.CASES,
    *storms.CASES,
]


def by_setting(cases: Iterable[Case]) -> Iterator[tuple[Setting, list[Case]]]:
    """Yield each setting with its cases, which can share a world."""
    ordered = sorted(cases, key=lambda case: repr(case.setting))
    for setting, group in itertools.groupby(ordered, key=lambda case: case.setting):
        yield setting, list(group)


#: The most cases of a group and a setting in each part, and fewer for groups of similar cases.
_OF_A_KIND = 7
_FEWER = {"bulk": 3, "crash": 2, "journal": 2, "pause": 1, "containers": 1, "recovery": 1}

#: How many storms, of a minute each, are in the second part.
_STORMS = 2


def parts(seed: int) -> tuple[list[Case], list[Case]]:
    """Return some fast cases of each group and setting, and some of all other cases; the same for the same seed."""
    chance = random.Random(seed)
    cases = [case for case in CASES if not case.setting.root]  # the tests may run without root
    first = _some(chance, [case for case in cases if not case.slow])
    # A clock that jumps needs a quiet machine.
    further = _some(chance, [case for case in cases if case not in first and case.group not in ("storm", "clock")])
    return first, [*further, *chance.sample(storms.CASES, _STORMS)]


def _some(chance: random.Random, cases: Iterable[Case]) -> list[Case]:
    chosen: list[Case] = []
    for _, of_setting in by_setting(cases):
        of_setting.sort(key=lambda case: case.group)
        for group, of_group in itertools.groupby(of_setting, key=lambda case: case.group):
            among = list(of_group)
            chosen += chance.sample(among, min(len(among), _FEWER.get(group, _OF_A_KIND)))
    return chosen
