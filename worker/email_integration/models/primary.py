"""Managers that read from the database that is written to, whatever a router says of reading."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db import models, router

_Row = TypeVar("_Row", bound=models.Model)


class PrimaryManager(models.Manager[_Row]):
    """For tables of few rows that mail goes by: a replica lags behind, and a change of these counts at once."""

    # Of Django's own manager; not in its stub.
    _hints: dict[str, Any]

    def get_queryset(self) -> models.QuerySet[_Row]:
        """Return the rows of the primary, unless ``using()`` or ``db_manager()`` name a database."""
        return super().get_queryset().using(self._db or router.db_for_write(self.model, **self._hints))
