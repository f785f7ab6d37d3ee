"""Insert new deliveries: one with a statement that the server prepares once, many with COPY if the database has it.

The text of the statement is always the same. It contains the values that all new deliveries share; the other values are
parameters.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connections, transaction

from email_integration import django_internals
from email_integration.models import Delivery

from . import large_contents, packing

#: The attributes in which new deliveries differ.
_OWN = (
    *("id", "status", "message_id", "from_header", "from_at", "sender", "recipients", "priority", "in_doubt_policy"),
    *("idempotency_key", "created_at", "due_at", "expires_at", "queue", "options", "traceparent"),
    *("content", "content_file", "content_seal", "content_size", "eight_bit", "subject"),
)

#: The attributes for deliveries that are due later. Those that are due now get their time from the database's clock.
_OWN_LATER = (*_OWN, "next_at")

#: Octets of a content that may stay in memory until the next statement.
_SMALL = 256 * 1024

#: For fewer deliveries, COPY is no faster than INSERT.
_FEW = 5


def insert(*deliveries: Delivery, using: str, unless_known: bool = False) -> int:
    """Insert new deliveries as ``save()`` does, but without signals. Return how many. Raises ``DatabaseError``.

    With ``unless_known``, deliveries whose id or idempotency key is already in the database are left out. Several
    deliveries must be inserted inside the caller's transaction. ``using`` is the alias of the database.
    """
    connection = connections[using]
    alike: dict[tuple[str, ...], list[Delivery]] = {}
    large = []
    for one in deliveries:
        if large_contents.is_written_in_pieces(connection, one.content):
            large.append(one)
        else:
            alike.setdefault(_differs_in(one), []).append(one)
    inserted = 0
    with django_internals.rollback_on_error(using):
        for names, together in alike.items():
            inserted += _insert(connection, _statement(using, names), together, unless_known=unless_known)
    for one in large:
        inserted += _insert_in_pieces(connection, one, unless_known=unless_known)
    for one in deliveries:
        django_internals.mark_stored(one, using=using)
        for name in _LEFT:
            if _is_left(one.__dict__[name]):
                del one.__dict__[name]  # read from the database on access
    return inserted


def _insert_in_pieces(connection: Any, delivery: Delivery, *, unless_known: bool) -> int:
    content = delivery.content
    statement = _statement(connection.alias, _differs_in(delivery))
    with transaction.atomic(using=connection.alias):
        delivery.content = b""
        try:
            inserted = _insert(connection, statement, [delivery], unless_known=unless_known)
        finally:
            delivery.content = content
        if inserted:
            large_contents.write(connection, delivery.pk, content)
    return inserted


def _insert(connection: Any, statement: _Statement, deliveries: Sequence[Delivery], *, unless_known: bool) -> int:
    # COPY cannot skip conflicts.
    is_copied = len(deliveries) >= _FEW and not unless_known
    if is_copied and django_internals.can_copy(connection, Delivery._meta.db_table):
        if statement.packed is not None:
            blocks = packing.blocks(map(statement.packed, deliveries), statement.alike_packed)
            return django_internals.copy_packed(connection, statement.copy, blocks)
        rows = ((*statement.values(one), *statement.alike) for one in deliveries)
        return django_internals.copy(connection, statement.copy, rows)
    text = statement.unless_known if unless_known else statement.text
    if len(deliveries) == 1 and len(deliveries[0].content) <= _SMALL:
        [one] = deliveries
        inserted = None
        if statement.packed is not None:
            inserted = django_internals.execute_packed(connection, text, functools.partial(statement.packed, one))
        if inserted is None:
            inserted = django_internals.execute(connection, text, statement.values(one))
        return inserted
    with django_internals.cursor(connection) as cursor:
        cursor.executemany(text, list(map(statement.values, deliveries)))
        return int(cursor.rowcount)


@dataclass(frozen=True, kw_only=True)
class _Statement:
    """The statements for one database: an INSERT that fails for known deliveries, one that skips them, and a COPY.

    ``values`` returns the parameters of a delivery; ``alike`` are the values that follow them in a COPY. If PostgreSQL
    accepts packed values, ``packed`` and ``alike_packed`` are the packed forms.
    """

    text: str
    unless_known: str
    copy: str
    alike: tuple[Any, ...]
    values: Callable[[Delivery], list[Any]]
    packed: Callable[[Delivery], list[bytes | None]] | None
    alike_packed: list[bytes | None]


def _statement(alias: str, own: tuple[str, ...]) -> _Statement:
    """Return the statements for deliveries that differ in the attributes ``own``."""
    return _statement_of(alias, own, settings.USE_TZ)


@functools.lru_cache(maxsize=32)
def _statement_of(alias: str, own: tuple[str, ...], aware: bool) -> _Statement:
    connection = connections[alias]
    quoted = connection.ops.quote_name
    by_name = {one.attname: one for one in Delivery._meta.concrete_fields}
    alike = _ALIKE if own in (_OWN, _OWN_LATER) else {}
    columns = [quoted(str(by_name[name].column)) for name in (*own, *alike)]
    marks = [django_internals.placeholder(connection, by_name[name]) for name in own] + list(map(_word, alike.values()))
    table = quoted(Delivery._meta.db_table)
    ways = []
    for ignore in (False, True):
        begin, end = django_internals.insert_words(connection, list(by_name.values()), ignore=ignore)
        ways.append(f"{begin} {table} ({', '.join(columns)}) VALUES ({', '.join(marks)}) {end}".rstrip())
    is_packed = bool(aware and alike) and django_internals.keeps_types(connection)
    return _Statement(
        text=ways[0],
        unless_known=ways[1],
        copy=f"COPY {table} ({', '.join(columns)}) FROM STDIN",
        alike=tuple(alike.values()),
        values=_values(connection, [by_name[name] for name in own]),
        packed=_packed([by_name[name] for name in own]) if is_packed else None,
        alike_packed=[packing.packer(by_name[name])(value) for name, value in alike.items()],
    )


def _packed(fields: Sequence[Any]) -> Callable[[Delivery], list[bytes | None]]:
    """Return a function that returns the values of these fields in PostgreSQL's binary format."""
    of = operator.itemgetter(*(one.attname for one in fields))
    packers = list(map(packing.packer, fields))

    def packed(delivery: Delivery) -> list[bytes | None]:
        return [pack(value) for pack, value in zip(packers, of(delivery.__dict__), strict=True)]

    return packed


def _values(connection: Any, fields: Sequence[Any]) -> Callable[[Delivery], list[Any]]:
    """Return a function that returns the values of these fields as the driver accepts them."""
    of = operator.itemgetter(*(one.attname for one in fields))
    prepared = [(place, _prepare(connection, one)) for place, one in enumerate(fields)]
    to_prepare = [(place, prepare) for place, prepare in prepared if prepare is not None]

    def values(delivery: Delivery) -> list[Any]:
        row = list(of(delivery.__dict__))
        for place, prepare in to_prepare:
            row[place] = prepare(row[place])
        return row

    return values


def _prepare(connection: Any, field: Any) -> Callable[[Any], Any] | None:
    """Return a function that converts a value of a field for the driver; None when no conversion is needed."""
    kind = field.get_internal_type()

    def by_django(value: Any) -> Any:
        return None if value is None else field.get_db_prep_save(value, connection)

    if kind in _PLAIN:
        return str if field.choices else None
    if not django_internals.keeps_types(connection):
        return by_django
    if kind == "DateTimeField":
        return lambda moment: moment if moment is not None and moment.tzinfo is not None else by_django(moment)
    if kind == "JSONField":
        return functools.partial(json.dumps, cls=field.encoder)
    return None if kind == "BinaryField" else by_django


#: Fields whose values every driver accepts unchanged.
_PLAIN = frozenset(
    {
        *("CharField", "TextField", "BooleanField"),
        *("PositiveSmallIntegerField", "PositiveIntegerField", "PositiveBigIntegerField"),
    }
)


def _of_new() -> Iterator[tuple[str, Any]]:
    for one in Delivery._meta.concrete_fields:
        if one.attname not in _OWN:
            yield one.attname, one.get_default()


def _is_left(value: Any) -> bool:
    return django_internals.is_left_to_database(value)


#: The values of all other attributes of a new delivery, and the attributes that have a default only in the database.
_ALIKE = {name: value for name, value in _of_new() if not _is_left(value)}
_LEFT = tuple(name for name, value in _of_new() if _is_left(value))

_in_others = operator.itemgetter(*_ALIKE)
_alike = tuple(_ALIKE.values())


def _differs_in(delivery: Delivery) -> tuple[str, ...]:
    """Return the attributes to insert: ``_OWN``, ``_OWN_LATER``, or all except those left to the database."""
    values = delivery.__dict__
    if _in_others(values) == _alike:
        if all(_is_left(values[name]) for name in _LEFT):
            return _OWN
        if _LEFT == ("next_at",):
            return _OWN_LATER
    return tuple(one.attname for one in Delivery._meta.concrete_fields if not _is_left(values[one.attname]))


def _word(value: Any) -> str:
    """Return a default value as SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    if value != "":
        raise TypeError(f"There is no SQL for the value {value!r}; add the field to _OWN.")
    return "''"
