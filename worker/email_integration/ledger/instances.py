"""Create deliveries from rows of raw statements. A content that a row omits is read on access."""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

from django.conf import settings
from django.db import connections, models

from email_integration import django_internals
from email_integration.models import Delivery
from email_integration.timezones import as_stored

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

#: Converts the driver's values of a column to Python values, one for each row.
_Convert = Callable[[Sequence[Any]], Sequence[Any]]


@functools.cache
def _fields() -> tuple[Any, ...]:
    """Return the fields of a delivery, the content last."""
    return tuple(sorted(Delivery._meta.concrete_fields, key=lambda one: one.attname == "content"))


@functools.cache
def columns() -> tuple[str, ...]:
    """Return the columns of a delivery, the content last."""
    return tuple(str(one.column) for one in _fields())


def selected(connection: Any, table: str) -> list[str]:
    """Return the expressions to select for all columns except the content, from the table ``table``.

    On PostgreSQL, times are selected as numbers and JSON as text, because its driver takes longer to convert these than
    all other columns.
    """
    quoted = connection.ops.quote_name
    found = [f"{table}.{quoted(one.column)}" for one in _fields()[:-1]]
    if connection.vendor != "postgresql":
        return found
    return [_plain(field, column) for field, column in zip(_fields(), found, strict=False)]


def _plain(field: Any, column: str) -> str:
    if isinstance(field, models.DateTimeField):
        return f"(extract(epoch FROM {column}) * 1000000)::bigint"
    return f"{column}::text" if isinstance(field, models.JSONField) else column


def of_rows(connection: Any, rows: Sequence[Sequence[Any]]) -> list[Delivery]:
    """Return the deliveries of ``rows``. Each row has the columns of ``selected``, the content, and possibly more.

    A content that is NULL in the row is read on access.
    """
    values: list[Sequence[Any]] = []
    values += [*zip(*rows, strict=True)][: len(_fields())]
    for place, convert in _conversions(connection.alias):
        values[place] = convert(values[place])
    names = [one.attname for one in _fields()]
    known = (dict(zip(names, row, strict=True)) for row in zip(*values, strict=True))
    return django_internals.stored_instances(
        Delivery,
        [of_one if of_one["content"] is not None else _without_content(of_one) for of_one in known],
        using=connection.alias,
    )


def _without_content(values: dict[str, Any]) -> dict[str, Any]:
    del values["content"]
    return values


@functools.cache
def _conversions(alias: str) -> list[tuple[int, _Convert]]:
    connection = connections[alias]
    own: dict[int, _Convert] = {}
    if connection.vendor == "postgresql":
        for place, field in enumerate(_fields()):
            if isinstance(field, models.DateTimeField):
                own[place] = _moments
            elif isinstance(field, models.JSONField):
                own[place] = _parsed
    others = [
        (place, functools.partial(_each, convert, column, connection))
        for place, column, convert in django_internals.converters(connection, _fields(), Delivery._meta.db_table)
        if place not in own
    ]
    return [*own.items(), *others]


def _each(convert: Callable[..., Any], column: Any, connection: Any, values: Sequence[Any]) -> Sequence[Any]:
    return [convert(value, column, connection) for value in values]


def _moments(values: Sequence[int | None]) -> Sequence[Any]:
    """Convert microseconds since 1970 to times."""
    if values.count(None) == len(values):
        return values
    moments = [None if value is None else _EPOCH + dt.timedelta(microseconds=value) for value in values]
    return moments if settings.USE_TZ else [moment and as_stored(moment) for moment in moments]


def _parsed(values: Sequence[str]) -> Sequence[Any]:
    """Parse the values of a JSON column together. PostgreSQL guarantees that they are valid."""
    return list(json.loads(f"[{','.join(values)}]"))
