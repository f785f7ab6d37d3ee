"""The list of deliveries: badges, the id that it shows, the subject, and the days of the filter."""

from __future__ import annotations

import datetime as dt
import re
from html import unescape
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from email_integration.admin import filters
from email_integration.models import Delivery, Status
from tests.deliveries import RecordingTaskQueue, pretend, submitted

from .admin_site import logged_in

pytestmark = pytest.mark.django_db

LIST = "admin:email_integration_delivery_changelist"
SEES = ("view_delivery", "view_delivery_content")


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def page(client: Client, **asked: str) -> str:
    response = client.get(reverse(LIST), asked)
    assert response.status_code == 200
    return response.content.decode()


def listed(client: Client, **asked: str) -> set[str]:
    return set(re.findall(r'field-short_id"><a [^>]+><span title="([^"]+)">', page(client, **asked)))


@pytest.mark.parametrize("status", [*Status, "damaged"])
def test_each_status_is_a_badge_with_an_icon_and_words(status: str) -> None:
    """The icon tells statuses apart without the colour; a screen reader reads only the words."""
    pretend(submitted(), status=status, reason="the server is <busy>")
    html = page(logged_in("view_delivery"))
    (badge,) = re.findall(
        r'<span class="email-badge ([a-z_]*)"><span aria-hidden="true">(.?)</span> ([^<]+)</span>', html
    )
    words = dict(Status.choices).get(status, status)
    assert badge[2] == words
    assert (badge[0] == status) == bool(badge[1]) == (status in Status.values)
    assert '<span class="email-reason" title="the server is &lt;busy&gt;">the server is &lt;busy&gt;</span>' in html


def test_the_search_finds_the_id_that_the_list_shows() -> None:
    """Two mails of the same minute have different ids in the list. No permission to see addresses is needed."""
    first, second = submitted(), submitted()
    client = logged_in("view_delivery")
    shown = dict(re.findall(r'<span title="([^"]+)">([^<]+)</span></a>', unescape(page(client))))
    assert shown[first.pk] != shown[second.pk]
    assert len(shown[first.pk]) < 10
    for words in (shown[first.pk], shown[first.pk].strip("…"), first.pk, first.pk[-12:]):
        assert listed(client, q=words) == {first.pk}, words
    assert listed(client, q=first.pk[:8]) >= {first.pk}
    for words in ("…", "abc", first.pk[-7:], f"{first.pk[-8:]}x"):
        assert listed(client, q=words) == set(), words


def test_a_short_id_is_shown_and_found_as_a_whole() -> None:
    submitted(delivery_id="welcome-1")
    client = logged_in("view_delivery")
    assert ">welcome-1</span>" in page(client)
    assert listed(client, q="welcome-1") == {"welcome-1"}


def test_the_subject_stays_in_its_column_after_acceptance() -> None:
    pretend(submitted(subject="Your order 4711"), status=Status.ACCEPTED, has_content=False, content=b"")
    assert re.search('field-subject_line"><a [^>]+><bdi>Your order 4711</bdi></a>', page(logged_in(*SEES)))


def test_the_id_and_the_subject_lead_to_the_mail() -> None:
    pk = submitted(subject="Your order 4711").pk
    address = reverse("admin:email_integration_delivery_change", args=[pk])
    assert page(logged_in(*SEES)).count(f'<a href="{address}">') == 2
    assert page(logged_in("view_delivery", name="lee")).count(f'<a href="{address}">') == 1


def test_no_way_leads_to_a_subject_without_the_permission(django_assert_max_num_queries: Any) -> None:
    """Neither the page, a search, a filter nor a sort; the column is not even read."""
    delivery = submitted(subject="Your order 4711")
    client = logged_in("view_delivery")
    with django_assert_max_num_queries(30) as queries:
        html = page(client)
    assert "4711" not in html + delivery.subject
    assert "gcm$" not in html
    assert not any('."subject"' in query["sql"] for query in queries.captured_queries)
    assert listed(client, q="4711") == set()
    for asked in ({"subject": "x"}, {"subject__contains": "gcm"}, {"copy_of": "x"}, {"copy_of__isnull": "1"}):
        assert client.get(reverse(LIST), asked).status_code == 400
    assert listed(logged_in(*SEES, name="lee"), q="order 4711") == {delivery.pk}
    for column in range(1, 9):
        rows = client.get(reverse(LIST), {"o": str(column)}).context["cl"].queryset.query.order_by
        assert not any("subject" in name for name in rows)


def at(day: str, hour: int) -> dt.datetime:
    return timezone.make_aware(dt.datetime.fromisoformat(day).replace(hour=hour))


def test_the_days_of_the_filter_are_both_included() -> None:
    for name, day, hour in (
        ("a", "2026-03-01", 23),
        ("b", "2026-03-02", 0),
        ("c", "2026-03-03", 23),
        ("d", "2026-03-04", 0),
    ):
        pretend(submitted(delivery_id=name), created_at=at(day, hour))
    client = logged_in("view_delivery")
    assert listed(client, created_from="2026-03-02", created_to="2026-03-03") == {"b", "c"}
    assert listed(client, created_from="2026-03-03", created_to="2026-03-02") == {"b", "c"}  # in the wrong order
    assert listed(client, created_from="2026-03-03") == {"c", "d"}
    assert listed(client, created_to="2026-03-01") == {"a"}
    assert listed(client, created_from="", created_to="") == {"a", "b", "c", "d"}
    html = page(client, created_from="2026-03-02", created_to="2026-03-03", status__exact="queued")
    assert "<strong>March 2, 2026 – March 3, 2026</strong>" in html
    assert 'name="created_from" value="2026-03-02"' in html
    assert '<input type="hidden" name="status__exact" value="queued">' in html
    days = html.split('id="email-first-day"')[0].rpartition("<details")[2].partition("<form")[0]
    assert "created_from" not in days  # a choice replaces the days


@pytest.mark.parametrize("day", ["nonsense", "2026-02-30", "9999-12-31", "0001-01-01", "\0"])
def test_a_day_that_does_not_exist_is_refused(day: str) -> None:
    client = logged_in("view_delivery")
    for name in ("created_from", "created_to"):
        response = client.get(reverse(LIST), {name: day})
        assert response.status_code == 400 or response["Location"].endswith("?e=1")


def test_a_page_opens_no_more_subjects_than_the_search_looks_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "LOOKED_THROUGH", 3)
    for number in range(5):
        submitted(delivery_id=f"id-{number}", subject="The same")
    assert listed(logged_in(*SEES), q="the same") == {"id-2", "id-3", "id-4"}
    assert Delivery.objects.count() == 5


def test_a_subject_without_its_key_is_said_to_be_unreadable_on_the_list_and_on_the_page(settings: Any) -> None:
    mail = submitted(subject="A secret plan")
    other = submitted(subject="Another")
    Delivery.objects.filter(pk=other.pk).update(subject=Delivery.objects.get(pk=mail.pk).subject)
    client = logged_in(*SEES)
    page = reverse("admin:email_integration_delivery_change", args=[other.pk])
    shown = client.get(reverse(LIST)).content.decode()
    assert (shown.count("A secret plan"), shown.count(">cannot be decrypted<")) == (1, 1)
    assert "The subject cannot be decrypted" in client.get(page).content.decode()
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [Fernet.generate_key().decode()]}
    assert client.get(reverse(LIST)).content.decode().count(">cannot be decrypted<") == 2
    hidden = logged_in("view_delivery", name="lee")
    assert "cannot be decrypted" not in hidden.get(reverse(LIST)).content.decode() + hidden.get(page).content.decode()
