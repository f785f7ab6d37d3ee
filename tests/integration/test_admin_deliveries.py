"""Deliveries in the admin: what each user sees, and the decisions that a user can make."""

from __future__ import annotations

import datetime as dt
import re
from html import unescape
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from email_integration.delivery import manual as decisions
from email_integration.ledger import batches
from email_integration.message import content
from email_integration.models import Delivery, DeliveryAttempt, SendingPause, Status
from email_integration.timezones import exactly
from tests import claims
from tests.deliveries import submitted

from .admin_site import config, logged_in, said
from .pages import with_plain_addresses

pytestmark = pytest.mark.django_db

LIST = "admin:email_integration_delivery_changelist"
CONFIRM = "admin:email_integration_delivery_confirm"
SUBJECT, ADDRESS = "The secret subject", "customer@example.org"
CONTENT = f"Subject: {SUBJECT}\r\n\r\nThe secret body\r\n".encode()


def delivery(status: Status = Status.DEFERRED, **values: Any) -> Delivery:
    now = timezone.now()
    number = Delivery.objects.count() + 1
    given: dict[str, Any] = {
        "id": f"id-{number}",
        "status": status,
        "message_id": f"<{number}@example.com>",
        "from_header": "noreply@example.com",
        "recipients": [{"address": ADDRESS, "status": "pending"}],
        "content": CONTENT,
        "content_size": len(CONTENT),
        "due_at": now + dt.timedelta(hours=1),
        "expires_at": now + dt.timedelta(days=5),
        "reason": "the server refused (451)",
        **values,
    }
    return Delivery.objects.create(**given)


def decide(client: Any, action: str, *deliveries: Delivery) -> str:
    """Choose an action of the list, confirm it if the page asks, and return the messages."""
    data = {"action": action, "_selected_action": [item.pk for item in deliveries]}
    page = client.post(reverse(LIST), data, follow=True)
    if page.context.get("button"):
        page = client.post(reverse(CONFIRM), {"key": page.context["key"]}, follow=True)
    return "\n".join([said(page), *page.context.get("reasons", ())])


@pytest.fixture
def queue_and_admin(task_queue: Any) -> tuple[Any, Any]:
    return task_queue, logged_in("view_delivery", "change_delivery")


def test_subjects_addresses_and_replies_take_one_permission_and_no_body_is_in_passing() -> None:
    found = delivery(recipients=[{"address": ADDRESS, "status": "failed", "code": 550, "reply": "Full, Kim"}])
    DeliveryAttempt.objects.create(
        delivery=found,
        number=1,
        started_at=timezone.now(),
        outcome=Status.DEFERRED,
        reply="Not now, Kim",
        smtp_config="Primary",
        host="h",
    )
    page = reverse("admin:email_integration_delivery_change", args=[found.pk])
    for client, sees in (
        (logged_in("view_delivery", "view_deliveryattempt"), False),
        (logged_in("view_delivery", "view_deliveryattempt", "view_delivery_content", name="lee"), True),
    ):
        listing = client.get(reverse(LIST)).content.decode()
        shown = client.get(page).content.decode()
        assert "secret body" not in listing + shown
        for words in (SUBJECT, ADDRESS):
            assert (words in listing) == sees
        for words in (SUBJECT, ADDRESS, "Full, Kim", "Not now, Kim", "noreply@example.com", "Show the content"):
            assert (words in shown) == sees
    assert logged_in("view_smtpconfig", name="max").get(page).status_code == 403


def test_nothing_can_be_edited_added_or_deleted() -> None:
    found = delivery()
    client = logged_in(superuser=True)
    page = reverse("admin:email_integration_delivery_change", args=[found.pk])
    assert client.post(page, {"status": "accepted"}).status_code == 403
    assert client.post(reverse("admin:email_integration_delivery_delete", args=[found.pk])).status_code == 403
    assert client.get(reverse("admin:email_integration_delivery_add")).status_code == 403


def test_the_list_filters_and_does_not_read_contents(django_assert_max_num_queries: Any) -> None:
    for number in range(5):
        delivery(Status.FAILED if number else Status.DEFERRED)
    client = logged_in("view_delivery")
    with django_assert_max_num_queries(16) as queries:
        page = client.get(reverse(LIST), {"status__exact": "failed"}).content.decode()
    assert page.count("id-") >= 4
    assert ">id-1<" not in page
    assert not any('"content"' in query["sql"] for query in queries.captured_queries)


def test_the_list_shows_priority_age_and_the_next_attempt() -> None:
    active = config(is_active=True)
    now = timezone.now()
    delivery(priority="bulk", created_at=now - dt.timedelta(hours=3, minutes=1), due_at=now + dt.timedelta(minutes=6))
    delivery(due_at=now - dt.timedelta(minutes=1))
    delivery(Status.ACCEPTED)
    page = unescape(logged_in("view_delivery").get(reverse(LIST)).content.decode()).replace("\xa0", " ")
    rows = [re.sub(r"<[^>]+>", "|", row) for row in page.split("<tbody>")[1].split("</tr>")[:3]]
    accepted, due, waits = rows
    for words in ("|bulk|", "|3 hours|", "|in 5 minutes|"):
        assert words in waits
    assert "|now|" in due
    assert "|normal|" in due
    assert "|–|" in accepted
    active.delete()  # no mail has a time without a server
    page = unescape(logged_in("view_delivery", name="lee").get(reverse(LIST)).content.decode())
    cells = re.sub(r"<[^>]+>", "|", page.replace("\xa0", " "))
    assert "next attempt: " not in cells
    assert not re.search(r"\|in \d", cells)


@pytest.mark.parametrize("older", [False, True])
def test_a_page_of_many_opens_them_with_one_question(django_assert_max_num_queries: Any, older: bool) -> None:
    """The number of queries is the same for a hundred subjects as for two. No row is counted twice.

    Only rows of versions without the column of the subject need one more query, for a part of each content.
    """
    client = logged_in("view_delivery", "view_delivery_content")
    asked = []
    for count in (2, 100):
        for _ in range(count):
            submitted("kim@example.com", subject="About a thing", from_email="a@example.com", body="x" * 200_000)
        if older:
            Delivery.objects.update(subject="")
        with django_assert_max_num_queries(25) as queries:
            assert client.get(reverse(LIST)).content.decode().count(">About a thing<") == min(
                count + len(asked) * 2, 100
            )
        asked.append(len(queries.captured_queries))
        counting = [query["sql"] for query in queries.captured_queries if "COUNT(" in query["sql"]]
        assert all("LIMIT" in query for query in counting if "email_integration_delivery" in query)
        opening = [query["sql"] for query in queries.captured_queries if "content_seal" in query["sql"]]
        assert ["SUBSTR" in query for query in opening if '."content",' in query] == ([True] if older else [])
    assert asked[0] == asked[1]


def test_what_did_not_reach_its_recipients_is_marked() -> None:
    delivery(Status.ACCEPTED, redirected_to="staging@example.com")
    reply = {"status": "failed", "cause": "withheld", "reply": "in other words"}
    delivery(Status.FAILED, recipients=[{"address": ADDRESS, **reply}, {"address": f"2{ADDRESS}", **reply}])
    page = logged_in("view_delivery").get(reverse(LIST)).content.decode()
    assert ">redirected<" in page
    assert ">withheld from 2<" in page


def test_decisions_take_the_permission_to_change() -> None:
    found = delivery()
    client = logged_in("view_delivery")
    assert "actions" not in client.get(reverse(LIST)).content.decode().split("changelist-form")[1].split("</form")[0]
    decide(client, "cancel", found)
    found.refresh_from_db()
    assert found.status == Status.DEFERRED


def test_cancelling(queue_and_admin: tuple[Any, Any]) -> None:
    _task_queue, client = queue_and_admin
    waiting, sending, done = delivery(), delivery(), delivery(Status.ACCEPTED)
    batch = claims.claimed(sending)
    text = decide(client, "cancel", waiting, sending, done)
    assert "1 mail was cancelled." in text
    assert "1 mail was not changed: the server has accepted it." in text
    assert "1 mail is being sent: it will be cancelled unless the server accepts it first." in text
    assert Delivery.objects.get(pk=waiting.pk).status == Status.CANCELLED
    assert Delivery.objects.get(pk=sending.pk).status == Status.DEFERRED
    assert "1 mail will not be changed: it is being sent right now." in decide(client, "send_now", sending)
    batches.release(batch)
    assert Delivery.objects.get(pk=sending.pk).status == Status.CANCELLED


def test_what_is_claimed_is_shown_and_listed_as_being_sent() -> None:
    client = logged_in("view_delivery")
    waiting, sending = delivery(), delivery()
    claims.claimed(sending)

    def listed(status: Status) -> str:
        return client.get(reverse(LIST), {"status__exact": status}).content.decode()

    assert sending.pk in listed(Status.SENDING)
    assert waiting.pk not in listed(Status.SENDING)
    assert sending.pk not in listed(Status.DEFERRED)
    assert waiting.pk in listed(Status.DEFERRED)
    page = client.get(reverse("admin:email_integration_delivery_change", args=[sending.pk])).content.decode()
    assert ">sending<" in page
    assert "Next attempt" not in page


@pytest.mark.parametrize("status", [Status.DEFERRED, Status.IN_DOUBT])
def test_sending_now(queue_and_admin: tuple[Any, Any], django_capture_on_commit_callbacks: Any, status: Status) -> None:
    task_queue, client = queue_and_admin
    waiting = delivery(status)
    with django_capture_on_commit_callbacks(execute=True):
        assert "1 mail is sent now." in decide(client, "send_now", waiting)
    fresh = Delivery.objects.get(pk=waiting.pk)
    assert fresh.status == Status.DEFERRED
    assert fresh.due_at <= timezone.now()
    assert fresh.version == waiting.version + 1
    assert bytes(fresh.content) == bytes(waiting.content)
    assert task_queue.woken == ["mail"]


def test_what_was_quarantined_is_tried_as_if_for_the_first_time(queue_and_admin: tuple[Any, Any]) -> None:
    _task_queue, client = queue_and_admin
    reason = "the worker was lost at every attempt"
    aside = delivery(
        Status.QUARANTINED,
        returned=5,
        finished_at=timezone.now(),
        expires_at=timezone.now(),
        recipients=[
            {"address": ADDRESS, "status": "failed", "cause": "worker_lost", "reply": reason},
            {"address": "other@example.org", "status": "failed", "code": 550, "reply": "No"},
            {"address": "withheld@example.org", "status": "failed", "cause": "withheld", "reply": "No"},
        ],
    )
    decide(client, "send_now", aside)
    fresh = Delivery.objects.get(pk=aside.pk)
    assert (fresh.status, fresh.returned, fresh.finished_at) == (Status.DEFERRED, 0, None)
    assert [item["status"] for item in fresh.recipients] == ["pending", "failed", "failed"]
    assert fresh.expires_at > timezone.now()


def test_releasing_and_discarding_are_for_what_is_in_doubt(queue_and_admin: tuple[Any, Any]) -> None:
    _task_queue, client = queue_and_admin
    released, discarded, waiting = delivery(Status.IN_DOUBT), delivery(Status.IN_DOUBT), delivery()
    text = decide(client, "release", released, waiting)
    assert "1 mail is sent again." in text
    assert "1 mail was not changed: it is waiting to be sent." in text
    text = decide(client, "discard", discarded, waiting, released)
    assert "1 mail was discarded." in text
    assert "2 mails were not changed: they are waiting to be sent." in text
    assert Delivery.objects.get(pk=released.pk).due_at <= timezone.now()
    fresh = Delivery.objects.get(pk=discarded.pk)
    assert fresh.status == Status.FAILED
    assert "discarded by a user" in fresh.reason
    assert Delivery.objects.get(pk=waiting.pk).version == 0


def test_a_copy_is_sent_and_the_first_one_stays(queue_and_admin: tuple[Any, Any]) -> None:
    _task_queue, client = queue_and_admin
    done = delivery(Status.ACCEPTED)
    assert "A copy of 1 mail is sent." in decide(client, "resend", done)
    copy = Delivery.objects.exclude(pk=done.pk).get()
    assert (copy.status, copy.recipients) == (Status.QUEUED, [{"address": ADDRESS, "status": "pending"}])
    assert content.read(copy) == content.read(done)
    assert Delivery.objects.get(pk=done.pk).status == Status.ACCEPTED


def test_what_cannot_be_sent_again_is_said_with_the_reason(queue_and_admin: tuple[Any, Any]) -> None:
    """The reason is in the language of the user."""
    _task_queue, client = queue_and_admin
    gone = delivery(Status.IN_DOUBT, has_content=False)
    damaged = delivery(Status.IN_DOUBT, recipients="nonsense")
    for action in ("send_now", "release", "resend"):
        text = decide(client, action, gone, damaged)
        assert "1 mail was not changed: its content has been deleted." in text
        assert "1 mail was not changed: the app cannot read it (its recipients cannot be read)." in text
        assert "sent" not in text
    assert Delivery.objects.filter(status=Status.IN_DOUBT, version=0).count() == 2
    client.cookies["django_language"] = "de"
    assert "Der Inhalt wurde gelöscht" in decide(client, "send_now", gone)


def test_the_history_shows_each_decision_and_its_user(queue_and_admin: tuple[Any, Any]) -> None:
    _task_queue, client = queue_and_admin
    doubtful, waiting = delivery(Status.IN_DOUBT), delivery()
    decide(client, "discard", doubtful, waiting)
    decide(client, "resend", doubtful)
    page = client.get(reverse("admin:email_integration_delivery_history", args=[doubtful.pk])).content.decode()
    found = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in page.split("<tbody>")[1].split("</tr>")]
    assert [row[row.index("kim") :] for row in found[:2]] == ["kim Discarded.", "kim A copy was sent."]
    page = client.get(reverse("admin:email_integration_delivery_history", args=[waiting.pk])).content.decode()
    assert "<tbody>" not in page


def test_what_was_deleted_meanwhile_is_said(queue_and_admin: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _task_queue, client = queue_and_admin
    resend = decisions.resend

    def deleted_first(pk: str, **how: Any) -> Delivery:
        Delivery.objects.filter(pk=pk).delete()
        return resend(pk, **how)

    monkeypatch.setattr(decisions, "resend", deleted_first)
    assert "1 mail was not changed: it has been deleted meanwhile." in decide(client, "resend", delivery())


def test_a_damaged_row_is_listed_shown_and_ended(queue_and_admin: tuple[Any, Any]) -> None:
    _task_queue, client = queue_and_admin
    rows = [delivery(Status.QUARANTINED, recipients=damaged) for damaged in ("nonsense", [1], {"a": "b"}, [{}])]
    assert client.get(reverse(LIST)).content.decode().count(">id-") == len(rows)
    seeing = logged_in("view_delivery", "view_delivery_content", name="lee")
    for row in rows:
        page = seeing.get(reverse("admin:email_integration_delivery_change", args=[row.pk])).content.decode()
        assert "They cannot be read" in page
    doubtful = delivery(Status.IN_DOUBT, recipients=[1])
    assert "1 mail was discarded." in decide(client, "discard", doubtful)


def page_of(client: Any, found: Delivery) -> str:
    """Return the page of a delivery as text with single spaces."""
    html = client.get(reverse("admin:email_integration_delivery_change", args=[found.pk])).content.decode()
    html = with_plain_addresses(html)
    html = re.sub("</?bdi[^>]*>", "", html)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).replace("\xa0", " ").split())


def test_the_page_shows_content_doubt_and_reasons(settings: Any) -> None:
    refused = {"address": ADDRESS, "status": "failed", "code": 550, "reply": "No Kim here", "reason": "no such mailbox"}
    given_up = {"address": "lee@example.org", "status": "failed", "reply": "cancelled", "reason": "cancelled"}
    found = delivery(content_size=2048, recipients=[refused, given_up])
    client = logged_in("view_delivery", "view_delivery_content")
    text = page_of(client, found)
    assert "Content: 2.0 KB, kept " in text
    assert "When in doubt: send it again (by the setting IN_DOUBT)" in text
    assert f"{ADDRESS}: failed – no such mailbox (550 No Kim here)" in text
    assert "lee@example.org: failed – cancelled " in text
    assert "(cancelled)" not in text
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "IN_DOUBT": "hold"}
    assert "When in doubt: hold it until a person decides (by the setting" in page_of(client, found)
    Delivery.objects.update(has_content=False, in_doubt_policy="resend")
    text = page_of(client, found)
    assert "Content: 2.0 KB, kept no longer" in text
    assert "When in doubt: send it again Content" in text


def test_attempts_show_version_tls_and_time_and_the_servers_words_take_a_permission() -> None:
    found = delivery()
    version = timezone.now().replace(hour=12, minute=30)
    for number, written in enumerate((version.isoformat(), "of another kind", ""), start=1):
        DeliveryAttempt.objects.create(
            delivery=found,
            number=number,
            started_at=timezone.now(),
            duration=0.256 if number == 1 else None,
            outcome=Status.DEFERRED,
            reply="Full, Kim",
            config_version=written,
            tls_version="TLSv1.3",
        )
    text = page_of(logged_in("view_delivery", "view_deliveryattempt"), found)
    for words in ("Submitted (priority: normal)", "Attempt 1: deferred", "0.26 s", "TLSv1.3", "Next attempt"):
        assert words in text
    for words in (f"as saved at: {exactly(version)}", "as saved at: of another kind"):
        assert words in text
    assert "Full, Kim" not in text
    seeing = logged_in("view_delivery", "view_deliveryattempt", "view_delivery_content", name="lee")
    assert page_of(seeing, found).count("Full, Kim") == 3


def test_every_page_of_the_app_says_that_sending_is_held_up(settings: Any) -> None:
    found = delivery()
    client = logged_in(superuser=True)
    SendingPause.begin(reason="A restored backup")
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "REDIRECT_ALL_TO": ["staging@example.com"],
        "ALLOWED_RECIPIENTS": ["example.net"],
    }
    for page in (
        reverse(LIST),
        reverse("admin:email_integration_delivery_change", args=[found.pk]),
        reverse("admin:email_integration_smtpconfig_changelist"),
        reverse("admin:email_integration_smtpconfig_add"),
        reverse("admin:app_list", args=["email_integration"]),
    ):
        shown = with_plain_addresses(client.get(page).content.decode())
        assert "Sending is paused. New mail is accepted and held. Reason: A restored backup." in shown
        assert "All mail goes to staging@example.com instead of its recipients" in shown
        assert "Mail is sent only to example.net" in shown
    assert "Sending is paused" not in client.get(reverse("admin:index")).content.decode()


def test_email_paused_is_said_to_be_a_setting(settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "EMAIL_PAUSED": True}
    client = logged_in(superuser=True)
    assert "paused by the setting EMAIL_PAUSED" in client.get(reverse(LIST)).content.decode()
    assert said(client.post(reverse("admin:email_integration_resume"), follow=True)) == ""
