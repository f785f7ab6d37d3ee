"""Read the addresses of the services: database, broker, cache. Their URLs may contain passwords and are not shown."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from kombu import Exchange, Queue

from config import env
from config.env import WrongValue


def redis_url(name: str, default: str) -> str:
    """Read the URL of a Redis or Valkey server. It may contain a password and is not shown."""
    value = env.text(name, default)
    if not _is_redis(value):
        raise WrongValue(name, "must look like redis://127.0.0.1:6379/0, or rediss:// for TLS")
    return value


def broker_url(name: str, default: str) -> str:
    """Read the URL of Celery's broker: RabbitMQ, or a URL for ``redis_url``. It may contain a password too."""
    value = env.text(name, default)
    if not _is_redis(value) and not _is_url(value, RABBITMQ_SCHEMES):
        raise WrongValue(
            name, "must look like amqp://user:password@host:5672//, amqps:// for TLS, or redis://127.0.0.1:6379/0"
        )
    return value


def broker_options(url: str) -> dict[str, Any]:
    """Return the options of the broker's transport."""
    return RABBITMQ_OPTIONS if urlsplit(url).scheme in RABBITMQ_SCHEMES else REDIS_OPTIONS


def queues(integration: Mapping[str, Any]) -> list[Queue]:
    """Return the queues of mail, of the sweep, and Celery's default queue, for tasks that are called by name.

    ``integration`` is EMAIL_INTEGRATION. An empty name in it means the default queue.
    """
    names = [integration[key] for key in ("HIGH_QUEUE", "QUEUE", "BULK_QUEUE", "SWEEP_QUEUE")]
    return [Queue(name, Exchange(name), routing_key=name) for name in dict.fromkeys([*filter(None, names), "celery"])]


def _is_redis(value: str) -> bool:
    if not _is_url(value, {"redis", "rediss"}):
        return False
    database = urlsplit(value).path.removeprefix("/")
    return not database or database.isdigit()


def _is_url(value: str, schemes: Collection[str]) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


RABBITMQ_SCHEMES = frozenset({"amqp", "amqps", "pyamqp"})

#: Each wait for the broker has a limit, unlike kombu's defaults. Opening a connection to publish is tried once; kombu
#: would retry for six more seconds, even with retry=False.
REDIS_OPTIONS: dict[str, Any] = {
    "max_retries": 0,
    "socket_connect_timeout": 1,
    # Longer than the second that a BRPOP takes if there is no message: a channel that closes reads its reply blocking.
    "socket_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 10,
    # A message is removed once it is fetched. If a worker is killed, the sweep wakes another worker for its mail, long
    # before the broker would redeliver. This saves two transactions for each message.
    "ack_emulation": False,
}
RABBITMQ_OPTIONS: dict[str, Any] = {
    "max_retries": 0,
    "read_timeout": 2,
    "write_timeout": 2,
    # A message counts as published when the server confirms it. Otherwise a lost message would not be noticed.
    "confirm_publish": True,
}


#: The statements that every mail needs are planned once per connection and not each time. Behind a pooler that lends
#: connections for a transaction and knows no prepared statements, add '?prepare_threshold=1000000000' to the URL.
#:
#: A silent connection (a host without power, a firewall that forgets) is closed after 25 s: by keepalives while a reply
#: is awaited, by ``tcp_user_timeout`` (milliseconds) while sent data is not acknowledged. The kernel's defaults are two
#: hours and a quarter of an hour. 25 s is well within LEASE.
POSTGRESQL_OPTIONS: dict[str, Any] = {
    "prepare_threshold": 5,
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}

#: The MySQL drivers limit only the time of a whole statement, so this limit (in seconds) leaves time for a migration.
MYSQL_OPTIONS: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 300, "write_timeout": 300}

#: Several processes write to one SQLite file: readers do not block the writer (WAL). A transaction takes the write lock
#: when it begins, instead of failing half way (IMMEDIATE), and waits for it.
SQLITE_OPTIONS: dict[str, Any] = {
    "init_command": "PRAGMA journal_mode=WAL;",
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
}


def database(name: str, default: str) -> dict[str, Any]:
    """Read a database URL into an entry of DATABASES. It may contain a password and is not shown."""
    try:
        value: dict[str, Any] = {**dj_database_url.parse(env.text(name, default))}
        if not value.get("NAME"):
            raise ValueError("the URL names no database")
    except (ValueError, KeyError):
        raise WrongValue(
            name,
            "must look like sqlite:////var/lib/mail/db.sqlite3, postgres://user:password@host:5432/database or "
            "mysql://user:password@host:3306/database",
        ) from None
    if value["ENGINE"] == "django.db.backends.mysql":
        _find_mysql_driver(name)
        value["OPTIONS"] = {**MYSQL_OPTIONS, **value.get("OPTIONS", {})}
    if value["ENGINE"] == "django.db.backends.postgresql":
        # Separate from the URL, so that only the password needs to be a secret, and may contain any characters.
        value["PASSWORD"] = value.get("PASSWORD") or env.raw("POSTGRES_PASSWORD")
        value["OPTIONS"] = {**POSTGRESQL_OPTIONS, **value.get("OPTIONS", {})}
    if value["ENGINE"] == "django.db.backends.sqlite3":
        value["OPTIONS"] = {**SQLITE_OPTIONS, **value.get("OPTIONS", {})}
    return value


def _find_mysql_driver(name: str) -> None:
    """Use PyMySQL, which is pure Python, in place of mysqlclient if that is not installed."""
    if importlib.util.find_spec("MySQLdb") is not None:
        return
    try:
        import pymysql
    except ImportError:
        raise WrongValue(
            name, "names MySQL or MariaDB, but no driver is installed; install mysqlclient or PyMySQL"
        ) from None
    pymysql.install_as_MySQLdb()
