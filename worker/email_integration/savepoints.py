"""Errors of the database that are borne, and leave the caller's transaction whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from django.db import transaction


@contextlib.contextmanager
def savepoint(*aliases: str) -> Iterator[None]:
    """Have an error inside rolled back to here in each of these databases that has a transaction open.

    After an error PostgreSQL takes no further statement of a transaction. Code that catches one inside of a transaction
    that is another's has to put it back to where it was. Without a transaction this does nothing, and costs nothing.
    """
    with contextlib.ExitStack() as stack:
        for alias in dict.fromkeys(aliases):
            connection = transaction.get_connection(alias)
            if connection.in_atomic_block or not connection.get_autocommit():
                stack.enter_context(transaction.atomic(using=alias))
        yield
