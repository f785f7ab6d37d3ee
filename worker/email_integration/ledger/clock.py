"""The time by the database's clock, by which is decided what is due, what has expired and whose lease has run out.

It is told by an offset to this process's monotonic clock, which each claim measures anew.
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

#: Seconds after which the offset is measured anew before it is used.
_OLD = 60.0

#: Seconds that a measurement may take while there is another that is not old.
_QUICK = 0.25


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What the database's clock said, and ``time.monotonic()`` when its answer was there."""

    moment: dt.datetime
    at: float


#: By database, and by whether times have a zone.
_measured: dict[tuple[str, bool], _Measured] = {}


def now() -> dt.datetime:
    """Return the moment by the database's clock; it is behind by the time that an answer takes, never ahead.

    As ``timezone.now()`` it is naive without USE_TZ. Asks the database at most once a minute, and raises
    ``DatabaseError`` when that fails.
    """
    using = database()
    known, at = _measured.get(_key(using)), time.monotonic()
    if known is None or at - known.at > _OLD:
        learn(_ask(using), asked_at=at, using=using)
        known, at = _measured[_key(using)], time.monotonic()
    return known.moment + dt.timedelta(seconds=at - known.at)


def learn(moment: dt.datetime, *, asked_at: float, using: str) -> None:
    """Note what the database's clock said in answer to a statement of now, asked at this ``time.monotonic()``."""
    at = time.monotonic()
    known = _measured.get(_key(using))
    if known is None or at - asked_at <= _QUICK or at - known.at > _OLD:
        _measured[_key(using)] = _Measured(moment=moment, at=at)


def _key(using: str) -> tuple[str, bool]:
    return using, bool(settings.USE_TZ)


def forget() -> None:
    """Have the next ``now()`` ask the database."""
    _measured.clear()


def _ask(using: str) -> dt.datetime:
    connection = connections[using]
    with connection.cursor() as cursor:
        # With parameters, though there are none: only then doubled percent signs become single ones.
        cursor.execute(f"SELECT {database_time.sql(connection.vendor)}", [])
        found = cursor.fetchone()[0]
    return as_moment(found, using=using)


def as_moment(found: object, *, using: str) -> dt.datetime:
    """Return what the driver gave for a time as Django gives it for a ``DateTimeField``."""
    connection = connections[using]
    moment = found
    for _place, column, convert in _converters(using):
        moment = convert(moment, column, connection)
    if not isinstance(moment, dt.datetime):
        raise TypeError(f"The database's time is no datetime: {type(moment).__name__}.")
    return moment


def _converters(using: str) -> Any:
    field = Delivery._meta.get_field("next_at")
    return django_internals.converters(connections[using], [field], Delivery._meta.db_table)
