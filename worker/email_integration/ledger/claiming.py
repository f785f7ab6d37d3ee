"""The statements with which a process claims deliveries: one on PostgreSQL, a transaction of three elsewhere."""

# Only names of tables and columns, and numbers, are put into the text.
# ruff: noqa: S608

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connections, models, transaction

from email_integration import django_internals
from email_integration.models import FINAL, Delivery, DeliveryBatch, Priority, RevokedTask, Status, database_time
from email_integration.timezones import as_stored

from . import clock, instances
from .low_water import LowWaterMark

#: Octets of the contents of a batch, and the size above which a mail is claimed alone.
OCTETS = 4 * 1024 * 1024
LARGE = 256 * 1024

#: A mail that recovery has given back this many times is claimed alone.
SUSPECT = 2

#: Octets up to which a stored content is read with the claim.
_SMALL = 32 * 1024

#: All priorities, the most urgent first.
PRIORITIES = (Priority.HIGH, Priority.NORMAL, Priority.BULK)

#: Statuses in which a delivery is never claimed, even if its row was changed in the database by hand.
_NEVER = (*sorted(FINAL), Status.IN_DOUBT)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The selection of a claim: mail of ``priorities``, and mail for which callers have chosen ``queue``.

    Up to half of the ``limit`` mails have the priorities ``along``, which belong to another queue.
    """

    queue: str
    priorities: tuple[str, ...]
    limit: int
    along: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    #: The marks of earlier claims. Only PostgreSQL uses them.
    mark: LowWaterMark | None = None


@dataclass(frozen=True, kw_only=True)
class NewBatch:
    """The new row of the batch. ``permitted`` None means all of its mails; ``lease`` is in seconds."""

    id: str
    owner: str
    lease: float
    permitted: int | None
    smtp_config: str = ""
    config_version: str = ""
    from_email: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """The claimed deliveries in the order of sending, and whether more may be due."""

    deliveries: list[Delivery]
    is_full: bool


def claim(wanted: Wanted, row: NewBatch, *, asked_at: float, using: str) -> Claimed:
    """Claim ``wanted`` with the batch ``row`` in one commit. Write nothing when no mail is due.

    ``asked_at`` is ``time.monotonic()`` before the call, and ``using`` the alias of the database. Raises
    ``DatabaseError``.
    """
    connection = connections[using]
    if connection.vendor == "postgresql":
        return _claim_in_one_statement(connection, wanted, row, asked_at)
    if not is_due(wanted, using=using):
        return Claimed(deliveries=[], is_full=False)
    with transaction.atomic(using=using):
        return _claim_in_transaction(connection, wanted, row, asked_at)


# -- PostgreSQL -----------------------------------------------------------------------------------------------------


def _claim_in_one_statement(connection: Any, wanted: Wanted, row: NewBatch, asked_at: float) -> Claimed:
    shape = _shape(wanted)
    text = _statement(connection.alias, shape, row.lease)
    parameters: list[Any] = []
    mark = wanted.mark or LowWaterMark()
    for place, since in enumerate(mark.of(shape.branches)):
        parameters += [wanted.queue, since] if shape.branches[place][0] else [since]
        parameters += [list(wanted.only)] if wanted.only else []
    parameters += [row.id, row.id, row.owner, row.permitted]
    parameters += [row.smtp_config, row.config_version, row.from_email]
    found = django_internals.ask(connection, text, parameters, binary=True)
    first, *_, moment, candidates, lowest = found[0]
    mark.saw(
        shape.branches,
        {int(place): since for place, since in json.loads(lowest or "{}").items()},
        moment=moment,
        all_=candidates < wanted.limit,
    )
    if first is None:
        return Claimed(deliveries=[], is_full=False)
    moment = as_stored(dt.datetime.fromtimestamp(moment, dt.UTC))
    clock.learn(moment, asked_at=asked_at, using=connection.alias)
    deliveries = instances.of_rows(connection, found)
    return Claimed(deliveries=deliveries, is_full=candidates >= wanted.limit or candidates > len(deliveries))


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """The values that determine the text of a claim: the priorities, and whether and how the caller's queue is read."""

    priorities: tuple[str, ...]
    along: tuple[str, ...]
    own: bool
    limit: int
    by_ids: bool

    @property
    def branches(self) -> list[tuple[bool, str]]:
        """Return for each part whether it is in the caller's queue, and its priority; the most urgent first."""
        found: list[tuple[bool, str]] = []
        for priority in PRIORITIES:
            found += [(False, priority)] if priority in (*self.priorities, *self.along) else []
            found += [(True, priority)] if self.own else []
        return found

    def limit_of(self, branch: tuple[bool, str]) -> int:
        """Return how many mails of a part are claimed at most."""
        is_own, priority = branch
        is_along = not is_own and priority not in self.priorities
        return max(1, self.limit // 2) if is_along else self.limit


def _shape(wanted: Wanted) -> _Shape:
    return _Shape(
        priorities=wanted.priorities,
        along=wanted.along,
        own=bool(wanted.queue),
        limit=wanted.limit,
        by_ids=bool(wanted.only),
    )


def _condition(vendor: str, quoted: Callable[[str], str], *, is_own: bool, priority: str, now: str, by_ids: str) -> str:
    """Return the condition for the due, unclaimed deliveries of one priority in one queue."""
    is_postgresql = vendor == "postgresql"
    # For PostgreSQL these are expressions, for which it has no statistics. So it never prefers an index of statuses to
    # the index of due mail, and does not scan the whole table if its statistics come from a time when all mail was
    # claimed.
    status = f"({quoted('status')} || '')" if is_postgresql else quoted("status")
    unclaimed = f"({quoted('batch')} || '') <= ''" if is_postgresql else f"{quoted('batch')} = ''"
    never = ", ".join(f"'{status.value}'" for status in _NEVER)
    since = f"AND {quoted('next_at')} >= to_timestamp(%s) " if is_postgresql else ""
    return (
        f"{quoted('queue')} = {'%s' if is_own else chr(39) * 2} "
        f"AND {quoted('priority')} = '{Priority(priority).value}' "
        f"{since}AND {quoted('next_at')} <= {now} AND {unclaimed} "
        f"AND {status} NOT IN ({never}){by_ids}"
    )


@functools.lru_cache(maxsize=64)
def _statement(alias: str, shape: _Shape, lease: float) -> str:
    connection = connections[alias]
    quoted = connection.ops.quote_name
    deliveries, batches, revoked = (quoted(model._meta.db_table) for model in (Delivery, DeliveryBatch, RevokedTask))
    now, until = database_time.sql("postgresql"), database_time.sql("postgresql", ahead=lease)
    limit = int(shape.limit)
    parts = []
    by_ids = " AND id = ANY(%s)" if shape.by_ids else ""
    for number, (is_own, priority) in enumerate(shape.branches):
        condition = _condition(connection.vendor, quoted, is_own=is_own, priority=priority, now=now, by_ids=by_ids)
        parts.append(
            f"q{number} AS MATERIALIZED (SELECT id, next_at, content_size, returned FROM {deliveries} "
            f"WHERE {condition} ORDER BY next_at LIMIT {shape.limit_of((is_own, priority))} FOR UPDATE SKIP LOCKED)"
        )
    # PostgreSQL reads a part only while the parts before it do not fill the batch.
    every = " UNION ALL ".join(
        f"SELECT id, {number} AS place, next_at, content_size, "
        f"content_size > {LARGE} OR returned >= {SUSPECT} AS is_alone FROM q{number}"
        for number in range(len(shape.branches))
    )
    names = [quoted(column) for column in instances.columns()[:-1]]
    columns = ", ".join(
        f"{what} AS {name}" for what, name in zip(instances.selected(connection, "d"), names, strict=True)
    )
    content = quoted("content")
    parts += [
        f"c AS MATERIALIZED (SELECT *, row_number() OVER w AS n, first_value(is_alone) OVER w AS first_is_alone, "
        f"sum(CASE WHEN is_alone THEN 0 ELSE content_size END) OVER w AS octets "
        f"FROM ({every} LIMIT {limit}) e WINDOW w AS (ORDER BY place, next_at, id))",
        f"p AS MATERIALIZED (SELECT id, n FROM c WHERE n = 1 OR NOT (is_alone OR first_is_alone OR octets > {OCTETS}))",
        f"u AS (UPDATE {deliveries} d SET batch = %s::varchar, version = version + 1, "
        f"cancel_requested = cancel_requested OR EXISTS (SELECT 1 FROM {revoked} r WHERE r.id = d.id) "
        f"FROM p WHERE d.id = p.id RETURNING p.n, {columns}, "
        f"CASE WHEN octet_length(d.{content}) <= {_SMALL} THEN d.{content} END AS {content})",
        f"b AS (INSERT INTO {batches} (id, owner, claimed_at, lease_until, permitted, items, "
        f"smtp_config, config_version, from_email) "
        f"SELECT %s::varchar, %s::varchar, {now}, {until}, COALESCE(%s::int, count(*)), "
        f"jsonb_agg(jsonb_build_array(id, version) ORDER BY n), %s::varchar, %s::varchar, %s::text "
        f"FROM u HAVING count(*) > 0)",
    ]
    # The time is a number, because the driver takes long to convert a time, and each row contains it.
    moment = f"extract(epoch FROM {now})::float8"
    lowest = (
        "(SELECT json_object_agg(place, since)::text FROM "
        "(SELECT place, extract(epoch FROM min(next_at))::float8 AS since FROM c GROUP BY place) s)"
    )
    asked = ", ".join((*names, content, moment, "(SELECT count(*) FROM c)", lowest))
    # There is always a row: it contains the time even when no mail was due.
    return f"WITH {', '.join(parts)} SELECT {asked} FROM (SELECT) one LEFT JOIN u ON TRUE ORDER BY n"


def is_due(wanted: Wanted, *, using: str) -> bool:
    """Return whether there is mail to claim, with one query and no transaction or locks. Raises ``DatabaseError``.

    ``using`` is the alias of the database. Call it first when most likely no mail is due, because it costs a third of a
    claim.
    """
    connection, shape = connections[using], _shape(wanted)
    # None where the statement has no such parameter.
    is_postgresql = connection.vendor == "postgresql"
    marks = (wanted.mark or LowWaterMark()).of(shape.branches) if is_postgresql else [None] * len(shape.branches)
    parameters: list[Any] = []
    for (is_own, _priority), since in zip(shape.branches, marks, strict=True):
        parameters += [wanted.queue] if is_own else []
        parameters += [] if since is None else [since]
        parameters += wanted.only
    text = _question(connection.alias, shape, database_time.sql(connection.vendor), len(wanted.only))
    [(found,)] = django_internals.ask(connection, text, parameters)
    return bool(found)


@functools.lru_cache(maxsize=64)
def _question(alias: str, shape: _Shape, now: str, ids: int) -> str:
    connection = connections[alias]
    quoted = connection.ops.quote_name
    found = []
    for is_own, priority in shape.branches:
        condition = _condition(
            connection.vendor, quoted, is_own=is_own, priority=priority, now=now, by_ids=_by_ids(ids)
        )
        # In the order of the index; otherwise PostgreSQL might scan the table to find any row.
        first = f"SELECT 1 FROM {quoted(Delivery._meta.db_table)} WHERE {condition} ORDER BY next_at LIMIT 1"
        found.append(f"({first}) IS NOT NULL")
    return f"SELECT {' OR '.join(found)}"


# -- MariaDB, MySQL and SQLite --------------------------------------------------------------------------------------


def _by_ids(number: int) -> str:
    return f" AND id IN ({', '.join(['%s'] * number)})" if number else ""


def _claim_in_transaction(connection: Any, wanted: Wanted, row: NewBatch, asked_at: float) -> Claimed:
    using = connection.alias
    quoted = connection.ops.quote_name
    batches = DeliveryBatch.objects.using(using)
    if connection.vendor == "sqlite":
        # Start with a write, even of no rows: SQLite waits for its lock then, but refuses a write after a read.
        batches.filter(pk="").update(suspected_at=None)
    now = database_time.sql(connection.vendor)
    by_ids = _by_ids(len(wanted.only))
    table = quoted(Delivery._meta.db_table)
    selected = ", ".join(instances.selected(connection, table))
    content = quoted("content")
    locking = _locking(connection)
    found: list[Any] = []
    shape = _shape(wanted)
    with connection.cursor() as cursor:
        for is_own, priority in shape.branches:
            limit = min(shape.limit_of((is_own, priority)), wanted.limit - len(found))
            condition = _condition(connection.vendor, quoted, is_own=is_own, priority=priority, now=now, by_ids=by_ids)
            cursor.execute(
                f"SELECT {selected}, CASE WHEN length({content}) <= {_SMALL} THEN {content} END, {now} "
                f"FROM {table} WHERE {condition} "
                f"ORDER BY next_at LIMIT {int(limit)} {locking}".rstrip(),
                [*([wanted.queue] if is_own else []), *wanted.only],
            )
            found += cursor.fetchall()
            if len(found) >= wanted.limit:
                break
    if not found:
        return Claimed(deliveries=[], is_full=False)
    clock.learn(clock.as_moment(found[0][-1], using=using), asked_at=asked_at, using=using)
    candidates = instances.of_rows(connection, found)
    taken = _chosen(candidates)
    _take(taken, row, using=using)
    return Claimed(deliveries=taken, is_full=len(candidates) >= wanted.limit or len(candidates) > len(taken))


def _locking(connection: Any) -> str:
    if connection.vendor == "sqlite":
        return ""
    return "FOR UPDATE SKIP LOCKED" if django_internals.can_skip_locked_rows(connection) else "FOR UPDATE"


def _chosen(candidates: Sequence[Delivery]) -> list[Delivery]:
    """Return the candidates that form a batch. A large or suspect mail forms a batch alone."""
    first, *others = candidates
    if _is_alone(first):
        return [first]
    chosen, octets = [first], first.content_size
    for one in others:
        if _is_alone(one):
            continue
        octets += one.content_size
        if octets > OCTETS:
            break
        chosen.append(one)
    return chosen


def _is_alone(delivery: Delivery) -> bool:
    return delivery.content_size > LARGE or delivery.returned >= SUSPECT


def _take(deliveries: Collection[Delivery], row: NewBatch, *, using: str) -> None:
    ids = [one.pk for one in deliveries]
    rows = Delivery.objects.using(using)
    rows.filter(pk__in=ids).update(batch=row.id, version=models.F("version") + 1)
    revoked = set(RevokedTask.objects.using(using).filter(pk__in=ids).values_list("pk", flat=True))
    if revoked:
        rows.filter(pk__in=revoked).update(cancel_requested=True)
    for one in deliveries:
        one.batch, one.version = row.id, one.version + 1
        one.cancel_requested = one.cancel_requested or one.pk in revoked
    DeliveryBatch.objects.using(using).bulk_create(
        [
            DeliveryBatch(
                id=row.id,
                owner=row.owner,
                claimed_at=database_time.DatabaseTime(),
                lease_until=database_time.DatabaseTime(ahead=row.lease),
                permitted=len(ids) if row.permitted is None else row.permitted,
                items=[[one.pk, one.version] for one in deliveries],
                smtp_config=row.smtp_config,
                config_version=row.config_version,
                from_email=row.from_email,
            )
        ]
    )
