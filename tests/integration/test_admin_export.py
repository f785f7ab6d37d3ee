"""The list of deliveries as CSV: what is in it for whom, and what it costs."""

from __future__ import annotations

import asyncio
import csv
import io
import logging
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import AsyncClient, Client
from django.urls import reverse

from email_integration.admin import export
from email_integration.models import Delivery, Status
from tests.deliveries import RecordingTaskQueue, ago, pretend, submitted

from .admin_site import logged_in, person

pytestmark = pytest.mark.django_db

SEES = ("view_delivery", "view_delivery_content")
EXPORT, LIST = "admin:email_integration_delivery_export", "admin:email_integration_delivery_changelist"


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def body(client: Client, **asked: str) -> str:
    response: Any = client.get(reverse(EXPORT), asked)
    assert response.status_code == 200
    return b"".join(response.streaming_content).decode("utf-8-sig")


def rows(client: Client, **asked: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(body(client, **asked))))


def test_subjects_and_addresses_are_exported_with_the_permission_alone() -> None:
    submitted("kim@example.com", "lee@example.com", subject="Grüße", from_email="Hanna <noreply@example.com>")
    (row,) = rows(logged_in(*SEES))
    assert (row["subject"], row["to"], row["from"]) == (
        "Grüße",
        "kim@example.com; lee@example.com",
        "Hanna <noreply@example.com>",
    )
    without = body(logged_in("view_delivery", name="lee"))
    for words in ("Grüße", "kim@example.com", "noreply@example.com", "subject", '"to"', "gcm$"):
        assert words not in without
    assert logged_in("view_smtpconfig", name="max").get(reverse(EXPORT)).status_code == 403
    assert logged_in("view_delivery_content", name="pat").get(reverse(EXPORT)).status_code == 403
    assert Client().get(reverse(EXPORT)).status_code == 302


def test_the_sender_is_decoded() -> None:
    submitted(from_email="Stadtwerke München <a@example.com>")
    assert [row["from"] for row in rows(logged_in(*SEES))] == ["Stadtwerke München <a@example.com>"]


def test_the_file_has_the_rows_of_the_list_with_its_filters_in_its_order() -> None:
    for number in range(6):
        mail = submitted(f"kim{number}@example.com", delivery_id=f"id-{number}", subject=f"Order {number}")
        pretend(mail, created_at=ago(100 * number), status=Status.FAILED if number % 2 else Status.DEFERRED)
    client = logged_in(*SEES)
    assert [row["id"] for row in rows(client)] == [f"id-{number}" for number in range(6)]
    assert [row["id"] for row in rows(client, status__exact="failed")] == ["id-1", "id-3", "id-5"]
    assert [row["id"] for row in rows(client, q="Order 4")] == ["id-4"]
    assert [row["id"] for row in rows(client, q="kim2@")] == ["id-2"]
    assert [row["id"] for row in rows(logged_in("view_delivery", name="lee"), q="kim2@")] == []
    page = client.get(reverse(LIST), {"status__exact": "failed"}).content.decode()
    assert f"{reverse(EXPORT)}?status__exact=failed" in page


def test_what_the_list_refuses_the_export_refuses() -> None:
    """Its address is no way to guess what a permission hides."""
    submitted(subject="Secret")
    client = logged_in("view_delivery")
    for asked in ({"subject__startswith": "gcm"}, {"recipients__icontains": "kim"}, {"from_header__contains": "a"}):
        assert client.get(reverse(EXPORT), asked).status_code == 400
    assert client.get(reverse(EXPORT), {"created_from": "nonsense"})["Location"].endswith("?e=1")
    assert client.post(reverse(EXPORT)).status_code == 403


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+49 30", "'+49 30"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "'  =1"),
        ("\t=1", "'\t=1"),
        ("＝1", "'＝1"),
        ('a"b;c', 'a"b;c'),
        ("a;=1+1;b", "a;'=1+1;b"),
        ("a@example.com; +b@example.com", "a@example.com;' +b@example.com"),
        ("a\n=1\r-1;b - c", "a\n'=1\r'-1;b - c"),
        ("1=1", "1=1"),
    ],
)
def test_no_cell_is_a_formula(text: str, cell: str) -> None:
    assert export.cell(text) == cell
    assert export.cell(-5) == -5


def test_a_subject_that_is_a_formula_is_text_in_the_file() -> None:
    submitted(subject='=HYPERLINK("http://example.com")')
    (row,) = rows(logged_in(*SEES))
    assert row["subject"] == '\'=HYPERLINK("http://example.com")'


def test_an_export_is_recorded_without_the_search_words(caplog: pytest.LogCaptureFixture) -> None:
    submitted("kim@example.com")
    caplog.set_level(logging.INFO, "email_integration")
    body(logged_in(*SEES, name="sam"), q="kim@example.com")
    body(logged_in("view_delivery", name="lee"))
    entries = LogEntry.objects.order_by("pk")
    assert [(entry.user.get_username(), entry.get_change_message()) for entry in entries] == [
        ("sam", "Exported, with subjects and addresses."),
        ("lee", "Exported, without subjects and addresses."),
    ]
    assert "kim@" not in repr(list(entries.values())) + caplog.text
    assert caplog.text.count("exported the list of deliveries") == 2


def test_it_is_read_in_batches_each_after_the_last_row_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    """Rows with the same time are neither left out nor repeated. No query counts, skips or reads more than a batch."""
    monkeypatch.setattr(export, "BATCH", 3)
    moment = ago(50)
    for number in range(10):
        pretend(submitted(delivery_id=f"id-{number}"), created_at=moment if number < 8 else ago(number))
    response: Any = logged_in(*SEES).get(reverse(EXPORT))
    with django_assert_max_num_queries(5) as queries:
        pieces = list(response.streaming_content)
    found = [row["id"] for row in csv.DictReader(io.StringIO(b"".join(pieces).decode("utf-8-sig")))]
    assert found == ["id-8", "id-9", *(f"id-{number}" for number in range(7, -1, -1))]
    assert len(pieces) == 5
    for query in queries.captured_queries:
        assert "LIMIT 3" in query["sql"]
        assert "OFFSET" not in query["sql"]
        assert '"content",' not in query["sql"]


@pytest.mark.django_db(transaction=True)
def test_it_is_streamed_under_asgi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django would collect a synchronous iterator in a list there, and warns."""
    monkeypatch.setattr(export, "BATCH", 2)
    for number in range(5):
        submitted(delivery_id=f"id-{number}")
    user = person(*SEES)

    async def pieces() -> list[bytes]:
        client = AsyncClient()
        await client.aforce_login(user)
        response: Any = await client.get(reverse(EXPORT))
        assert response.is_async
        return [piece async for piece in response.streaming_content]

    found = asyncio.run(pieces())
    assert len(found) == 4
    assert b"".join(found).count(b"id-") == Delivery.objects.count()


def test_a_damaged_row_is_exported() -> None:
    pretend(submitted(), recipients="nonsense")
    (row,) = rows(logged_in(*SEES))
    assert (row["recipients"], row["to"]) == ("", "")
