"""Rows with sealed values: their identifiers, and writes without ``save()``.

A value is sealed for one row (see ``email_integration.fields``), and an update writes one value into many. Therefore
each row gets a value that is sealed for it, and a write that makes the database copy a sealed value is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import models, transaction
from django.utils import translation

from email_integration.exceptions import SecretMisplaced
from email_integration.fields import MISPLACED, EncryptedTextField, Sealed, new_row
from email_integration.secrecy import with_secrets

_Row = TypeVar("_Row", bound=models.Model)
_Methods = TypeVar("_Methods")


def sealed_fields(model: type[models.Model], names: Iterable[str] | None = None) -> dict[str, EncryptedTextField]:
    """Return the encrypted fields of ``model`` by name: all, or those among ``names``."""
    found = {one.name: one for one in model._meta.concrete_fields if isinstance(one, EncryptedTextField)}
    return found if names is None else {name: found[name] for name in names if name in found}


#: The methods with field values as arguments.
_TAKE_VALUES = [
    f"{way}{name}"
    for name in ("create", "get_or_create", "update_or_create", "update", "bulk_create", "bulk_update", "get")
    for way in ("", "a")
] + ["filter", "exclude"]


def sensitive_methods(methods: type[_Methods]) -> type[_Methods]:
    """Hide the arguments of a query set's, or a manager's, methods from error reports; return the class."""
    for name in _TAKE_VALUES:
        setattr(methods, name, with_secrets(getattr(methods, name)))
    return methods


@sensitive_methods
class SealedQuerySet(models.QuerySet[_Row]):
    """A query set that seals the values of an update for each row."""

    if not TYPE_CHECKING:  # the type checker's plugin types the manager of Django's own method

        @classmethod
        def as_manager(cls):
            """Return a manager as Django does, with its own methods hidden from error reports too."""
            manager = super().as_manager()
            sensitive_methods(type(manager))  # a class made for this manager
            return manager

    @with_secrets
    def update(self, **kwargs: Any) -> int:
        """Update as Django does; sealed fields accept text.

        Raises ``TypeError`` for an expression in a sealed field, and ``SecretMisplaced`` for a value sealed for another
        row.
        """
        fields = {name: field for name, field in sealed_fields(self.model, kwargs).items() if kwargs[name]}
        if not fields:
            return super().update(**kwargs)
        self._for_write = True  # the rows are read from the database that they are written to
        by = {field.row for field in fields.values()}
        updated = 0
        with transaction.atomic(using=self.db):
            for pk, *ids in self.order_by().values_list("pk", *by):
                row = dict(zip(by, ids, strict=True))
                values = {
                    name: field.sealed_for(kwargs[name], field.place_in(str(row[field.row])))
                    for name, field in fields.items()
                }
                updated += models.QuerySet.update(self.filter(pk=pk), **{**kwargs, **values})
        return updated

    update.alters_data = True  # type: ignore[attr-defined]  # Django's own mark for templates

    def bulk_create(self, objs: Iterable[_Row], *args: Any, **kwargs: Any) -> list[_Row]:
        """Create as Django does. Raises ``TypeError`` for sealed fields that would be written over existing rows."""
        rows = list(objs)
        _refuse_on_conflict(self.model, kwargs)
        for row in rows:
            if isinstance(row, SealedRow):
                row.identify(self.db)
        return super().bulk_create(rows, *args, **kwargs)

    @with_secrets
    def bulk_update(self, objs: Iterable[_Row], fields: Iterable[str], batch_size: int | None = None) -> int:
        """Update as Django does; sealed fields one row at a time. Raises the errors of ``update``."""
        rows, names = list(objs), list(fields)
        sealed = sealed_fields(self.model, names)
        others = [name for name in names if name not in sealed]
        self._for_write = True
        with transaction.atomic(using=self.db):
            updated = super().bulk_update(rows, others, batch_size) if others or not sealed else 0
            written = 0
            for row in rows if sealed else ():
                values = {name: field.raw(row) for name, field in sealed.items()}
                written += self.filter(pk=row.pk).update(**values)
        return max(updated, written)

    bulk_update.alters_data = True  # type: ignore[attr-defined]  # likewise


def _refuse_on_conflict(model: type[models.Model], options: dict[str, Any]) -> None:
    names: Collection[str] = options.get("update_fields") or ()
    if options.get("update_conflicts") and sealed_fields(model, names):
        raise TypeError(
            f"{', '.join(sealed_fields(model, names))}: encrypted values cannot be copied over those of another row. "
            "Update these fields separately."
        )


class SealedRow(models.Model):
    """A row whose sealed values are bound to ``seal_id``, which is random and unique."""

    seal_id = models.CharField(max_length=32, unique=True, default=new_row, editable=False)

    class Meta:
        abstract = True

    def identify(self, using: str) -> None:
        """Give a new identifier to a copy of a stored row that was made by emptying its primary key.

        Raises ``SecretMisplaced`` when the copy has values that were sealed for the other row.
        """
        if self.pk is None and type(self)._base_manager.using(using).filter(seal_id=self.seal_id).exists():
            self.identify_as(new_row())

    def identify_as(self, seal_id: str) -> None:
        """Take the identifier of the row to write to. Raises the errors of ``identify``."""
        if seal_id == self.seal_id:
            return
        if any(isinstance(field.raw(self), Sealed) for field in sealed_fields(type(self)).values()):
            with translation.override(None):
                raise SecretMisplaced(str(MISPLACED))
        self.seal_id = seal_id

    def validate_unique(self, exclude: Any = None) -> None:
        """Skip the identifier: a person cannot correct it."""
        super().validate_unique(exclude={*(exclude or ()), "seal_id"})
