"""A pooler before PostgreSQL that lends connections for a transaction, and loses the statements kept in them."""

from __future__ import annotations

import secrets
from typing import Any

from django.db import connections

#: What is said of it, and what fixes it.
LOST = (
    "The database is reached by way of a pooler that lends connections for a transaction, and 'prepare_threshold' has "
    "it keep statements for longer: mail fails at them, and waits."
)
HINT = (
    "Leave 'prepare_threshold' out of the OPTIONS of DATABASES (in a DATABASE_URL: ?prepare_threshold=1000000000), or "
    "set max_prepared_statements of PgBouncer 1.21 or newer."
)

#: How often it is tried: beside other clients of the pooler, two in turn may be lent different connections.
_TRIES = 5

#: From so many executions on, before a statement is kept, none is ever: a URL has no other word for it.
_NEVER = 1_000_000


def loses_statements(alias: str) -> bool:
    """Whether statements that psycopg has the server of ``alias`` keep ('prepare_threshold') are lost, or get mixed up.

    PgBouncer in transaction mode does that, unless it is of version 1.21 or newer and has ``max_prepared_statements``.
    Opens two connections and closes them. Raises what the database raises.
    """
    connection = connections[alias]
    if connection.vendor != "postgresql":
        return False
    opened = [_opened(connection) for _ in range(2)]
    try:
        first, second = (one.connection for one in opened)
        threshold = getattr(first, "prepare_threshold", None)  # psycopg2 has the server keep nothing
        if threshold is None or threshold >= _NEVER:
            return False
        with connection.wrap_database_errors:
            return any(_is_lost(first.pgconn, second.pgconn) for _ in range(_TRIES))
    finally:
        for one in opened:
            one.close()


def _opened(connection: Any) -> Any:
    copy = connection.copy()
    copy.settings_dict["OPTIONS"].pop("pool", None)  # Django's own pool may have no room for two
    copy.ensure_connection()
    return copy


def _is_lost(first: Any, second: Any) -> bool:
    """Have both keep a statement of one name. Each has its own where a connection is its own."""
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
        each.exec_(b"DEALLOCATE " + name)  # where it is no more, this changes nothing
    return found != expected
