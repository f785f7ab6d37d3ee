"""New deliveries are stored exactly as ``save()`` would store them, by each way of inserting."""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, connections, models, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models.signals import post_init, post_save
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from email_integration import django_internals
from email_integration.ledger import inserting
from email_integration.models import Delivery, Priority, Status
from email_integration.queue.submission import new_id
from email_integration.timezones import as_stored
from tests.deliveries import in_threads

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("task_queue")]

#: Text that COPY, JSON or a driver might misinterpret.
ODD = (
    "",
    " ",
    "\\N",
    "\\.",
    "NULL",
    "\t\n\r\\t\\",
    "\b\f\v\x01",
    "'; DROP TABLE mail; --",
    "\"quoted\" 'quoted' %s %(x)s {} $1",
    "Grüße, 世界, \U0001f600, \u2028",
)

_NOW = as_stored(dt.datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=dt.UTC))


def made(text: str = "", **values: Any) -> Delivery:
    return Delivery(
        **{
            "id": new_id(),
            "status": Status.QUEUED,
            "message_id": text,
            "from_header": text,
            "recipients": [{"address": f"kim@example.com{text}", "status": "pending"}],
            "priority": Priority.BULK,
            "created_at": timezone.now(),
            "due_at": _NOW,
            "next_at": _NOW,
            "expires_at": _NOW + dt.timedelta(days=5),
            "options": text,
            "content": text.encode() + bytes(range(256)),
            "content_size": 2**40,
            **values,
        }
    )


def kinds() -> list[Delivery]:
    """Return deliveries with every kind of value, and every attribute set to an unusual value at least once."""
    return [
        *map(made, ODD),
        made(from_at=0, next_at=_NOW, eight_bit=True, content=b"", content_file="a/b", content_seal="gcm$1$"),
        made(idempotency_key="None", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        made(sender="<>", in_doubt_policy="hold", status="prepared", priority="high", redirected_to="x@example.com"),
        made(version=1, has_content=False, returned=3, batch="b", next_at=None, attempts=4, code=550, cause="full"),
        made(reason="r", smtp_config="s", config_version="c", worker="w", finished_at=_NOW),
        made(waits_for_relay=True, continue_after=_NOW, recipients=[], queue="own", cancel_requested=True),
    ]


def test_what_is_due_at_once_has_its_time_from_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose clock is ahead does not delay its mail. The number of inserted rows does not matter."""
    real = timezone.now
    ahead = real() + dt.timedelta(minutes=10)
    for count in (1, 20):
        deliveries = [made(due_at=ahead, created_at=ahead) for _ in range(count)]
        given = Delivery._meta.get_field("next_at").get_default()
        for one in deliveries:
            one.next_at = given
        together(deliveries)
        assert "next_at" in deliveries[0].get_deferred_fields()
        stored = Delivery.objects.get(pk=deliveries[0].pk)
        assert deliveries[0].next_at == stored.next_at
        assert abs((stored.next_at - real()).total_seconds()) < 60


def rows(deliveries: list[Delivery]) -> list[dict[str, Any]]:
    found = {row["id"]: row for row in Delivery.objects.filter(pk__in=[one.pk for one in deliveries]).values()}
    return [
        {name: bytes(value) if name == "content" else value for name, value in found[one.pk].items() if name != "id"}
        for one in deliveries
    ]


def one_by_one(deliveries: list[Delivery], **how: Any) -> int:
    return sum(inserting.insert(one, using="default", **how) for one in deliveries)


def together(deliveries: list[Delivery], **how: Any) -> int:
    with transaction.atomic():
        return inserting.insert(*deliveries, using="default", **how)


def watched(deliveries: list[Delivery]) -> int:
    """Insert through statements that the application's execute wrapper can see."""
    seen: list[str] = []

    def see(execute: Callable[..., Any], text: str, *rest: Any) -> Any:
        seen.append(text)
        return execute(text, *rest)

    with connection.execute_wrapper(see):
        inserted = together(deliveries)
    assert any(text.startswith("INSERT") for text in seen)
    return inserted


def logged(deliveries: list[Delivery]) -> int:
    with CaptureQueriesContext(connection) as queries:
        inserted = together(deliveries)
    assert any("INSERT" in query["sql"] for query in queries)
    return inserted


def prepared(deliveries: list[Delivery]) -> int:
    """Insert one by one outside of a transaction, by a statement that the server has prepared from the
    first call on.
    """
    connection.ensure_connection()
    if connection.vendor == "postgresql":
        connection.connection.prepare_threshold = 0
    try:
        return one_by_one(deliveries)
    finally:
        connection.close()


def unless_known(deliveries: list[Delivery]) -> int:
    return together(deliveries, unless_known=True)


@pytest.mark.parametrize("way", [one_by_one, prepared, together, watched, logged, unless_known])
def test_each_way_stores_what_save_stores(way: Callable[[list[Delivery]], int]) -> None:
    expected, given = kinds(), kinds()
    for one, other in zip(expected, given, strict=True):
        other.created_at = one.created_at
        one.idempotency_key = one.idempotency_key and f"another {one.idempotency_key}"
        one.save(force_insert=True)
    assert way(given) == len(given)
    for one, other in zip(rows(given), rows(expected), strict=True):
        one["idempotency_key"] = one["idempotency_key"] and f"another {one['idempotency_key']}"
        assert one == other
    assert not any(one._state.adding for one in given)
    given[0].save()  # updates
    assert Delivery.objects.count() == 2 * len(given)


@contextlib.contextmanager
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yield the numbers of rows that were copied."""
    counted: list[int] = []

    def counting(copy: Callable[..., int]) -> Callable[..., int]:
        def counted_too(*args: Any) -> int:
            counted.append(copy(*args))
            return counted[-1]

        return counted_too

    with monkeypatch.context() as patch:
        for name in ("copy", "copy_packed"):
            patch.setattr(django_internals, name, counting(getattr(django_internals, name)))
        yield counted


def test_many_are_copied_where_that_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """COPY is not used for a few rows, for rows that may exist already, or when the application watches statements."""
    with copies(monkeypatch) as counted:
        together([made() for _ in range(20)])
        expected = [20] if connection.vendor == "postgresql" else []
        assert counted == expected
        together([made()])
        unless_known([made() for _ in range(20)])
        watched([made() for _ in range(20)])
        logged([made() for _ in range(20)])
        assert counted == expected


@pytest.mark.parametrize("number", [1, 3, 20])
def test_an_existing_id_is_an_integrity_error_and_inserts_no_row(number: int) -> None:
    """The caller's savepoint is rolled back, and the rest of the transaction continues."""
    first = made()
    first.save()
    new = [made() for _ in range(number)]
    new[-1].id = first.pk
    with transaction.atomic():
        other = made()
        other.save()
        with pytest.raises(IntegrityError), transaction.atomic():
            inserting.insert(*new, using="default")
        assert Delivery.objects.count() == 2
    assert set(Delivery.objects.values_list("pk", flat=True)) == {first.pk, other.pk}


@pytest.mark.parametrize("number", [1, 20])
def test_an_error_without_a_savepoint_breaks_the_transaction(number: int) -> None:
    """It does so like an error of ``save()``: the following statements must not seem to be committable."""
    first = made()
    first.save()
    with transaction.atomic():
        with pytest.raises(IntegrityError):
            inserting.insert(*(made(id=first.pk) for _ in range(number)), using="default")
        assert transaction.get_connection().needs_rollback
    assert Delivery.objects.count() == 1


@pytest.mark.parametrize("number", [1, 3, 20])
def test_known_mails_are_not_inserted(number: int) -> None:
    first = made(idempotency_key="once")
    first.save()
    known, keyed = made(id=first.pk), made(idempotency_key="once")
    assert together([known, keyed, *(made() for _ in range(number))], unless_known=True) == number
    assert one_by_one([made(id=first.pk)], unless_known=True) == 0
    assert Delivery.objects.count() == number + 1


def test_rows_that_are_secured_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL does not support COPY for such tables (row-level security)."""
    monkeypatch.setattr(django_internals, "_secures_rows", lambda alias, table: True)
    with copies(monkeypatch) as counted:
        assert together([made() for _ in range(20)]) == 20
        assert counted == []


def test_an_instance_is_made_as_its_model_makes_it() -> None:
    values: dict[str, Any] = {"id": "one", "recipients": [], "due_at": _NOW}
    quick, slow = django_internals.new_instance(Delivery, values), Delivery(**values)
    assert abs(quick.created_at - slow.created_at) < dt.timedelta(minutes=5)
    quick.created_at = slow.created_at
    for field in Delivery._meta.concrete_fields:
        assert getattr(quick, field.attname) == getattr(slow, field.attname), field.attname
    assert quick.__dict__.keys() == slow.__dict__.keys()
    assert quick._state.adding
    assert quick == slow
    assert quick._state.fields_cache == {}
    other = django_internals.new_instance(Delivery, {"id": "two"})
    assert other._state is not quick._state


def test_an_instance_is_shown_to_those_who_listen() -> None:
    """Receivers of Django's signals that the application has connected get the instance."""
    heard: list[Any] = []

    def hear(sender: Any, instance: Any, **_: Any) -> None:
        heard.append(instance)

    post_init.connect(hear, sender=Delivery)
    try:
        one = django_internals.new_instance(Delivery, {"id": "one"})
    finally:
        post_init.disconnect(hear, sender=Delivery)
    assert heard == [one]
    assert heard[0] is one


def test_a_stored_instance_reads_what_it_does_not_know() -> None:
    stored = made(message_id="<one@example.com>")
    stored.save()
    [bare] = django_internals.stored_instances(Delivery, [{"id": stored.pk}], using="default")
    with CaptureQueriesContext(connection) as asked:
        assert bare.message_id == "<one@example.com>"
    assert len(asked) == 1
    created: list[bool] = []

    def hear(created_now: list[bool] = created, **given: Any) -> None:
        created_now.append(given["created"])

    post_save.connect(hear, sender=Delivery)
    try:
        bare.save()
    finally:
        post_save.disconnect(hear, sender=Delivery)
    assert created == [False]


def test_contents_are_the_last_column_and_stored_as_they_are() -> None:
    """SQLite can then read the other columns without them. Sealed contents cannot be compressed, so PostgreSQL need not
    try.
    """
    table = Delivery._meta.db_table
    with connection.cursor() as cursor:
        assert connection.introspection.get_table_description(cursor, table)[-1].name == "content"
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT attstorage FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'content'", [table]
            )
            assert cursor.fetchone()[0] in ("e", b"e")


@pytest.mark.parametrize("number", [1, 20])
def test_a_tool_that_watches_cursors_sees_each_insert(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such tools report, for example, how long a request waits for its database."""
    seen: list[str] = []

    def watching(name: str) -> Callable[..., Any]:
        own = getattr(CursorWrapper, name)

        def watched(self: Any, sql: Any, params: Any = None) -> Any:
            seen.append(str(sql))
            return own(self, sql, params)

        return watched

    for name in ("execute", "executemany"):
        monkeypatch.setattr(CursorWrapper, name, watching(name))
    together([made() for _ in range(number)])
    assert len([text for text in seen if text.startswith("INSERT")]) == 1


def test_nothing_is_inserted_by_another_thread_or_into_a_broken_transaction() -> None:
    """Django's own cursor refuses it in the same way."""
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(transaction.TransactionManagementError):
            inserting.insert(made(), using="default")
    shared = connections["default"]

    def elsewhere() -> None:
        connections["default"] = shared
        try:
            inserting.insert(made(), using="default")
        finally:
            del connections["default"]

    [error] = in_threads(elsewhere)
    assert isinstance(error, DatabaseError)
    assert not Delivery.objects.exists()


def test_a_connection_that_was_closed_is_opened_again() -> None:
    """No state of the old connection is used, and statements that other code has discarded are prepared again."""
    for close in (True, False):
        for _ in range(12):  # more often than psycopg waits before it prepares a statement
            inserting.insert(made(), using="default")
        if close:
            connection.close()
        elif connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("DISCARD ALL")
    with transaction.atomic():
        inserting.insert(made(), using="default")
    assert Delivery.objects.count() == 25


@pytest.mark.parametrize("number", [1, 3, 20])
def test_what_the_database_has_a_default_for_is_left_to_it(number: int) -> None:
    """For example when a newer version has one more column."""
    left = models.CharField(max_length=20, db_default="x").get_default()
    assert together([made(cause=left, attempts=2) for _ in range(number)]) == number
    assert set(Delivery.objects.values_list("cause", "attempts")) == {("", 2)}


@pytest.mark.parametrize("size", [10, 300_000])
def test_no_large_content_stays_in_memory(size: int) -> None:
    """The cursor that inserts stays in memory."""
    one = made(content=bytes(size))
    with_content = weakref.ref(one)
    inserting.insert(one, using="default")
    assert bytes(Delivery.objects.get(pk=one.pk).content) == one.content
    kept = getattr(connection.connection, django_internals._KEPT, None)
    parameters = getattr(getattr(kept, "_query", None), "params", None) or ()
    assert max((len(value) for value in parameters if value), default=0) < 200_000
    del one
    gc.collect()
    assert with_content() is None


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[list[int | None] | None]:
    """The numbers of rows that prepared statements have written. None in the list for inserts that were left to the
    cursor.

    None instead of the list where values are not packed: packing needs PostgreSQL and times with a zone.
    """
    if connection.vendor != "postgresql" or not settings.USE_TZ:
        yield None
        return
    connection.ensure_connection()
    connection.connection.prepare_threshold = 0
    execute, written = django_internals.execute_packed, list[int | None]()

    def executing(*args: Any) -> int | None:
        written.append(execute(*args))
        return written[-1]

    monkeypatch.setattr(django_internals, "execute_packed", executing)
    yield written
    connection.close()


def test_a_single_mail_goes_in_by_a_prepared_statement(packed: list[int | None] | None) -> None:
    """Outside of a transaction, which an error of the statement would break. It also works once psycopg would have
    prepared the statement too.
    """
    if packed is None:
        return
    one_by_one([made(), made()])
    assert packed == [1, 1]
    with transaction.atomic():
        inserting.insert(made(), using="default")
    watched([made()])
    assert packed == [1, 1, None, None]
    connection.close()
    connection.ensure_connection()
    threshold = connection.connection.prepare_threshold
    one_by_one([made() for _ in range(threshold + 2)])
    assert packed[4:] == [None] * threshold + [1, 1]
    connection.connection.prepare_threshold = None  # as behind pgbouncer
    connection.connection.__dict__.pop(django_internals._PREPARED)
    one_by_one([made() for _ in range(threshold + 2)])
    assert packed[-threshold - 2 :] == [None] * (threshold + 2)


@pytest.mark.parametrize("forget", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_a_prepared_statement_that_is_forgotten_is_made_anew(packed: list[int | None] | None, forget: str) -> None:
    if packed is None:
        return
    one_by_one([made(), made(idempotency_key="x")])
    with connection.cursor() as cursor:
        cursor.execute(forget)
    one_by_one([made(), made()])
    assert packed == [1, 1, None, 1]
    assert Delivery.objects.count() == 4


def test_an_error_of_a_prepared_statement_is_one_of_django(packed: list[int | None] | None) -> None:
    """A prepared statement also leaves out rows that are known already."""
    if packed is None:
        return
    first = made()
    one_by_one([first])
    with pytest.raises(IntegrityError):
        one_by_one([made(id=first.pk)])
    for text in ("a\0b", "\ud800"):
        with pytest.raises((DatabaseError, ValueError)):
            one_by_one([made(text)])
    assert one_by_one([made(id=first.pk)], unless_known=True) == 0
    assert one_by_one([made()]) == 1
    assert packed == [1, None, None, 0, 1]
    assert Delivery.objects.count() == 2


def test_moments_of_any_zone_are_packed_as_they_are_written(packed: list[int | None] | None, settings: Any) -> None:
    """Times before 2000 are included, whose numbers are negative. Without USE_TZ they are left to the cursor."""
    if packed is None:
        return
    moments = [
        dt.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC),
        dt.datetime(1, 1, 2, tzinfo=dt.UTC),
        dt.datetime(9999, 12, 30, 23, 59, 59, 999_999, tzinfo=dt.timezone(dt.timedelta(hours=-5))),
    ]
    given = [made(created_at=moment) for moment in moments]
    one_by_one(given)
    together([*(made(created_at=moment) for moment in moments), made(), made()])
    assert packed == [1, 1, 1]
    assert [row["created_at"] for row in rows(given)] == moments
    assert all(Delivery.objects.filter(created_at=moment).count() == 2 for moment in moments)
    settings.USE_TZ = False
    naive = moments[0].replace(tzinfo=None)
    one_by_one([made(created_at=naive, due_at=naive, expires_at=naive)])
    assert packed == [1, 1, 1]
