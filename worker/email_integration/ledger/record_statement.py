"""The statement by which PostgreSQL records what happened to any number of a batch's deliveries, in one round trip.

Its text is the same for any number, so that the server can keep it. The values travel as JSON, one array for each
table, which PostgreSQL turns into rows; what they are checked against and what they change is done in one commit.
"""

# Names of tables and columns alone are put into the text, and numbers.
# ruff: noqa: S608

from __future__ import annotations

import datetime as dt
import functools
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections, models

from email_integration import django_internals
from email_integration.models import FINAL, Delivery, DeliveryBatch, database_time

from .steps import Step, rows_of

#: The columns that a record may change; each is written in any case, as the instance has it after its step.
COLUMNS = (
    *("status", "code", "cause", "reason", "recipients", "attempts", "smtp_config", "config_version", "worker"),
    *("from_header", "sender", "redirected_to", "waits_for_relay", "due_at", "next_at", "returned", "finished_at"),
    *("continue_after", "has_content", "content_seal", "content_file"),
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the statement says: whether the batch is there still, and whether one of its mails is to be cancelled;
    which of the moves were made.
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
) -> Answer:
    """Make those of the steps that nothing has overtaken. Raises ``DatabaseError``.

    The batch is renewed by ``lease`` seconds, or with ``closes`` deleted if all steps were made.
    """
    connection = connections[using]
    kinds: dict[_Kind, list[dict[str, Any]]] = {}
    for step, rows in zip(ready, rows_of(ready), strict=True):
        for row in rows:
            kind = (row.model, tuple(row.values), row.unique, tuple(row.kept))
            kinds.setdefault(kind, []).append({"_of": step.delivery.id, **row.values})
    text = _text(using, lease, tuple(kinds))
    parameters = [
        *(batch, _json([_change(step) for step in ready])),
        *map(_json, kinds.values()),
        *(closes, len(ready), permitted or 0),
    ]
    with django_internals.cursor(connection) as cursor:
        cursor.execute(text, parameters)
        is_owned, requested, made = cursor.fetchone()
    known = set(made or ())
    return Answer(
        is_owned=bool(is_owned),
        cancel_requested=bool(requested),
        made=[step.delivery.id in known for step in ready],
    )


def _change(step: Step) -> dict[str, Any]:
    known = step.delivery.__dict__
    return {
        "id": known["id"],
        "fence": step.fence,
        # With the content's other columns; written over only where it goes.
        "_drops": "content" in step.values,
        "_not_final": FINAL.issubset(step.not_among),
        **{name: known[name] for name in COLUMNS},
    }


#: Rows that are inserted alike: of which model, the names of their fields, and ``sql.Row``'s 'unique' and 'kept'.
_Kind = tuple[type[models.Model], tuple[str, ...], str, tuple[str, ...]]


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return json.dumps(rows, default=_other, ensure_ascii=False, separators=(",", ":"))


def _other(value: object) -> str:
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"A {type(value).__name__} cannot be recorded.")


# -- its text -------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def _text(alias: str, lease: float, kinds: tuple[_Kind, ...]) -> str:
    connection = connections[alias]
    quoted = connection.ops.quote_name
    until = database_time.sql("postgresql", ahead=lease)
    batches, deliveries = quoted(DeliveryBatch._meta.db_table), quoted(Delivery._meta.db_table)
    of = functools.partial(_column, quoted, Delivery)
    assigned = ", ".join(f"{of(name)} = x.{quoted(name)}" for name in COLUMNS)
    final = ", ".join(f"'{status.value}'" for status in FINAL)
    content = of("content")
    columns = ", ".join(f"{quoted(name)} {_type(connection, Delivery, name)}" for name in ("id", "fence", *COLUMNS))
    parts = [
        # Locked first, as by all who move a batch's mails.
        f"own AS MATERIALIZED (SELECT id, cancel_requested FROM {batches} WHERE id = %s FOR UPDATE)",
        f"x AS MATERIALIZED (SELECT * FROM json_to_recordset(%s::json) AS t({columns}, _drops bool, _not_final bool))",
        # The status as an expression, that no index of states is ever preferred to the key.
        f"""moved AS (UPDATE {deliveries} d SET {assigned}, {of("fence")} = d.{of("fence")} + 1, {of("batch")} = '',
        {of("cancel_requested")} = d.{of("cancel_requested")} AND x.{quoted("finished_at")} IS NULL,
        {content} = CASE WHEN x._drops THEN ''::bytea ELSE d.{content} END
        FROM x WHERE d.{of("id")} = x.id AND d.{of("fence")} = x.fence AND d.{of("batch")} = (SELECT id FROM own)
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
    columns = ", ".join(f"{quoted(name)} {_type(connection, model, name)}" for name in named)
    fields = [_field(model, name) for name in named]
    changed = [one.column for one in fields if one.name not in (unique, *kept)]
    rival = _field(model, unique) if unique else None
    insert_into, over = django_internals.insert_words(connection, fields, unique=rival, updated=changed)
    return (
        f"{insert_into} {quoted(model._meta.db_table)} ({names}) SELECT {values} FROM json_to_recordset(%s::json) "
        f"AS r(_of text, {columns}) JOIN moved ON moved.id = r._of {over}"
    )


def _field(model: type[models.Model], name: str) -> Any:
    return model._meta.get_field(name)


def _column(quoted: Callable[[str], str], model: type[models.Model], name: str) -> str:
    return quoted(str(_field(model, name).column))


def _type(connection: Any, model: type[models.Model], name: str) -> str:
    return str(_field(model, name).db_type(connection))
