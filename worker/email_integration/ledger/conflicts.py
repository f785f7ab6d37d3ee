"""Retry transactions that the database rolled back because of concurrent transactions."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import OperationalError, connections

from email_integration.outcomes import schedule

from .rows import database

_Result = TypeVar("_Result")

#: Number of tries for a transaction that conflicts with another.
_TRIES = 10


def repeated(act: Callable[[], _Result]) -> _Result:
    """Call ``act`` and return its result. Call it again while it conflicts with other transactions.

    Raises its last ``OperationalError`` after ten tries, or immediately inside a transaction.
    """
    for tries in range(1, _TRIES + 1):
        try:
            return act()
        except OperationalError as error:
            if tries == _TRIES or not is_conflict(error) or connections[database()].in_atomic_block:
                raise
            chance = random.uniform(0.5, 1)  # noqa: S311  # spreads load, guards nothing
            time.sleep(schedule.backoff(tries, first=0.01, longest=0.1, chance=chance))
    raise AssertionError("unreachable")


def is_conflict(error: BaseException) -> bool:
    """Return whether the database rolled back a transaction because of others (serialization, deadlock, locks)."""
    cause = error.__cause__
    if getattr(cause, "sqlstate", None) in ("40001", "40P01"):
        return True
    if getattr(cause, "pgcode", None) in ("40001", "40P01"):
        return True
    vendor = connections[database()].vendor
    if vendor == "mysql":
        return bool(error.args) and error.args[0] in (1213, 1205)
    return vendor == "sqlite" and isinstance(error, OperationalError) and "locked" in str(error)
