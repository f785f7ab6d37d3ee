"""The statement with which PostgreSQL records the outcomes of a batch's deliveries, in one round trip.

Its text is the same for any number of deliveries, so the server can prepare it. The values are sent as JSON, which
PostgreSQL converts to rows. All checks and changes are in one commit.
"""

# Only names of tables and columns, and numbers, are put into the text.
# ruff: noqa: S608

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from django.db import connections, models

from email_integration import django_internals
from email_integration.models import FINAL, Delivery, DeliveryBatch, database_time

from . import task_queue
from .steps import Step

#: The columns that the end of a mail changes. Each is always written, with the value of the instance after its step.
_OF_AN_END = (
    *("status", "code", "cause", "reason", "recipients", "attempts", "smtp_config", "config_version", "worker"),
    *("waits_for_relay", "next_at", "returned", "finished_at", "continue_after"),
    *("has_content", "content_seal", "content_file"),
)

#: All columns that a record may change. Most records contain only ends, and leave the other columns unchanged.
COLUMNS = (*_OF_AN_END, "from_header", "sender", "redirected_to", "due_at", "subject")


@dataclass(frozen=True, kw_only=True)
class StatementResult:
    """The result of the statement.

    ``is_owned`` says whether the batch still exists, ``cancel_requested`` whether one of its mails is to be cancelled,
    and ``made`` which steps were made.
    """

    is_owned: bool
    cancel_requested: bool
    made: list[bool]


def record(
    ready: Sequence[Step],
    *,
    batch: str,
    lease: float,
    permitted: int | None,
    closes: bool,
    using: str,
) -> StatementResult:
    """Make the steps ``ready`` whose deliveries nothing has changed since. Raises ``DatabaseError``.

    The lease of the batch is renewed by ``lease`` seconds. With ``closes`` the batch is deleted instead if all steps
    were made. ``permitted`` is the number of mails whose final dots may be sent; it is never lowered. ``using`` is the
    alias of the database.
    """
    connection = connections[using]
    kinds: dict[_Kind, list[tuple[Any, ...]]] = {}
    for step, rows in zip(ready, task_queue.rows_of(ready), strict=True):
        for row in rows:
            kind = (row.model, tuple(row.values), row.unique, tuple(row.kept))
            kinds.setdefault(kind, []).append((step.delivery.id, *row.values.values()))
    columns = _OF_AN_END if all(step.values.keys() <= _ENDS for step in ready) else COLUMNS
    of_columns = itemgetter(*columns)
    changes = [(*_heads(step), *of_columns(step.delivery.__dict__)) for step in ready]
    parameters: list[Any] = [batch, *_packed((*_HEADS, *columns), changes)]
    for kind, found in kinds.items():
        parameters += _packed(("_of", *kind[1]), found)
    parameters += [closes, len(ready), permitted or 0]
    text = _text(using, lease, columns, tuple(kinds))
    [(is_owned, requested, made)] = django_internals.ask(connection, text, parameters)
    known = set(made or ())
    return StatementResult(
        is_owned=bool(is_owned),
        cancel_requested=bool(requested),
        made=[step.delivery.id in known for step in ready],
    )


#: The values of each step besides the columns. The content is overwritten only when it is dropped.
_HEADS = ("id", "version", "_drops", "_not_final")

#: The changes that the columns of an end contain, and those that the text makes in a separate clause.
_ENDS = frozenset((*_OF_AN_END, "content", "batch", "cancel_requested"))


def _heads(step: Step) -> tuple[Any, ...]:
    is_final_excluded = step.not_among is FINAL or FINAL.issubset(step.not_among)
    return step.delivery.id, step.version, "content" in step.values, is_final_excluded


#: A kind of inserted rows: the model, the names of the fields, and the values 'unique' and 'kept' of ``Row``.
_Kind = tuple[type[models.Model], tuple[str, ...], str, tuple[str, ...]]


def _packed(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[str, str]:
    """Return two JSON texts: an object of the values that all rows share, and an array of the other values.

    Most values are the same in all rows.
    """
    alike, others = {}, []
    number = len(rows)
    for name, values in zip(names, zip(*rows, strict=True), strict=False):
        first = values[0]
        if name not in _KEYS and values.count(first) == number:
            alike[name] = first
        elif type(first) is dt.datetime and None not in values:
            others.append((name, tuple(map(str, values))))
        else:
            others.append((name, values))
    unlike = [name for name, _ in others]
    each = [dict(zip(unlike, row, strict=True)) for row in zip(*(values for _, values in others), strict=True)]
    return _json(alike), _json(each)


#: These names identify a row, so each row contains them.
_KEYS = ("id", "_of")


def _json(value: object) -> str:
    return json.dumps(value, default=_as_text, ensure_ascii=False, separators=(",", ":"))


def _as_text(value: object) -> str:
    """Return the text of a value that JSON cannot represent: a time, or a value from a result serializer."""
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)


# -- its text -------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def _text(alias: str, lease: float, columns: tuple[str, ...], kinds: tuple[_Kind, ...]) -> str:
    connection = connections[alias]
    quoted = connection.ops.quote_name
    until = database_time.sql("postgresql", ahead=lease)
    batches, deliveries = quoted(DeliveryBatch._meta.db_table), quoted(Delivery._meta.db_table)
    of = functools.partial(_column, quoted, Delivery)
    assigned = ", ".join(f"{of(name)} = x.{quoted(name)}" for name in columns)
    final = ", ".join(f"'{status.value}'" for status in FINAL)
    content = of("content")
    types = {name: _type(connection, Delivery, name) for name in ("id", "version", *columns)}
    types |= {"_drops": "bool", "_not_final": "bool"}
    parts = [
        # Locked first, as in every process that moves a batch's mails.
        f"own AS MATERIALIZED (SELECT id, cancel_requested FROM {batches} WHERE id = %s FOR UPDATE)",
        # This condition is always true. It makes PostgreSQL expect few rows, and look each one up by its key. For a
        # hundred rows it would scan a small table, and it keeps that plan while the table grows.
        f"x AS MATERIALIZED ({_unpacked(quoted, types)} WHERE r.{quoted('id')} = r.{quoted('id')} || '')",
        # The status is an expression, so no index of statuses is ever preferred to the key.
        f"""moved AS (UPDATE {deliveries} d SET {assigned}, {of("version")} = d.{of("version")} + 1, {of("batch")} = '',
        {of("cancel_requested")} = d.{of("cancel_requested")} AND x.{quoted("finished_at")} IS NULL,
        {content} = CASE WHEN x._drops THEN ''::bytea ELSE d.{content} END
        FROM x WHERE d.{of("id")} = x.id AND d.{of("version")} = x.version AND d.{of("batch")} = (SELECT id FROM own)
        AND NOT (x._not_final AND (d.{of("status")} || '') IN ({final})) RETURNING d.{of("id")} AS id)""",
    ]
    for number, kind in enumerate(kinds):
        parts.append(f"row{number} AS ({_insert(connection, kind)})")
    closed = "(SELECT %s::bool AND (SELECT count(*) FROM moved) = %s::int)"
    parts += [
        f"closed AS MATERIALIZED (SELECT {closed} AS is_closed)",
        f"gone AS (DELETE FROM {batches} b USING own, closed WHERE b.id = own.id AND closed.is_closed)",
        f"""kept AS (UPDATE {batches} b SET lease_until = {until}, suspected_at = NULL,
        permitted = GREATEST(b.permitted, %s::int)
        FROM own, closed WHERE b.id = own.id AND NOT closed.is_closed)""",
    ]
    return (
        f"WITH {', '.join(parts)} SELECT EXISTS (SELECT 1 FROM own), (SELECT cancel_requested FROM own), "
        "(SELECT array_agg(id) FROM moved)"
    )


def _insert(connection: Any, kind: _Kind) -> str:
    model, named, unique, kept = kind
    quoted = connection.ops.quote_name
    names = ", ".join(_column(quoted, model, name) for name in named)
    values = ", ".join(f"r.{quoted(name)}" for name in named)
    types = {"_of": "text", **{name: _type(connection, model, name) for name in named}}
    fields = [_field(model, name) for name in named]
    changed = [one.column for one in fields if one.name not in (unique, *kept)]
    rival = _field(model, unique) if unique else None
    insert_into, over = django_internals.insert_words(connection, fields, unique=rival, updated=changed)
    return (
        f"{insert_into} {quoted(model._meta.db_table)} ({names}) SELECT {values} "
        # This form uses a hash table. PostgreSQL does not know how many rows are moved, and would join each with each.
        f"FROM ({_unpacked(quoted, types)}) r WHERE (r._of IN (SELECT id FROM moved)) IS TRUE {over}"
    )


def _unpacked(quoted: Callable[[str], str], types: Mapping[str, str]) -> str:
    """Return a SELECT of the rows that ``_packed`` has packed, with columns of these types."""
    columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in types.items())
    # For all rows, a column is in one of the two texts, or NULL in both.
    values = ", ".join(f"COALESCE(r.{quoted(name)}, a.{quoted(name)}) AS {quoted(name)}" for name in types)
    return f"SELECT {values} FROM json_to_record(%s::json) AS a({columns}), json_to_recordset(%s::json) AS r({columns})"


def _field(model: type[models.Model], name: str) -> Any:
    return model._meta.get_field(name)


def _column(quoted: Callable[[str], str], model: type[models.Model], name: str) -> str:
    return quoted(str(_field(model, name).column))


def _type(connection: Any, model: type[models.Model], name: str) -> str:
    return str(_field(model, name).db_type(connection))
