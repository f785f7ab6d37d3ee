"""A PgBouncer for the tests before a PostgreSQL server, from Debian's package."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from config.local.processes import LOOPBACK, Process, free_port, wait_until

#: Debian's path, whose folder is not on every user's PATH.
_SERVER = Path("/usr/sbin/pgbouncer")


class PgBouncer:
    """A pooler on loopback that keeps its files in ``folder``, in mode ``transaction`` or ``session``.

    ``url`` is that of a database whose server is reached through a socket.
    """

    def __init__(self, folder: Path, url: str, *, mode: str) -> None:
        self._folder, self._behind, self._mode = folder, urlsplit(url), mode
        self._port = free_port()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The URL of the same database through the pooler."""
        return f"postgresql://postgres:@{LOOPBACK}:{self._port}{self._behind.path}"

    def start(self) -> None:
        """Start, and wait until it listens."""
        if not _SERVER.exists():
            raise FileNotFoundError(f"{_SERVER} is not installed; see tests/debian-packages.txt")
        [directory] = parse_qs(self._behind.query)["host"]
        (self._folder / "users.txt").write_text('"postgres" ""\n')
        (self._folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={directory}\n"
            "[pgbouncer]\n"
            f"listen_addr = {LOOPBACK}\nlisten_port = {self._port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {self._folder / 'users.txt'}\n"
            f"pool_mode = {self._mode}\n"
        )
        command: list[str | Path] = [_SERVER]
        if os.getuid() == 0:  # it refuses to run as root; the server's socket is only for its user
            owner = os.stat(directory).st_uid
            command += ["--user", pwd.getpwuid(owner).pw_name]
            os.chown(self._folder, owner, -1)
        command.append(self._folder / "pgbouncer.ini")
        self._process = Process("pgbouncer", command, log=self._folder / "pgbouncer.log")
        wait_until(self._listens, what="PgBouncer")

    def end(self) -> None:
        """End it. Does nothing if it is not running."""
        if self._process is not None:
            self._process.kill()

    def _listens(self) -> bool:
        assert self._process is not None
        if not self._process.is_running:
            raise RuntimeError(f"PgBouncer ended:\n{self._process.read_log()[-4000:]}")
        try:
            with socket.create_connection((LOOPBACK, self._port), timeout=5):
                return True
        except OSError:
            return False
