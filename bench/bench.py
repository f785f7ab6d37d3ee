"""The context of a scenario: the services, the running contenders, and the time left."""

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
    """The result of a scenario: a table, bars for a plot, remarks, and all measured data."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    #: The description for the page.
    words: str = ""
    #: The columns of a second table with details.
    detail_columns: Sequence[str] = ()
    details: list[Sequence[str]] = field(default_factory=list)
    #: The metrics of the goals, and the scale if it is smaller than that of the goals.
    metrics: dict[str, float] = field(default_factory=dict)
    scale: str = ""
    #: The limits of the metrics; shown if a goal is not met.
    limits: str = ""
    #: The profiles with details of this scenario: their groups begin with this text.
    profiled: str = ""
    #: The unit of the plot, and the value of each contender.
    unit: str = ""
    bars: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of the longest scenarios."""

    steady_mails: int
    finished_rows: int
    queued_mails: int
    held_mails: int

    def __str__(self) -> str:
        return (
            f"{self.steady_mails:,} mails through one worker, {self.finished_rows:,} finished rows, "
            f"{self.queued_mails:,} mails queued, {self.held_mails:,} mails beside an open transaction"
        )


#: The scale of the goals, and one for two minutes.
WHOLE = Scale(steady_mails=100_000, finished_rows=1_000_000, queued_mails=50_000, held_mails=20_000)
QUICK = Scale(steady_mails=2_000, finished_rows=50_000, queued_mails=2_000, held_mails=1_000)

#: Mails before each measurement, so that all connections are open and the code is warm.
WARM_UP = 24


class Bench:
    """Runs the contenders, all with one front. They end when a scenario needs another front."""

    def __init__(self, services: Services, *, quick: bool, rounds: int | None = None, scale: Scale) -> None:
        self.services = services
        self.quick = quick
        self.scale = scale
        self._rounds = rounds
        self._running: dict[str, Running] = {}
        self._front: Front | None = None
        #: Values that a scenario keeps for later ones.
        self.kept: dict[str, float] = {}
        #: Lost or duplicate mails, in words.
        self.wrong: list[str] = []

    def pick(self, quick: int, full: int) -> int:
        """Return the number for a quick run or for a whole run."""
        return quick if self.quick else full

    @property
    def rounds(self) -> int:
        """How many rounds each contender has."""
        return self._rounds or self.pick(2, 5)

    @property
    def seconds(self) -> int:
        """Seconds after which a scenario begins no further round, so that a slow machine also finishes."""
        return self.pick(15, 130)

    def running(self, contenders: Sequence[Contender], front: Front) -> list[Running]:
        """Return these contenders, started and frozen."""
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
        """End all contenders at the same time, because ending mostly means waiting."""
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
    """Return the median of an attribute of the rounds, or of the CPU milliseconds a mail of one part.

    The part 'all' is everything except the sink.
    """
    values = []
    for one in rounds:
        if what == "all":
            values.append(1000 * sum(used for part, used in one.cpu.items() if part != "sink") / one.mails)
        elif what in one.cpu:
            values.append(1000 * one.cpu[what] / one.mails)
        else:
            values.append(float(getattr(one, what)))
    return statistics.median(values)
