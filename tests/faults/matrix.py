"""All the cases, and the part of them that 'make test' runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from . import brokers, clocks, crashes, endings, outages, refusals, storms
from .cases import Case
from .world import Setting

CASES: list[Case] = [
    *crashes.CASES,
    *refusals.CASES,
    *brokers.CASES,
    *endings.CASES,
    *outages.CASES,
    *clocks.CASES,
    *storms.CASES,
]


def by_setting(cases: Iterable[Case]) -> Iterator[tuple[Setting, list[Case]]]:
    """The cases of each setting, which can share a world."""
    ordered = sorted(cases, key=lambda case: repr(case.setting))
    for setting, group in itertools.groupby(ordered, key=lambda case: case.setting):
        yield setting, list(group)
