"""Database errors that are caught and leave the caller's transaction usable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from django.db import transaction


@contextlib.contextmanager
def savepoint(*aliases: str) -> Iterator[None]:
    """Roll back to this point after an error inside, in each of these databases that has an open transaction.

    After an error PostgreSQL accepts no further statement of a transaction. Code that catches an error inside its
    caller's transaction must return the transaction to its earlier state. Without a transaction this does nothing and
    costs nothing.
    """
    with contextlib.ExitStack() as stack:
        for alias in dict.fromkeys(aliases):
            connection = transaction.get_connection(alias)
            if connection.in_atomic_block or not connection.get_autocommit():
                stack.enter_context(transaction.atomic(using=alias))
        yield
