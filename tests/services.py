"""The services of a test run: one Valkey, one database, one certificate authority.

TEST_DATABASE selects the database: ``sqlite``, the default, ``postgresql`` or ``mariadb``. Valkey is the cache, and the
broker too unless TEST_BROKER is ``rabbitmq``. If a service cannot be started, the tests that need it are skipped, or
the run fails if CI is set.
"""

from __future__ import annotations

import argparse
import atexit
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography.fernet import Fernet

from config.local.certificates import Certificates, make_certificates
from config.local.valkey import Valkey
from tests.mariadb import MariaDB
from tests.postgresql import PostgreSQL
from tests.rabbitmq import RabbitMQ

T = TypeVar("T")

DATABASES = ("sqlite", "postgresql", "mariadb")
BROKERS = ("valkey", "rabbitmq")

#: Bytes: several times the space that a million rows and the largest contents need.
_ROOM = 4 * 1024**3

folder: Path
certificates: Certificates
valkey: Valkey
broker: Valkey | RabbitMQ
database: str

#: The services that could not be started, and the reasons.
missing: dict[str, str] = {}


def only_hands_out_tests() -> bool:
    """Return whether this is the controller process of pytest-xdist, which runs no tests.

    It reads the command line, because pytest has not parsed its options yet when Django reads its settings.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-n", "--numprocesses", default="0")
    arguments = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *sys.argv[1:]]
    return parser.parse_known_args(arguments)[0].numprocesses != "0" and "PYTEST_XDIST_WORKER" not in os.environ


def start() -> None:
    """Start the services of the tests and name them in the environment, for the settings and for child processes."""
    global folder, certificates, valkey, broker, database
    database = os.environ.get("TEST_DATABASE") or "sqlite"
    if database not in DATABASES:
        raise pytest.UsageError(f"TEST_DATABASE must be one of {', '.join(DATABASES)}, not {database!r}")
    kind = os.environ.get("TEST_BROKER") or "valkey"
    if kind not in BROKERS:
        raise pytest.UsageError(f"TEST_BROKER must be one of {', '.join(BROKERS)}, not {kind!r}")
    # A normal end stops the servers: SIGTERM is handled like Ctrl-C, and both run atexit.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = temporary_folder(_memory())
    for name in list(os.environ):
        if name.startswith(("EMAIL_", "CELERY_", "DJANGO_")) or name in ("DEFAULT_FROM_EMAIL", "ADMINS"):
            del os.environ[name]

    certificates = make_certificates(folder / "certificates")
    valkey = Valkey(folder / "valkey")
    atexit.register(valkey.stop)
    _start("valkey", valkey.start)
    broker = valkey
    if kind == "rabbitmq":
        broker = RabbitMQ(temporary_folder())
        atexit.register(broker.end)
        _start(kind, broker.start)
    if database == "sqlite":
        url = f"sqlite:///{folder / 'db.sqlite3'}"
    else:
        server = PostgreSQL(temporary_folder()) if database == "postgresql" else MariaDB(temporary_folder())
        atexit.register(server.stop)
        _start(database, server.start)
        url = server.url if database not in missing else "postgresql://127.0.0.1:1/nowhere"
    os.environ.update(
        certificates.env,
        BROKER_URL="" if broker is valkey else broker.url,
        DATABASE_URL=url,
        DEBUG="true",
        DJANGO_SETTINGS_MODULE="tests.settings",
        ENV_FILE="",
        REDIS_URL=valkey.url,
        SECRET_KEY="only for tests",
        SMTP_PASSWORD_KEYS=Fernet.generate_key().decode(),
        VAR_DIR=str(folder / "var"),
    )


def need(name: str) -> None:
    """Skip the test if this service could not be started."""
    if name in missing:
        pytest.skip(f"{name}: {missing[name]}")


def need_broker() -> None:
    """Skip the test if the broker or the cache could not be started; otherwise empty both."""
    for name in BROKERS:
        need(name)
    valkey.flush()
    broker.flush()


def _memory() -> Path | None:
    """Return a folder in memory, if there is one with enough space.

    SQLite waits for the disk at each commit, which is a third of a test's time. These data need not survive a power
    failure. For PostgreSQL and MariaDB this wait is turned off.
    """
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM
    return memory if has_room else None


def temporary_folder(parent: Path | None = None) -> Path:
    """Create a folder, in ``parent`` if given, that is removed when this process ends."""
    made = Path(tempfile.mkdtemp(prefix="mail-dispatch-tests-", dir=parent))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _start(name: str, start: Callable[[], None]) -> None:
    try:
        start()
    except Exception as error:
        if os.environ.get("CI"):
            raise
        missing[name] = f"{type(error).__name__}: {error}"
        print(f"{name} could not be started: {missing[name]}", file=sys.stderr)
