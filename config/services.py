"""Reads where the services are: database, broker, cache. Their URLs may hold passwords and are not shown."""

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
    """Read the URL of a Redis or Valkey server; it may hold a password and is not shown."""
    value = env.text(name, default)
    if not _is_redis(value):
        raise WrongValue(name, "must look like redis://127.0.0.1:6379/0, or rediss:// for TLS")
    return value


def broker_url(name: str, default: str) -> str:
    """Read the URL of Celery's broker, RabbitMQ or what ``redis_url`` takes; it may hold a password too."""
    value = env.text(name, default)
    if not _is_redis(value) and not _is_url(value, RABBITMQ_SCHEMES):
        raise WrongValue(
            name, "must look like amqp://user:password@host:5672//, amqps:// for TLS, or redis://127.0.0.1:6379/0"
        )
    return value


def broker_options(url: str) -> dict[str, Any]:
    """What the broker's transport is told."""
    return RABBITMQ_OPTIONS if urlsplit(url).scheme in RABBITMQ_SCHEMES else REDIS_OPTIONS


def queues(integration: Mapping[str, Any]) -> list[Queue]:
    """Return the queues of mail, of the sweep, and Celery's default queue, for tasks that are called by name.

    ``integration`` is EMAIL_INTEGRATION; an empty name in it means the default queue.
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

#: Nobody waits for a broker without limit: kombu's own defaults have none. Opening a connection to publish is tried
#: once; kombu would try for another six seconds, even with retry=False.
REDIS_OPTIONS: dict[str, Any] = {
    "max_retries": 0,
    "socket_connect_timeout": 1,
    # Longer than the second that a BRPOP takes when there is nothing: a channel that is closed reads its reply
    # blocking.
    "socket_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 10,
    # A wake-up is forgotten once it is fetched: the sweep wakes another worker for what a killed one was to send, long
    # before the broker would. Two transactions fewer for each message.
    "ack_emulation": False,
}
RABBITMQ_OPTIONS: dict[str, Any] = {
    "max_retries": 0,
    "read_timeout": 2,
    "write_timeout": 2,
    # A message counts as published when the server says so; else one that it never got would not be missed.
    "confirm_publish": True,
}


#: The statements that every mail costs are planned once per connection and not each time. Behind a pooler that lends
#: connections for a transaction and knows no prepared statements, add '?prepare_threshold=1000000000' to the URL.
#:
#: A connection that goes silent (a host without power, a firewall that forgets) is given up after 25 s: by keepalives
#: where a reply is awaited, by ``tcp_user_timeout`` (milliseconds) where something was said that is not acknowledged.
#: The kernel would take two hours, or a quarter of one. It is well within LEASE.
POSTGRESQL_OPTIONS: dict[str, Any] = {
    "prepare_threshold": 5,
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}

#: The drivers of MySQL have no more than limits for a whole statement, so that this one has room for a migration.
MYSQL_OPTIONS: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 300, "write_timeout": 300}

#: Several processes write to one SQLite file: readers do not block the writer (WAL), a transaction takes the write
#: lock when it begins instead of failing half way (IMMEDIATE), and waits for it.
SQLITE_OPTIONS: dict[str, Any] = {
    "init_command": "PRAGMA journal_mode=WAL;",
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
}


def database(name: str, default: str) -> dict[str, Any]:
    """Read a database URL into an entry of DATABASES; it may hold a password and is not shown."""
    try:
        value: dict[str, Any] = {**dj_database_url.parse(env.text(name, default))}
        if not value.get("NAME"):
            raise ValueError("no database named")
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
        # Beside the URL, so that only the password need be a secret, of any characters.
        value["PASSWORD"] = value.get("PASSWORD") or env.raw("POSTGRES_PASSWORD")
        value["OPTIONS"] = {**POSTGRESQL_OPTIONS, **value.get("OPTIONS", {})}
    if value["ENGINE"] == "django.db.backends.sqlite3":
        value["OPTIONS"] = {**SQLITE_OPTIONS, **value.get("OPTIONS", {})}
    return value


def _find_mysql_driver(name: str) -> None:
    """Have PyMySQL, which is Python alone, stand in for mysqlclient where that is not installed."""
    if importlib.util.find_spec("MySQLdb") is not None:
        return
    try:
        import pymysql
    except ImportError:
        raise WrongValue(name, "wants MySQL or MariaDB; install mysqlclient or PyMySQL for it") from None
    pymysql.install_as_MySQLdb()
