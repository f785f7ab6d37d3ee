"""Indexes of a part of a table, and of long texts, also for databases without such indexes."""

from __future__ import annotations

from typing import Any

from django.db import models

from email_integration.django_internals import can_index_a_part, prefix_index


class PartialIndex(models.Index):
    """An index with a condition, or of the whole table if the database supports none (MySQL, MariaDB).

    Django's own index would be silently missing there.
    """

    def create_sql(self, model: Any, schema_editor: Any, using: str = "", **kwargs: Any) -> Any:
        """Return the statement that makes the index."""
        if self.condition is not None and not can_index_a_part(schema_editor.connection):
            whole = models.Index(fields=self.fields, name=self.name)
            return whole.create_sql(model, schema_editor, using=using, **kwargs)
        return super().create_sql(model, schema_editor, using=using, **kwargs)


class LongTextIndex(models.Index):
    """An index of one text that may be long, and is only looked up as a whole.

    On PostgreSQL it holds hashes, which need a third of the size and cost of texts in random order. On databases with a
    size limit (MySQL, MariaDB) it holds the beginnings.
    """

    def create_sql(self, model: Any, schema_editor: Any, using: str = "", **kwargs: Any) -> Any:
        """Return the statement that makes the index."""
        if schema_editor.connection.vendor != "mysql":
            hashes = " USING hash" if schema_editor.connection.vendor == "postgresql" else using
            return super().create_sql(model, schema_editor, using=hashes, **kwargs)
        fields = [model._meta.get_field(name) for name, _order in self.fields_orders]
        return prefix_index(schema_editor, model, fields, name=self.name, characters=_BEGINNING)


#: Length in characters: InnoDB accepts 3,072 octets, four for each character.
_BEGINNING = 255
