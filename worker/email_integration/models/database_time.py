"""The database's clock, which decides what is due and whose lease has expired."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models


class DatabaseTime(models.Func):
    """The moment ``ahead`` seconds from now by the database's clock, in the form of a ``DateTimeField``.

    SQLite's clock is that of the host.
    """

    template = "%(expressions)s"
    output_field = models.DateTimeField()

    def __init__(self, *, ahead: float = 0.0) -> None:
        super().__init__()
        self.ahead = ahead

    def as_sql(self, compiler: Any, connection: Any, *args: Any, **context: Any) -> tuple[str, tuple[str | int, ...]]:
        """Return the expression as SQL."""
        return sql(connection.vendor, ahead=self.ahead), ()


def sql(vendor: str, *, ahead: float = 0.0) -> str:
    """Return SQL for the moment ``ahead`` seconds from now, by the clock of a database of this vendor.

    Now is the beginning of the statement, not of its transaction. Percent signs are doubled, as Django requires.
    """
    if vendor == "postgresql":
        return f"(STATEMENT_TIMESTAMP() + INTERVAL '{ahead:f} seconds')" if ahead else "STATEMENT_TIMESTAMP()"
    if vendor == "sqlite":
        later = f", '{ahead:+f} seconds'" if ahead else ""
        local = "" if settings.USE_TZ else ", 'localtime'"
        # With six digits, or with none where all are zeros, as Django stores it: the value is compared for equality
        # too.
        return f"replace(strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now'{later}{local}) || '000', '.000000', '')"
    # As Django stores times in MySQL and MariaDB, whatever the time zone of the session is.
    now = "UTC_TIMESTAMP(6)" if settings.USE_TZ else "CURRENT_TIMESTAMP(6)"
    return f"({now} + INTERVAL {ahead:f} SECOND)" if ahead else now
