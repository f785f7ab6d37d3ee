"""Transactions that the database rolls back for what others did at the same time, and that are simply tried again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import OperationalError, connections

from email_integration.outcomes import schedule

from .rows import database

_Result = TypeVar("_Result")

#: How often something is tried whose transaction was in conflict with another.
_TRIES = 10


def repeated(act: Callable[[], _Result]) -> _Result:
    """Do it again as long as it is in conflict with the transactions of others."""
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
    """Whether the database has rolled back a transaction for what others did (serialization, deadlock, locks)."""
    cause = error.__cause__
    if getattr(cause, "sqlstate", None) in ("40001", "40P01"):
        return True
    if getattr(cause, "pgcode", None) in ("40001", "40P01"):
        return True
    vendor = connections[database()].vendor
    if vendor == "mysql":
        return bool(error.args) and error.args[0] in (1213, 1205)
    return vendor == "sqlite" and isinstance(error, OperationalError) and "locked" in str(error)
