"""What a scenario works with: the services, the contenders that run at the moment, and how much time there is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from bench.contenders import Contender
from bench.environments import prepare
from bench.running import Round, Running
from bench.services import Front, Services


@dataclass(kw_only=True)
class Result:
    """What a scenario came to: a table, bars for a plot, remarks, and everything measured."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    #: What is measured, for the page.
    words: str = ""
    #: A second table, for those who want to know more.
    detail_columns: Sequence[str] = ()
    details: list[Sequence[str]] = field(default_factory=list)
    #: What goals are judged by, and on which smaller scale than theirs.
    metrics: dict[str, float] = field(default_factory=dict)
    scale: str = ""
    #: What bounds the metrics; told where a goal is not met.
    limits: str = ""
    #: The profiles that show more of it: their groups begin with this.
    profiled: str = ""
    #: Of the plot: what is measured, and how much for whom.
    unit: str = ""
    bars: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the longest scenarios are."""

    steady_mails: int
    finished_rows: int
    queued_mails: int
    held_mails: int

    def __str__(self) -> str:
        return (
            f"{self.steady_mails:,} mails through one worker, {self.finished_rows:,} finished rows, "
            f"{self.queued_mails:,} mails queued, {self.held_mails:,} mails beside an open transaction"
        )


#: What the goals speak of, and what goes in two minutes.
WHOLE = Scale(steady_mails=100_000, finished_rows=1_000_000, queued_mails=50_000, held_mails=20_000)
QUICK = Scale(steady_mails=2_000, finished_rows=50_000, queued_mails=2_000, held_mails=1_000)

#: Mails before what is measured, so that all connections are open and code is warm.
WARM_UP = 24


class Bench:
    """The contenders that run are all of one front; they end when another is asked for."""

    def __init__(self, services: Services, *, quick: bool, rounds: int | None = None, scale: Scale) -> None:
        self.services = services
        self.quick = quick
        self.scale = scale
        self._rounds = rounds
        self._running: dict[str, Running] = {}
        self._front: Front | None = None
        #: What scenarios leave for later ones.
        self.kept: dict[str, float] = {}
        #: Mails that were lost or came twice, in words.
        self.wrong: list[str] = []

    def pick(self, quick: int, full: int) -> int:
        """A number for the quick run, or for the whole one."""
        return quick if self.quick else full

    @property
    def rounds(self) -> int:
        """How often each contender has its turn."""
        return self._rounds or self.pick(2, 5)

    @property
    def seconds(self) -> int:
        """After which a scenario begins no further round, so that a slow machine comes to an end too."""
        return self.pick(15, 130)

    def running(self, contenders: Sequence[Contender], front: Front) -> list[Running]:
        """Have these contenders ready, frozen."""
        if front != self._front:
            self.end()
            self._front = front
        missing = [contender for contender in contenders if contender.name not in self._running]
        for contender in missing:
            prepare(contender.environment)
        for contender in missing:
            self._running[contender.name] = Running(contender, self.services, front)
        for contender in missing:
            self._running[contender.name].start()
        for contender in missing:
            self._running[contender.name].wait()
            self._running[contender.name].freeze()
        return [self._running[contender.name] for contender in contenders]

    def end(self) -> None:
        """End who runs, all at a time: most of it is waiting."""
        running, self._running = list(self._running.values()), {}
        with ThreadPoolExecutor() as threads:
            list(threads.map(Running.end, running))
        self._front = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def median(rounds: Sequence[Round], what: str) -> float:
    """The median of an attribute of the rounds, or of the CPU milliseconds a mail of a part, or of 'all' but
    the sink."""
    values = []
    for one in rounds:
        if what == "all":
            values.append(1000 * sum(used for part, used in one.cpu.items() if part != "sink") / one.mails)
        elif what in one.cpu:
            values.append(1000 * one.cpu[what] / one.mails)
        else:
            values.append(float(getattr(one, what)))
    return statistics.median(values)
