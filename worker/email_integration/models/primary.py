"""Rows are read from the database that they are written to, whatever a router says of reading."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db import models, router

from email_integration.django_internals import read_from_primary

_Row = TypeVar("_Row", bound=models.Model)


class PrimaryManager(models.Manager[_Row]):
    """Reads where the router has the model written: a replica lags behind, and what is read here decides what is done.

    Where a replica is good enough, as for a report, name it: ``Delivery.objects.using("replica")``.
    """

    # Of Django's own manager; not in its stub.
    _hints: dict[str, Any]

    @property
    def db(self) -> str:
        """The database alias that the rows are written to and read from: for transactions and connections."""
        return self._db or router.db_for_write(self.model, **self._hints)

    def get_queryset(self) -> models.QuerySet[_Row]:
        """Return the rows of the primary, unless ``using()`` or ``db_manager()`` name a database."""
        return read_from_primary(super().get_queryset())


class PrimaryModel(models.Model):
    """A model whose rows are read from the primary: by its manager, by relations, and when they are read again."""

    objects = PrimaryManager()

    class Meta:
        abstract = True
        base_manager_name = "objects"
