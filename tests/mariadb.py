"""A MariaDB server for the tests, from Debian's packages."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from pathlib import Path

from config.local.processes import LOOPBACK, Process, free_port, wait_until

DATABASE = "mail_dispatch"

#: Debian's folders for the server, which are not on every user's PATH.
_PATH = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"


class MariaDB:
    """A server on loopback that keeps its data in ``folder``, as root or not."""

    #: The durability of a commit: with 0 it can be lost if the server dies; with 2 only by a power failure.
    flush = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self.port = free_port()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The URL of the database."""
        return f"mysql://root@{LOOPBACK}:{self.port}/{DATABASE}"

    def start(self) -> None:
        """Create the data directory and the database, and wait until the server answers."""
        subprocess.run(
            [
                _program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={self._data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
                _user(),
            ],
            check=True,
            capture_output=True,
        )
        self.run()

    def run(self) -> None:
        """Start the server with the existing data, and wait until it answers."""
        self._process = Process(
            "mariadb",
            [
                _program("mariadbd"),
                "--no-defaults",
                f"--datadir={self._data}",
                f"--socket={self._folder / 'socket'}",
                f"--bind-address={LOOPBACK}",
                f"--port={self.port}",
                "--skip-name-resolve",
                "--character-set-server=utf8mb4",
                # A mail is one packet, and is larger than its size after escaping. The default is 16 MB.
                "--max-allowed-packet=64M",
                f"--innodb-flush-log-at-trx-commit={self.flush}",
                _user(),
            ],
            log=self._folder / "mariadb.log",
        )
        wait_until(self._answers, what=f"MariaDB on port {self.port}")

    def kill(self) -> None:
        """End it as ``kill -9`` does; ``run`` starts it again."""
        assert self._process is not None
        self._process.kill()

    def stop(self) -> None:
        """End it. Does nothing if it is not running."""
        if self._process is not None:
            self._process.end()

    def _answers(self) -> bool:
        import pymysql

        if self._process is not None and not self._process.is_running:
            raise RuntimeError(f"MariaDB ended:\n{self._process.read_log()[-2000:]}")
        try:
            with pymysql.connect(host=LOOPBACK, port=self.port, user="root", autocommit=True) as connection:
                connection.cursor().execute(f"CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4")
        except pymysql.OperationalError:
            return False
        return True


def _user() -> str:
    """Return the user of the server, which accepts root only if it is named."""
    return f"--user={getpass.getuser()}"


def is_installed() -> bool:
    """Return whether the server is installed."""
    return shutil.which("mariadbd", path=_PATH) is not None


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=_PATH)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed; see tests/debian-packages.txt")
    return found
