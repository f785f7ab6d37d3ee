"""Where the CPU of our mails goes: py-spy on the submitter and the worker, in a run that is not timed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from bench import measure
from bench.bench import Bench, Result
from bench.contenders import OURS
from bench.environments import prepare, program

#: The first that is found in a stack gets the sample.
_PARTS = {
    "caller": (
        ("render", "render (email_integration/delivery/render"),
        ("seal", "store (email_integration/delivery/content"),
        ("INSERT the delivery", "save (django/db/models/base"),
        ("ring", "ring (email_integration/delivery/doorbell"),
        ("rest of send_email.delay()", ""),
    ),
    "worker, pool processes": (
        ("store the result row", "store_result (celery/backends/base"),
        ("INSERT the attempt", "_log (email_integration/delivery/ledger"),
        ("rest of recording the outcome", "record (email_integration/delivery/ledger"),
        ("claim", "claim (email_integration/delivery/ledger"),
        ("load the delivery", "load (email_integration/delivery/"),
        ("ask for the active relay", "active_relay (email_integration/routing"),
        ("check the database connection", "check_database_connection ("),
        ("SMTP", "(email_integration/smtp"),
        ("rest of the attempt", "attempt (email_integration/delivery"),
        ("Celery", ""),
    ),
    "worker, main process": (
        ("publish events", "(celery/events/dispatcher"),
        ("read the broker", "(kombu/transport/redis"),
        ("hand tasks to the pool", "(celery/concurrency"),
        ("rest of Celery", ""),
    ),
}


def profile(bench: Bench) -> Result:
    """Sample the stacks while mails are sent one by one."""
    prepare("tools")
    (ours,) = bench.running((OURS,), bench.services.front())
    main, *pool = measure.tree(ours.workers[0].pid)
    result = Result(
        name="profile",
        title="Where our CPU goes, one by one, plain",
        columns=("process", "part", "share of its samples"),
        remarks=["Samples of py-spy at 200 Hz, threads that wait left out; the shares are rough."],
    )
    with ours.awake():
        ours.round(6)
        recorders = {
            pid: _Recorder(pid, bench.services.folder / f"profile-{pid}") for pid in (ours.driver.pid, main, *pool)
        }
        time.sleep(1.5)
        ours.round(bench.pick(200, 800))
        stacks = {pid: recorder.finish() for pid, recorder in recorders.items()}
    groups = {
        "caller": stacks[ours.driver.pid],
        "worker, pool processes": sum((stacks[pid] for pid in pool), Counter()),
        "worker, main process": stacks[main],
    }
    for group, counted in groups.items():
        parts: Counter[str] = Counter()
        for stack, number in counted.items():
            parts[next(part for part, mark in _PARTS[group] if mark in stack)] += number
        total = sum(parts.values())
        result.rows += [(group, part, f"{100 * number / total:.0f} %") for part, number in parts.most_common()]
        result.data[group] = dict(parts)
    return result


class _Recorder:
    def __init__(self, pid: int, output: Path) -> None:
        command = [program("tools", "py-spy"), "record", "--pid", str(pid), "--rate", "200", "--nonblocking"]
        command += ["--format", "raw", "--duration", "600", "--output", str(output)]
        self._output = output
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finish(self) -> Counter[str]:
        """The stacks and how often each was seen."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
        stacks: Counter[str] = Counter()
        for line in self._output.read_text().splitlines():
            stack, _, number = line.rpartition(" ")
            stacks[stack] += int(number)
        return stacks
