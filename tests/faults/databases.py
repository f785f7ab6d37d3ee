"""The databases of a world, and a way to count their rows that is independent of the tested code."""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pymysql

from config.local.processes import LOOPBACK, PATIENCE
from tests.mariadb import DATABASE, MariaDB
from tests.postgresql import PostgreSQL


@dataclass(frozen=True, kw_only=True)
class Row:
    """The stored state of a delivery. ``doubts`` is how often it was recorded in doubt."""

    message_id: str
    status: str
    continued: bool
    doubts: int


class Database(Protocol):
    """The database of a world."""

    @property
    def url(self) -> str:
        """The URL for the stack's processes."""

    def start(self) -> None:
        """Start it."""

    def stop(self) -> None:
        """End it for good."""

    def away(self) -> contextlib.AbstractContextManager[None]:
        """Prevent all writes to it while the block runs."""

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement on a separate connection, and return its rows."""


class SQLite:
    """A file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "db.sqlite3"
        self.url = f"sqlite:///{self.file}"

    def start(self) -> None:
        """Do nothing: the first connection creates the file."""

    def stop(self) -> None:
        """Do nothing."""

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.file, timeout=30)) as connection:
            return connection.execute(sql).fetchall()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock out all other writers."""
        with contextlib.closing(sqlite3.connect(self.file, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    away = locked

    @property
    def is_locked(self) -> bool:
        """Return whether another connection locks out all writers."""
        with contextlib.closing(sqlite3.connect(self.file, timeout=1, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            connection.execute("ROLLBACK")
        return False


class Postgres(PostgreSQL):
    """A server, with its possible failures."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._was_restarted = False

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def connect(self) -> psycopg.Connection[Any]:
        """Return a separate connection, which may write even if others may not."""
        return psycopg.connect(
            self.url, autocommit=True, connect_timeout=10, options="-c default_transaction_read_only=off"
        )

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Refuse all other writes while the block runs."""
        self._configure("default_transaction_read_only = on")
        try:
            yield
        finally:
            self._configure("default_transaction_read_only = off")

    def log(self) -> str:
        """Return the server's log."""
        return (self._data / "log").read_text(errors="replace")

    def _configure(self, setting: str) -> None:
        self.query(f"ALTER SYSTEM SET {setting}")
        self.query("SELECT pg_reload_conf()")

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Crash, and be unreachable while the block runs."""
        self._was_restarted = True
        # Its socket is named only on its command line: the program, '-D', the folder, and these options.
        options = shlex.split((self._data / "postmaster.opts").read_text())[3:]
        self._control("stop", "--mode", "immediate")
        try:
            yield
        finally:
            self._control("start", "--log", str(self._data / "log"), "--options", shlex.join(options))

    def restart(self, mode: str) -> None:
        """Restart as ``pg_ctl`` does: ``fast`` ends the sessions, ``immediate`` is a crash and a recovery."""
        self._was_restarted = True
        self._control("restart", "--mode", mode, "--log", str(self._data / "log"))

    def stop(self) -> None:
        if self._was_restarted:
            # After a restart, the normal way no longer finds the server.
            self._control("stop", "--mode", "fast")
        super().stop()

    def _control(self, *arguments: str) -> None:
        subprocess.run(
            [self._server.bin_path / "pg_ctl", "--pgdata", self._data, "--wait", *arguments],
            user=self._server.system_user,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )


class Maria(MariaDB):
    """A server, with its possible failures."""

    flush = 2

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def connect(self) -> pymysql.Connection[Any]:
        """Return a separate connection."""
        return pymysql.connect(
            host=LOOPBACK, port=self.port, user="root", database=DATABASE, autocommit=True, read_timeout=int(PATIENCE)
        )

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Crash, and be unreachable while the block runs."""
        self.kill()
        try:
            yield
        finally:
            self.run()


class CannotCount(Exception):
    """The database does not answer at this moment."""


def rows(database: Database, ids: Sequence[str]) -> dict[str, Row]:
    """Return the deliveries of these ids; missing ones are left out. Raises ``CannotCount``."""
    wanted = set(ids)
    try:
        deliveries = database.query("SELECT id, message_id, status, continue_after FROM email_integration_delivery")
        doubts = database.query(
            "SELECT delivery_id, count(*) FROM email_integration_deliveryattempt"
            " WHERE outcome = 'in_doubt' GROUP BY delivery_id"
        )
    except (psycopg.Error, sqlite3.Error, pymysql.Error, OSError, subprocess.SubprocessError) as error:
        raise CannotCount(str(error)) from error
    times = {str(delivery_id): int(count) for delivery_id, count in doubts}
    return {
        pk: Row(message_id=message_id, status=status, continued=continue_after is None, doubts=times.get(pk, 0))
        for pk, message_id, status, continue_after in deliveries
        if pk in wanted
    }
