"""The processes of a contender, a submitter and workers, and one measured round."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from bench import measure
from bench.contenders import Contender
from bench.environments import ROOT, program
from bench.services import Front, Services, alike
from config.local.processes import Process, wait_until

_PROJECTS = Path(__file__).resolve().parent / "contenders"
_NOW = "SELECT clock_timestamp()"
#: Valkey's number of databases, which limits the contenders with a broker, and the free ones.
DATABASES = 16
_free_databases = list(range(DATABASES))


@dataclass(frozen=True, kw_only=True)
class Round:
    """The result of one round.

    CPU is in seconds, by the part that used it. ``recorded`` is the time until the last recorded outcome.
    """

    mails: int
    seconds: float
    recorded: float
    cpu: dict[str, float]
    arrived: int
    duplicates: int
    round_trips: float
    sessions: int
    commands: float
    memory: int
    #: The greatest number of sessions that sent mail at the same time.
    at_once: int

    @property
    def rate(self) -> float:
        """Mails a second."""
        return self.mails / self.seconds


class Driver:
    """A process in the contender's environment that calls its functions. Each call and each answer is a line."""

    def __init__(self, contender: Contender, *, env: dict[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [program(contender.environment), str(_PROJECTS / "driver.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **env},
                cwd=ROOT,
                text=True,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._log = log

    def call(self, name: str, *arguments: object) -> Any:
        self.begin(name, *arguments)
        return self.finish()

    def begin(self, name: str, *arguments: object) -> None:
        assert self._process.stdin is not None
        print(json.dumps([name, *arguments]), file=self._process.stdin, flush=True)

    def finish(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The driver ended:\n{self._log.read_text(errors='replace')[-3000:]}")
        return json.loads(line)

    def kill(self) -> None:
        """Kill the process with all its children."""
        os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=3)
        # Its children too: the group keeps its id while one of them is running.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class Running:
    """A contender with its submitter and its workers. They are frozen except in their turn."""

    def __init__(
        self,
        contender: Contender,
        services: Services,
        front: Front,
        *,
        concurrency: int = 0,
        queues: Sequence[str] = (),
        **env: str,
    ) -> None:
        """Prepare the processes of a contender.

        Args:
            queues: the queues of each worker; by default one worker serves all.
            concurrency: the number of processes of each worker, by default the contender's.
        """
        self.contender, self.services, self.front = contender, services, front
        self.database = f"bench_{contender.project}_{contender.name}"
        self._broker_database: int | None = None
        if contender.works == "celery":
            self._broker_database = _free_databases.pop(0)
            # Remove the data of the contender that used it before.
            services.ask_broker(f"SELECT {self._broker_database}", "FLUSHDB")
        folder = services.folder / "contenders" / f"{contender.name} {front.name}"
        folder.mkdir(parents=True, exist_ok=True)
        self.marks = folder / "marks"
        self.folder = folder
        services.postgresql.create(self.database)
        broker = services.valkey.url.removesuffix("/0") + f"/{self._broker_database or 0}"
        self.env = {
            **services.certificates.env,
            **front.env,
            "PYTHONPATH": os.pathsep.join(map(str, (_PROJECTS, ROOT / "worker", ROOT))),
            "DJANGO_SETTINGS_MODULE": f"{contender.project}.settings",
            "BENCH_PROJECT": contender.project,
            "BENCH_POSTGRESQL": services.postgresql.host,
            "BENCH_DATABASE": self.database,
            "BENCH_BROKER": broker,
            "BENCH_MARKS": str(self.marks),
            # Read by config/settings.py.
            "DATABASE_URL": services.postgresql.url(self.database),
            "REDIS_URL": broker,
            "ENV_FILE": "",
            "SECRET_KEY": "only for the benchmark",
            "SMTP_PASSWORD_KEYS": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            "VAR_DIR": str(folder / "var"),
            **contender.env,
            **env,
        }
        self.driver = self.new_driver()
        self.workers: list[Process] = []
        self._flusher: Driver | None = None
        self._concurrency = concurrency or contender.processes
        self._starts = 0
        self._queues = queues or (contender.queues,)
        self._connection: psycopg.Connection[Any] | None = None
        self.driver.begin("migrate")

    def start(self) -> None:
        """Start the workers. ``wait()`` waits until everything is ready, so that several can start at the same time."""
        self.driver.finish()
        self._start_workers()

    def kill(self) -> None:
        """Kill the workers during their work, and start them again."""
        for process in self.workers:
            process.send_signal_to_group(signal.SIGKILL)
        self.workers.clear()
        if self._flusher is not None:
            self._flusher.kill()
            self._flusher.end()
        self._start_workers()

    def _start_workers(self) -> None:
        self._starts += 1
        name = f"{self.contender.name} {self.front.name} {self._starts}"
        if self.contender.works == "command":
            self._flusher = self.new_driver()
        elif self.contender.works == "celery":
            celery = [program(self.contender.environment), "-m", "celery", "-A", self.contender.app]
            options = ["--pool", "prefork", "--concurrency", str(self._concurrency)]
            options += ["--without-mingle", "--without-gossip", "--loglevel", "INFO"]
            start = self.services.processes.start
            for number, queues in enumerate(self._queues, 1):
                command = [*celery, "worker", *options, "--queues", queues, "--hostname", f"bench{number}@%h"]
                self.workers.append(start(f"{name} worker {number}", command, env=self.env))
            if self.contender.beat:
                schedule = ["--schedule", str(self.folder / "schedule"), "--pidfile", "", "--loglevel", "INFO"]
                self.workers.append(start(f"{name} beat", [*celery, "beat", *schedule], env=self.env))

    def new_driver(self) -> Driver:
        """Return a process that calls the contender's functions. The caller ends it."""
        log = self.services.folder / "logs" / f"{self.contender.name} {self.front.name} driver.log"
        return Driver(self.contender, env=self.env, log=log)

    def wait(self) -> None:
        """Wait until the workers consume."""
        for process in self.workers:
            process.wait_for_log("beat: Starting" if process.name.endswith("beat") else " ready.", seconds=60)

    def end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self.thaw()
        for process in self.workers:
            process.end(seconds=5)
        self.driver.end()
        if self._flusher is not None:
            self._flusher.end()
        if self._broker_database is not None:
            _free_databases.append(self._broker_database)
            self._broker_database = None

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    # -- taking turns -------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop all processes, so that they use no CPU while others are measured."""
        for process in self.workers:
            process.send_signal_to_group(signal.SIGSTOP)

    def thaw(self) -> None:
        for process in self.workers:
            process.send_signal_to_group(signal.SIGCONT)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        self.thaw()
        try:
            yield
        finally:
            self.freeze()

    # -- measuring ----------------------------------------------------------------------------------------------

    @property
    def queues(self) -> list[str]:
        """All consumed queues."""
        return self.contender.queues.split(",")

    @property
    def worker_pids(self) -> list[int]:
        return [process.pid for process in self.workers] + ([self._flusher.pid] if self._flusher else [])

    def round(self, mails: int, *, together: int = 0, seconds: float = 300) -> Round:
        """Submit ``mails`` mails, and wait at most ``seconds`` until all have arrived and all outcomes are recorded."""
        sink = self.services.sink
        since = self.now()
        sink.ask("reset")
        self.marks.unlink(missing_ok=True)
        commands, before = self._commands(), self._cpu()
        submitted = self.driver.call("submit", mails, together)
        if self.contender.works == "command":
            self.flush()
        wait_until(lambda: self._arrived() >= mails, seconds=seconds, what=f"{mails} mails of {self.contender.name}")
        if self.contender.marks:
            took = self.marks.stat().st_mtime - submitted["wall"]
        else:
            took = sink.ask()["last"] - submitted["started"]
        recorded = took
        if self.contender.outcomes and self.outcomes(since) < mails:
            wait_until(
                lambda: self.outcomes(since) >= mails,
                seconds=60,
                what=f"{mails} outcomes of {self.contender.name}",
            )
            recorded = time.monotonic() - submitted["started"]
        after = self._cpu()
        report = sink.ask()
        cpu = {part: after[part] - before[part] for part in before} | {"caller": submitted["cpu"]}
        if self.contender.works == "itself":
            cpu["worker"] = 0.0
        return Round(
            mails=mails,
            seconds=took,
            recorded=recorded,
            cpu=cpu,
            arrived=self._arrived(),
            duplicates=report["messages"] - report["distinct"],
            round_trips=report["round_trips"] / mails,
            sessions=report["sessions"],
            commands=(self._commands() - commands) / mails,
            memory=measure.memory(self.worker_pids),
            at_once=report["at_once"],
        )

    def flush(self) -> None:
        """Run the command that sends queued mail."""
        self.begin_to_flush()
        self.finish_flushing()

    def begin_to_flush(self) -> None:
        assert self._flusher is not None
        self._flusher.begin("flush")

    def finish_flushing(self) -> None:
        assert self._flusher is not None
        self._flusher.finish()

    def statements(self, mails: int, *, together: int = 0) -> Counter[str]:
        """Return the SQL statements of ``mails`` mails, counted in a run that is not timed."""
        with self.services.postgresql.statements(self.database) as counted:
            self.round(mails, together=together)
        not_theirs = {alike(self.contender.outcomes.format(since="?")), _NOW}
        return Counter({text: number for text, number in counted.items() if text not in not_theirs})

    def now(self) -> str:
        """Return the database's current time."""
        return f"'{self.query(_NOW)[0][0]}'"

    def outcomes(self, since: str) -> int:
        """Return how many outcomes are recorded since then. An index makes this independent of the older ones."""
        return int(self.query(self.contender.outcomes.format(since=since))[0][0])

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = self.services.postgresql.connect(self.database)
        cursor = self._connection.execute(sql)
        return cursor.fetchall() if cursor.description else []

    def ask_broker(self, command: str) -> bytes:
        """Return the answer of Valkey to a command about this contender's own database."""
        return self.services.ask_broker(f"SELECT {self._broker_database}", command)

    def _arrived(self) -> int:
        if self.contender.marks:
            return self.marks.stat().st_size if self.marks.exists() else 0
        return int(self.services.sink.ask()["messages"])

    def _cpu(self) -> dict[str, float]:
        return {
            "worker": measure.cpu(self.worker_pids),
            "database": measure.cpu([self.services.postgresql.pid]),
            "broker": measure.cpu([int(self.services.broker("process_id"))]),
            "sink": measure.cpu([self.services.sink_pid]),
        }

    def _commands(self) -> int:
        """Return how many commands Valkey has executed so far."""
        return int(self.services.broker("total_commands_processed"))
