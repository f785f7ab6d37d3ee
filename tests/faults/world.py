"""A world for cases to happen in: a database, a broker, an SMTP server, workers, beat, and an application."""

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

#: Times short enough to wait for, in the environment's spelling.
TIMES = {
    "SWEEP_INTERVAL": "0.5",
    "RETRY_FIRST": "0.1",
    "RETRY_MAX": "0.5",
    "BREAKER_PROBE_FIRST": "0.1",
    "BREAKER_PROBE_MAX": "0.5",
    "REPLY_TIMEOUT": "3",
    "LEASE": "4.5",
}


#: How many mails a process sends at a time, unless a setting says otherwise.
SESSIONS = DEFAULTS["SESSIONS"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the cases of one world have in common.

    ``policy`` decides about mail in doubt. Of ``workers`` there are so many for each of ``served``, the queues that a
    worker serves, by default all of mail. ``watched``: they can be made to die at an exact point, for which they run
    slower. ``clock``: their clock can be set. ``hosts``: each worker that is started is another host, 'apart' with a
    folder of journals of its own, or a container of the same machine that 'share' one. ``ahead``: so many seconds is
    the clock of every second worker ahead of the others'. ``root``: its cases mount file systems. ``extra`` is added to
    the environment of its processes.
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
        """How many mails a process sends at a time."""
        return int(dict(self.extra).get("SESSIONS", SESSIONS))

    @property
    def missing(self) -> str:
        """What this machine lacks for it, in words; '' for nothing."""
        if (self.clock or self.ahead) and faketime.library() is None:
            return "libfaketime is not installed"
        if self.root and os.geteuid() != 0:
            return "only root may mount a file system"
        if self.database == "mariadb" and not mariadb.is_installed():
            return "MariaDB is not installed"
        return ""


class World:
    """Runs a setting; leaving the context ends everything."""

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
        """The folder of the journals of all workers that are no hosts of their own."""
        return self.folder / "journals"

    def followed(self, tag: str) -> list[str]:
        """The ids of the mails whose continuation was set going, one for each time."""
        return followed(self.valkey.url, tag)

    def logs(self) -> str:
        """What all the processes have written."""
        return "".join(
            f"--- {log.name}\n{log.read_text(errors='replace')}" for log in sorted(self.folder.glob("*.log"))
        )

    # Its processes

    @property
    def workers(self) -> list[Process]:
        """All of them."""
        return [worker for worker, _ in self._serving]

    def worker_of(self, queue: str) -> Process:
        """The first that serves this queue."""
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
        """What the environment of a worker has besides."""
        env = {"FAULTS_HOST": name} if self.setting.hosts else {}
        if self.setting.hosts == "apart":
            env["JOURNAL_DIR"] = str(self.folder / f"journals-{name}")
        if self.setting.ahead and self._started % 2:
            clock = self.folder / f"clock-{name}"
            clock.write_text(f"{self.setting.ahead:+d}\n")
            env |= faketime.environment(clock)
        return env

    def set_clock(self, seconds: int) -> None:
        """Set the clock of all that write to the database so far on, or back, from the real one.

        Each process sees it when it next looks, within a second. What a process measures with goes on as ever.
        """
        draft = self.folder / "clock.draft"
        draft.write_text(f"{seconds:+d}\n")
        draft.rename(self._clock)

    @property
    def _clock(self) -> Path:
        return self.folder / "clock"

    def start_missing_workers(self) -> None:
        """Start workers until there are as many as there should be."""
        self._serving = [(worker, queues) for worker, queues in self._serving if worker.is_running]
        for served in self.setting.served:
            while sum(queues == served for _, queues in self._serving) < self.setting.workers:
                self.start_worker(served)

    def processes(self) -> list[int]:
        """The ids of all that write to the database: workers, their pool processes, beat, the application."""
        groups = {process.pid for process in self._processes.running()} | {self.application.pid}
        return [pid for pid, group in _groups().items() if group in groups]

    def children(self) -> list[int]:
        """The ids of all pool processes."""
        groups = {worker.pid for worker in self.workers if worker.is_running}
        return [pid for pid, group in _groups().items() if group in groups and pid not in groups]

    def kill_whoever_talks_from(self, port: int, victim: str) -> None:
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
        raise LookupError(f"no pool process talks from port {port}")

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
        """Start everything."""
        self.smtp.start()  # at once: nothing keeps its port for it
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
        """End everything, and leave nothing."""
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
    """A world of a setting for as long as nothing was left behind in it, and then another."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._world: World | None = None

    def current(self) -> World:
        """The world there is, started when there is none."""
        if self._world is None:
            self._world = World(self._setting).__enter__()
        return self._world

    def leave(self) -> None:
        """End it: the next case gets another."""
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
        """The process id, which is the id of its group too."""
        return self._popen.pid

    def call(self, *, seconds: float = 120, **command: Any) -> dict[str, Any]:
        """Have it do something, and give its answer; raises when it ends or takes longer than ``seconds``."""
        self.begin(**command)
        return self._answer(seconds=seconds)

    def begin(self, **command: Any) -> None:
        """Have it begin with something; ``finish`` gives the answer."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(command) + "\n")
        self._popen.stdin.flush()

    def finish(self, *, seconds: float = 120) -> dict[str, Any]:
        """Give the answer to what was begun."""
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


# What the kernel knows of processes and sockets.


def _groups() -> dict[int, int]:
    """The process group of every process that is not dead."""
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
    """The inode of the socket that talks from a local port."""
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
