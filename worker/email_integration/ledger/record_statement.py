"""The statement by which PostgreSQL records what happened to any number of a batch's deliveries, in one round trip.

Its text is the same for any number, so that the server can keep it. The values travel as JSON, which PostgreSQL turns
into rows; what they are checked against and what they change is done in one commit.
"""

# Names of tables and columns alone are put into the text, and numbers.
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

#: The columns that the end of a mail changes. Each is written in any case, as the instance has it after its step.
_OF_AN_END = (
    *("status", "code", "cause", "reason", "recipients", "attempts", "smtp_config", "config_version", "worker"),
    *("waits_for_relay", "next_at", "returned", "finished_at", "continue_after"),
    *("has_content", "content_seal", "content_file"),
)

#: All that a record may change. Most records have nothing but ends, and leave the rest alone.
COLUMNS = (*_OF_AN_END, "from_header", "sender", "redirected_to", "due_at")


@dataclass(frozen=True, kw_only=True)
class StatementResult:
    """What the statement says: whether the batch is there still, and whether one of its mails is to be cancelled;
    which of the steps were made.
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
    """Make those of the steps that nothing has overtaken. Raises ``DatabaseError``.

    The batch is renewed by ``lease`` seconds, or with ``closes`` deleted if all steps were made.
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


#: What is sent of each step beside the columns. The content is written over only where it goes.
_HEADS = ("id", "version", "_drops", "_not_final")

#: The changes that are in the columns of an end, and those that the text has for itself.
_ENDS = frozenset((*_OF_AN_END, "content", "batch", "cancel_requested"))


def _heads(step: Step) -> tuple[Any, ...]:
    is_final_excluded = step.not_among is FINAL or FINAL.issubset(step.not_among)
    return step.delivery.id, step.version, "content" in step.values, is_final_excluded


#: Rows that are inserted alike: of which model, the names of their fields, and ``Row``'s 'unique' and 'kept'.
_Kind = tuple[type[models.Model], tuple[str, ...], str, tuple[str, ...]]


def _packed(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[str, str]:
    """Two JSON texts: an object of the values that all rows have alike, as most are, and an array of the others."""
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


#: By these a row is found: each has its own.
_KEYS = ("id", "_of")


def _json(value: object) -> str:
    return json.dumps(value, default=_as_text, ensure_ascii=False, separators=(",", ":"))


def _as_text(value: object) -> str:
    """What JSON has no word for: times, and what a serializer of results may give."""
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
        # Locked first, as by all who move a batch's mails.
        f"own AS MATERIALIZED (SELECT id, cancel_requested FROM {batches} WHERE id = %s FOR UPDATE)",
        # With a condition that always holds: PostgreSQL expects few rows then, and looks each up by its key. For a
        # hundred it would read a small table as a whole, and the plan is kept while the table grows.
        f"x AS MATERIALIZED ({_unpacked(quoted, types)} WHERE r.{quoted('id')} = r.{quoted('id')} || '')",
        # The status as an expression, that no index of states is ever preferred to the key.
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
        # Looked up in a hash table. PostgreSQL, which does not know how many are moved, would join each with each.
        f"FROM ({_unpacked(quoted, types)}) r WHERE (r._of IN (SELECT id FROM moved)) IS TRUE {over}"
    )


def _unpacked(quoted: Callable[[str], str], types: Mapping[str, str]) -> str:
    """Ask for the rows that ``_packed`` has packed, of columns of these types."""
    columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in types.items())
    # A column is in one of the two for all rows, or NULL in both.
    values = ", ".join(f"COALESCE(r.{quoted(name)}, a.{quoted(name)}) AS {quoted(name)}" for name in types)
    return f"SELECT {values} FROM json_to_record(%s::json) AS a({columns}), json_to_recordset(%s::json) AS r({columns})"


def _field(model: type[models.Model], name: str) -> Any:
    return model._meta.get_field(name)


def _column(quoted: Callable[[str], str], model: type[models.Model], name: str) -> str:
    return quoted(str(_field(model, name).column))


def _type(connection: Any, model: type[models.Model], name: str) -> str:
    return str(_field(model, name).db_type(connection))
