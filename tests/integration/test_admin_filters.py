"""Filters of the delivery list: who may use them, and what they cost the database."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from email_integration.admin import filters
from email_integration.models import Delivery, Status
from email_integration.outcomes.causes import Cause
from tests.deliveries import RecordingTaskQueue, ago, pretend, submitted

from .admin_site import config, logged_in, said

pytestmark = pytest.mark.django_db

LIST = "admin:email_integration_delivery_changelist"


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def listed(client: Client, **asked: str) -> set[str]:
    """Return the ids of the listed deliveries."""
    page = client.get(reverse(LIST), asked).content.decode()
    return set(re.findall(r'field-short_id"><a [^>]+><span title="([^"]+)">', page))


def named(name: str, *to: str, **how: Any) -> Delivery:
    return submitted(*to, delivery_id=name, from_email="a@example.com", **how)


def test_priority_configuration_reason_and_date_narrow_it() -> None:
    config("Alpha")
    pretend(
        named("one"),
        priority="high",
        smtp_config="Alpha",
        cause="busy",
        reason="in other words (451)",
        status=Status.DEFERRED,
    )
    pretend(named("two"), priority="bulk", smtp_config="Django settings", created_at=ago(3 * 24 * 3600))
    client = logged_in("view_delivery")
    assert listed(client) == {"one", "two"}
    assert listed(client, priority="high") == {"one"}
    assert listed(client, smtp_config="Alpha") == {"one"}
    assert listed(client, smtp_config="Django settings") == {"two"}
    assert listed(client, cause="busy") == {"one"}
    assert listed(client, cause="full") == set()
    assert listed(client, priority="bulk", smtp_config="Alpha") == set()
    assert listed(client, created_at__gte=ago(24 * 3600).isoformat()) == {"one"}
    page = client.get(reverse(LIST)).content.decode()
    for choice in (
        "?priority=high",
        "?smtp_config=Alpha",
        "?smtp_config=Django+settings",
        "?cause=busy",
        Cause.BUSY.words,
        "created_at__gte",
    ):
        assert choice in page


@pytest.mark.parametrize("status", [Status.ACCEPTED, Status.FAILED])
def test_each_status_narrows_it(status: Status) -> None:
    pretend(named("one"), status=status)
    named("two")
    assert listed(logged_in("view_delivery"), status__exact=status) == {"one"}


def test_it_is_found_by_task_id_and_by_message_id_with_and_without_brackets() -> None:
    """Every user who may view deliveries can search this way."""
    found = named("one")
    named("two")
    client = logged_in("view_delivery")
    for words in ("one", f" {found.message_id} ", found.message_id.strip("<>")):
        assert listed(client, q=words) == {"one"}, words


def test_it_is_found_by_recipient_and_subject_with_the_permission_alone() -> None:
    named("one", "Kim@example.com", "lee@bücher.example", subject="Your invoice")
    named("two", "max@example.org", subject="Grüße")
    gone = named("three", "max@example.org", subject="Your invoice")
    pretend(gone, has_content=False, content=b"")
    sees, does_not = logged_in("view_delivery", "view_delivery_content"), logged_in("view_delivery", name="lee")
    for words, ids in {
        "kim@example.com": {"one"},
        "EXAMPLE.COM": {"one"},
        "lee@bücher.example": {"one"},
        "max": {"two", "three"},
        "invoice": {"one", "three"},  # the subject is kept when the content is not
        "GRÜSSE": {"two"},
        "pending": set(),  # a status name of ours, in the same column
        "example%": set(),
        "exampl.\\.com": set(),
    }.items():
        assert listed(sees, q=words) == ids, words
        assert listed(does_not, q=words) == set(), words


def test_it_is_found_by_what_is_pasted_with_quotes_brackets_or_the_name_of_a_header() -> None:
    one = named("0123456789-one", "kim@bücher.example", subject="Your invoice")
    named("0123456789-two", "max@example.org", subject="Hello")
    client = logged_in("view_delivery", "view_delivery_content")
    message_id = one.message_id.strip("<>")
    for words in (
        f'"{one.pk}"',
        f" '{one.pk}', ",
        f"{one.pk}.",
        f"...{one.pk[-8:]}",
        f"“…{one.pk[-8:]}”",
        f"Message-ID: <{message_id}>",
        f"message-id:{message_id}",
        f'"<{message_id}>"',
        '"Kim" <kim@bücher.example>',
        "kim@bücher.example;",
        "bücher.example",
        "@bücher.example",
        '"Your invoice"',
        "„Your invoice“",
    ):
        assert listed(client, q=words) == {one.pk}, words
    for words in ("...", '""', "<>", "Message-ID:", "büch.example", "@ücher.example"):
        assert listed(client, q=words) == set(), words


def test_a_filter_that_is_not_understood_is_reported() -> None:
    """All mails are listed then, which must not look like the answer to the question."""
    named("one")
    client = logged_in("view_delivery")
    for asked in ({"created_from": "nonsense"}, {"finished_at__gte": "x"}, {"attempt": "x"}):
        page = client.get(reverse(LIST), asked, follow=True)
        assert "A filter in the address is not understood." in page.content.decode()
    assert "is not understood" not in client.get(reverse(LIST)).content.decode()


def test_what_servers_said_of_a_recipient_is_not_searched() -> None:
    recipient = {"address": "kim@example.com", "status": "failed", "reply": "ask lee@example.com"}
    pretend(named("one"), recipients=[recipient])
    client = logged_in("view_delivery", "view_delivery_content")
    assert listed(client, q="lee@example.com") == set()
    assert listed(client, q="kim@example.com") == {"one"}


def test_what_has_no_index_is_looked_for_among_the_newest_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search covers the newest mails with the chosen status. So an old mail is found if few mails
    have its status.
    """
    monkeypatch.setattr(filters, "LOOKED_THROUGH", 3)
    for number in range(5):
        pretend(named(f"id-{number}", "kim@example.com"), created_at=ago(100 - number), priority="high")
    pretend(Delivery.objects.get(pk="id-0"), status=Status.FAILED)
    client = logged_in("view_delivery", "view_delivery_content")
    for asked in ({"priority": "high"}, {"q": "kim@example.com"}, {"priority": "high", "q": "kim@example.com"}):
        assert listed(client, **asked) == {"id-2", "id-3", "id-4"}
        assert said(client.get(reverse(LIST), asked)).startswith("Only the newest 3 mails were looked through.")
        assert said(client.get(reverse(LIST), asked)).count("Only") == 1
    assert listed(client, priority="high", status__exact="failed") == {"id-0"}
    for asked in ({}, {"q": "id-0"}, {"priority": "high", "status__exact": "failed"}):
        assert said(client.get(reverse(LIST), asked)) == ""
