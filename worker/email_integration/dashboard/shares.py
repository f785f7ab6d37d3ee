"""What each configuration and each priority has of a period: beside each other, where a choice shows one alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from email_integration.models import Priority

from . import statistics
from .intervals import Interval
from .statistics import Choice, Flow, Flows, Times

#: So many configurations are shown, those with the most mails.
CONFIGURATIONS = 8

#: Times are those of so many mails at most in each interval, looked for among about so many rows.
OF_EACH_INTERVAL, LOOKED_THROUGH = 4, 10_000


@dataclass(frozen=True, kw_only=True)
class Share:
    """Of one configuration or priority, which is ``name``; ``choice`` narrows to it."""

    name: str
    choice: Choice
    flow: Flow
    times: Times | None


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """The configurations with the most first, ``left_out`` more that have less, and the priorities."""

    configurations: Sequence[Share]
    left_out: int
    priorities: Sequence[Share]


def break_down(choice: Choice, intervals: Sequence[Interval], flows: Sequence[Flows]) -> Breakdown:
    """What there is of ``choice``; ``flows`` are those of ``intervals``, of all mail."""
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
    """For each of ``choices`` those of all intervals together, None where nothing was accepted.

    Of a sample, in which a mail stands for as many as were accepted in its interval for each that was looked at there.
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
    """In which intervals to look for mails: where they are not few among many; in one at least, if there are any."""
    rows = {place: OF_EACH_INTERVAL * of_all[place] / number for place, number in enumerate(accepted) if number}
    places = sorted(rows, key=rows.__getitem__)
    read = itertools.accumulate(rows[place] for place in places)
    return places[: max(1, sum(sum_ <= LOOKED_THROUGH for sum_ in read))]
