"""The clock of the database, by which is decided what is due and whose lease has run out."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models


class DatabaseTime(models.Func):
    """The moment by the database's clock, as a ``DateTimeField`` stores it; SQLite's is that of the host."""

    template = "%(expressions)s"
    output_field = models.DateTimeField()

    def as_sql(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, list[Any]]:
        """The expression as SQL."""
        return sql(connection.vendor), []


def sql(vendor: str) -> str:
    """The moment by the clock of a database of this vendor, as SQL."""
    if vendor == "postgresql":
        return "CURRENT_TIMESTAMP"
    if vendor == "sqlite":
        return "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now'{})".format("" if settings.USE_TZ else ", 'localtime'")
    # As Django stores times in MySQL and MariaDB, whatever the time zone of the session is.
    return "UTC_TIMESTAMP(6)" if settings.USE_TZ else "CURRENT_TIMESTAMP(6)"
