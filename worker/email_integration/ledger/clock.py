"""The time by the database's clock. It decides which mail is due or expired, and which leases have ended.

It is computed from this process's monotonic clock and an offset, which each claim measures again.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connections

from email_integration import django_internals
from email_integration.models import Delivery, database_time

from .rows import database

#: Seconds after which the offset is measured again before use.
_OLD = 60.0

#: Seconds that a measurement may take while another one is not yet old.
_QUICK = 0.25


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """The time by the database's clock, and ``time.monotonic()`` when the answer arrived."""

    moment: dt.datetime
    at: float


#: By database, and by the setting USE_TZ.
_measured: dict[tuple[str, bool], _Measured] = {}


def now() -> dt.datetime:
    """Return the current time by the database's clock. It is late by the duration of an answer, and never early.

    Like ``timezone.now()``, it is naive without USE_TZ. It queries the database at most once a minute, and raises
    ``DatabaseError`` when the query fails.
    """
    using = database()
    known, at = _measured.get(_key(using)), time.monotonic()
    if known is None or at - known.at > _OLD:
        learn(_ask(using), asked_at=at, using=using)
        known, at = _measured[_key(using)], time.monotonic()
    return known.moment + dt.timedelta(seconds=at - known.at)


def learn(moment: dt.datetime, *, asked_at: float, using: str) -> None:
    """Store ``moment``, the time by the database's clock that a statement returned.

    ``asked_at`` is ``time.monotonic()`` before the statement, and ``using`` the alias of the database.
    """
    at = time.monotonic()
    known = _measured.get(_key(using))
    if known is None or at - asked_at <= _QUICK or at - known.at > _OLD:
        _measured[_key(using)] = _Measured(moment=moment, at=at)


def _key(using: str) -> tuple[str, bool]:
    return using, bool(settings.USE_TZ)


def forget() -> None:
    """Make the next ``now()`` query the database."""
    _measured.clear()


def _ask(using: str) -> dt.datetime:
    connection = connections[using]
    with connection.cursor() as cursor:
        # An empty list of parameters is needed: without it, doubled percent signs stay doubled.
        cursor.execute(f"SELECT {database_time.sql(connection.vendor)}", [])
        found = cursor.fetchone()[0]
    return as_moment(found, using=using)


def as_moment(found: object, *, using: str) -> dt.datetime:
    """Convert the driver's value for a time to the value of a ``DateTimeField``. ``using`` is the database's alias."""
    connection = connections[using]
    moment = found
    for _place, column, convert in _converters(using):
        moment = convert(moment, column, connection)
    if not isinstance(moment, dt.datetime):
        raise TypeError(f"The database's time must be a datetime, not {type(moment).__name__}.")
    return moment


def _converters(using: str) -> Any:
    field = Delivery._meta.get_field("next_at")
    return django_internals.converters(connections[using], [field], Delivery._meta.db_table)
