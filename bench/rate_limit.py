"""A server that takes twenty mails a second, from who would send more: what arrives, and at what price."""

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

#: Mails a second that the server takes.
_RATE = 20

_CONTENDERS = (OURS, known.RETRYING, known.CELERY_EMAIL, known.POST_OFFICE)

_WORDS = {
    "450": "refuses with 450",
    "421": "refuses with 421",
    "slow": "takes its time",
}

#: What is neither sent nor given up.
_WAITING = {
    OURS.project: "SELECT count(*) FROM email_integration_delivery WHERE finished_at IS NULL",
    known.POST_OFFICE.project: "SELECT count(*) FROM post_office_email WHERE status NOT IN (0, 1)",
}


@dataclass(frozen=True, kw_only=True)
class _Count:
    """How the mails of one contender ended; ``seconds`` are those that the rate is counted over."""

    seconds: float
    arrived: int
    attempts: int
    refused: int
    sessions: int
    waiting: int
    twice: int


def limited(bench: Bench) -> Result:
    """A server that takes 20 mails a second, and mail that comes much faster."""
    bench.end()
    mails, patience = bench.pick(5, 15) * _RATE, bench.pick(15, 30)
    result = Result(
        name="limited",
        title=f"A server that takes {_RATE} mails a second",
        columns=(
            "contender",
            "beyond its rate the server",
            f"mails/s, of {_RATE}",
            "MAIL for each that it took",
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
        f"{mails} mails, one by one and as fast as they come, for each contender a server of its own. *450* and *421* "
        "are replies to MAIL, once there were as many in that second of the clock; after 421 it closes the connection. "
        "A server that takes its time answers to each content when its turn has come. The rate counts to the last "
        f"acceptance, or to the end of some {patience} s if mails were still waiting then; *lost* is what was given "
        "up. Celery has its defaults for retries, three more tries; django-celery-email tries again after three "
        "minutes, and django-post-office, as it comes, not at all."
    )
    return result


def _all_at_once(bench: Bench, beyond: str, mails: int, patience: float) -> list[tuple[Contender, _Count]]:
    """Have all contenders send at a time, which few mails a second leave room for."""
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
        # Twice with a second between: what is in a worker's hands is in no queue.
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
    """How many mails are to be tried yet."""
    if sql := _WAITING.get(running.contender.project):
        return int(running.query(sql)[0][0])
    # Those that have a time to wait for are with the worker, which has not acknowledged them.
    return sum(int(running.ask_broker(command)[1:]) for command in ("LLEN celery", "HLEN unacked"))
