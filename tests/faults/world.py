"""The world of a case: a database, a broker, an SMTP server, workers, beat, and an application."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.fernet import Fernet

from config.local.certificates import Certificates, make_certificates
from config.local.processes import PATIENCE, Process, Processes
from config.local.valkey import Valkey
from config.local.workers import OF_MAIL, start_beat, start_worker
from email_integration.conf import DEFAULTS
from tests import mariadb

from . import faketime
from .crash import PLAN, Plan
from .databases import Database, Maria, Postgres, SQLite
from .following import followed
from .smtp import SMTPSink

ROOT = Path(__file__).resolve().parent.parent.parent

#: Times short enough for a test, as environment variables.
TIMES = {
    "SWEEP_INTERVAL": "0.5",
    "RETRY_FIRST": "0.1",
    "RETRY_MAX": "0.5",
    "BREAKER_PROBE_FIRST": "0.1",
    "BREAKER_PROBE_MAX": "0.5",
    "REPLY_TIMEOUT": "3",
    "LEASE": "4.5",
}


#: How many mails a process sends at the same time, unless a setting overrides it.
SESSIONS = DEFAULTS["SESSIONS"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The common properties of the cases of one world.

    Args:
        policy: the policy for mail in doubt.
        workers: the number of workers for each of ``served``.
        served: the queues that a worker serves, by default all of mail.
        watched: whether workers can be killed at an exact point, which makes them slower.
        clock: whether their clock can be set.
        hosts: each started worker is another host. With 'apart' it has its own folder of journals. With 'share' it is
            a container of the same machine, with a common folder.
        ahead: seconds by which the clock of every second worker is ahead of the others'.
        root: whether its cases mount file systems, which needs root.
        extra: added to the environment of its processes.
    """

    policy: str = "resend"
    database: str = "sqlite"
    workers: int = 1
    served: tuple[tuple[str, ...], ...] = ((),)
    concurrency: int = 2
    watched: bool = False
    clock: bool = False
    hosts: str = ""
    ahead: int = 0
    root: bool = False
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def sessions(self) -> int:
        """How many mails a process sends at the same time."""
        return int(dict(self.extra).get("SESSIONS", SESSIONS))

    @property
    def missing(self) -> str:
        """Return the requirements that this machine lacks, in words, or ''."""
        if (self.clock or self.ahead) and faketime.library() is None:
            return "libfaketime is not installed"
        if self.root and os.geteuid() != 0:
            return "only root may mount a file system"
        if self.database == "mariadb" and not mariadb.is_installed():
            return "MariaDB is not installed"
        return ""


class World:
    """Runs a setting. Leaving the context ends all its processes."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.folder = Path(tempfile.mkdtemp(prefix="mail-dispatch-faults-"))
        self.certificates: Certificates = make_certificates(self.folder / "certificates")
        self.valkey = Valkey(self.folder / "valkey")
        self.smtp = SMTPSink(self.certificates.server_context())
        databases = {"postgresql": Postgres, "mariadb": Maria}
        if setting.database in databases:
            (self.folder / setting.database).mkdir()
            self.database: Database = databases[setting.database](self.folder / setting.database)
        else:
            self.database = SQLite(self.folder)
        self.plan = Plan(self.folder / "plan.json")
        self._serving: list[tuple[Process, tuple[str, ...]]] = []
        self._started = 0
        self._key = Fernet.generate_key().decode()
        self._processes: Processes
        self.application: Application

    @property
    def sqlite(self) -> SQLite:
        """The database, which is SQLite."""
        assert isinstance(self.database, SQLite)
        return self.database

    @property
    def postgres(self) -> Postgres:
        """The database, which is PostgreSQL."""
        assert isinstance(self.database, Postgres)
        return self.database

    @property
    def payloads(self) -> Path:
        """The folder of the contents that are too large for the database."""
        return self.folder / "payloads"

    @property
    def journals(self) -> Path:
        """The folder of the journals of all workers that are not separate hosts."""
        return self.folder / "journals"

    def followed(self, tag: str) -> list[str]:
        """Return the ids of the mails whose continuation was started, one for each time."""
        return followed(self.valkey.url, tag)

    def logs(self) -> str:
        """Return the output of all processes."""
        return "".join(
            f"--- {log.name}\n{log.read_text(errors='replace')}" for log in sorted(self.folder.glob("*.log"))
        )

    # Its processes

    @property
    def workers(self) -> list[Process]:
        """All workers."""
        return [worker for worker, _ in self._serving]

    def worker_of(self, queue: str) -> Process:
        """Return the first worker that serves this queue."""
        return next(worker for worker, queues in self._serving if queue in queues)

    def start_worker(self, queues: tuple[str, ...]) -> Process:
        """Start one more worker, and wait until it consumes."""
        self._started += 1
        name = f"worker{self._started}"
        self._processes.env = self._environment() | self._of_worker(name)
        worker = start_worker(
            self._processes, name=name, concurrency=self.setting.concurrency, queues=queues or OF_MAIL
        )
        self._processes.env = self._environment()
        self._serving.append((worker, queues))
        return worker

    def _of_worker(self, name: str) -> dict[str, str]:
        """Return the additional environment of a worker."""
        env = {"FAULTS_HOST": name} if self.setting.hosts else {}
        if self.setting.hosts == "apart":
            env["JOURNAL_DIR"] = str(self.folder / f"journals-{name}")
        if self.setting.ahead and self._started % 2:
            clock = self.folder / f"clock-{name}"
            clock.write_text(f"{self.setting.ahead:+d}\n")
            env |= faketime.environment(clock)
        return env

    def set_clock(self, seconds: int) -> None:
        """Set the clock of all processes that write to the database to ``seconds`` after (or before) the real time.

        Each process notices it when it next reads its clock, within a second. Monotonic clocks do not change.
        """
        draft = self.folder / "clock.draft"
        draft.write_text(f"{seconds:+d}\n")
        draft.rename(self._clock)

    @property
    def _clock(self) -> Path:
        return self.folder / "clock"

    def start_missing_workers(self) -> None:
        """Start workers until all are running."""
        self._serving = [(worker, queues) for worker, queues in self._serving if worker.is_running]
        for served in self.setting.served:
            while sum(queues == served for _, queues in self._serving) < self.setting.workers:
                self.start_worker(served)

    def processes(self) -> list[int]:
        """Return the ids of all that write to the database: workers, pool processes, beat, the application."""
        groups = {process.pid for process in self._processes.running()} | {self.application.pid}
        return [pid for pid, group in _groups().items() if group in groups]

    def children(self) -> list[int]:
        """Return the ids of all pool processes."""
        groups = {worker.pid for worker in self.workers if worker.is_running}
        return [pid for pid, group in _groups().items() if group in groups and pid not in groups]

    def kill_process_with_port(self, port: int, victim: str) -> None:
        """Kill the pool process that has this local TCP port, or its whole worker."""
        inode = _socket_inode(port)
        groups = _groups()
        for pid in self.children():
            if _holds(pid, inode):
                if victim == "worker":
                    os.killpg(groups[pid], signal.SIGKILL)
                else:
                    os.kill(pid, signal.SIGKILL)
                return
        raise LookupError(f"no pool process uses port {port}")

    def _environment(self) -> dict[str, str]:
        return {
            **self.certificates.env,
            **TIMES,
            **(faketime.environment(self._clock) if self.setting.clock else {}),
            **dict(self.setting.extra),
            "DATABASE_URL": self.database.url,
            "DEBUG": "true",
            "DJANGO_SETTINGS_MODULE": "tests.faults.settings",
            "EMAIL_HOST": "",
            "ENV_FILE": "",
            "IN_DOUBT": self.setting.policy,
            "JOURNAL_DIR": str(self.journals),
            "LOG_LEVEL": "DEBUG",
            "PAYLOAD_DIR": str(self.payloads),
            "REDIS_URL": self.valkey.url,
            "SECRET_KEY": "only for tests",
            "SMTP_PASSWORD_KEYS": self._key,
            "VAR_DIR": str(self.folder / "var"),
            PLAN: str(self.folder / "plan.json") if self.setting.watched else "",
        }

    def start(self) -> None:
        """Start all services and processes."""
        self.smtp.start()  # first, because its port is not reserved
        self.database.start()
        self.valkey.start()
        self.set_clock(0)
        self._processes = Processes(self.folder, env=self._environment(), cwd=ROOT)
        self.application = Application(self._environment(), self.folder / "application.log")
        self.application.call(
            do="activate",
            name="Primary Mail Server",
            host="localhost",
            port=self.smtp.port,
            username=self.smtp.user,
            password=self.smtp.password,
            use_tls=True,
            from_email="Hanna <noreply@example.com>",
            timeout=2,
        )
        self.start_missing_workers()
        start_beat(self._processes, schedule=self.folder / "beat-schedule")

    def end(self) -> None:
        """End all processes, and remove all files."""
        self.valkey.thaw()
        if hasattr(self, "application"):
            self.application.end()
        if hasattr(self, "_processes"):
            self._processes.end(seconds=5)
        self.smtp.stop()
        self.valkey.stop()
        self.database.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            print(self.logs())
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Worlds:
    """Provides a world of a setting, and replaces it after a case has left something behind in it."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._world: World | None = None

    def current(self) -> World:
        """Return the current world, and start one if there is none."""
        if self._world is None:
            self._world = World(self._setting).__enter__()
        return self._world

    def leave(self) -> None:
        """End the world. The next case gets another."""
        if self._world is not None:
            self._world.end()
            self._world = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


class Application:
    """The process that submits; see ``tests.faults.submitter``."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        """Start it, and wait until the database is set up."""
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.submitter"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**os.environ, **env},
                cwd=ROOT,
                text=True,
                start_new_session=True,
            )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._answer(seconds=PATIENCE)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self._popen.pid

    def call(self, *, seconds: float = 120, **command: Any) -> dict[str, Any]:
        """Execute a command and return its answer. Raises if the process ends or takes longer than ``seconds``."""
        self.begin(**command)
        return self._answer(seconds=seconds)

    def begin(self, **command: Any) -> None:
        """Begin a command; ``finish`` returns the answer."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(command) + "\n")
        self._popen.stdin.flush()

    def finish(self, *, seconds: float = 120) -> dict[str, Any]:
        """Return the answer to the begun command."""
        return self._answer(seconds=seconds)

    def end(self) -> None:
        """End it."""
        self._popen.kill()
        self._popen.communicate()

    def _listen(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _answer(self, *, seconds: float) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"the application has not answered within {seconds:g} seconds") from None
        if not line:
            raise RuntimeError("the application has ended")
        return dict(json.loads(line))


# The kernel's data on processes and sockets.


def _groups() -> dict[int, int]:
    """Return the process group of every running process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except (OSError, ValueError):
                continue  # it has ended meanwhile
            if state != "Z":
                found[int(entry.name)] = int(group)
    return found


def _socket_inode(port: int) -> str:
    """Return the inode of the socket with this local port."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[9] != "0":
            return fields[9]
    raise LookupError(f"no socket has port {port}")


def _holds(pid: int, inode: str) -> bool:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if re.fullmatch(rf"socket:\[{inode}\]", str(descriptor.readlink())):
                return True
        except OSError:
            continue  # closed meanwhile
    return False
