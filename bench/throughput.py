"""Scenarios in which everybody sends the same mails, in turns."""

from __future__ import annotations

import dataclasses
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import contenders as known
from bench.bench import Bench, Result, median
from bench.contenders import OURS, Contender
from bench.running import Round, Running
from bench.services import Front

COLUMNS = (
    "contender",
    "mails/s",
    "from - to",
    "ours is",
    "by CPU",
    "to the last record",
    "CPU ms/mail: caller",
    "worker",
    "database",
    "broker",
    "all",
    "statements",
    "Redis commands",
    "round trips",
    "sessions",
    "worker MB",
    "arrived",
    "twice",
)

#: Mails before each round, so that connections are open and code is warm.
WARM_UP = 6


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """So many mails by each contender, one by one or ``together`` at a time; ``mails`` of a quick run and a whole one.

    ``sessions`` are those of smtp-source, 0 leaves it out.
    """

    name: str
    title: str
    contenders: Sequence[Contender]
    mails: tuple[int, int]
    together: int = 0
    front: dict[str, object] = field(default_factory=dict)
    sessions: int = 0
    most_rounds: int = 5
    quick: bool = True

    def __call__(self, bench: Bench) -> Result:
        mails = bench.pick(*self.mails)
        front = bench.services.front(**self.front)  # type: ignore[arg-type]
        running = bench.running(self.contenders, front)
        rounds: dict[str, list[Round]] = {contender.name: [] for contender in self.contenders}
        source: list[Round] = []
        turns, took, until = 0, 0.0, time.monotonic() + bench.seconds
        # One more only if it will be over in time.
        while turns < min(bench.rounds, self.most_rounds) and (not turns or until - time.monotonic() > took):
            began = time.monotonic()
            for one in running:
                with one.awake():
                    one.round(WARM_UP)
                    rounds[one.contender.name].append(one.round(mails, together=self.together))
            if self.sessions:
                # Many more, for it would be over too soon to be measured.
                source.append(smtp_source(bench, front, mails if front.delay else 20 * mails, self.sessions))
            turns, took = turns + 1, time.monotonic() - began
        result = Result(name=self.name, title=self.title, columns=COLUMNS, unit="mails a second")
        ours = rounds.get(OURS.name)
        for one in running:
            statements = self._statements(one)
            self._add(result, one.contender.label, rounds[one.contender.name], ours, statements)
            if one.contender.works != "itself":  # the limits would leave nothing to see of the others
                result.bars[one.contender.label] = median(rounds[one.contender.name], "rate")
            if one.contender is OURS:
                bench.kept[self.name] = median(rounds[OURS.name], "worker")
        if source:
            self._add(result, f"smtp-source, {self.sessions} sessions", source, ours, {})
        for label, each in result.data.items():
            sent, arrived, twice = (
                sum(one[what] for one in each["rounds"]) for what in ("mails", "arrived", "duplicates")
            )
            if arrived != sent or twice:
                bench.wrong.append(f"{self.name}, {label}: {sent} mails, {arrived} arrived, {twice} twice")
        result.remarks.append(
            f"{mails} mails of 2 kB, {f'{self.together} at a time' if self.together else 'one by one'}, "
            f"{turns} round{'' if turns == 1 else 's'} in turns, medians."
        )
        return result

    def _statements(self, one: Running) -> dict[str, float]:
        if not one.contender.outcomes and one.contender.works != "command":
            return {}
        number = max(20, 2 * self.together)
        with one.awake():
            counted = one.statements(number, together=self.together)
        return {text: round(count / number, 3) for text, count in counted.most_common()}

    def _add(
        self,
        result: Result,
        label: str,
        rounds: Sequence[Round],
        ours: Sequence[Round] | None,
        statements: dict[str, float],
    ) -> None:
        rate = median(rounds, "rate")
        rates = sorted(one.rate for one in rounds)
        ratio = by_cpu = ""
        if ours and ours is not rounds:
            ratio = f"{median(ours, 'rate') / rate:.2g} ×"
            by_cpu = f"{median(rounds, 'all') / median(ours, 'all'):.2g} ×" if rounds[0].cpu else ""
        result.data[label] = {"rounds": [dataclasses.asdict(one) for one in rounds], "statements": statements}
        result.rows.append(
            (
                label,
                f"{rate:,.0f}" if rate >= 20 else f"{rate:.1f}",
                f"{rates[0]:,.0f} - {rates[-1]:,.0f}" if rate >= 20 else f"{rates[0]:.1f} - {rates[-1]:.1f}",
                ratio,
                by_cpu,
                f"{rounds[0].mails / median(rounds, 'recorded'):,.0f}/s",
                *(
                    f"{median(rounds, part):.2f}" if rounds[0].cpu else ""
                    for part in ("caller", "worker", "database", "broker", "all")
                ),
                f"{sum(statements.values()):.1f}",
                f"{median(rounds, 'commands'):.1f}",
                f"{median(rounds, 'round_trips'):.2f}",
                f"{median(rounds, 'sessions'):.0f}",
                f"{median(rounds, 'memory') / 2**20:.0f}",
                str(sum(one.arrived for one in rounds)),
                str(sum(one.duplicates for one in rounds)),
            )
        )


def smtp_source(bench: Bench, front: Front, mails: int, sessions: int) -> Round:
    """Postfix's own load generator: the limit of what SMTP allows."""
    sink = bench.services.sink
    sink.ask("reset")
    started = time.monotonic()
    command = ["smtp-source", "-d", "-m", str(mails), "-l", "2048", "-s", str(sessions), f"inet:127.0.0.1:{front.port}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report = sink.ask()
    took = report["last"] - started
    return Round(
        mails=mails,
        seconds=took,
        recorded=took,
        cpu={},
        arrived=report["messages"],
        duplicates=report["messages"] - report["distinct"],
        round_trips=report["round_trips"] / mails,
        sessions=report["sessions"],
        commands=0.0,
        memory=0,
    )


_SINGLE = (
    OURS,
    known.AS_INSTALLED,
    known.TUNED,
    known.NO_RESULTS,
    known.CELERY_EMAIL,
    known.NOTHING,
)

ONE_BY_ONE = Throughput(
    name="one_by_one",
    title="One by one, loopback, plain",
    contenders=(*_SINGLE, known.NOTHING_RESULTS, known.POST_OFFICE, known.MAILER, known.SMTPLIB),
    mails=(60, 400),
    sessions=2,
)
TLS = Throughput(
    name="tls",
    title="One by one, loopback, TLS from the start, AUTH",
    contenders=_SINGLE[:-1],
    mails=(40, 200),
    front={"tls": "tls", "login": True},
)
FAR_PLAIN = Throughput(
    name="far_plain",
    title="One by one, 50 ms away, plain",
    contenders=(OURS, known.NO_RESULTS, known.CELERY_EMAIL),
    mails=(12, 60),
    front={"delay": 0.025},
    quick=False,
)
FAR = Throughput(
    name="far",
    title="One by one, 50 ms away, STARTTLS, AUTH",
    contenders=(OURS, known.NO_RESULTS, known.CELERY_EMAIL),
    mails=(10, 40),
    front={"tls": "starttls", "delay": 0.025, "login": True},
)
BULK = Throughput(
    name="bulk",
    title="Personal mails in bulk, loopback, plain",
    contenders=(known.CELERY_EMAIL_10, known.CELERY_EMAIL_100, known.POST_OFFICE),
    mails=(400, 10_000),
    together=1000,
    sessions=2,
    most_rounds=3,
)
FAR_BULK = Throughput(
    name="far_bulk",
    title="Personal mails in bulk, 50 ms away, plain",
    contenders=(known.CELERY_EMAIL_10,),
    mails=(100, 600),
    together=1000,
    sessions=2,
    front={"delay": 0.025},
    quick=False,
)
