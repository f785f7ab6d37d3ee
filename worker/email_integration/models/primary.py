"""Models whose rows are read from the database that they are written to, whatever a router says about reads."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db import models, router

from email_integration.django_internals import read_from_primary

_Row = TypeVar("_Row", bound=models.Model)


class PrimaryManager(models.Manager[_Row]):
    """A manager that reads from the database that the router selects for writes.

    A replica lags behind, and the rows decide about further actions. Where a replica is good enough, as for a report,
    name it: ``Delivery.objects.using("replica")``.
    """

    # An attribute of Django's own manager; not in its stub.
    _hints: dict[str, Any]

    @property
    def db(self) -> str:
        """The alias of the database for writes and reads of the rows: for transactions and connections."""
        return self._db or router.db_for_write(self.model, **self._hints)

    def get_queryset(self) -> models.QuerySet[_Row]:
        """Return the rows of the primary, unless ``using()`` or ``db_manager()`` name a database."""
        return read_from_primary(super().get_queryset())


class PrimaryModel(models.Model):
    """A model whose rows are read from the primary: by its manager, by relations, and by a reload."""

    objects = PrimaryManager()

    class Meta:
        abstract = True
        base_manager_name = "objects"
