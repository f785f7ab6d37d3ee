"""The share of each configuration and each priority in a period, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from email_integration.models import Priority

from . import statistics
from .intervals import Interval
from .statistics import Choice, Flow, Flows, Times

#: How many configurations are shown. They are those with the most mails.
CONFIGURATIONS = 8

#: Largest number of mails in the sample of each interval, and about how many rows are read to find them.
OF_EACH_INTERVAL, LOOKED_THROUGH = 4, 10_000


@dataclass(frozen=True, kw_only=True)
class Share:
    """The share of the configuration or priority ``name``. ``choice`` selects it."""

    name: str
    choice: Choice
    flow: Flow
    times: Times | None


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """The configurations, largest first, the number of those ``left_out``, and the priorities."""

    configurations: Sequence[Share]
    left_out: int
    priorities: Sequence[Share]


def break_down(choice: Choice, intervals: Sequence[Interval], flows: Sequence[Flows]) -> Breakdown:
    """Return the shares of configurations and priorities within ``choice``.

    ``flows`` are the numbers of all mail in each of ``intervals``.
    """
    groups = {group for each in flows for group in each if choice.takes(group)}
    names = {configuration: replace(choice, configuration=configuration) for _, configuration in groups}
    busiest = sorted(names, key=lambda name: (-_size(names[name], flows), name))
    asked = [(name, names[name]) for name in busiest[:CONFIGURATIONS]]
    shown = len(asked)
    asked += [
        (priority, replace(choice, priority=priority))
        for priority in Priority.values
        if any(priority == has for has, _ in groups)
    ]
    times = _times([one for _, one in asked], intervals, flows)
    found = [
        Share(name=name, choice=one, flow=_sum(one, flows), times=of_it)
        for (name, one), of_it in zip(asked, times, strict=True)
    ]
    return Breakdown(configurations=found[:shown], left_out=len(busiest) - shown, priorities=found[shown:])


def _sum(choice: Choice, flows: Iterable[Flows]) -> Flow:
    return sum((statistics.total(each, choice) for each in flows), Flow())


def _size(choice: Choice, flows: Iterable[Flows]) -> int:
    flow = _sum(choice, flows)
    return flow.accepted + flow.deferred + flow.failed


def _times(choices: Sequence[Choice], intervals: Sequence[Interval], flows: Sequence[Flows]) -> list[Times | None]:
    """Return for each of ``choices`` the times over all intervals, or None if no mail was accepted.

    The times come from a sample. The weight of a sampled mail is the number of accepted mails of its interval, divided
    by the number of mails sampled there.
    """
    of_all = [statistics.total(each, Choice()).accepted for each in flows]
    numbers: list[list[int]] = []
    asked: list[tuple[Choice, Interval]] = []
    for choice in choices:
        accepted = [statistics.total(each, choice).accepted for each in flows]
        places = soonest_found(accepted, of_all)
        numbers.append([accepted[place] for place in places])
        asked.extend((choice, intervals[place]) for place in places)
    taken = iter(statistics.sample(asked, OF_EACH_INTERVAL))
    return [
        statistics.of_sample(
            [
                (seconds, number / len(some))
                for number, some in zip(of_one, itertools.islice(taken, len(of_one)), strict=True)
                for seconds in some
            ]
        )
        for of_one in numbers
    ]


def soonest_found(accepted: Sequence[int], of_all: Sequence[int]) -> list[int]:
    """Return the intervals to sample, in which the wanted mails are not rare; at least one if there are any."""
    rows = {place: OF_EACH_INTERVAL * of_all[place] / number for place, number in enumerate(accepted) if number}
    places = sorted(rows, key=rows.__getitem__)
    read = itertools.accumulate(rows[place] for place in places)
    return places[: max(1, sum(sum_ <= LOOKED_THROUGH for sum_ in read))]
