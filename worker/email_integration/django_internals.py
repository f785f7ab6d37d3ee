"""The undocumented parts of Django that this app uses.

Any release of Django may change them without notice. ``READ_FOR`` names the versions whose source was checked. The
tests call each function on each of these versions, and fail on a version that is not named. Other modules, like most
projects, also use ``Model._meta``, ``connection.ops.quote_name``, ``django.contrib.admin.utils`` and
``django.utils.asyncio.async_unsafe``.
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy as copied
from email.utils import format_datetime
from operator import attrgetter
from types import FunctionType
from typing import Any, TypeVar

import django
from django.conf import settings
from django.core.mail import message as mail
from django.db import connections, models, transaction
from django.db.backends import utils
from django.db.backends.utils import CursorWrapper
from django.db.migrations.executor import MigrationExecutor
from django.db.models.base import ModelState
from django.db.models.constants import OnConflict
from django.db.models.expressions import DatabaseDefault
from django.db.models.signals import post_init, pre_init

_Row = TypeVar("_Row", bound=models.Model)

#: Versions of Django, as (major, minor).
READ_FOR = ((5, 2), (6, 0), (6, 1))


def is_set(name: str) -> bool:
    """Return whether the project itself defines the setting ``name``; Django's default does not count."""
    return bool(settings.is_overridden(name)) and hasattr(settings._wrapped, name)  # type: ignore[misc]  # not in its stub


def read_setting(name: str) -> Any:
    """Return the value of the setting ``name``, or Django's default for it.

    Django 6.1 warns about each read of an EMAIL_* setting. It has warned about the project's definition already, and
    code that reads the project's settings for the project cannot act on the warning.
    """
    is_set(name)  # loads the settings
    return getattr(settings._wrapped, name)  # type: ignore[misc]  # not in its stub


def cursor(connection: Any, *, binary: bool = False) -> Any:
    """Return a cursor whose statements the server can prepare and keep.

    On PostgreSQL the cursor sends the values apart from the text of the statement (psycopg's 'prepare_threshold').
    Django's usual cursor puts the values into the text, so the server must plan each statement anew. With ``binary``
    psycopg receives results in PostgreSQL's binary format, which is best for octets; in this format Django can read
    only texts, numbers and booleans.
    """
    if not keeps_types(connection):
        return connection.cursor()
    bare = _bare_cursor(connection)
    if binary:
        bare.format = _BINARY
    return connection.make_debug_cursor(bare) if connection.queries_logged else connection.make_cursor(bare)


def ask(connection: Any, text: str, parameters: Sequence[Any], *, binary: bool = False) -> list[Any]:
    """Execute a statement on such a cursor, and return its rows. Best for a long text that is always the same.

    psycopg parses the placeholders of a text of more than 4096 characters anew each time, unless the placeholders are
    numbered, as its 'raw' cursor accepts them.
    """
    raw = None if is_watched(connection) else _raw_cursor()
    if raw is None or not keeps_types(connection):
        with cursor(connection, binary=binary) as opened:
            opened.execute(text, parameters)
            return list(opened.fetchall())
    _check(connection)
    bare = raw(connection.connection)
    if binary:
        bare.format = _BINARY
    with connection.make_cursor(bare) as opened:
        opened.execute(_numbered(text), parameters)
        return list(opened.fetchall())


@functools.cache
def _raw_cursor() -> Any:
    """Return psycopg's ``RawCursor`` class, which exists from version 3.2 on; None before that, and with psycopg2."""
    try:
        from psycopg import RawCursor
    except ImportError:
        return None
    return RawCursor


@functools.lru_cache(maxsize=64)
def _numbered(text: str) -> str:
    """Return a text with '%s' placeholders in PostgreSQL's own syntax ('$1')."""
    number = itertools.count(1)
    return re.sub("%[s%]", lambda found: f"${next(number)}" if found[0] == "%s" else "%", text)


def _bare_cursor(connection: Any) -> Any:
    from django.db.backends.postgresql import base

    connection.close_if_health_check_failed()
    connection.ensure_connection()
    return base.ServerBindingCursor(connection.connection)  # type: ignore[call-arg]  # its stub has no base class


def execute(connection: Any, text: str, parameters: Sequence[Any]) -> int:
    """Execute a statement that returns no rows, on such a cursor; return the number of rows that it wrote.

    The last parameters stay in memory, so no parameter may be large. Raises ``DatabaseError``.
    """
    if is_watched(connection) or not keeps_types(connection):
        with cursor(connection) as opened:
            opened.execute(text, parameters)
            return int(opened.rowcount)
    _check(connection)
    kept = _kept_cursor(connection)
    with connection.wrap_database_errors:
        kept.execute(text, parameters)
        return int(kept.rowcount)


def execute_packed(connection: Any, text: str, packed: Callable[[], Sequence[bytes | None]]) -> int | None:
    """Execute a statement as ``execute`` does, without psycopg's cursor, which takes as long as everything else.

    ``packed`` returns the parameters in PostgreSQL's binary format. Return None when the caller must use ``execute``
    instead: until the statement is prepared; inside a transaction, which a statement that the server has forgotten
    would break; and when the server reports an error.
    """
    if is_watched(connection):
        return None
    _check(connection)
    opened = connection.connection
    server = opened.pgconn
    if not opened.autocommit or server.transaction_status or server.pipeline_status:
        return None
    with connection.wrap_database_errors, opened.lock:
        name = _name_of_prepared(opened, text)
        if name is None:
            return None
        parameters = packed()
        server.send_query_prepared(name, parameters, [1] * len(parameters))
        result = _result(opened)
    if result.status == _COMMAND_OK:
        return int(result.command_tuples or 0)
    if result.error_field(_SQLSTATE) == _NOT_PREPARED:
        getattr(opened, _PREPARED).clear()
    return None


def _check(connection: Any) -> None:
    """Make the checks that Django's cursor wrapper makes first."""
    connection.validate_thread_sharing()
    connection.close_if_health_check_failed()
    connection.ensure_connection()  # a connection that was closed during a transaction is no longer in it after this
    connection.validate_no_broken_transaction()


def _name_of_prepared(opened: Any, text: str) -> bytes | None:
    """Return the name of the prepared statement on the server, or None as long as it is not prepared.

    The statement is prepared after as many uses as psycopg's ``prepare_threshold``.
    """
    known: dict[str, int | bytes | None] = opened.__dict__.setdefault(_PREPARED, {})
    found = known.get(text, 0)
    if not isinstance(found, int):
        return found
    if opened.prepare_threshold is None:  # as behind pgbouncer
        return None
    if found < opened.prepare_threshold:
        known[text] = found + 1
        return None
    name = f"email_integration_{next(_numbers)}".encode()
    opened.pgconn.send_prepare(name, _numbered(text).encode())
    prepared = name if _result(opened).status == _COMMAND_OK else None
    known[text] = prepared
    return prepared


def _result(opened: Any) -> Any:
    """Wait for a result as psycopg does: other greenlets run meanwhile, and a signal interrupts the wait."""
    from psycopg import generators

    [result] = opened.wait(generators.execute(opened.pgconn))
    return result


#: Maps the text of a statement to its number of uses on a connection, or to its name there, or None if it has no name.
_PREPARED = "_email_integration_prepared"

_numbers = itertools.count()

#: ``psycopg.pq.Format``.
_BINARY = 1

#: ``psycopg.pq.ExecStatus`` and ``DiagnosticField``; and invalid_sql_statement_name (PostgreSQL's documentation,
#: appendix A): other code has made the server forget the statement.
_COMMAND_OK, _SQLSTATE, _NOT_PREPARED = 1, ord("C"), b"26000"


def _kept_cursor(connection: Any) -> Any:
    """Return the cursor of ``execute``, which is kept as long as the connection to the server.

    A new cursor must determine again how to write each value, which takes as long as everything else.
    """
    opened = connection.connection
    kept = getattr(opened, _KEPT, None)
    if kept is None:
        kept = _bare_cursor(connection)
        setattr(opened, _KEPT, kept)
    return kept


_KEPT = "_email_integration_cursor"


def is_watched(connection: Any) -> bool:
    """Return whether other code must see each statement.

    Such code is a wrapper given to ``execute_wrapper``, the log of queries, or a tool that replaces a function of
    Django's cursor, as Sentry does.
    """
    if connection.execute_wrappers or connection.queries_logged:
        return True
    return _watched(CursorWrapper) != _OWN


_watched = attrgetter("execute", "executemany", "__enter__")

#: Django's own functions; None for one that another module had replaced before.
_OWN = tuple(found if getattr(found, "__globals__", None) is vars(utils) else None for found in _watched(CursorWrapper))


def keeps_types(connection: Any) -> bool:
    """Return whether the driver passes datetimes with a time zone, octets and JSON text unchanged: psycopg 3."""
    if connection.vendor != "postgresql":
        return False
    from django.db.backends.postgresql import psycopg_any

    return bool(psycopg_any.is_psycopg3)


def can_copy(connection: Any, table: str) -> bool:
    """Return whether ``copy`` may be used now: with psycopg 3, while no other code must see each statement.

    PostgreSQL has no COPY for a table with row security active for this user. Each process asks for this once.
    """
    if is_watched(connection) or not keeps_types(connection):
        return False
    return not _secures_rows(connection.alias, table)


@functools.cache
def _secures_rows(alias: str, table: str) -> bool:
    connection = connections[alias]
    with connection.cursor() as asked:
        asked.execute("SELECT row_security_active(%s)", [connection.ops.quote_name(table)])
        return bool(asked.fetchone()[0])


def copy(connection: Any, text: str, rows: Iterable[Sequence[Any]]) -> int:
    """Execute a ``COPY … FROM STDIN`` in the caller's transaction; return the number of rows.

    Each row holds values that psycopg can write as text. Raises ``DatabaseError``.
    """
    return _copy(connection, text, lambda copying: [copying.write_row(row) for row in rows])


def copy_packed(connection: Any, text: str, blocks: Iterable[bytes]) -> int:
    """Execute the same with ``blocks`` in PostgreSQL's binary format, its header and trailer included."""
    return _copy(connection, f"{text} (FORMAT BINARY)", lambda copying: [copying.write(block) for block in blocks])


def _copy(connection: Any, text: str, write: Callable[[Any], object]) -> int:
    # Django's cursor translates only the errors of the call itself, and most errors arrive with the last row.
    with connection.cursor() as opened, connection.wrap_database_errors:
        with opened.copy(text) as copying:
            write(copying)
        return int(opened.rowcount)


def new_instance(model: type[_Row], values: Mapping[str, Any]) -> _Row:
    """Return the same as ``model(**values)`` in a fifth of the time; ``values`` are keyed by attribute name.

    The model must have no ``__init__`` and no sealed fields.
    """
    if pre_init.has_listeners(model) or post_init.has_listeners(model):
        return model(**values)
    made = _with_state(model)
    constant, called = _defaults(model)
    made.__dict__.update(constant)
    made.__dict__.update(values)
    for name, default in called:
        if name not in values:
            made.__dict__[name] = default()
    return made


def stored_instances(model: type[_Row], rows: Iterable[Mapping[str, Any]], *, using: str) -> list[_Row]:
    """Return an instance for each row. It knows only the row's values; other fields are read on access."""
    if pre_init.has_listeners(model) or post_init.has_listeners(model):
        return [model.from_db(using, list(row), list(row.values())) for row in rows]
    found = []
    for row in rows:
        made = _with_state(model)
        made.__dict__.update(row)
        mark_stored(made, using=using)
        found.append(made)
    return found


def mark_stored(instance: models.Model, *, using: str) -> None:
    """Make the next ``save()`` of an instance update its row, which was inserted without ``save()``."""
    instance._state.adding, instance._state.db = False, using


def _with_state(model: type[_Row]) -> _Row:
    made = model.__new__(model)
    made._state = ModelState()
    return made


@functools.cache
def _defaults(model: type[models.Model]) -> tuple[dict[str, Any], list[tuple[str, Callable[[], Any]]]]:
    """Return the constant defaults of a model's attributes, and the functions of the callable defaults."""
    every = model._meta.concrete_fields
    called = [(one.attname, one.get_default) for one in every if one.has_default() and callable(one.default)]
    names = {name for name, _ in called}
    return {one.attname: one.get_default() for one in every if one.attname not in names}, called


def read_from_primary(rows: models.QuerySet[_Row]) -> models.QuerySet[_Row]:
    """Return ``rows`` set to read from the database that they are written to, as Django's writing methods do.

    ``using()`` would fix that database: such a query set cannot be part of a query to another database, for example
    one for orders that are read from a replica.
    """
    rows._for_write = True  # type: ignore[attr-defined]
    return rows


def converters(connection: Any, fields: Sequence[Any], table: str) -> list[tuple[int, Any, Callable[..., Any]]]:
    """Return the conversions that turn a row of the database into values of ``fields``.

    Each item is a position in the row, the expression of that column, and a function. Call the function with the
    value, the expression, and the connection.
    """
    columns = [field.get_col(table) for field in fields]
    return [
        (place, columns[place], convert)
        for place, field in enumerate(fields)
        for convert in (*connection.ops.get_db_converters(columns[place]), *field.get_db_converters(connection))
    ]


def insert_words(
    connection: Any, fields: Sequence[Any], *, unique: Any = None, updated: Sequence[str] = (), ignore: bool = False
) -> tuple[str, str]:
    """Return the beginning and the end of an INSERT of ``fields``, in the dialect of the database.

    With ``unique``, a field, an existing row with the same value there gets the new values of the columns ``updated``.
    With ``ignore``, a row that breaks a constraint is skipped.
    """
    on_conflict = OnConflict.UPDATE if unique else OnConflict.IGNORE if ignore else None
    end = connection.ops.on_conflict_suffix_sql(fields, on_conflict, updated, [unique.column] if unique else [])
    return str(connection.ops.insert_statement(on_conflict=on_conflict)), str(end)


def placeholder(connection: Any, field: Any) -> str:
    """Return the placeholder for a value of ``field`` in the text of a statement."""
    # MariaDB and MySQL read octets as text of the connection's character set without this.
    return "_binary %s" if connection.vendor == "mysql" and isinstance(field, models.BinaryField) else "%s"


def redis_cache_within(cache: Any, seconds: float) -> Any:
    """Return a copy of this Redis cache that waits ``seconds`` for each answer and does not retry.

    The copy belongs to this thread and has its own connections. The OPTIONS of the cache take precedence.
    """
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    made: dict[float, Any] = cache.__dict__.setdefault(_LIKE_IT, {})
    if seconds not in made:
        like_it = made[seconds] = copied(cache)
        like_it.__dict__.pop("_cache", None)
        like_it.__dict__.pop(_LIKE_IT, None)
        within = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "retry": Retry(NoBackoff(), 0)}
        like_it._options = {**within, **cache._options}
    return made[seconds]


#: The attribute where a cache keeps its copies.
_LIKE_IT = "_email_integration_like_it"


def is_left_to_database(value: Any) -> bool:
    """Return whether this value of a new row's field is the database's own default."""
    return isinstance(value, DatabaseDefault)


def can_skip_locked_rows(connection: Any) -> bool:
    """Return whether the database supports ``SELECT … FOR UPDATE SKIP LOCKED``."""
    return bool(connection.features.has_select_for_update_skip_locked)


def can_index_a_part(connection: Any) -> bool:
    """Return whether the database supports partial indexes (indexes with a condition)."""
    return bool(connection.features.supports_partial_indexes)


def prefix_index(schema_editor: Any, model: Any, fields: Sequence[Any], *, name: str, characters: int) -> Any:
    """Return the statement for an index on the first ``characters`` of a text, in the dialect of MariaDB and MySQL."""
    # The prefix length is written after the column, where Django puts the suffix for the direction.
    return schema_editor._create_index_sql(model, fields=fields, name=name, col_suffixes=(f"({characters})",))


def missing_migrations(connection: Any, apps: Collection[str]) -> list[str]:
    """Return the unapplied migrations of these apps, as 'app.name', in order.

    Raises ``InconsistentMigrationHistory``.
    """
    executor = MigrationExecutor(connection)
    targets = [node for node in executor.loader.graph.leaf_nodes() if node[0] in apps]
    plan = executor.migration_plan(targets)
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan if migration.app_label in apps]


def rollback_on_error(using: str) -> AbstractContextManager[None]:
    """Return a context manager that marks the caller's transaction for rollback after an error inside.

    ``save()`` uses it in the same way where it makes no savepoint.
    """
    return transaction.mark_for_rollback_on_error(using=using)


def is_waiting_for_commit(connection: Any, function: Callable[[], Any]) -> bool:
    """Return whether ``function`` is called after the commit, unless the statements made now are rolled back too."""
    together = set(connection.savepoint_ids)
    return any(one is function and savepoints == together for savepoints, one, *_ in connection.run_on_commit)


def waiting_for_commit(connection: Any) -> list[tuple[Any, ...]]:
    """Return the connection's own list of functions to call after the commit: (savepoints, function, …) tuples."""
    waiting: list[tuple[Any, ...]] = connection.run_on_commit
    return waiting


# -- for message/assembly.py, which renders mail in place of Django --------------------------------------------------


_mail: Any = mail


def _paths() -> Iterator[str]:
    """Yield the names of the classes, functions and methods that ``django.core.mail.message`` defines."""
    for name, value in vars(_mail).items():
        if getattr(value, "__module__", "") == _mail.__name__ and isinstance(value, type | FunctionType):
            yield name
            for base in getattr(value, "__mro__", ()):
                if base.__module__ == _mail.__name__ and not issubclass(base, tuple):
                    functions = (method for method, one in vars(base).items() if isinstance(one, FunctionType))
                    yield from (f"{name}.{method}" for method in functions if method != "__init__")


_parts = attrgetter(*dict.fromkeys(_paths()))
_PARTS_AT_FIRST = _parts(_mail)


def renders_mail_itself() -> bool:
    """Return whether Django's own functions render mail: some packages replace them."""
    return _ARE_ITS_OWN and bool(_parts(_mail) == _PARTS_AT_FIRST)


_ARE_ITS_OWN = all(isinstance(one, type) or one.__globals__ is vars(_mail) for one in _PARTS_AT_FIRST)


def mail_message_id() -> str:
    """Return a new Message-ID in the form that ``EmailMessage.message()`` makes."""
    return str(_mail.make_msgid(domain=_mail.DNS_NAME))


def mail_date() -> str:
    """Return the current Date as ``EmailMessage.message()`` writes it when EMAIL_USE_LOCALTIME is False."""
    if django.VERSION >= (6, 0):
        return format_datetime(_mail.datetime.now(dt.UTC))
    return str(_mail.formatdate(localtime=False))


def encode_header(name: str, value: str) -> str:
    """Return the value of a header as Django 5 passes it to the standard library. Django 6 passes it unchanged.

    Raises ``ValueError`` when the value cannot be encoded.
    """
    return str(_mail.forbid_multi_line_headers(name, value, "utf-8")[1])
