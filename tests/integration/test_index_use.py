"""Frequent queries use the indexes that exist for them, regardless of the size of the table.

The indexes are partial on SQLite and PostgreSQL. MariaDB has no partial indexes, and indexes the whole table.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from email_integration import submit_many
from email_integration.admin import deliveries, export
from email_integration.dashboard import live_status
from email_integration.dashboard.intervals import PERIODS, Interval
from email_integration.dashboard.overdue import longest_overdue
from email_integration.dashboard.statistics import Choice, flows, times
from email_integration.delivery import orphans, retention
from email_integration.ledger import batches, continuation, sql, transitions
from email_integration.ledger.claiming import PRIORITIES
from email_integration.ledger.low_water import LowWaterMark
from email_integration.ledger.steps import Step
from email_integration.models import FINAL, CircuitBreaker, Delivery, DeliveryAttempt, DeliveryBatch, Status
from email_integration.queue import retry_now
from email_integration.queue.sweeper import sweep
from email_integration.queue.waiting import backlog, oldest_due
from tests.claims import claim, claimed, record
from tests.deliveries import RecordingTaskQueue, ago, submitted

from .admin_site import logged_in

pytestmark = pytest.mark.django_db(transaction=True)

DAY = 24 * 3600.0
TABLE = Delivery._meta.db_table


@pytest.fixture(autouse=True)
def _tidy(task_queue: RecordingTaskQueue) -> Iterator[None]:
    yield
    empty()
    analyse()


def empty() -> None:
    DeliveryAttempt.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {TABLE}")


def fill(doublings: int) -> None:
    """Insert 16 finished deliveries of 16 different days, double them ``doublings`` times, and add a few that wait or
    are old.
    """
    for days in range(16):
        pk = submitted().pk
        changes = {"has_content": False, "content": b"", "next_at": None, "recipients": []}
        Delivery.objects.filter(pk=pk).update(status=Status.ACCEPTED, finished_at=ago((days + 1) * DAY), **changes)
    names = [field.column for field in Delivery._meta.concrete_fields if not field.primary_key]
    columns = ", ".join(map(connection.ops.quote_name, names))
    for number in range(doublings):
        with connection.cursor() as cursor:
            longer = f"CONCAT(id, '{number}.')" if connection.vendor == "mysql" else f"id || '{number}.'"
            cursor.execute(f"INSERT INTO {TABLE} (id, {columns}) SELECT {longer}, {columns} FROM {TABLE}")
    submitted()
    due = [submitted().pk for _ in range(3)]
    Delivery.objects.filter(pk__in=due).update(next_at=ago(1))
    waiting = [submitted().pk for _ in range(3)]
    Delivery.objects.filter(pk__in=waiting).update(status=Status.DEFERRED, waits_for_relay=True)
    old = [submitted().pk for _ in range(3)]
    Delivery.objects.filter(pk__in=old).update(status=Status.ACCEPTED, finished_at=ago(40 * DAY), next_at=None)
    analyse()


def analyse() -> None:
    """Update the database's statistics."""
    analyze = {"sqlite": "ANALYZE", "postgresql": "VACUUM ANALYZE", "mysql": f"ANALYZE TABLE {TABLE}"}
    with connection.cursor() as cursor:
        cursor.execute(analyze[connection.vendor])
        if connection.vendor == "mysql":
            cursor.fetchall()


def asked(what: Callable[[], object], words: str) -> str:
    """Return the first query on deliveries that has these words in its condition, as it is sent to the database."""
    with CaptureQueriesContext(connection) as queries:
        what()
    conditions = {query["sql"]: query["sql"].replace("`", '"').partition(" WHERE ")[2] for query in queries}
    wanted = re.compile(rf'(?:"{TABLE}"\.|\b[UV]\d"?\.|(?<!\.)){re.escape(words)}')
    return next(query for query, condition in conditions.items() if wanted.search(condition))


def rows_of(query: str) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        assert cursor.description is not None
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def listed(**asked: str) -> None:
    """Request the list of deliveries in the admin."""
    page = logged_in("view_delivery").get(reverse("admin:email_integration_delivery_changelist"), asked)
    assert page.status_code == 200


def _lately() -> Interval:
    return PERIODS["day"].intervals(timezone.now())[-2]


def _overdue() -> object:
    return longest_overdue(timezone.now())


def _failed() -> int:
    return live_status.number(Status.FAILED, finished_since=ago(86_400), without_copies=True)


def second_batch_of_export() -> object:
    return list(itertools.islice(export._batches(Delivery.objects.defer("content", "options")), 2))


#: Queries: a call that makes each, words that identify its condition, and the index, or indexes, that it must use.
QUESTIONS: list[tuple[Callable[[], object], str, str]] = [
    (claim, '"next_at" <=', "delivery_next_at"),
    (lambda: batches.is_due("mail", PRIORITIES, mark=LowWaterMark()), '"next_at" <=', "delivery_next_at"),
    (sweep, '"next_at" <=', "delivery_next_at"),
    (lambda: continuation.take_due(10), '"continue_after" <=', "delivery_continue_after"),
    (backlog, '"next_at" IS NOT NULL', "delivery_next_at|delivery_not_accepted"),
    (oldest_due, '"next_at" IS NOT NULL', "delivery_next_at|delivery_not_accepted"),
    (backlog, f"\"status\" = '{Status.IN_DOUBT}'", "delivery_not_accepted"),
    (retry_now.wake, '"waits_for_relay"', "delivery_waits_for_relay"),
    (retention.prune, '"finished_at" <', "delivery_finished_at"),
    (retention.prune, '"has_content"', "delivery_finished_content"),
    (lambda: flows([_lately()]), '"finished_at" >=', "delivery_finished_otherwise|delivery_finished_at"),
    (lambda: times(Choice(), [_lately()]), '"finished_at" >=', "delivery_finished_at|delivery_finished_content"),
    (_overdue, '"next_at" IS NOT NULL', "delivery_next_at|delivery_not_accepted|delivery_waits_for_relay"),
    (_failed, "\"status\" = 'failed'", "delivery_not_accepted|delivery_finished_otherwise"),
    (lambda: orphans._known([str(number) for number in range(300)]), '"content_file" IN', "delivery_content_file"),
    (lambda: listed(status__exact=Status.QUARANTINED), f"\"status\" = '{Status.QUARANTINED}'", "delivery_not_accepted"),
    (lambda: listed(q="<1@example.com>"), '"message_id" IN', "delivery_message_id"),
    (lambda: list(deliveries._copies(Delivery(pk="1"))), '"copy_of" =', "delivery_copy_of"),
    (second_batch_of_export, '"created_at" <=', "delivery_created_at"),
]

INDEXES = {name for _, _, index in QUESTIONS for name in index.split("|")}
OF_ALL_ROWS = {"delivery_message_id", "delivery_created_at"}


@pytest.mark.parametrize(("ask", "words", "index"), QUESTIONS, ids=[index for _, _, index in QUESTIONS])
def test_it_is_answered_by_its_index_alone(ask: Callable[[], object], words: str, index: str) -> None:
    fill(10)  # about 16,000 rows
    query = asked(ask, words)
    # Queries on the few circuit breakers and batches use such column names too.
    small = sum(model._meta.db_table in query for model in (CircuitBreaker, DeliveryBatch))
    if "$1" in query:
        return  # its plan is in test_batches.py
    if connection.vendor == "mysql":
        # MariaDB can choose among indexes of the whole table. The other table in the query, circuit breakers, is small.
        # '<derived2>' is the subquery that is counted.
        steps = [step for step in rows_of(f"EXPLAIN {query}") if re.fullmatch(rf"{TABLE}|[UV]\d", step["table"] or "")]
        others = [step for step in steps if INDEXES.isdisjoint(re.split("[,|]", step["key"] or ""))]
        assert len(others) <= min(small, len(steps) - 1), others
        return
    explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    plan = "\n".join(str(list(row.values())[-1]) for row in rows_of(f"{explain} {query}"))
    assert any(name in plan for name in index.split("|")), plan
    assert not re.search(rf"Seq Scan on {TABLE}\b", plan), plan
    assert not re.search(rf"SCAN {TABLE}(?! USING)", plan), plan
    assert len(re.findall(r"SCAN [UV]\d(?! USING)", plan)) <= small, plan


def test_the_indexes_are_partial_where_there_is_such_a_thing() -> None:
    """The other indexes exist on every database."""
    names = INDEXES - OF_ALL_ROWS
    match connection.vendor:
        case "sqlite":
            found = rows_of(f"SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = '{TABLE}'")
            partial = {row["name"] for row in found if " WHERE " in str(row["sql"])}
        case "postgresql":
            found = rows_of(f"SELECT indexname AS name, indexdef FROM pg_indexes WHERE tablename = '{TABLE}'")
            partial = {row["name"] for row in found if " WHERE " in row["indexdef"]}
        case _:
            partial = {row["Key_name"] for row in rows_of(f"SHOW INDEX FROM {TABLE}")}
    assert names <= partial


def work_of_a_sweep() -> int:
    """Return the work of the database for one sweep: steps of SQLite's virtual machine, pages of PostgreSQL, or rows of
    MariaDB.
    """
    if connection.vendor == "sqlite":
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection.connection.set_progress_handler(count, 1)
        try:
            sweep()
        finally:
            connection.connection.set_progress_handler(None, 1)
        return steps
    if connection.vendor == "postgresql":
        query = asked(sweep, '"next_at" <=')
        (plan,) = rows_of(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}")
        top = plan["QUERY PLAN"][0]["Plan"]
        return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])
    before = _handled()
    sweep()
    return _handled() - before


def _handled() -> int:
    return sum(int(row["Value"]) for row in rows_of("SHOW SESSION STATUS LIKE 'Handler_read%'"))


def test_a_sweep_costs_no_more_however_much_is_finished() -> None:
    costs = []
    for doublings in (6, 12):
        fill(doublings)
        costs.append(work_of_a_sweep())
        empty()
    few, many = costs
    print(f"work of a sweep with 1,024 finished rows: {few}, with 65,536: {many}")
    # Reading all finished rows, or their index, would take hundreds of pages. A difference of some tens means nothing:
    # a small table may be read whole, and rows that another transaction may still see are skipped one by one.
    assert many <= few + 100


@pytest.mark.parametrize("condition", [{"among": transitions.CLAIMABLE}, {"not_among": FINAL}], ids=["claim", "record"])
def test_a_mail_is_found_by_its_key_when_the_statistics_are_of_an_idle_hour(condition: dict[str, Any]) -> None:
    """All mail was finished when the database was analyzed, and then a thousand mails are submitted."""
    fill(6)
    Delivery.objects.exclude(status=Status.ACCEPTED).delete()
    analyse()
    pk, *_ = submit_many(EmailMessage("S", "B", "a@example.com", ["kim@example.com"]) for _ in range(1000))
    words = sql._StatementBuilder(connection)
    text = words.update(Step(Delivery(pk=pk), {"status": Status.SENDING}, **condition), batch="")
    explain = {"sqlite": "EXPLAIN QUERY PLAN"}.get(connection.vendor, "EXPLAIN")
    with connection.cursor() as cursor:
        cursor.execute(f"{explain} {text}", words.parameters)
        found = cursor.fetchall()
        keys = (
            [column[0] for column in cursor.description].index("key") if connection.vendor == "mysql" else slice(None)
        )
    plan = str([row[keys] for row in found])  # MariaDB names unused indexes in other columns
    assert not any(name in plan for name in INDEXES), plan


def test_a_record_looks_up_each_of_its_mails_by_the_key() -> None:
    """While a table is small, a database may consider reading all of it faster."""
    fill(6)
    submit_many(EmailMessage("S", "B", "a@example.com", ["kim@example.com"]) for _ in range(300))
    analyse()
    batch = claimed()
    explain, whole = {
        "sqlite": ("EXPLAIN QUERY PLAN", f"SCAN {TABLE}"),
        "mysql": ("EXPLAIN", "'ALL'"),
        "postgresql": ("EXPLAIN", f"Seq Scan on {TABLE} "),
    }[connection.vendor]
    plans: list[str] = []

    def look(execute: Callable[..., Any], text: str, values: Any, many: bool, context: dict[str, Any]) -> Any:
        if re.search(rf"UPDATE [\"`]{TABLE}[\"`]", text) and not plans:
            execute(f"{explain} {text}", values, many, context)
            plans.append(str(context["cursor"].fetchall()))
        return execute(text, values, many, context)

    with connection.execute_wrapper(look):
        assert record(batch)
    [plan] = plans
    assert whole not in plan, plan


def test_no_text_has_a_second_index_for_like() -> None:
    """Django creates such indexes on PostgreSQL."""
    with connection.cursor() as cursor:
        for model in (Delivery, DeliveryAttempt, DeliveryBatch):
            found = connection.introspection.get_constraints(cursor, model._meta.db_table)
            assert found
            assert not [name for name in found if name.endswith("_like")]
