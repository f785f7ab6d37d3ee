"""Indexes of part of a table, on databases that have no such thing too."""

from __future__ import annotations

from typing import Any

from django.db import models


class PartialIndex(models.Index):
    """An index with a condition; where the database knows none (MySQL, MariaDB), one of the whole table.

    Django's own would be silently missing there.
    """

    def create_sql(self, model: Any, schema_editor: Any, using: str = "", **kwargs: Any) -> Any:
        """The statement that makes the index."""
        if self.condition is not None and not schema_editor.connection.features.supports_partial_indexes:
            whole = models.Index(fields=self.fields, name=self.name)
            return whole.create_sql(model, schema_editor, using=using, **kwargs)
        return super().create_sql(model, schema_editor, using=using, **kwargs)
