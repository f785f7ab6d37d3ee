"""Urgent mails while much bulk mail is queued."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.bench import WARM_UP, WHOLE, Bench, Result
from bench.contenders import OURS
from bench.running import Running
from bench.singular import discard
from config.local.processes import wait_until


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The queues of each worker. A worker has two processes."""

    words: str
    metric: str
    queues: Sequence[str]


_SETTINGS = (
    Workers(words="a worker for each priority", metric="slowest", queues=("mail.high", "mail,mail.sweep", "mail.bulk")),
    Workers(words="one worker for all", metric="slowest on one worker", queues=(OURS.queues,)),
)


def urgent_behind_bulk(bench: Bench) -> Result:
    """Much bulk mail is queued, and an urgent mail is submitted from time to time."""
    bench.end()
    queued, urgent = bench.scale.queued_mails, bench.pick(5, 20)
    result = Result(
        name="priorities",
        title=f"An urgent mail behind {queued:,} in bulk",
        columns=("workers", "the slowest urgent mail", "their median", "mails sent meanwhile", "in bulk still waiting"),
        remarks=[
            f"{urgent} urgent mails, one after the other, from .delay() to acceptance. Each worker has two processes, "
            "all busy. The remaining bulk mail was then deleted."
        ],
        limits="an urgent mail shares the cores with processes that send bulk mail all the time",
    )
    for workers in _SETTINGS:
        with Running(OURS, bench.services, bench.services.front(), queues=workers.queues) as ours:
            ours.round(WARM_UP)
            ours.freeze()
            for first in range(0, queued, 1_000):
                ours.driver.call("submit", min(1_000, queued - first), 1_000)
            bench.services.sink.ask("reset")
            ours.thaw()
            _measure(ours, workers, result, urgent)
            # Not frozen, because they would keep their locks.
            for process in ours.workers:
                process.kill()
            discard(ours)
    if queued < WHOLE.queued_mails:
        result.scale = f"with {queued:,} queued"
    return result


def _measure(ours: Running, workers: Workers, result: Result, urgent: int) -> None:
    """Send the urgent mails during the bulk mail. The result counts only if bulk mail was left at the end."""
    sink, waited = ours.services.sink, []
    wait_until(lambda: sink.ask()["messages"] >= WARM_UP, seconds=60, what="the first mails in bulk")
    for _ in range(urgent):
        mail = ours.driver.call("submit_high")
        arrived = wait_until(lambda: sink.ask(f"arrived {mail['message_id']}"), seconds=60, what="an urgent mail")  # noqa: B023
        waited.append(arrived - mail["called"])
    left = ours.query("SELECT count(*) FROM email_integration_delivery WHERE finished_at IS NULL")[0][0]
    gone = sink.ask()["messages"]
    times = (f"{max(waited):.2f} s", f"{statistics.median(waited):.2f} s")
    result.rows.append((workers.words, *times, f"{gone:,}", f"{left:,}"))
    result.data[workers.words] = {"waited": waited, "left": left}
    if left:
        result.metrics[workers.metric] = max(waited)
