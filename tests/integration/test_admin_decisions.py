"""Decisions about many mails in the admin: the page that asks first, and all mails that match a filter."""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.messages.storage.cookie import CookieStorage
from django.core import signing
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import ResolverMatch, reverse
from django.utils import timezone

from email_integration.admin import bulk_actions, decisions, filters, selections
from email_integration.delivery import deciding, manual, retention
from email_integration.delivery.erasure import erase_recipient
from email_integration.ledger import batches
from email_integration.models import BulkAction, Delivery, Status
from tests import claims
from tests.deliveries import RecordingTaskQueue, pretend, submitted

from .admin_site import logged_in, person, said

pytestmark = pytest.mark.django_db

LIST = "admin:email_integration_delivery_changelist"
CONFIRM = "admin:email_integration_delivery_confirm"
MAY_DECIDE = ("view_delivery", "change_delivery")
ACTIONS = ("cancel", "send_now", "release", "discard", "resend")


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


@pytest.fixture
def client() -> Client:
    return logged_in(*MAY_DECIDE)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat two mails as many: they are found by the filter, in transactions of two, one for each request."""
    monkeypatch.setattr(selections, "LISTED", 1)
    monkeypatch.setattr(bulk_actions, "BATCH", 2)
    monkeypatch.setattr(bulk_actions, "_STEP", -1.0)


def mail(status: Status = Status.FAILED, **values: Any) -> Delivery:
    finished = {"finished_at": timezone.now(), "next_at": None} if status.is_final else {}
    return pretend(submitted("kim@example.org", from_email="a@example.com"), status=status, **finished, **values)


def ask(client: Client, action: str, *mails: Delivery, query: str = "", across: bool = False) -> Any:
    """Choose an action of the list; with ``across``, for all that match. Return the page that asks."""
    ids = [one.pk for one in mails or Delivery.objects.all()[:1]]
    data = {"action": action, "_selected_action": ids, "select_across": "1" if across else "0"}
    return client.post(f"{reverse(LIST)}?{query}", data)


def confirm(client: Client, page: Any) -> Any:
    return client.post(reverse(CONFIRM), {"key": page.context["key"]}, follow=True)


def go_on(client: Client, page: Any) -> Any:
    """Carry out all further steps, and return the last page."""
    while not page.context["bulk"].ended_at:
        page = client.post(page.request["PATH_INFO"], {"continue": "1"}, follow=True)
    return page


def text(page: Any) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page.content.decode())).replace("\xa0", " ").split())


def copies() -> int:
    return Delivery.objects.filter(status=Status.QUEUED).count()


# -- the page that asks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_asks_first_and_changes_nothing_until_it_is_confirmed(client: Client, action: str) -> None:
    found = [mail(Status.IN_DOUBT) for _ in range(3)]
    before = list(Delivery.objects.order_by("pk").values())
    page = ask(client, action, *found)
    assert page.status_code == 200
    assert re.search(r"<h1>[^<]*\b3 (mails|copies)\b", page.content.decode())
    assert list(Delivery.objects.order_by("pk").values()) == before
    assert not LogEntry.objects.exists()
    assert not BulkAction.objects.exists()
    confirm(client, page)
    assert list(Delivery.objects.order_by("pk").values()) != before


def test_the_page_says_what_will_happen_and_what_cannot_with_the_reasons(client: Client) -> None:
    gone, waiting, sending = mail(has_content=False), mail(Status.DEFERRED), mail(Status.DEFERRED)
    claims.claimed(sending)
    doubtful = [mail(Status.IN_DOUBT), mail(Status.IN_DOUBT)]
    shown = text(ask(client, "resend", gone, waiting, sending, *doubtful))
    assert "Send copies of 5 mails?" in shown
    assert "These 3 mails will be sent again as copies to all of their recipients" in shown
    assert "1 mail will not be changed: its content has been deleted." in shown
    assert "1 mail will not be changed: it is being sent right now." in shown
    shown = text(ask(client, "send_now", gone, waiting, *doubtful))
    assert "These 3 mails will be sent now" in shown
    assert "2 of them are in doubt: a recipient who has one already gets it twice." in shown
    assert "1 mail will not be changed: its content has been deleted." in shown
    shown = text(ask(client, "cancel", sending, waiting))
    assert "1 mail will be cancelled." in shown
    assert "1 mail is being sent: it will be cancelled unless the server accepts it first." in shown


def test_if_nothing_can_be_changed_there_is_nothing_to_confirm(client: Client) -> None:
    page = ask(client, "discard", mail(Status.ACCEPTED))
    assert "None of the selected mails can be changed in this way." in text(page)
    assert 'type="submit" class="default"' not in page.content.decode()


def test_no_copy_is_suggested_of_a_mail_whose_content_was_deleted(client: Client) -> None:
    kept, gone = mail(), mail(has_content=False, content=b"")
    for action in ("send_now", "release"):
        with_content, without = (
            client.post(reverse(LIST), {"action": action, "_selected_action": one.pk}).content.decode()
            for one in (kept, gone)
        )
        assert "Use “Send a copy”" in with_content
        assert "Use “Send a copy”" not in without
        assert "its content has been deleted" in without


def test_addresses_on_the_page_take_their_permission(client: Client) -> None:
    found = [mail() for _ in range(12)]
    without = text(ask(client, "resend", *found))
    assert "kim@example.org" not in without
    assert "And 2 others." in without
    seeing = logged_in(*MAY_DECIDE, "view_delivery_content", name="lee")
    assert text(ask(seeing, "resend", *found)).count("kim@example.org") == 10


def test_the_way_back_leads_to_the_list_with_its_filters(client: Client) -> None:
    found = mail()
    page = ask(client, "resend", found, query="status__exact=failed&priority=normal")
    back = page.context["back"]
    assert back == f"{reverse(LIST)}?status__exact=failed&priority=normal"
    assert f'class="closelink" href="{back.replace("&", "&amp;")}"' in page.content.decode()
    assert confirm(client, page).redirect_chain[-1][0] == back


def test_a_second_click_or_a_reload_does_nothing_twice(client: Client) -> None:
    page = ask(client, "resend", mail(), mail())
    assert "Copies of 2 mails are sent." in said(confirm(client, page))
    again = confirm(client, page)
    assert copies() == 2
    assert "Copies of 2 mails are sent." in text(again)
    assert LogEntry.objects.filter(object_id=None).count() == 1


def test_a_mail_that_is_sent_now_is_not_sent_now_again_by_a_reload(client: Client) -> None:
    waiting = mail(Status.DEFERRED)
    page = ask(client, "send_now", waiting)
    confirm(client, page)
    later = pretend(waiting, due_at=timezone.now() + dt.timedelta(hours=1))
    confirm(client, page)
    assert Delivery.objects.get(pk=waiting.pk).version == later.version


@pytest.mark.parametrize("action", ["resend", "send_now"])
def test_a_mail_whose_status_is_not_the_one_shown_is_not_changed(client: Client, action: str) -> None:
    """A copy of a mail that was accepted meanwhile would reach its recipients twice."""
    waiting, changing = mail(Status.DEFERRED), mail(Status.DEFERRED)
    page = ask(client, action, waiting, changing)
    status = Status.ACCEPTED if action == "resend" else Status.IN_DOUBT
    before = pretend(changing, status=status, next_at=None)
    text = said(confirm(client, page))
    words = {"resend": "the server has accepted it", "send_now": "it is in doubt"}[action]
    assert f"1 mail was not changed: changed meanwhile, {words}." in text
    assert Delivery.objects.get(pk=changing.pk).version == before.version
    assert BulkAction.objects.get().changed == 1


@pytest.mark.parametrize("action", ["send_now", "resend", "release", "discard"])
def test_a_mail_that_was_claimed_meanwhile_is_not_touched(client: Client, action: str) -> None:
    shown = Status.IN_DOUBT if action in ("release", "discard") else Status.DEFERRED
    found = mail(shown)
    page = ask(client, action, found)
    pretend(found, status=Status.DEFERRED)
    batch = claims.claimed(found)
    before = Delivery.objects.filter(pk=found.pk).values().get()
    assert "it is being sent right now" in said(confirm(client, page))
    assert Delivery.objects.filter(pk=found.pk).values().get() == before
    assert Delivery.objects.count() == 1
    batches.release(batch)


def test_selected_mails_that_left_the_filter_are_counted(client: Client) -> None:
    found, left = mail(), mail(Status.ACCEPTED)
    page = ask(client, "resend", found, left, query="status__exact=failed")
    assert "Send a copy of 1 mail?" in text(page)
    assert "1 mail will not be changed: it no longer matches the filter." in text(page)
    nothing = ask(client, "resend", left, query="status__exact=failed")
    assert nothing.status_code == 302


def from_own_page(action: str, found: Delivery) -> Any:
    """Call an action as a page of one mail does."""
    request: Any = RequestFactory().post("/", {"action": action})
    request.user = person(*MAY_DECIDE, name=f"user-{action}-{found.pk}")
    request._messages = CookieStorage(request)
    request.resolver_match = ResolverMatch(lambda: None, (), {"object_id": found.pk})
    model_admin: Any = admin.site.get_model_admin(Delivery)
    return getattr(model_admin, action)(request, Delivery.objects.filter(pk=found.pk))


def test_on_its_own_page_a_waiting_mail_is_sent_now_without_asking_and_all_else_asks() -> None:
    waiting, doubtful = mail(Status.DEFERRED), mail(Status.IN_DOUBT)
    answer = from_own_page("send_now", waiting)
    own_page = reverse("admin:email_integration_delivery_change", args=[waiting.pk])
    assert (answer.status_code, answer["Location"]) == (302, own_page)
    assert Delivery.objects.get(pk=waiting.pk).version == waiting.version + 1
    for action, found in [("send_now", doubtful), *((name, waiting) for name in ACTIONS if name != "send_now")]:
        answer = from_own_page(action, found)
        assert answer.status_code == 200
        assert answer.context_data["back"] == reverse("admin:email_integration_delivery_change", args=[found.pk])


# -- permissions -------------------------------------------------------------------------------------------------


def test_each_step_takes_the_permission_to_decide(client: Client, small: None) -> None:
    for _ in range(5):
        mail()
    page = confirm(client, asked := ask(client, "resend", query="status__exact=failed", across=True))
    address = page.request["PATH_INFO"]
    viewer = logged_in("view_delivery", "view_delivery_content", name="lee")
    before = BulkAction.objects.get().version
    assert viewer.post(reverse(CONFIRM), {"key": asked.context["key"]}).status_code == 403
    assert viewer.get(address).status_code == 403
    assert viewer.post(address, {"continue": "1"}).status_code == 403
    assert viewer.post(address, {"stop": "1"}).status_code == 403
    assert "has not ended" not in text(viewer.get(reverse(LIST)))
    assert client.get(reverse(CONFIRM)).status_code == 403
    assert BulkAction.objects.get().version == before
    person_now = BulkAction.objects.get().by
    person_now.user_permissions.clear()
    assert client.post(address, {"continue": "1"}).status_code == 403
    assert BulkAction.objects.get().version == before


def test_a_page_is_confirmed_only_by_the_user_who_saw_it_and_only_as_it_was(client: Client) -> None:
    page = ask(client, "resend", mail())
    other = logged_in(*MAY_DECIDE, name="lee")
    assert other.post(reverse(CONFIRM), {"key": page.context["key"]}).status_code == 403
    forged = signing.dumps(signing.loads(page.context["key"], salt=bulk_actions.BulkActionViews.confirmation_salt))
    for key in ("", forged, page.context["key"][:-1]):
        assert "This page is too old" in said(client.post(reverse(CONFIRM), {"key": key}, follow=True))
    assert copies() == 0


def test_a_page_of_yesterday_is_too_old(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ask(client, "resend", mail())
    monkeypatch.setattr(bulk_actions, "_CONFIRM", -1)
    assert "This page is too old" in said(confirm(client, page))
    assert copies() == 0


def test_another_user_may_stop_an_action_and_not_continue_it(client: Client, small: None) -> None:
    for _ in range(5):
        mail()
    page = confirm(client, ask(client, "resend", query="status__exact=failed", across=True))
    address = page.request["PATH_INFO"]
    other = logged_in(*MAY_DECIDE, name="lee")
    assert "Only kim can continue it." in text(other.get(address))
    assert other.post(address, {"continue": "1"}).status_code == 403
    assert "It was stopped." in text(other.post(address, {"stop": "1"}, follow=True))
    client.post(address, {"continue": "1"})
    assert copies() == 2
    assert LogEntry.objects.get(object_id=None).change_message.endswith("Stopped by lee.")


# -- all that match a filter -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [3, 7])
def test_all_that_match_a_filter_are_copied_once(
    client: Client, monkeypatch: pytest.MonkeyPatch, number: int, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    """Both with a list of ids and by the filter; copies and later mails are not copied."""
    monkeypatch.setattr(selections, "LISTED", 5)
    monkeypatch.setattr(bulk_actions, "BATCH", 2)
    for _ in range(number):
        mail()
    others = [mail(Status.ACCEPTED), mail(Status.DEFERRED)]
    page = ask(client, "resend", query="status__exact=failed", across=True)
    asked = signing.loads(page.context["key"], salt=bulk_actions.BulkActionViews.confirmation_salt)
    assert ("query" in asked["selection"]) == (number > 5)
    assert f"Send copies of {number} mails?" in text(page)
    mail()  # fails after the page was shown
    assert f"Copies of {number} mails are sent." in said(confirm(client, page))
    assert copies() == number
    assert all(Delivery.objects.get(pk=one.pk).version == one.version for one in others)


def test_a_mail_that_matches_only_since_the_page_was_shown_is_not_changed(client: Client, small: None) -> None:
    found = [mail() for _ in range(3)]
    waiting = mail(Status.DEFERRED)
    page = ask(client, "resend", *found, query="status__exact=failed", across=True)
    pretend(waiting, status=Status.FAILED, finished_at=timezone.now(), next_at=None)
    go_on(client, confirm(client, page))
    assert copies() == len(found)


def test_an_action_goes_on_in_bounded_steps_and_reports_what_changed_meanwhile(client: Client, small: None) -> None:
    found = sorted((mail() for _ in range(7)), key=lambda one: one.created_at)
    page = confirm(client, ask(client, "resend", query="status__exact=failed", across=True))
    assert copies() == 2
    assert "2 of 7 mails" in text(page)
    assert "The action “Send a copy” of kim has not ended." in text(client.get(reverse(LIST)))
    pretend(found[0], status=Status.ACCEPTED)
    pretend(found[1], has_content=False)
    page = go_on(client, page)
    assert copies() == 5
    shown = text(page)
    for words in (
        "It is done.",
        "Copies of 5 mails are sent.",
        "1 mail was not changed: its content has been deleted.",
        "1 mail was not changed: it no longer matches the filter.",
    ):
        assert words in shown
    bulk = BulkAction.objects.get()
    assert bulk.selection == {}
    client.post(page.request["PATH_INFO"], {"continue": "1"})
    assert copies() == 5
    assert "has not ended" not in text(client.get(reverse(LIST)))


def test_a_batch_is_one_transaction_of_bounded_size(client: Client, small: None) -> None:
    for _ in range(5):
        mail(Status.DEFERRED)
    page = ask(client, "cancel", query="status__exact=deferred", across=True)
    for left in (3, 1, 0):
        page = confirm(client, page) if left == 3 else client.post(page.request["PATH_INFO"], follow=True)
        assert Delivery.objects.filter(status=Status.DEFERRED).count() == left


def test_a_batch_ends_early_when_it_takes_long_or_copies_much(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [mail() for _ in range(3)]
    for name in ("_LONGEST", "_LARGEST"):
        with monkeypatch.context() as patch:
            patch.setattr(deciding, name, -1)
            done = deciding.decide("resend", [(one.pk, one.status) for one in found], key=name)
        assert (done.handled, len(done.changed)) == (1, 1)


def test_an_action_can_be_stopped(client: Client, small: None) -> None:
    for _ in range(5):
        mail()
    page = confirm(client, ask(client, "resend", query="status__exact=failed", across=True))
    page = client.post(page.request["PATH_INFO"], {"stop": "1"}, follow=True)
    assert "It was stopped. The remaining mails were not changed." in text(page)
    client.post(page.request["PATH_INFO"], {"continue": "1"})
    assert copies() == 2


def test_more_mails_than_are_counted_are_shown_as_more(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (selections, decisions, bulk_actions):
        monkeypatch.setattr(module, "COUNTED", 3)
    monkeypatch.setattr(selections, "LISTED", 1)
    for _ in range(5):
        mail()
    page = ask(client, "resend", query="status__exact=failed", across=True)
    for words in ("Send copies of more than 3 mails?", "The numbers below are of the newest 3"):
        assert words in text(page)
    assert page.context["button"] == "Yes, send more than 3 copies"
    confirm(client, page)
    assert copies() == 5
    assert BulkAction.objects.get().unchanged == {}


def test_a_filter_that_looks_only_through_the_newest_finds_no_older_mails_later(
    client: Client, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When mails stop to match, older ones do not take their place; new mails do not drive any out."""
    for module in (filters, selections):
        monkeypatch.setattr(module, "LOOKED_THROUGH", 4)
    older = [mail(Status.DEFERRED, priority="bulk") for _ in range(3)]
    newest = [mail(Status.DEFERRED, priority="bulk") for _ in range(4)]
    query = "status__exact=deferred&priority=bulk"
    page = ask(client, "cancel", query=query, across=True)
    assert "Cancel 4 mails?" in text(page)
    for _ in range(4):
        mail(Status.DEFERRED, priority="bulk")
    go_on(client, confirm(client, page))
    assert set(Delivery.objects.filter(status=Status.CANCELLED).values_list("pk", flat=True)) == {
        one.pk for one in newest
    }
    assert all(Delivery.objects.get(pk=one.pk).status == Status.DEFERRED for one in older)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("at", [1, 3, 4])
def test_an_action_that_was_killed_goes_on_and_copies_no_mail_twice(
    client: Client, small: None, monkeypatch: pytest.MonkeyPatch, across: bool, at: int
) -> None:
    found = [mail() for _ in range(5)]
    page = ask(client, "resend", *found, query="status__exact=failed", across=across)
    resend, calls = manual.resend, []

    def killed(pk: str, **how: Any) -> Delivery:
        calls.append(pk)
        copy = resend(pk, **how)
        if len(calls) == at:
            raise KeyboardInterrupt
        return copy

    monkeypatch.setattr(bulk_actions, "_STEP", 60.0)
    monkeypatch.setattr(manual, "resend", killed)
    with pytest.raises(KeyboardInterrupt):
        confirm(client, page)
    bulk = BulkAction.objects.get()
    assert copies() == bulk.changed == (at - 1) // 2 * 2
    shown = confirm(client, page)
    assert "It is done." not in text(shown)
    go_on(client, shown)
    assert copies() == BulkAction.objects.get().changed == 5
    assert Delivery.objects.exclude(idempotency_key=None).values("message_id").distinct().count() == 5


def test_no_mail_is_copied_twice_by_one_action_even_if_a_batch_is_repeated(client: Client) -> None:
    found = mail()
    for _ in range(2):
        assert deciding.decide("resend", [(found.pk, found.status)], key="an action").changed == [found.pk]
    assert copies() == 1
    deciding.decide("resend", [(found.pk, found.status)], key="another action")
    assert copies() == 2


def test_two_requests_do_not_carry_out_the_same_batch(client: Client, small: None) -> None:
    """A step that has read an older state of the action changes nothing."""
    for _ in range(5):
        mail()
    page = confirm(client, ask(client, "resend", query="status__exact=failed", across=True))
    model_admin: Any = admin.site.get_model_admin(Delivery)
    old = BulkAction.objects.get()
    client.post(page.request["PATH_INFO"], {"continue": "1"})
    request: Any = page.wsgi_request
    mails = model_admin.next_mails(request, old.selection, old.position)
    assert model_admin._batch(request, old, mails) == 0
    assert copies() == 4


@pytest.mark.parametrize("across", [False, True])
def test_a_window_does_not_repeat_a_batch_that_another_has_carried_out_since(
    client: Client, small: None, monkeypatch: pytest.MonkeyPatch, across: bool
) -> None:
    """A mail that is in doubt again after its release would be sent a third time by the same action."""
    found = [mail(Status.IN_DOUBT) for _ in range(8)]
    page = confirm(client, ask(client, "release", *found, query="status__exact=in_doubt", across=across))
    address, repeated, others = page.request["PATH_INFO"], bulk_actions.conflicts.repeated, [1]

    def another_window_is_faster(act: Callable[[], Any]) -> Any:
        done = repeated(act)
        if others:
            others.clear()
            with monkeypatch.context() as patch:
                patch.setattr(bulk_actions, "_STEP", -1.0)
                client.post(address, {"continue": "1"})
            released = Delivery.objects.filter(status=Status.DEFERRED).values_list("pk", flat=True)
            Delivery.objects.filter(pk__in=list(released)).update(status=Status.IN_DOUBT, next_at=None)
        return done

    monkeypatch.setattr(bulk_actions, "_STEP", 60.0)
    monkeypatch.setattr(bulk_actions.conflicts, "repeated", another_window_is_faster)
    client.post(address, {"continue": "1"})
    bulk = BulkAction.objects.get()
    assert (bulk.handled, bulk.version) == (6, 3)
    assert bulk.ended_at is None


@pytest.mark.django_db(transaction=True)
def test_windows_that_carry_out_the_same_action_at_once_copy_no_mail_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selections, "LISTED", 1)
    monkeypatch.setattr(bulk_actions, "BATCH", 3)
    monkeypatch.setattr(bulk_actions, "_STEP", 0.0)
    client = logged_in(*MAY_DECIDE)
    for _ in range(40):
        mail()
    page = ask(client, "resend", query="status__exact=failed", across=True)
    start = threading.Barrier(3)

    def window() -> None:
        own = Client()
        own.cookies = client.cookies
        start.wait()
        try:
            go_on(own, confirm(own, page))
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as windows:
        for done in [windows.submit(window) for _ in range(3)]:
            done.result()
    assert copies() == BulkAction.objects.get().changed == 40
    assert LogEntry.objects.filter(object_id=None).count() == 1
    assert LogEntry.objects.exclude(object_id=None).count() == 40


@pytest.mark.django_db(transaction=True)
def test_a_window_that_is_faster_than_the_first_entry_in_the_log_makes_no_second_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk_actions, "_STEP", -1.0)
    monkeypatch.setattr(bulk_actions, "BATCH", 1)
    client, found = logged_in(*MAY_DECIDE), [mail(), mail()]
    log, others = bulk_actions.BulkActionViews._log, [1]

    def continue_elsewhere(address: str) -> int:
        own = Client()
        own.cookies = client.cookies
        try:
            return own.post(address, {"continue": "1"}).status_code
        finally:
            connection.close()

    def another_window_is_faster(self: Any, request: Any, bulk: BulkAction) -> None:
        if others:
            others.clear()
            with ThreadPoolExecutor(1) as window:
                answers.append(window.submit(continue_elsewhere, bulk_actions._page_of(bulk)).result())
        log(self, request, bulk)

    answers: list[int] = []
    page = ask(client, "resend", *found)
    monkeypatch.setattr(bulk_actions.BulkActionViews, "_log", another_window_is_faster)
    go_on(client, confirm(client, page))
    assert LogEntry.objects.filter(object_id=None).count() == 1
    assert (answers, copies()) == ([404], 2)


# -- the log -----------------------------------------------------------------------------------------------------


def test_an_action_is_in_the_log_once_with_its_filter_and_numbers(client: Client, small: None) -> None:
    for _ in range(4):
        mail()
    gone = mail(has_content=False)
    go_on(client, confirm(client, ask(client, "resend", query="status__exact=failed&priority=normal", across=True)))
    entry = LogEntry.objects.get(object_id=None)
    assert (entry.user.username, entry.object_repr) == ("kim", "Send a copy (5)")
    for words in (
        "status__exact=failed&priority=normal",
        "Copies of 4 mails are sent.",
        "1 mail was not changed: its content has been deleted.",
    ):
        assert words in entry.change_message
    each = LogEntry.objects.exclude(object_id=None)
    assert (each.count(), {one.change_message for one in each}) == (4, {"A copy was sent."})
    assert not each.filter(object_id=gone.pk).exists()
    assert client.get(reverse("admin:index")).status_code == 200


def test_the_words_of_a_search_are_not_in_the_log_and_are_forgotten_at_the_end(small: None) -> None:
    client = logged_in(*MAY_DECIDE, "view_delivery_content")
    for _ in range(3):
        mail()
    page = confirm(client, ask(client, "resend", query="q=kim%40example.org", across=True))
    assert "kim%40example.org" in BulkAction.objects.get().selection["query"]
    go_on(client, page)
    assert copies() == 3
    assert BulkAction.objects.get().selection == {}
    assert not LogEntry.objects.filter(change_message__contains="example.org").exists()


def test_erasing_a_person_stops_actions_that_search_for_the_person_and_forgets_the_search(small: None) -> None:
    client = logged_in(*MAY_DECIDE, "view_delivery_content")
    for _ in range(5):
        mail()
    page = confirm(client, ask(client, "resend", query="q=Kim%40example.org", across=True))
    other = confirm(client, ask(client, "resend", query="q=example.org", across=True))
    erase_recipient("kim@example.org", dry_run=True)
    assert BulkAction.objects.filter(ended_at=None).count() == 2
    erase_recipient("kim@example.org")
    stopped, kept = (BulkAction.objects.get(pk=one.context["bulk"].pk) for one in (page, other))
    assert (stopped.is_stopped, stopped.selection, kept.ended_at) == (True, {}, None)
    assert "It was stopped." in text(client.post(page.request["PATH_INFO"], {"continue": "1"}, follow=True))


def test_old_actions_are_deleted_with_other_old_data_and_new_ones_are_kept(client: Client) -> None:
    for _ in range(2):
        confirm(client, ask(client, "resend", mail()))
    old = BulkAction.objects.order_by("created_at")[0]
    BulkAction.objects.filter(pk=old.pk).update(created_at=timezone.now() - dt.timedelta(days=8))
    retention.prune()
    assert BulkAction.objects.get().pk != old.pk


def test_the_number_of_queries_of_the_page_does_not_grow(client: Client) -> None:
    asked = []
    for _ in range(2):
        for _ in range(15):
            mail()
        with CaptureQueriesContext(connection) as queries:
            ask(client, "resend", query="status__exact=failed", across=True)
        asked.append(len(queries))
    assert asked[0] == asked[1]
