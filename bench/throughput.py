"""Scenarios in which all contenders send the same mails, in turns."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from bench import contenders as known
from bench import goals
from bench.bench import WARM_UP, Bench, Result, median
from bench.contenders import OURS, Contender
from bench.running import Round, Running
from bench.services import Front
from config.local.processes import LOOPBACK

COLUMNS = (
    "contender",
    "sessions",
    "mails/s",
    "from - to",
    "ours is",
    "by CPU",
    "CPU ms/mail",
    "statements",
    "round trips",
    "worker MB",
    "arrived",
    "twice",
)
DETAIL_COLUMNS = (
    "contender",
    "to the last record",
    "CPU ms/mail: caller",
    "worker",
    "database",
    "broker",
    "SMTP server",
    "broker commands",
    "sessions opened",
)


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Mails by each contender, one by one or ``together`` at a time. ``mails`` is for a quick run and for a whole one.

    A quick run has only ``few`` of the contenders. Those in ``slow`` send ``fewer`` mails, because they would take
    minutes. smtp-source has a turn on each of these numbers of ``sessions``. The last number is that of our sessions.
    """

    name: str
    title: str
    words: str
    contenders: Sequence[Contender]
    few: Sequence[Contender]
    mails: tuple[int, int]
    together: int = 0
    front: dict[str, object] = field(default_factory=dict)
    sessions: Sequence[int] = ()
    slow: Collection[Contender] = ()
    fewer: tuple[int, int] = (0, 0)
    most_rounds: int = 5

    def __call__(self, bench: Bench) -> Result:
        mails, fewer = bench.pick(*self.mails), bench.pick(*self.fewer)
        front = bench.services.front(**self.front)  # type: ignore[arg-type]
        running = bench.running(self.few if bench.quick else self.contenders, front)
        rounds: dict[str, list[Round]] = {one.contender.name: [] for one in running}
        sources: dict[int, list[Round]] = {sessions: [] for sessions in self.sessions}
        turns, took, until = 0, 0.0, time.monotonic() + bench.seconds
        # Run another round only if it will end in time.
        while turns < min(bench.rounds, self.most_rounds) and (not turns or until - time.monotonic() > took):
            began = time.monotonic()
            for one in running:
                with one.awake():
                    is_slow = one.contender in self.slow
                    one.round(3 * one.contender.processes if is_slow else WARM_UP)
                    number = fewer if is_slow else mails
                    rounds[one.contender.name].append(one.round(number, together=self.together))
            for sessions, source in sources.items():
                # With no delay, fewer mails would be too fast to measure.
                source.append(smtp_source(bench, front, (fewer or mails) if front.delay else 20_000, sessions))
            turns, took = turns + 1, time.monotonic() - began
        result = Result(name=self.name, title=self.title, words=self.words, columns=COLUMNS, unit="mails a second")
        result.detail_columns, result.profiled = DETAIL_COLUMNS, "in bulk" if self.together else "one by one"
        ours = rounds[OURS.name]
        for one in running:
            # With a delay the statements are the same, and take long to collect.
            statements = {} if front.delay else self._statements(one, mails)
            self._add(result, one.contender.label, rounds[one.contender.name], ours, statements)
            result.metrics[goals.times(one.contender)] = median(ours, "rate") / median(
                rounds[one.contender.name], "rate"
            )
            if one.contender.works != "itself":  # the limits would make the other bars too short
                result.bars[one.contender.label] = median(rounds[one.contender.name], "rate")
        for sessions, source in sources.items():
            self._add(result, f"smtp-source, {sessions} sessions", source, ours, {})
            # The last one counts, with as many sessions as ours.
            result.metrics[goals.TIMES_SOURCE] = median(ours, "rate") / median(source, "rate")
        if sources and not front.delay:
            rates = [f"{_postfix_alone(bench, sessions):,.0f} on {sessions} sessions" for sessions in sources]
            result.remarks.append(
                "smtp-source sends to Postfix's own smtp-sink, which counts nothing, in mails a second: "
                f"{', '.join(rates)}."
            )
        result.metrics["round trips"] = median(ours, "round_trips")
        result.metrics["worker CPU"] = median(ours, "worker")
        bench.kept[self.name] = median(ours, "worker")
        result.limits = _limits(ours, front)
        for label, each in result.data.items():
            sent, arrived, twice = (
                sum(one[what] for one in each["rounds"]) for what in ("mails", "arrived", "duplicates")
            )
            if arrived != sent or twice:
                bench.wrong.append(f"{self.name}, {label}: {sent} mails, {arrived} arrived, {twice} twice")
        result.remarks.append(
            f"{mails:,} mails of 2 kB{f' ({fewer:,} for all but the first)' if fewer else ''}, "
            f"{f'{self.together:,} at a time' if self.together else 'one by one'}, "
            f"{turns} round{'' if turns == 1 else 's'} in turns, medians."
        )
        if mails < self.mails[1]:
            result.scale = f"with {mails:,} mails"
        return result

    def _statements(self, one: Running, mails: int) -> dict[str, float]:
        if not one.contender.outcomes and one.contender.works != "command":
            return {}
        number = max(20, min(self.together, mails))
        with one.awake():
            counted = one.statements(number, together=self.together)
        return {text: round(count / number, 3) for text, count in counted.most_common()}

    def _add(
        self, result: Result, label: str, rounds: Sequence[Round], ours: Sequence[Round], statements: dict[str, float]
    ) -> None:
        rate = median(rounds, "rate")
        rates = sorted(one.rate for one in rounds)
        measured = bool(rounds[0].cpu)
        ratio = by_cpu = ""
        if ours is not rounds:
            ratio = f"{median(ours, 'rate') / rate:.2g} ×"
            by_cpu = f"{median(rounds, 'all') / median(ours, 'all'):.2g} ×" if measured else ""
        result.data[label] = {"rounds": [dataclasses.asdict(one) for one in rounds], "statements": statements}
        result.rows.append(
            (
                label,
                f"{median(rounds, 'at_once'):.0f}",
                f"{rate:,.0f}" if rate >= 20 else f"{rate:.1f}",
                f"{rates[0]:,.0f} - {rates[-1]:,.0f}" if rate >= 20 else f"{rates[0]:.1f} - {rates[-1]:.1f}",
                ratio,
                by_cpu,
                f"{median(rounds, 'all'):.2f}" if measured else "",
                f"{sum(statements.values()):.1f}" if measured and not self.front.get("delay") else "",
                f"{median(rounds, 'round_trips'):.2f}",
                f"{median(rounds, 'memory') / 2**20:.0f}" if measured else "",
                str(sum(one.arrived for one in rounds)),
                str(sum(one.duplicates for one in rounds)),
            )
        )
        if measured:
            parts = ("caller", "worker", "database", "broker", "sink")
            result.details.append(
                (
                    label,
                    f"{rounds[0].mails / median(rounds, 'recorded'):,.0f}/s",
                    *(f"{median(rounds, part):.2f}" for part in parts),
                    f"{median(rounds, 'commands'):.1f}",
                    f"{median(rounds, 'sessions'):.0f}",
                )
            )


def _limits(ours: Sequence[Round], front: Front) -> str:
    """Return the limit of our mails: the CPU, or the round trips to the server."""
    rate, cpu = median(ours, "rate"), median(ours, "all")
    busy = rate * (cpu + median(ours, "sink")) / 1000
    parts = ", ".join(f"{part} {median(ours, part):.2f}" for part in ("worker", "caller", "database", "broker"))
    text = (
        f"one of our mails takes {cpu:.2f} ms of CPU ({parts}), so {rate:,.1f} mails a second keep {busy:.1f} of "
        f"{os.cpu_count()} cores busy"
    )
    if front.delay:
        trips, sessions = median(ours, "round_trips"), median(ours, "at_once")
        away = 2 * front.delay
        text += (
            f"; it waits {1000 * trips * away:.0f} ms for its {trips:.2f} round trips, so {sessions:.0f} sessions can "
            f"send at most {sessions / (trips * away):,.0f} mails a second"
        )
    return text


def smtp_source(bench: Bench, front: Front, mails: int, sessions: int) -> Round:
    """Measure Postfix's own load generator: the limit of SMTP."""
    sink = bench.services.sink
    sink.ask("reset")
    started = _send(front.port, mails, sessions)
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
        at_once=report["at_once"],
    )


def _postfix_alone(bench: Bench, sessions: int, mails: int = 20_000) -> float:
    """Return the mails a second with Postfix's programs at both ends."""
    port = bench.services.start_postfix_sink()
    started = _send(port, mails, sessions)
    return mails / (time.monotonic() - started)


def _send(port: int, mails: int, sessions: int) -> float:
    """Run smtp-source, and return when it began."""
    started = time.monotonic()
    command = ["smtp-source", "-d", "-m", str(mails), "-l", "2048", "-s", str(sessions), f"inet:{LOOPBACK}:{port}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    return started


_SINGLE = (
    OURS,
    known.AS_INSTALLED,
    known.TUNED,
    known.NO_RESULTS,
    known.CELERY_EMAIL,
    known.NOTHING,
)

_FEW = (OURS, known.NO_RESULTS)

#: Two sessions, then as many as ours.
_SOURCE = (2, known.OUR_SESSIONS)

ONE_BY_ONE = Throughput(
    name="one_by_one",
    title="One by one, loopback, plain",
    words="One process submits one mail after the other, each in a separate transaction. Two worker processes send "
    "them to a server on this machine. The task that does nothing shows the cost of Celery alone. smtplib and "
    "smtp-source record nothing; they show the limit of SMTP.",
    contenders=(*_SINGLE, known.NOTHING_RESULTS, known.POST_OFFICE, known.MAILER, known.SMTPLIB),
    few=(OURS, known.AS_INSTALLED, known.NO_RESULTS, known.CELERY_EMAIL, known.NOTHING, known.POST_OFFICE),
    mails=(60, 400),
    sessions=_SOURCE,
    most_rounds=3,
)
TLS = Throughput(
    name="tls",
    title="One by one, loopback, TLS from the start, AUTH",
    words="The same mails to a server that requires TLS (by stunnel) and a login. It shows the cost of each new "
    "connection.",
    contenders=_SINGLE[:-1],
    few=_FEW,
    mails=(40, 200),
    front={"tls": "tls", "login": True},
    most_rounds=3,
)
#: One by one, where the number of sessions matters.
_SINGLE_FAR = (known.OURS_SINGLE, known.TUNED, known.NO_RESULTS, known.NO_RESULTS_WIDE, known.CELERY_EMAIL)

FAR_PLAIN = Throughput(
    name="far_plain",
    title="One by one, 50 ms away, plain",
    words="The same mails to a server from which each reply takes 50 ms, through a proxy that delays all data. There "
    "the number of sessions matters. So, besides two processes for each contender, the table has ours with one "
    "session a process, and a peer with eight processes.",
    contenders=(OURS, *_SINGLE_FAR),
    few=_FEW,
    mails=(40, 200),
    slow=_SINGLE_FAR,
    fewer=(16, 40),
    front={"delay": 0.025},
    most_rounds=1,
)
FAR = Throughput(
    name="far",
    title="One by one, 50 ms away, STARTTLS, AUTH",
    words="The same mails with the requirements of most providers: 50 ms away, STARTTLS and a login.",
    contenders=(OURS, *_SINGLE_FAR),
    few=(*_FEW, known.NO_RESULTS_WIDE),
    mails=(40, 200),
    slow=_SINGLE_FAR,
    fewer=(16, 24),
    most_rounds=2,
    front={"tls": "starttls", "delay": 0.025, "login": True},
)
_IN_BULK = (
    OURS,
    known.OURS_SINGLE,
    known.CELERY_EMAIL_10,
    known.CELERY_EMAIL_10_WIDE,
    known.CELERY_EMAIL_100,
    known.CELERY_EMAIL_100_WIDE,
    known.POST_OFFICE,
    known.POST_OFFICE_WIDE,
)
BULK = Throughput(
    name="bulk",
    title="Personal mails in bulk, loopback, plain",
    words="Very many mails, each for one recipient, submitted a thousand at a time: ours by `submit_many()`, the "
    "others by their own interface. Our outcomes are recorded in the deliveries, not as Celery's results. Ours "
    "sends over SESSIONS (4) connections from each of two processes. The table has peers with as many worker "
    "processes as ours, peers with as many sessions as ours, and ours with one session a process.",
    contenders=_IN_BULK,
    few=(
        OURS,
        known.CELERY_EMAIL_10,
        known.CELERY_EMAIL_10_WIDE,
        known.CELERY_EMAIL_100,
        known.POST_OFFICE,
    ),
    mails=(400, 5_000),
    together=1000,
    sessions=_SOURCE,
    most_rounds=2,
)
#: With two sessions or eight, and 50 ms away.
_PEERS_FAR = (known.CELERY_EMAIL_10, known.CELERY_EMAIL_10_WIDE, known.POST_OFFICE_TWO, known.POST_OFFICE_WIDE)
FAR_BULK = Throughput(
    name="far_bulk",
    title="Personal mails in bulk, 50 ms away, plain",
    words="The same mails to a server 50 ms away, where the number of sessions matters most. Each peer has a line with "
    "two sessions and a line with eight.",
    contenders=(OURS, known.OURS_SINGLE, *_PEERS_FAR),
    few=(OURS, known.CELERY_EMAIL_10, known.CELERY_EMAIL_10_WIDE),
    mails=(400, 2_000),
    slow=(known.OURS_SINGLE, *_PEERS_FAR),
    fewer=(160, 320),
    together=1000,
    sessions=(known.OUR_SESSIONS_FAR,),
    most_rounds=1,
    front={"delay": 0.025},
)
