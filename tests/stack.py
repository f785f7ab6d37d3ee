"""Real Celery processes beside a test, on the test's own database and broker."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from config.local.processes import PATIENCE, Process, Processes
from config.local.workers import start_beat, start_worker

#: Set on a failed test, for fixtures that then print their logs.
FAILED = pytest.StashKey[bool]()

ROOT = Path(__file__).resolve().parent.parent

#: Times short enough for a test, as environment variables.
FAST: dict[str, float] = {
    "SWEEP_INTERVAL": 0.5,
    "RETRY_FIRST": 0.2,
    "RETRY_MAX": 2.0,
    "BREAKER_PROBE_FIRST": 0.2,
    "BREAKER_PROBE_MAX": 2.0,
    # Longer than a busy machine needs: a timeout of a reply would create a doubt that the test does not mean.
    "REPLY_TIMEOUT": 10.0,
    "LEASE": 15.0,
}

#: The numbers of workers: RabbitMQ does not allow two of the same name at the same time.
_numbers = itertools.count(1)

#: For a queue that is slow on a busy machine: no reply times out.
PATIENT = {"REPLY_TIMEOUT": "20", "LEASE": "30"}


class Stack:
    """A worker and optionally beat. ``worker`` is the one started last."""

    worker: Process
    beat: Process | None = None

    def __init__(
        self,
        folder: Path,
        *,
        concurrency: int = 2,
        queues: tuple[str, ...] = (),
        pool: str = "prefork",
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Describe a stack that logs to ``folder``. ``env`` is added to its processes' environment.

        Its workers serve ``queues``, by default all.
        """
        self.queues = queues
        self.folder = folder
        self.concurrency = concurrency
        self.pool = pool
        fast = {name: str(value) for name, value in FAST.items()}
        # Not tests.settings, which would start the test run's services again.
        settings = {"DJANGO_SETTINGS_MODULE": "tests.base_settings", "JOURNAL_DIR": str(folder / "journals")}
        self.env = {**fast, **settings, **(env or {})}
        self.processes = Processes(folder, env=self.env, cwd=ROOT)

    def start_worker(self, *, queues: tuple[str, ...] = ()) -> Process:
        """Start a worker of these queues, by default those of the stack, and wait until it consumes."""
        self.worker = start_worker(
            self.processes,
            name=f"worker{next(_numbers)}",
            concurrency=self.concurrency,
            queues=queues or self.queues,
            pool=self.pool,
        )
        return self.worker

    def start_beat(self) -> Process:
        """Start beat, and wait until it has begun."""
        self.beat = start_beat(self.processes, schedule=self.folder / "beat-schedule")
        return self.beat

    def kill_worker(self) -> None:
        """End the worker and its pool processes as ``kill -9`` does."""
        self.worker.kill()

    def restart_worker(self) -> Process:
        """Terminate the worker in an orderly way and start another."""
        self.worker.end()
        return self.start_worker()

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``manage.py`` with these arguments in the stack's environment. With ``check``, raise if it fails."""
        result = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        if check and result.returncode:
            raise RuntimeError(f"manage.py {' '.join(arguments)}: {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def logs(self) -> str:
        """Return the output of all processes so far."""
        return "".join(
            f"--- {log.name}\n{log.read_text(errors='replace')}" for log in sorted(self.folder.glob("*.log"))
        )

    def end(self) -> None:
        """End all processes."""
        self.processes.end(seconds=5)
