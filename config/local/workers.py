"""Start Celery's processes: a worker, and beat."""

from __future__ import annotations

import sys
from pathlib import Path

from config.local.processes import Process, Processes

#: The queues of a worker that only sends mail.
OF_MAIL = ("mail.high", "mail", "mail.bulk", "mail.sweep")


def start_worker(
    processes: Processes,
    *,
    name: str = "worker",
    concurrency: int = 2,
    queues: tuple[str, ...] = (),
    pool: str = "prefork",
) -> Process:
    """Start a worker and wait until it consumes.

    It has ``concurrency`` processes, or the threads or greenlets of another ``pool``, and serves ``queues``, by default
    all.
    """
    # There are no other workers to synchronise with, which would take a second.
    options = ["--pool", pool, "--concurrency", str(concurrency), "--without-mingle", "--without-gossip"]
    if queues:
        options += ["--queues", ",".join(queues)]
    worker = processes.start(name, _celery("worker", "--hostname", f"{name}@%h", "--loglevel", "INFO", *options))
    worker.wait_for_log(" ready.")
    return worker


def start_beat(processes: Processes, *, schedule: Path) -> Process:
    """Start beat, which keeps its state in the file ``schedule``, and wait until it has begun."""
    options = ["--schedule", str(schedule), "--pidfile", "", "--loglevel", "INFO"]
    beat = processes.start("beat", _celery("--quiet", "beat", *options))
    beat.wait_for_log("beat: Starting")
    return beat


def _celery(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "config", *arguments]
