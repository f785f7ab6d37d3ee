"""A million finished mails cost the pages of the admin next to nothing: what they ask has bounds."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from email_integration.dashboard import standing
from email_integration.models import Delivery, DeliveryAttempt
from tests.deliveries import RecordingDoorbell
from tests.history import ended, tried

from .admin_site import config, logged_in
from .test_index_use import analyse

pytestmark = [pytest.mark.extra, pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

FEW, MANY = 1_000, 1_000_000

#: Seconds that a page may take at most, wherever this runs. It is to be one.
BOUND = 5.0

DELIVERIES, ATTEMPTS = Delivery._meta.db_table, DeliveryAttempt._meta.db_table

PAGES = (
    ("list", "changelist", {}),
    ("list, failed", "changelist", {"status__exact": "failed"}),
    ("list, of one configuration", "changelist", {"smtp_config": "Primary"}),
    ("dashboard, day", "dashboard", {}),
    ("dashboard, hour", "dashboard", {"span": "hour"}),
    ("dashboard, week", "dashboard", {"span": "week"}),
    ("dashboard, week, of one lane", "dashboard", {"span": "week", "lane": "normal"}),
)


@pytest.fixture(autouse=True)
def _tidy(bell: RecordingDoorbell, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(standing, "FOR_WORKERS", 0.02)  # there are none to wait for
    yield
    with connection.cursor() as cursor:
        for table in (ATTEMPTS, DELIVERIES):
            cursor.execute(f"DELETE FROM {table}")
    analyse()


def fill(number: int) -> None:
    """So many deliveries spread over 30 days; of a hundred, one has failed and three were put off first."""
    (one,) = ended(1, at=timezone.now(), reason="accepted")
    tried([one])
    shifted = {
        "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', {moment}, '-' || (n * 2592000.0 / {number}) || ' seconds')",
        "postgresql": "{moment} - n * interval '1 second' * 2592000.0 / {number}",
    }[connection.vendor]
    numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {number})"
    moments = {name: shifted.format(moment=name, number=number) for name in ("created_at", "finished_at")}
    mails = {**moments, "id": "id || '-' || n", "status": "CASE WHEN n %% 100 = 0 THEN 'failed' ELSE 'accepted' END"}
    tries = {
        "delivery_id": "delivery_id || '-' || n",
        "finished_at": moments["finished_at"],
        "outcome": "CASE WHEN n %% 100 < 3 THEN 'deferred' ELSE 'accepted' END",
    }
    with connection.cursor() as cursor:
        for model, key, changes in ((Delivery, "id", mails), (DeliveryAttempt, "delivery_id", tries)):
            names = [field.column for field in model._meta.concrete_fields if field.column != "id" or model is Delivery]
            values = ", ".join(changes.get(name, name) for name in names)
            text = f"{numbers} SELECT {values} FROM {model._meta.db_table}, numbers WHERE {key} = %s"
            into = f"INSERT INTO {model._meta.db_table} ({', '.join(names)})"
            cursor.execute(f"{into} {text}", [one.pk])
    analyse()


def taken(client: Client) -> dict[str, tuple[float, list[str]]]:
    """The shorter of two times in seconds that each page took, and what it asked."""
    found = {}
    for name, page, asked in PAGES:
        of = "email_integration_dashboard" if page == "dashboard" else f"email_integration_delivery_{page}"
        times = []
        for _ in range(2):
            began = time.perf_counter()
            with CaptureQueriesContext(connection) as queries:
                assert client.get(reverse(f"admin:{of}"), asked).status_code == 200
            times.append(time.perf_counter() - began)
        found[name] = (min(times), [query["sql"] for query in queries])
    return found


def plan(query: str) -> str:
    explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    with connection.cursor() as cursor:
        cursor.execute(f"{explain} {query}".replace("%", "%%"), [])
        rows: list[Any] = cursor.fetchall()
    return "\n".join(str(row[-1]) for row in rows)


def test_a_page_of_a_million_takes_no_longer_than_is_good_for_its_reader() -> None:
    """And nothing on it looks at all rows, or counts them."""
    config(is_active=True)
    client = logged_in(superuser=True)
    fill(FEW)
    few = taken(client)
    fill(MANY - FEW)
    assert Delivery.objects.count() >= MANY
    many = taken(client)
    for name, (seconds, queries) in many.items():
        print(f"{name}: {few[name][0]:.2f} s of {FEW:,} mails, {seconds:.2f} s of {MANY:,}, {len(queries)} questions")
        assert seconds < BOUND, name
        for query in queries:
            if f'"{DELIVERIES}"' in query or f'"{ATTEMPTS}"' in query:
                steps = plan(query)
                assert not re.search(rf"Seq Scan on ({DELIVERIES}|{ATTEMPTS})\b", steps), f"{query}\n{steps}"
                assert not re.search(rf"SCAN ({DELIVERIES}|{ATTEMPTS})(?! USING)", steps), f"{query}\n{steps}"
                bounded = "LIMIT" in query or "finished_at" in query or "ring_after" in query or "waits_for" in query
                assert bounded or "COUNT(" not in query, query
