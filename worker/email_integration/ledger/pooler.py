"""Detect a pooler in front of PostgreSQL that lends connections per transaction and loses prepared statements."""

from __future__ import annotations

import secrets
from typing import Any

from django.db import connections

#: The message about such a pooler, and the hint to fix it.
LOST = (
    "The connection to the database goes through a pooler that lends a connection for one transaction, but with this "
    "'prepare_threshold' prepared statements last longer. They fail, and mail waits."
)
HINT = (
    "Remove 'prepare_threshold' from the OPTIONS of DATABASES (in a DATABASE_URL: ?prepare_threshold=1000000000), or "
    "set max_prepared_statements in PgBouncer 1.21 or newer."
)

#: Number of tries: with other clients of the pooler, two checks in a row may use different connections.
_TRIES = 5

#: From this 'prepare_threshold' on, statements are never prepared. A URL cannot express "never" in another way.
_NEVER = 1_000_000


def loses_statements(alias: str) -> bool:
    """Return whether statements that psycopg prepares on the server of ``alias`` are lost or mixed up.

    PgBouncer in transaction mode does that, unless it is version 1.21 or newer and has ``max_prepared_statements``. The
    check depends on psycopg's 'prepare_threshold'. It opens two connections and closes them. Raises the errors of the
    database.
    """
    connection = connections[alias]
    if connection.vendor != "postgresql":
        return False
    opened = [_opened(connection) for _ in range(2)]
    try:
        first, second = (one.connection for one in opened)
        threshold = getattr(first, "prepare_threshold", None)  # psycopg2 prepares no statements
        if threshold is None or threshold >= _NEVER:
            return False
        with connection.wrap_database_errors:
            return any(_is_lost(first.pgconn, second.pgconn) for _ in range(_TRIES))
    finally:
        for one in opened:
            one.close()


def _opened(connection: Any) -> Any:
    copy = connection.copy()
    copy.settings_dict["OPTIONS"].pop("pool", None)  # Django's pool may have no room for two
    copy.ensure_connection()
    return copy


def _is_lost(first: Any, second: Any) -> bool:
    """Prepare a statement of the same name on both connections, and return whether that fails.

    It succeeds if each connection has its own server connection.
    """
    from psycopg.pq import ExecStatus

    name = b"email_integration_" + secrets.token_hex(8).encode()
    expected = [ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK]
    found = [
        first.prepare(name, b"SELECT 1").status,
        first.exec_prepared(name, None).status,
        second.prepare(name, b"SELECT 1").status,
        second.exec_prepared(name, None).status,
    ]
    for each in (first, second):
        each.exec_(b"DEALLOCATE " + name)  # no effect if the statement is gone
    return found != expected
