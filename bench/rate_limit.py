"""A server that accepts twenty mails a second, with faster clients: the mails that arrive, and their cost."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench import contenders as known
from bench.bench import Bench, Result
from bench.contenders import OURS, Contender
from bench.environments import prepare
from bench.rate import BEYOND
from bench.running import Running
from bench.services import Front, Sink

#: Mails a second that the server accepts.
_RATE = 20

_CONTENDERS = (OURS, known.RETRYING, known.CELERY_EMAIL, known.POST_OFFICE)

_WORDS = {
    "450": "refuses with 450",
    "421": "refuses with 421",
    "slow": "delays its replies",
}

#: The SQL that counts mails that are neither sent nor given up.
_WAITING = {
    OURS.project: "SELECT count(*) FROM email_integration_delivery WHERE finished_at IS NULL",
    known.POST_OFFICE.project: "SELECT count(*) FROM post_office_email WHERE status NOT IN (0, 1)",
}


@dataclass(frozen=True, kw_only=True)
class _Count:
    """The results of the mails of one contender. ``seconds`` is the time over which the rate is counted."""

    seconds: float
    arrived: int
    attempts: int
    refused: int
    sessions: int
    waiting: int
    twice: int


def limited(bench: Bench) -> Result:
    """The server takes 20 mails a second, and mail is submitted much faster."""
    bench.end()
    mails, patience = bench.pick(5, 15) * _RATE, bench.pick(15, 30)
    result = Result(
        name="limited",
        title=f"A server that takes {_RATE} mails a second",
        columns=(
            "contender",
            "above its rate, the server",
            f"mails/s, of {_RATE}",
            "MAIL commands for each accepted mail",
            "of them refused",
            "sessions opened",
            "arrived",
            "lost",
            "waiting",
            "twice",
        ),
    )
    for beyond in BEYOND:
        for contender, count in _all_at_once(bench, beyond, mails, patience):
            rate = count.arrived / count.seconds
            lost = max(0, mails - count.arrived - count.waiting)
            each = [f"{number / max(1, count.arrived):.2f}" for number in (count.attempts, count.refused)]
            numbers = (count.sessions, count.arrived, lost, count.waiting, count.twice)
            result.rows.append((contender.label, _WORDS[beyond], f"{rate:.1f}", *each, *map(str, numbers)))
            result.data[f"{contender.name}, {beyond}"] = {**dataclasses.asdict(count), "lost": lost, "rate": rate}
            if contender is OURS:
                result.metrics[beyond] = rate
                if lost or count.twice:
                    bench.wrong.append(f"limited, {beyond}: {mails} mails, {lost} lost, {count.twice} twice")
    result.remarks.append(
        f"{mails} mails are submitted one by one without a pause. Each contender has a separate server. Once the "
        "server has taken its number of mails in a second of the clock, it replies *450* or *421* to MAIL; after 421 "
        "it closes the connection. A server that delays its replies answers each content when its turn has come. The "
        f"rate counts to the last acceptance, or to the end of about {patience} s if mails were still waiting then. "
        "*Lost* is the number of mails that were given up. Celery has its default of three retries. "
        "django-celery-email tries again after three minutes. django-post-office with its defaults does not try again."
    )
    return result


def _all_at_once(bench: Bench, beyond: str, mails: int, patience: float) -> list[tuple[Contender, _Count]]:
    """Let all contenders send at the same time, because a few mails a second need little CPU."""
    with contextlib.ExitStack() as stack:
        contenders: list[tuple[Running, Sink]] = []
        for contender in _CONTENDERS:
            prepare(contender.environment)
            name = f"{beyond} sink of {contender.name}"
            _, port, sink = bench.services.start_sink(name, rate=_RATE, beyond=beyond)
            own = dataclasses.replace(contender, name=f"{contender.name}_limited_{beyond}")
            running = Running(own, bench.services, Front(name=f"limited {beyond}", port=port))
            stack.callback(running.end)
            contenders.append((running, sink))
        for running, _ in contenders:
            running.start()
        for running, _ in contenders:
            running.wait()
        with ThreadPoolExecutor(len(contenders)) as pool:
            counts = pool.map(lambda one: _count(*one, mails=mails, patience=patience), contenders)
            return list(zip(_CONTENDERS, counts, strict=True))


def _count(running: Running, sink: Sink, *, mails: int, patience: float) -> _Count:
    """Submit the mails, and wait until each has arrived or was given up."""
    until = time.monotonic() + patience
    started: float = running.driver.call("submit", mails, 0)["started"]
    while True:
        if running.contender.works == "command":
            running.flush()
        # Twice with a second between, because mail that a worker is sending is in no queue.
        waiting = _waiting(running)
        time.sleep(1)
        waiting = max(waiting, _waiting(running))
        if not waiting or time.monotonic() > until:
            break
    report, asked_at = sink.ask(), time.monotonic()
    return _Count(
        seconds=(asked_at if waiting else report["last"]) - started,
        arrived=int(report["distinct"]),
        attempts=int(report["begun"]),
        refused=int(report["refused"]),
        sessions=int(report["sessions"]),
        waiting=waiting,
        twice=int(report["messages"] - report["distinct"]),
    )


def _waiting(running: Running) -> int:
    """Return how many mails will still be tried."""
    if sql := _WAITING.get(running.contender.project):
        return int(running.query(sql)[0][0])
    # Messages with a delay are held by the worker, which has not acknowledged them.
    return sum(int(running.ask_broker(command)[1:]) for command in ("LLEN celery", "HLEN unacked"))
