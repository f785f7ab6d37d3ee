"""PostgreSQL claims and records by its indexes, however deep the history, whenever it last looked at the table."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from email_integration.ledger import batches
from email_integration.models import Delivery, Status
from tests.deliveries import ago
from tests.integration.test_batches import claimed, many, record

pytestmark = pytest.mark.django_db(transaction=True)


def plan(statement: Callable[[], Any]) -> str:
    """How PostgreSQL carries out the one statement of this that begins with WITH."""
    found: list[str] = []

    def explain(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("WITH") and not found:
            with context["connection"].connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN {sql}", params)
                found.extend(row[0] for row in cursor.fetchall())
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        statement()
    return "\n".join(found)


@pytest.mark.extra
@pytest.mark.parametrize("analyzed", ["since", "while all was due", "while all was claimed", "while all was accepted"])
def test_a_deep_history_changes_no_plan(analyzed: str) -> None:
    """Neither looks at more than the index of what is due, and the keys, whenever the database last looked."""
    if connection.vendor != "postgresql":
        return  # of PostgreSQL
    many(300)
    earlier: dict[str, dict[str, Any]] = {
        "while all was claimed": {"batch": "another"},
        "while all was accepted": {"status": Status.ACCEPTED, "next_at": None},
    }
    due = {"batch": "", "status": Status.QUEUED, "next_at": ago(1)}
    Delivery.objects.update(**due | earlier.get(analyzed, {}))
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {Delivery._meta.db_table}")
    Delivery.objects.update(**due)
    pattern = Delivery.objects.first()
    assert pattern is not None
    with connection.cursor() as cursor:
        columns = ", ".join(connection.ops.quote_name(field.column) for field in Delivery._meta.concrete_fields)
        changed = {"id": "'old' || n", "status": "'accepted'", "finished_at": "now()"}
        changed |= {"next_at": "NULL", "content": "''"}
        values = ", ".join(changed.get(field.attname, field.column) for field in Delivery._meta.concrete_fields)
        table = Delivery._meta.db_table
        cursor.execute(
            f"INSERT INTO {table} ({columns}) SELECT {values} FROM {table}, generate_series(1, 300000) n WHERE id = %s",
            [pattern.pk],
        )
        if analyzed == "since":
            cursor.execute(f"ANALYZE {table}")
    batch: list[batches.Batch] = []
    found = plan(lambda: batch.append(claimed()))
    assert "Seq Scan on email_integration_delivery " not in found, found
    assert found.count("delivery_next_at") >= 3, found
    found = plan(lambda: record(batch[0]))
    assert "Seq Scan on email_integration_delivery " not in found, found
    assert re.search(r"Index Scan (using|on) email_integration_delivery_pkey", found), found
