"""The id of this installation: what other installations that share a cache or a folder with it are told apart by."""

from __future__ import annotations

from django.db import transaction

from email_integration.models import Installation

from .rows import database

#: As it is committed, by database; it does not change.
_known: dict[str, str] = {}


def identity() -> str:
    """Return the random id of this installation, made now if there was none. Raises ``DatabaseError``."""
    using = database()
    if using not in _known:
        found, _ = Installation.objects.get_or_create(pk=1)
        if transaction.get_connection(using).in_atomic_block:
            return found.identity  # it may be rolled back
        _known[using] = found.identity
    return _known[using]


def forget() -> None:
    """Have this process ask the database again."""
    _known.clear()
