"""The id of this installation, which distinguishes it from others that share a cache or a folder with it."""

from __future__ import annotations

from django.db import transaction

from email_integration.models import Installation

from .rows import database

#: The committed id, by database. It never changes.
_known: dict[str, str] = {}


def identity() -> str:
    """Return the random id of this installation. Create it if there is none. Raises ``DatabaseError``."""
    using = database()
    if using not in _known:
        found, _ = Installation.objects.get_or_create(pk=1)
        if transaction.get_connection(using).in_atomic_block:
            return found.identity  # the transaction may be rolled back
        _known[using] = found.identity
    return _known[using]


def forget() -> None:
    """Make this process query the database again."""
    _known.clear()
