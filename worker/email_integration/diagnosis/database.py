"""Diagnose the database: connection, migrations, schemas, pooler and clock."""

from __future__ import annotations

import time

from django.apps import apps
from django.db import DatabaseError, InterfaceError, connections
from django.db.migrations.exceptions import InconsistentMigrationHistory

from email_integration.django_internals import missing_migrations
from email_integration.ledger import rows
from email_integration.ledger.pooler import HINT, LOST, loses_statements
from email_integration.models import Delivery

from .findings import Finding, error, ok, warning

#: Clock difference in seconds: above the first value it is a warning, above the second an error.
SKEW_NOTICED, SKEW_TOO_MUCH = 2.0, 60.0

_SECONDS_SINCE_EPOCH = {
    "postgresql": "SELECT EXTRACT(EPOCH FROM clock_timestamp())",
    "mysql": "SELECT UNIX_TIMESTAMP(SYSDATE(6))",
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400",
}


def diagnose_database() -> list[Finding]:
    """Return all findings about the database, or only the first one if the database cannot be reached."""
    alias = rows.database()
    try:
        connections[alias].ensure_connection()
        return [_migrations(alias), *diagnose_schemas(alias), *_clock(alias), *diagnose_pooler(alias)]
    except (DatabaseError, InterfaceError) as failure:
        return [
            error(
                "database.connection",
                f"The database “{alias}” cannot be reached ({type(failure).__name__})",
                "Check that it runs and that the setting DATABASES is right.",
            )
        ]


def diagnose_pooler(alias: str) -> list[Finding]:
    """Report whether a connection pooler loses prepared statements. Raises the errors of the database."""
    return [error("database.pooler", LOST.rstrip("."), HINT)] if loses_statements(alias) else []


def _migrations(alias: str) -> Finding:
    ours = {"email_integration", "django_celery_results"} & set(apps.app_configs)
    try:
        waiting = missing_migrations(connections[alias], ours)
    except InconsistentMigrationHistory:
        return error("database.migrations", "The migration history is inconsistent", "Run `manage.py migrate`.")
    if waiting:
        more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
        return error(
            "database.migrations",
            f"Migrations have not been run: {', '.join(waiting[:3])}{more}",
            "Run `manage.py migrate`.",
        )
    return ok("database.migrations", f"The database “{alias}” ({connections[alias].vendor}) answers and is migrated")


#: The schemas that have a table of this name, with the one that this process uses first. It includes schemas that
#: the database user may not use.
_SCHEMAS = """
SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = %s AND c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%%'
ORDER BY c.oid = to_regclass(%s) DESC NULLS LAST, n.nspname
"""


def diagnose_schemas(alias: str) -> list[Finding]:
    """Warn if other schemas have the table too, because workers of this one do not send their mail.

    Raises ``DatabaseError``.
    """
    connection, table = connections[alias], Delivery._meta.db_table
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute(_SCHEMAS, [table, connection.ops.quote_name(table)])
        ours, *others = [name for (name,) in cursor.fetchall()] or [""]
    if not others:
        return []
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return [
        warning(
            "database.schemas",
            f"The table “{table}” is in the schema “{ours}” and also in {', '.join(others[:3])}{more}: workers of "
            f"“{ours}” do not send mail that is submitted in another schema",
            "Install the app in one schema that all processes share. See docs/databases.md.",
        )
    ]


def _clock(alias: str) -> list[Finding]:
    """Compare the clocks of this host and the database: leases, due times and expiries are compared across hosts."""
    query = _SECONDS_SINCE_EPOCH.get(connections[alias].vendor)
    if query is None:
        return []
    with connections[alias].cursor() as cursor:
        before = time.time()
        cursor.execute(query)
        theirs = float(cursor.fetchone()[0])
        after = time.time()
    skew = max(before - theirs, theirs - after, 0.0)
    if skew > SKEW_TOO_MUCH:
        say = error
    elif skew > SKEW_NOTICED:
        say = warning
    else:
        return [ok("clock", "The clocks of this host and of the database agree")]
    return [
        say(
            "clock",
            f"The clocks of this host and of the database differ by {skew:.0f} s",
            "Synchronise the clocks (NTP): times of mails are compared across hosts.",
        )
    ]
