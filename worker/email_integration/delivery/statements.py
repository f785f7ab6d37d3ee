"""The few statements that every mail costs, as text that is put together in microseconds.

Django's query compiler takes longer over an UPDATE of a dozen columns than the server that the mail goes to takes to
answer. The text holds names of tables and columns only; the values go through Django's fields and its connection.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connections, models, transaction
from django.db.models.constants import OnConflict

from email_integration.models import Delivery, Status


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row to insert: ``values`` by the names of the columns' fields.

    With ``unique``, the name of a field, the row that has the same value there is written over, but for ``kept``.
    """

    model: type[models.Model]
    values: Mapping[str, Any] = field(repr=False)
    unique: str = ""
    kept: Collection[str] = ()


@dataclass(frozen=True, kw_only=True)
class Move:
    """A transition of one delivery, with the rows that are only written if it is made.

    It is made while the delivery has this ``fence``, a status that is one of ``among`` (if given) and none of
    ``not_among``, and these values in ``unless_changed``.
    """

    pk: str
    fence: int
    values: Mapping[str, Any] = field(repr=False)
    among: Collection[Status] = ()
    not_among: Collection[Status] = ()
    unless_changed: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Row] = ()


def make(moves: Sequence[Move], *, using: str) -> list[bool]:
    """Make the transitions, all in one commit, and say of each whether it was made."""
    connection = connections[using]
    in_one = connection.vendor == "postgresql" or (len(moves) == 1 and not moves[0].rows)
    # In somebody else's transaction a savepoint, so that it survives what fails here.
    together = transaction.atomic(using=using) if connection.in_atomic_block or not in_one else contextlib.nullcontext()
    with together, _cursor(connection) as cursor:
        if connection.vendor == "postgresql":
            return _make_in_one_statement(connection, cursor, moves)
        return [_make(connection, cursor, move) for move in moves]


def load(delivery_ids: Sequence[str], *, using: str) -> list[Delivery]:
    """Return those deliveries that there are, in no order."""
    connection = connections[using]
    names, columns, converters = _of_deliveries(connection.alias)
    marks = ", ".join(["%s"] * len(delivery_ids))
    key = connection.ops.quote_name("id")
    text = f"SELECT {columns} FROM {_table(connection, Delivery)} WHERE {key} IN ({marks})"  # noqa: S608  # no values
    with connection.cursor() as cursor:
        cursor.execute(text, delivery_ids)
        found = [list(row) for row in cursor.fetchall()]
    for row in found:
        for place, of_column, convert in converters:
            row[place] = convert(row[place], of_column, connection)
    return [Delivery.from_db(using, names, row) for row in found]


@functools.cache
def _of_deliveries(alias: str) -> tuple[list[str], str, list[tuple[int, Any, Any]]]:
    """The names of a delivery's fields, its columns, and what makes values of what this database gives for them."""
    connection = connections[alias]
    fields = Delivery._meta.concrete_fields
    columns = [one.get_col(Delivery._meta.db_table) for one in fields]
    converters = [
        (place, columns[place], convert)
        for place, one in enumerate(fields)
        for convert in (*connection.ops.get_db_converters(columns[place]), *one.get_db_converters(connection))
    ]
    names = ", ".join(connection.ops.quote_name(str(one.column)) for one in fields)
    return [one.attname for one in fields], names, converters


def _cursor(connection: Any) -> Any:
    """On PostgreSQL one that sends the values apart, so that the server can keep the statement ('prepare_threshold').

    Django's usual one puts them into the text: each is another statement then, to be planned anew.
    """
    if connection.vendor != "postgresql":
        return connection.cursor()
    from django.db.backends.postgresql import base, psycopg_any

    if not psycopg_any.is_psycopg3:
        return connection.cursor()
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    cursor = base.ServerBindingCursor(connection.connection)  # type: ignore[call-arg]  # its stub has no base class
    return connection.make_debug_cursor(cursor) if connection.queries_logged else connection.make_cursor(cursor)


def _make(connection: Any, cursor: Any, move: Move) -> bool:
    cursor.execute(*_update(connection, move))
    if not cursor.rowcount:
        return False
    for row in move.rows:
        columns, values = _columns(connection, row.model, row.values)
        marks = ", ".join(["%s"] * len(values))
        text = f"{_into(connection, row, columns)} VALUES ({marks}) {_over(connection, row)}"
        cursor.execute(text, values)
    return True


def _make_in_one_statement(connection: Any, cursor: Any, moves: Sequence[Move]) -> list[bool]:
    """One round trip, and a commit of its own: PostgreSQL can write in a WITH clause."""
    parts: list[str] = []
    parameters: list[Any] = []
    for number, move in enumerate(moves):
        text, values = _update(connection, move)
        parts.append(f"moved{number} AS ({text} RETURNING 1)")
        parameters += values
        for place, row in enumerate(move.rows):
            columns, values = _columns(connection, row.model, row.values)
            marks = ", ".join(["%s"] * len(values))
            text = f"{_into(connection, row, columns)} SELECT {marks} FROM moved{number} {_over(connection, row)}"  # noqa: S608
            parts.append(f"row{number}_{place} AS ({text})")
            parameters += values
    counts = ", ".join(f"(SELECT count(*) FROM moved{number})" for number in range(len(moves)))  # noqa: S608
    cursor.execute(f"WITH {', '.join(parts)} SELECT {counts}", parameters)
    return [bool(count) for count in cursor.fetchone()]


def _update(connection: Any, move: Move) -> tuple[str, list[Any]]:
    columns, values = _columns(connection, Delivery, {**move.values, "fence": move.fence + 1})
    changes = ", ".join(f"{column} = %s" for column in columns)
    conditions, compared = [], []
    for name, value in {"pk": move.pk, "fence": move.fence, **move.unless_changed}.items():
        column, prepared = _column(connection, Delivery, name, value)
        conditions.append(f"{column} IS NULL" if value is None else f"{column} = %s")
        compared += [] if value is None else [prepared]
    status = connection.ops.quote_name("status")
    for word, states in (("IN", move.among), ("NOT IN", move.not_among)):
        if states:
            conditions.append(f"{status} {word} ({', '.join(['%s'] * len(states))})")
            compared += [state.value for state in states]
    text = f"UPDATE {_table(connection, Delivery)} SET {changes} WHERE {' AND '.join(conditions)}"  # noqa: S608
    return text, [*values, *compared]


def _into(connection: Any, row: Row, columns: Sequence[str]) -> str:
    return f"INSERT INTO {_table(connection, row.model)} ({', '.join(columns)})"


def _over(connection: Any, row: Row) -> str:
    """What becomes of a row that is there already."""
    if not row.unique:
        return ""
    fields = [_field(row.model, name) for name in row.values]
    changed = [one.column for one in fields if one.name not in (row.unique, *row.kept)]
    unique = [_field(row.model, row.unique).column]
    return str(connection.ops.on_conflict_suffix_sql(fields, OnConflict.UPDATE, changed, unique))


def _columns(connection: Any, model: type[models.Model], values: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    pairs = [_column(connection, model, name, value) for name, value in values.items()]
    return [column for column, _ in pairs], [prepared for _, prepared in pairs]


def _column(connection: Any, model: type[models.Model], name: str, value: Any) -> tuple[str, Any]:
    of_model = _field(model, name)
    return connection.ops.quote_name(of_model.column), of_model.get_db_prep_save(value, connection)


@functools.cache
def _field(model: type[models.Model], name: str) -> Any:
    return model._meta.pk if name == "pk" else model._meta.get_field(name)


def _table(connection: Any, model: type[models.Model]) -> str:
    return str(connection.ops.quote_name(model._meta.db_table))


def insert(delivery: Delivery, *, using: str) -> None:
    """Insert a new delivery, as ``save()`` does it, but for the signals. Raises ``DatabaseError``."""
    connection = connections[using]
    given = [one for one in Delivery._meta.concrete_fields if _is_given(one, delivery.__dict__[one.attname])]
    values = [one.get_db_prep_save(one.pre_save(delivery, True), connection) for one in given]
    text = _insertion(using, tuple(one.name for one in given))
    with transaction.mark_for_rollback_on_error(using=using), connection.cursor() as cursor:
        cursor.execute(text, values)
    delivery._state.adding, delivery._state.db = False, using


def _is_given(of_model: Any, value: Any) -> bool:
    """Whether it is for the statement's parameters; most of a new row is not."""
    constants = _constants()
    return of_model.name not in constants or value != constants[of_model.name][0]


@functools.cache
def _constants() -> dict[str, tuple[Any, str]]:
    """The defaults that a text may hold, and how, by the names of the fields."""
    words = {None: "NULL", True: "TRUE", False: "FALSE"}
    found: dict[str, tuple[Any, str]] = {}
    for one in Delivery._meta.concrete_fields:
        if callable(one.default):
            continue
        default = one.get_default()
        if isinstance(default, str) and (default == "" or default.isalpha()):
            found[one.name] = default, f"'{default}'"
        elif default is None or isinstance(default, bool):
            found[one.name] = default, words[default]
        elif isinstance(default, int):
            found[one.name] = default, str(default)
    return found


@functools.cache
def _insertion(using: str, given: tuple[str, ...]) -> str:
    connection: Any = connections[using]  # the stubs have another signature of what is called here
    constants = _constants()
    rest = [one for one in constants if one not in given]
    marks = [
        connection.ops.binary_placeholder_sql(b"") if isinstance(_field(Delivery, name), models.BinaryField) else "%s"
        for name in given
    ]
    columns = ", ".join(connection.ops.quote_name(_field(Delivery, name).column) for name in (*given, *rest))
    into = f"INSERT INTO {_table(connection, Delivery)} ({columns})"
    return f"{into} VALUES ({', '.join([*marks, *(constants[name][1] for name in rest)])})"
