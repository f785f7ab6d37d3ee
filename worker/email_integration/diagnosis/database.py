"""The database: reachable, migrated, on time."""

from __future__ import annotations

import time

from django.apps import apps
from django.db import DatabaseError, InterfaceError, connections
from django.db.migrations.exceptions import InconsistentMigrationHistory

from email_integration.django_internals import missing_migrations
from email_integration.ledger import rows
from email_integration.ledger.pooler import LOST, MEND, loses_statements

from .findings import Finding, error, ok, warning

#: Seconds by which two clocks may differ unnoticed, and by which they may not differ.
SKEW_NOTICED, SKEW_TOO_MUCH = 2.0, 60.0

_SECONDS_SINCE_EPOCH = {
    "postgresql": "SELECT EXTRACT(EPOCH FROM clock_timestamp())",
    "mysql": "SELECT UNIX_TIMESTAMP(SYSDATE(6))",
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400",
}


def database() -> list[Finding]:
    """Everything about it; the first finding alone when it cannot be reached."""
    alias = rows.database()
    try:
        connections[alias].ensure_connection()
        return [_migrations(alias), *_clock(alias), *pooler(alias)]
    except (DatabaseError, InterfaceError) as failure:
        return [
            error(
                "database.connection",
                f"The database “{alias}” cannot be reached ({type(failure).__name__})",
                "Check that it runs, and the DATABASES setting.",
            )
        ]


def pooler(alias: str) -> list[Finding]:
    """Does a pooler lose what the database is to keep? Raises what the database raises."""
    return [error("database.pooler", LOST.rstrip("."), MEND)] if loses_statements(alias) else []


def _migrations(alias: str) -> Finding:
    ours = {"email_integration", "django_celery_results"} & set(apps.app_configs)
    try:
        waiting = missing_migrations(connections[alias], ours)
    except InconsistentMigrationHistory:
        return error("database.migrations", "The history of migrations contradicts itself", "See `manage.py migrate`.")
    if waiting:
        more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
        return error(
            "database.migrations",
            f"Migrations are missing: {', '.join(waiting[:3])}{more}",
            "Run `manage.py migrate`.",
        )
    return ok("database.migrations", f"Database “{alias}” ({connections[alias].vendor}) is there and migrated")


def _clock(alias: str) -> list[Finding]:
    """Leases, due times and expiries are compared across hosts."""
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
            "Synchronise them (NTP): times of mail are compared across hosts.",
        )
    ]
