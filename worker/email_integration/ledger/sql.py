"""The few statements that every mail needs, as text that is built in microseconds.

Django's query compiler takes longer for an UPDATE of a dozen columns than the mail server takes to reply. The text
contains only names of tables and columns; the values go through Django's fields and its connection.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connections, models, transaction

from email_integration import django_internals
from email_integration.django_internals import cursor as server_cursor
from email_integration.models import Delivery, Status

from . import task_queue
from .steps import Row, Step


def execute(steps: Sequence[Step], *, batch: str | None = None, using: str) -> list[bool]:
    """Write the steps in one commit. Return for each whether its delivery was still as the step found it.

    With ``batch``, the condition is that the deliveries are claimed with that batch, whatever their instances say. The
    rows of a step are inserted if the step is made. ``using`` is the alias of the database. Raises ``DatabaseError``.
    """
    connection = connections[using]
    rows = task_queue.rows_of(steps)
    is_one = len(steps) == 1 and not rows[0]
    # A savepoint inside the caller's transaction, so that it survives an error here.
    together = transaction.atomic(using=using) if connection.in_atomic_block or not is_one else contextlib.nullcontext()
    with together, server_cursor(connection) as cursor:
        made = [_execute(connection, cursor, step, step.batch if batch is None else batch) for step in steps]
        _insert_all(connection, cursor, [row for each in itertools.compress(rows, made) for row in each])
        return made


def _execute(connection: Any, cursor: Any, step: Step, batch: str) -> bool:
    words = _StatementBuilder(connection)
    cursor.execute(words.update(step, batch), words.parameters)
    return bool(cursor.rowcount)


def _insert_all(connection: Any, cursor: Any, rows: Sequence[Row]) -> None:
    """Insert rows, grouped by statement, because drivers can combine many executions of one statement."""
    alike: dict[str, list[list[Any]]] = {}
    for row in rows:
        words = _StatementBuilder(connection)
        alike.setdefault(words.insert(row), []).append(words.parameters)
    for text, parameters in alike.items():
        cursor.executemany(text, parameters)


class _StatementBuilder:
    """Builds statements. ``parameters`` are the values that are not in the text.

    Values that most mails share are in the text. Fewer parameters are less work, and psycopg caches a statement only
    with up to fifty of them.
    """

    def __init__(self, connection: Any) -> None:
        self.parameters: list[Any] = []
        self._connection = connection

    def update(self, step: Step, batch: str) -> str:
        changes = self._shape(Delivery, {**step.values, "version": step.version + 1})
        conditions = self._shape(Delivery, {"id": step.delivery.pk, "version": step.version, "batch": batch})
        return _update(self._connection.alias, changes, conditions, tuple(step.among), tuple(step.not_among))

    def insert(self, row: Row) -> str:
        """Insert ``row``, or overwrite the existing row with the same unique value."""
        shape = self._shape(row.model, row.values)
        return _insert(self._connection.alias, row.model, shape, row.unique, tuple(row.kept))

    def _shape(self, model: type[models.Model], values: Mapping[str, Any]) -> _Shape:
        """Return the placeholder or literal of each value in the text."""
        return tuple((name, self._mark(model, name, value)) for name, value in values.items())

    def _mark(self, model: type[models.Model], name: str, value: Any) -> str:
        if value is None:
            return "NULL"
        kind = type(value)
        if kind is bool:
            return "TRUE" if value else "FALSE"
        if kind is str and not value:
            return "''"
        field = _field(model, name)
        if kind not in _READY or not isinstance(field, _PLAIN):
            value = field.get_db_prep_save(value, self._connection)
        self.parameters.append(value)
        return django_internals.placeholder(self._connection, field)


#: Names of fields, each with its placeholder or literal in the text.
_Shape = tuple[tuple[str, str], ...]


@functools.lru_cache(maxsize=256)
def _update(
    alias: str, changes: _Shape, conditions: _Shape, among: tuple[Status, ...], not_among: tuple[Status, ...]
) -> str:
    column = functools.partial(_column, alias, Delivery)
    assigned = ", ".join(f"{column(name)} = {mark}" for name, mark in changes)
    required = [f"{column(name)} {'IS' if mark == 'NULL' else '='} {mark}" for name, mark in conditions]
    # For PostgreSQL this is an expression, so it never prefers an index of statuses to the key. If its statistics show
    # that index as almost empty, it would read all of a deep queue for each mail.
    status = f"({column('status')} || '')" if connections[alias].vendor == "postgresql" else column("status")
    for word, states in (("IN", among), ("NOT IN", not_among)):
        if states:
            listed = ", ".join(f"'{state.value}'" for state in states)
            required.append(f"{status} {word} ({listed})")
    return f"UPDATE {_table(alias, Delivery)} SET {assigned} WHERE {' AND '.join(required)}"  # noqa: S608


@functools.lru_cache(maxsize=256)
def _insert(alias: str, model: type[models.Model], shape: _Shape, unique: str, kept: tuple[str, ...]) -> str:
    columns = ", ".join(_column(alias, model, name) for name, _ in shape)
    marks = ", ".join(mark for _, mark in shape)
    fields = [_field(model, name) for name, _ in shape]
    changed = [one.column for one in fields if one.name not in (unique, *kept)]
    rival = _field(model, unique) if unique else None
    insert_into, over = django_internals.insert_words(connections[alias], fields, unique=rival, updated=changed)
    return f"{insert_into} {_table(alias, model)} ({columns}) VALUES ({marks}) {over}".rstrip()


#: Fields that pass these types to the database unchanged. A member of an enumeration is converted.
_PLAIN = (models.CharField, models.IntegerField, models.FloatField)
_READY = frozenset({str, int, float})


@functools.cache
def _field(model: type[models.Model], name: str) -> Any:
    return model._meta.get_field(name)


def _column(alias: str, model: type[models.Model], name: str) -> str:
    return str(connections[alias].ops.quote_name(_field(model, name).column))


def _table(alias: str, model: type[models.Model]) -> str:
    return str(connections[alias].ops.quote_name(model._meta.db_table))
