"""A million finished mails hardly slow down the admin pages: their queries are bounded."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Page

from email_integration.admin import bulk_actions
from email_integration.dashboard import live_status
from email_integration.models import BulkAction, Delivery, DeliveryAttempt
from tests.deliveries import RecordingTaskQueue, submitted
from tests.headless_browser import browsing
from tests.history import ended, tried

from .admin_site import config, logged_in
from .test_index_use import analyse

pytestmark = [pytest.mark.extra, pytest.mark.django_db(transaction=True)]

FEW, MANY = 1_000, 1_000_000

DELIVERIES, ATTEMPTS = Delivery._meta.db_table, DeliveryAttempt._meta.db_table

NOW, A_DAY_AGO, MONTH_AGO = ((timezone.now() - dt.timedelta(days=days)).isoformat() for days in (-1, 1, 32))

PAGES = (
    ("list", "delivery_changelist", {}),
    ("list, failed", "delivery_changelist", {"status__exact": "failed"}),
    ("list, of one configuration", "delivery_changelist", {"smtp_config": "Primary"}),
    ("list, of a recipient", "delivery_changelist", {"q": "kim@example.com"}),
    ("list, of an id as listed", "delivery_changelist", {"q": "…12345678"}),
    ("list, of some days", "delivery_changelist", {"created_from": "2020-01-01", "created_to": "2020-01-31"}),
    ("one mail", "delivery_change", {}),
    ("dashboard, day", "dashboard", {}),
    ("dashboard, hour", "dashboard", {"period": "hour"}),
    ("dashboard, week", "dashboard", {"period": "week"}),
    ("dashboard, week, of one priority", "dashboard", {"period": "week", "priority": "normal"}),
    ("dashboard, 30 days", "dashboard", {"period": "month"}),
    (
        "list, failed in a day, no copy",
        "delivery_changelist",
        {
            "status__exact": ["failed", "expired"],
            "finished_at__gte": A_DAY_AGO,
            "copy": "none",
        },
    ),
    (
        "list, of attempts with a reason",
        "delivery_changelist",
        {
            "attempt": urlencode(
                {
                    "outcome": "deferred",
                    "cause": "busy",
                    "from": MONTH_AGO,
                    "to": NOW,
                }
            )
        },
    ),
)

#: Extra queries that a page may make when there are many mails: to open subjects, and to find the newest mails.
MORE = 2

#: Time in the browser from the click to the end of the page, in milliseconds. 0 until the page is loaded.
TAKEN = "performance.getEntriesByType('navigation')[0].duration"


@pytest.fixture(autouse=True)
def _tidy(task_queue: RecordingTaskQueue) -> Iterator[None]:
    yield
    with connection.cursor() as cursor:
        for table in (ATTEMPTS, DELIVERIES):
            cursor.execute(f"DELETE FROM {table}")
    analyse()


def fill(number: int) -> None:
    """Insert this many deliveries over 30 days. Of each hundred, one failed and three were deferred first."""
    (one,) = ended(1, at=timezone.now(), reason="accepted")
    tried([one])
    shifted = {
        "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', {moment}, '-' || (n * 2592000.0 / {number}) || ' seconds')",
        "postgresql": "{moment} - n * interval '1 second' * 2592000.0 / {number}",
    }[connection.vendor]
    numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {number})"
    moments = {name: shifted.format(moment=name, number=number) for name in ("created_at", "finished_at")}
    mails = {
        **moments,
        "id": "id || '-' || n",
        "message_id": f"'<' || n || '.{number}@example.com>'",
        "status": "CASE WHEN n %% 100 = 0 THEN 'failed' ELSE 'accepted' END",
    }
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


def addresses() -> Iterator[tuple[str, str]]:
    """Return the name and the address of each page."""
    newest = Delivery.objects.order_by("-created_at").values_list("pk", flat=True)[:1]
    for name, view, asked in PAGES:
        path = reverse(f"admin:email_integration_{view}", args=newest if view == "delivery_change" else ())
        yield name, f"{path}?{urlencode(asked, doseq=True)}"


def asked(client: Client) -> dict[str, list[str]]:
    """Return the queries of each page."""
    found = {}
    for name, address in addresses():
        with CaptureQueriesContext(connection) as queries:
            assert client.get(address).status_code == 200
        found[name] = [query["sql"] for query in queries]
    return found


def seen(page: Page) -> dict[str, float]:
    """Return the shortest of three load times of each page in a browser, in seconds."""
    found: dict[str, list[float]] = {}
    for _ in range(3):
        for name, address in addresses():
            page.goto(address)
            page.wait_for_function(f"{TAKEN} > 0")
            found.setdefault(name, []).append(page.evaluate(TAKEN) / 1000)
    return {name: min(times) for name, times in found.items()}


def plan(query: str) -> str:
    explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    with connection.cursor() as cursor:
        cursor.execute(f"{explain} {query}".replace("%", "%%"), [])
        rows: list[Any] = cursor.fetchall()
    return "\n".join(str(row[-1]) for row in rows)


def test_a_page_of_a_million_asks_no_more_than_one_of_a_thousand(
    request: pytest.FixtureRequest,
    live_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No query scans or counts all rows. The load times in a browser are printed for a person to judge."""
    config(is_active=True)
    client = logged_in(superuser=True, name="lou")
    fill(FEW)
    submitted()  # as later: the next attempt of mail that waits takes a look at the server's circuit breaker
    with monkeypatch.context() as patch:
        patch.setattr(live_status, "FOR_WORKERS", 0.02)  # there are no workers to wait for
        few = asked(client)
        fill(MANY - FEW)
        for number in range(99):
            submitted(subject=f"Your order {number}")
        assert Delivery.objects.count() >= MANY
        many = asked(client)
    with browsing(request.getfixturevalue("chromium"), live_server.url) as page:
        cookie = client.cookies["sessionid"].value
        page.context.add_cookies([{"name": "sessionid", "value": cookie, "url": live_server.url}])
        took = seen(page)
    with capsys.disabled():
        print(f"\n{'page of ' + format(MANY, ',') + ' mails':34}seconds  questions")
        for name, queries in many.items():
            print(f"{name:34}{took[name]:7.2f}{len(queries):11}")
    for name, queries in many.items():
        assert len(queries) <= len(few[name]) + MORE, name
        check_bounds(queries)


def check_bounds(queries: list[str]) -> None:
    """Check that no query scans or counts the whole table of deliveries or of attempts."""
    for query in queries:
        if f'"{DELIVERIES}"' in query or f'"{ATTEMPTS}"' in query:
            steps = plan(query)
            assert not re.search(rf"Seq Scan on ({DELIVERIES}|{ATTEMPTS})\b", steps), f"{query}\n{steps}"
            assert not re.search(rf"SCAN ({DELIVERIES}|{ATTEMPTS})(?! USING)", steps), f"{query}\n{steps}"
            bounded = "LIMIT" in query or "finished_at" in query or "next_at" in query or "waits_for" in query
            assert bounded or "COUNT(" not in query, query


def test_an_action_on_all_of_a_million_takes_bounded_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page that asks, and the first and later steps. Their times are printed for a person to judge."""
    monkeypatch.setattr(bulk_actions, "_STEP", 0.0)  # one batch each
    client = logged_in(superuser=True, name="lou")
    fill(MANY)
    confirm = reverse("admin:email_integration_delivery_confirm")
    chosen = {"action": "resend", "_selected_action": "any", "select_across": "1"}
    for query in ("", "status__exact=failed", "status__exact=accepted", "smtp_config=Primary", "q=kim@example.com"):
        with CaptureQueriesContext(connection) as queries:
            began = time.perf_counter()
            page = client.post(f"{reverse('admin:email_integration_delivery_changelist')}?{query}", chosen)
            asked = time.perf_counter()
            address = client.post(confirm, {"key": page.context["key"]})["Location"]
            for _ in range(3):
                client.post(address, {"continue": "1"})
        taken = asked - began, (time.perf_counter() - asked) / 4
        with capsys.disabled():
            print(f"\n{query or 'all':30} page {taken[0]:.2f} s, a step {taken[1]:.2f} s", end="")
        assert BulkAction.objects.get(pk=address.split("/")[-2]).handled == 4 * bulk_actions.BATCH
        check_bounds([each["sql"] for each in queries if each["sql"].startswith("SELECT")])
