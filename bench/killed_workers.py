"""Kill the sending processes during their work, and count the mails at the SMTP server."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

from bench import contenders as known
from bench.bench import Bench, Result
from bench.contenders import Contender
from bench.environments import prepare
from bench.running import Running
from bench.services import Front, Sink
from config.local.processes import wait_until

#: Mails that are submitted, and how many the server has each time when all sending processes are killed.
_MAILS, _TAKEN = 100, (20, 40, 60)

#: Seconds before the server accepts a mail, and again before it replies, like a server with a content filter.
_DELAY = 0.05

#: Seconds in which the restarted processes can finish the rest.
_PATIENCE = 60


def _with(contender: Contender, suffix: str = "", label: str = "", **env: str) -> Contender:
    return dataclasses.replace(
        contender,
        name=f"{contender.name}_killed{suffix}",
        label=contender.label + label,
        env={**contender.env, **env},
        outcomes="",
    )


#: Timeouts short enough to expire within the patience.
_SHORT = {"REPLY_TIMEOUT": "10", "LEASE": "15"}
_SOON = {"BENCH_VISIBILITY": "20"}
_CONTENDERS = (
    _with(known.OURS, **_SHORT),
    _with(known.OURS, "_hold", ", IN_DOUBT=hold", **_SHORT, IN_DOUBT="hold"),
    _with(known.NO_RESULTS, **_SOON),
    _with(known.NO_RESULTS, "_late", ", acks_late", **_SOON, BENCH_LATE="1"),
    _with(known.CELERY_EMAIL_10, **_SOON),
    _with(known.CELERY_EMAIL_10, "_late", ", acks_late", **_SOON, BENCH_LATE="1"),
    _with(known.POST_OFFICE),
    _with(known.MAILER),
)

_REMARK = (
    f"{_MAILS} mails, submitted one by one. Two processes send, and are killed when the server has {_TAKEN[0]}, "
    f"{_TAKEN[1]} and {_TAKEN[2]} mails. The server needs {_DELAY:g} s to take a mail, and as long to reply. Mails are "
    f"counted {_PATIENCE} s after the last start. These times are shortened to fit: ours "
    f"({', '.join(f'{name} {seconds} s' for name, seconds in _SHORT.items())}) and Celery's visibility timeout "
    f"({_SOON['BENCH_VISIBILITY']} s instead of an hour). Mails that the server had, but had not replied to when their "
    "sender was killed, are in doubt for every sender. Ours sends only those again, with the same Message-ID, or "
    "holds them until a person decides."
)


def killed(bench: Bench) -> Result:
    """Three times, all sending processes are killed (``kill -9``) during their work, and started again."""
    bench.end()
    result = Result(
        name="killed",
        title="Killed during sending",
        columns=("contender", "mails", "arrived", "lost or stuck", "twice", "held"),
        remarks=[_REMARK],
        limits="SMTP has no way to ask a server whether it has a mail (RFC 1047)",
    )
    with contextlib.ExitStack() as stack:
        all_running: list[tuple[Running, Sink]] = []
        for contender in _CONTENDERS:
            prepare(contender.environment)
            _, port, sink = bench.services.start_sink(f"sink of {contender.name}", delay=_DELAY)
            running = Running(contender, bench.services, Front(name="killed", port=port))
            stack.callback(running.end)
            all_running.append((running, sink))
        for running, _ in all_running:
            running.start()
        for running, _ in all_running:
            running.wait()
        with ThreadPoolExecutor(len(all_running)) as pool:
            counts = list(pool.map(lambda one: _count(*one), all_running))
    for contender, (arrived, twice, held) in zip(_CONTENDERS, counts, strict=True):
        lost = max(0, _MAILS - arrived - held)
        result.rows.append((contender.label, *map(str, (_MAILS, arrived, lost, twice, held))))
        result.data[contender.name] = {"lost": lost, "twice": twice, "held": held}
    ours = result.data[_CONTENDERS[0].name]
    result.metrics = {"lost": ours["lost"], "twice": ours["twice"]}
    return result


def _count(running: Running, sink: Sink) -> tuple[int, int, int]:
    """Return the number of mails that arrived, of duplicates, and of held mails, arrived or not."""
    is_command = running.contender.works == "command"
    running.driver.call("submit", _MAILS, 0)
    for taken in _TAKEN:
        if is_command:
            running.begin_to_flush()
        with contextlib.suppress(TimeoutError):  # the count shows mail that is stuck
            wait_until(lambda: sink.ask()["messages"] >= taken, seconds=30, what="enough mails")  # noqa: B023
        running.kill()
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if is_command:
            running.flush()
        time.sleep(1)
    report = sink.ask()
    arrived = int(report["recipients"])
    held = 0
    if running.contender.env.get("IN_DOUBT") == "hold":
        held = running.query("SELECT count(*) FROM email_integration_delivery WHERE status = 'in_doubt'")[0][0]
    return arrived, int(report["messages"]) - arrived, held
