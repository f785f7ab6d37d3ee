"""The dashboard: permissions, and numbers that match the rows."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import re
import threading
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from config.local.processes import PATIENCE, wait_until
from email_integration.dashboard import domains, live_status, shares, statistics
from email_integration.dashboard.intervals import PERIODS
from email_integration.models import Delivery, DeliveryAttempt, Priority, SendingPause, Status
from email_integration.outcomes.causes import NOT_BY_SERVER, Cause
from email_integration.timezones import as_stored, exactly, local_time
from tests.deliveries import RecordingTaskQueue, ago, pretend, submitted
from tests.history import ended, tried

from .admin_site import config, logged_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("task_queue")]

HOUR = 3600.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait only briefly for workers: there are none."""
    for name in ("FOR_WORKERS", "FIRST_FOR_WORKERS"):
        monkeypatch.setattr(live_status, name, 0.02)


def shown(**asked: str) -> Any:
    page = logged_in("view_delivery", name=f"kim{timezone.now().timestamp()}").get(address(), asked)
    assert page.status_code == 200
    return page


def address() -> str:
    return reverse("admin:email_integration_dashboard")


def totals(page: Any) -> dict[str, int]:
    return {chart["status"]: chart["total"] for chart in page.context["flows"]}


def tiles(page: Any) -> dict[str, str]:
    return {str(tile.label): tile.number for tile in page.context["tiles"]}


def reasons(page: Any) -> list[tuple[str, int]]:
    """Return each reason with the number of its attempts."""
    return [(reason, attempts) for _, found in page.context["causes"] for _, reason, attempts, _, _ in found]


def test_it_is_for_those_who_may_view_deliveries_and_linked_for_them() -> None:
    for permissions, status in (((), 403), (("view_smtpconfig",), 403), (("view_delivery",), 200)):
        client = logged_in(*permissions, name="-".join(("kim", *permissions)))
        assert client.get(address()).status_code == status
        index = client.get(reverse("admin:app_list", args=["email_integration"]))
        assert (address() in index.content.decode()) == (status == 200)
    assert address() in client.get(reverse("admin:email_integration_delivery_changelist")).content.decode()


def test_each_mail_counts_where_it_came_to_its_end() -> None:
    """A mail counts in the last hour, day or week by the time it finished. A mail of last month counts nowhere."""
    now = timezone.now()
    for back, accepted, failed in ((0.0, 3, 1), (5 * HOUR, 2, 0), (100 * HOUR, 4, 2), (800 * HOUR, 7, 7)):
        at = now - dt.timedelta(seconds=back)
        tried(ended(accepted, at=at))
        ended(failed, at=at, status=Status.FAILED)
    ended(1, at=now, status=Status.EXPIRED)
    ended(1, at=now, status=Status.CANCELLED)  # cancelled by a user
    assert totals(shown(period="hour")) == {"accepted": 3, "deferred": 3, "failed": 2}
    assert (
        totals(shown(period="day")) == totals(shown(period="nonsense")) == {"accepted": 5, "deferred": 5, "failed": 2}
    )
    assert totals(shown(period="week")) == {"accepted": 9, "deferred": 9, "failed": 4}


def test_it_is_narrowed_to_a_priority_and_a_configuration() -> None:
    now = timezone.now()
    tried(ended(3, at=now, priority=Priority.BULK, smtp_config="Primary"))
    tried(ended(5, at=now, priority=Priority.HIGH, smtp_config="Backup"), cause=Cause.FULL, reason="in other words")
    assert totals(shown(priority="bulk"))["accepted"] == totals(shown(smtp_config="Primary"))["deferred"] == 3
    page = shown(priority="high", smtp_config="Backup")
    assert totals(page) == {"accepted": 5, "deferred": 5, "failed": 0}
    assert reasons(page) == [("the mailbox is full", 5)]
    assert totals(shown(priority="high", smtp_config="Primary"))["accepted"] == 0
    assert "Backup" in page.content.decode()  # shown although the configuration is deleted


def test_times_are_those_of_a_sample_that_is_spread() -> None:
    """Half of the mails of an interval are not slower than the median, and 95 % are not slower than p95."""
    interval = PERIODS["week"].intervals(timezone.now())[-2]
    end = interval.end - dt.timedelta(seconds=1)
    every = (interval.end - interval.start).total_seconds() / 1000
    ended(900, at=end, took=2, every=every)
    ended(90, at=end, took=50, every=10 * every)
    before = dataclasses.replace(interval, start=interval.start - dt.timedelta(hours=6), end=interval.start)
    assert statistics.times(statistics.Choice(), [before, interval]) == [None, statistics.Times(median=2.0, p95=50.0)]
    assert statistics.times(statistics.Choice(priority="high"), [interval]) == [None]


def test_configurations_and_priorities_are_shown_beside_each_other() -> None:
    """They are sorted by number of mails, with the page's filters applied. Each links to the page of it alone."""
    now = timezone.now()
    ended(3, at=now, priority=Priority.BULK, smtp_config="Primary", took=20)
    tried(ended(5, at=now, priority=Priority.HIGH, smtp_config="Backup", took=2))
    ended(2, at=now, priority=Priority.BULK, smtp_config="Primary", status=Status.FAILED)
    ended(1, at=now, priority=Priority.BULK, smtp_config="", status=Status.EXPIRED)
    ended(4, at=now - dt.timedelta(days=30), smtp_config="Old")
    backup, primary = ("Backup", 5, 5, 0, "2 s"), ("Primary", 3, 0, 2, "20 s")
    page = shown()
    assert beside(page) == [backup, primary, ("", 0, 0, 1, "–"), ("high", *backup[1:]), ("bulk", 3, 0, 3, "20 s")]
    assert beside(shown(priority="bulk")) == [primary, ("", 0, 0, 1, "–"), ("bulk", 3, 0, 3, "20 s")]
    (_, configurations), _ = page.context["shares"]
    client = logged_in("view_delivery", name="lou")
    assert beside(client.get(address() + configurations[1][1])) == [primary, ("bulk", *primary[1:])]


def beside(page: Any) -> list[tuple[Any, ...]]:
    return [
        (str(name), flow.accepted, flow.deferred, flow.failed, time[0])
        for _, rows in page.context["shares"]
        for name, _, flow, time in rows
    ]


def test_only_the_configurations_with_the_most_mails_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "CONFIGURATIONS", 2)
    for number in range(1, 5):
        ended(number, at=timezone.now(), smtp_config=f"Relay {number}")
    page = shown()
    assert [row[0] for row in beside(page)] == ["Relay 4", "Relay 3", "normal"]
    assert "left out: 2." in page.content.decode()


def test_the_times_of_a_configuration_are_those_of_its_mails_and_not_of_its_hours() -> None:
    """Each hour counts in proportion to its number of mails."""
    now = timezone.now()
    ended(100, at=now, took=2)
    for hour in range(1, 11):
        ended(1, at=now - dt.timedelta(hours=hour), took=50)
    ended(1, at=now, smtp_config="Rare", took=7)
    assert {row[0]: row[4] for row in beside(shown())} == {"Primary": "2 s", "Rare": "7 s", "normal": "2 s"}


def test_what_waits_and_what_needs_a_person_is_counted_and_listed() -> None:
    """The list that a number links to has as many rows."""
    submitted()
    pretend(submitted(), due_at=ago(3 * HOUR))
    for status in (Status.IN_DOUBT, Status.QUARANTINED, Status.QUARANTINED):
        pretend(submitted(), status=status, next_at=None)
    ended(2, at=timezone.now(), status=Status.FAILED, took=100 * HOUR)
    ended(1, at=timezone.now() - dt.timedelta(days=2), status=Status.FAILED)
    page = shown()
    assert [(str(row.label), row.overdue) for row in page.context["by_priority"]][:2] == [
        ("high", "–"),
        ("normal", "3.0 h"),
    ]
    found = tiles(page)
    assert found == {
        "queued": "2",
        "deferred": "0",
        "in doubt": "1",
        "failed or expired in the last 24 hours": "2",
        "quarantined": "2",
    }
    client = logged_in("view_delivery", name="lou")
    for tile in page.context["tiles"]:
        assert len(client.get(tile.url).context["cl"].result_list) == int(tile.number), tile


def test_the_reasons_are_shown_of_the_last_attempts_alone_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "ATTEMPTS", 4)
    now = timezone.now()
    tried(ended(3, at=now - dt.timedelta(hours=2), every=1), cause=Cause.FULL)
    tried(ended(4, at=now, every=1), cause=Cause.BUSY)
    page = shown()
    assert reasons(page) == [(Cause.BUSY.words, 4)]
    assert "Only the last attempts are counted" in page.content.decode()


def test_a_time_without_attempts_is_not_one_of_success() -> None:
    """Nor has it a heading for domains without a table."""
    page = logged_in("view_delivery", "view_delivery_content").get(address())
    assert "There was no attempt in this time." in page.content.decode()
    assert "Recipients by domain" not in page.content.decode()
    ended(1, at=timezone.now())
    assert "Every attempt in this time was accepted." in shown().content.decode()


def test_reasons_are_counted_by_their_cause() -> None:
    """The wording does not matter. An unknown cause is shown as stored."""
    now = timezone.now()
    for words in ("the mailbox is full (552 5.2.2)", "the mailbox is full (452 4.2.2)", "in other words"):
        tried(ended(2, at=now), cause=Cause.FULL, reason=words)
    tried(ended(1, at=now), cause="of_another_version", reason=Cause.FULL.words)
    assert reasons(shown()) == [(Cause.FULL.words, 6), ("of_another_version", 1)]


def test_no_address_and_no_word_of_a_server_is_on_it() -> None:
    delivery = submitted("secret@example.com", subject="hush")
    tried(ended(1, at=timezone.now()))
    text = shown().content.decode()
    for word in ("secret@example.com", "hush", delivery.message_id):
        assert word not in text


def test_it_says_where_mail_goes_and_since_when_it_does_not() -> None:
    config(is_active=True)
    assert "Mail goes through “Primary”" in shown().content.decode()
    SendingPause.begin(reason="A restored backup")
    text = shown().content.decode()
    assert "Sending is paused. New mail is accepted and held. Reason: A restored backup. Since " in text


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the page wait for an answer longer than a busy machine takes."""
    monkeypatch.setattr(live_status, "PATIENCE", 60.0)


@pytest.mark.usefixtures("patient")
def test_workers_that_answer_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No worker answered within" in shown().content.decode()
    monkeypatch.setattr(live_status.health, "alive", lambda *, timeout: ["mail@one", "mail@two"])
    assert "2 workers answer: mail@one, mail@two" in shown().content.decode()


def test_an_unreachable_broker_does_not_delay_the_page(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page loads and reports the missing broker."""
    from celery import current_app

    monkeypatch.setattr(current_app.conf, "broker_write_url", "redis://127.0.0.1:1/0")
    assert "The broker cannot be reached" in shown().content.decode()


def test_the_number_of_questions_does_not_depend_on_the_number_of_mails() -> None:
    """It also does not depend on the number of intervals, priorities and configurations."""
    client = logged_in("view_delivery")
    counts = {}
    for period, number, every, relays in (("hour", 1, 1, 1), ("week", 28, 6 * HOUR, 1), ("week", 140, 1.1 * HOUR, 9)):
        for place in range(relays):
            given = {"smtp_config": f"Relay {place}", "priority": Priority.values[place % 3]}
            tried(ended(number, at=timezone.now(), every=every, **given))
        with CaptureQueriesContext(connection) as queries:
            client.get(address(), {"period": period})
        counts[period, number] = len(queries)
    assert len(set(counts.values())) == 1, counts


def test_nothing_is_woken(task_queue: RecordingTaskQueue) -> None:
    """Viewing the page changes nothing."""
    submitted()
    before = list(task_queue.woken), Delivery.objects.values_list("status", "version").get()
    shown()
    assert (list(task_queue.woken), Delivery.objects.values_list("status", "version").get()) == before


def counted(client: Any, address: str) -> int:
    """Return the number of deliveries that a list has."""
    response = client.get(address, follow=True)
    assert response.status_code == 200
    assert "e=1" not in response.request["QUERY_STRING"], address
    return int(response.context["cl"].result_count)


def followed(client: Any, **asked: str) -> dict[str, tuple[int, int]]:
    """Return each number of the page that is a link to a list, and the number of deliveries in that list."""
    page = unescape(client.get(address(), asked).content.decode())
    listed = re.escape(reverse("admin:email_integration_delivery_changelist"))
    links = re.findall(rf'<a href="({listed}\?[^"]+)">(?:<strong>)?([\d,]+)(?:</strong>)?([^\n]*)', page)
    return {
        f"{place}: {re.sub('<[^>]+>', '', rest).strip()}": (int(number.replace(",", "")), counted(client, url))
        for place, (url, number, rest) in enumerate(links)
    }


def test_each_number_leads_to_as_many_mails() -> None:
    """Also where an attempt was deferred and its mail was accepted later, and where a choice narrows the page."""
    now = timezone.now()
    tried(ended(43, at=now - dt.timedelta(minutes=5), every=1, priority=Priority.BULK), cause=Cause.BUSY)
    again = ended(4, at=now - dt.timedelta(minutes=3), smtp_config="Backup")
    for _ in range(3):
        tried(again, cause=Cause.FULL)
    lost = ended(5, at=now - dt.timedelta(hours=2), status=Status.FAILED, cause=Cause.NO_MAILBOX)
    tried(lost, outcome=Status.FAILED, cause=Cause.NO_MAILBOX)
    ended(2, at=now - dt.timedelta(hours=3), status=Status.EXPIRED, cause=Cause.EXPIRED)
    tried(ended(6, at=now - dt.timedelta(hours=1)), cause=Cause.PAUSED)
    tried(ended(9, at=now - dt.timedelta(days=3)), cause=Cause.BUSY)
    for status in (Status.DEFERRED, Status.IN_DOUBT, Status.QUARANTINED):
        pretend(submitted(), status=status, next_at=None)
    client = logged_in("view_delivery")
    found = followed(client, period="day")
    assert len(found) == 5 + 4, found
    assert sorted(number for number, _ in found.values()) == [0, 1, 1, 1, 4, 5, 6, 7, 43]
    for asked in (
        {"period": "day"},
        {"period": "hour"},
        {"period": "week"},
        {"period": "day", "priority": "bulk"},
        {"period": "day", "smtp_config": "Backup"},
    ):
        for name, (number, rows) in followed(client, **asked).items():
            assert number == rows, (asked, name)


def test_each_number_leads_to_as_many_mails_when_only_the_last_attempts_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "ATTEMPTS", 7)
    tried(ended(9, at=timezone.now() - dt.timedelta(minutes=1), every=10), cause=Cause.FULL)
    tried(ended(3, at=timezone.now(), every=10), cause=Cause.BUSY)
    found = {number: rows for number, rows in followed(logged_in("view_delivery"), period="hour").values() if number}
    assert found == {3: 3, 4: 4}


def test_reasons_of_servers_are_apart_from_all_others() -> None:
    """“Sending is paused” is not the reason of a server."""
    now = timezone.now()
    tried(ended(2, at=now), cause=Cause.BUSY)
    tried(ended(3, at=now), cause=Cause.PAUSED)
    tried(ended(1, at=now), cause=Cause.WITHHELD, outcome=Status.FAILED)
    (servers, by_them), (others, by_us) = shown().context["causes"]
    assert str(servers) == "Most frequent reasons of servers"
    assert [reason for _, reason, *_ in by_them] == [Cause.BUSY.words]
    assert str(others) == "Other reasons: this app, its settings, or a person"
    assert [reason for _, reason, *_ in by_us] == [Cause.PAUSED.words, Cause.WITHHELD.words]


def test_each_cause_is_one_of_servers_or_not() -> None:
    """A cause without a server's reply and without a connection is not a server's."""
    values = [cause.value for cause in Cause]
    ours = values[values.index("pool_busy") :]
    assert {cause.value for cause in NOT_BY_SERVER} == {*ours, "no_token"}


def test_a_failed_mail_whose_copy_was_accepted_is_no_problem_any_more() -> None:
    now = timezone.now()
    lost, other = ended(2, at=now, status=Status.FAILED, took=60)
    Delivery.objects.filter(pk=other.pk).update(message_id="<other@example.com>")
    label = "failed or expired in the last 24 hours"
    assert tiles(shown())[label] == "2"
    copy = pretend(submitted(), message_id=lost.message_id, copy_of=lost.pk)
    same_id = pretend(submitted(), message_id=lost.message_id)  # of an application that gives it twice
    pretend(same_id, status=Status.ACCEPTED, finished_at=now, next_at=None)
    assert tiles(shown())[label] == "2"
    pretend(copy, status=Status.ACCEPTED, finished_at=now, next_at=None)
    page = shown()
    (tile,) = [tile for tile in page.context["tiles"] if str(tile.label) == label]
    assert (tile.number, tile.kind) == ("1", "error")
    listed = logged_in("view_delivery").get(tile.url).context["cl"].result_list
    assert [row.pk for row in listed] == [other.pk]
    Delivery.objects.filter(pk=other.pk).delete()
    (tile,) = [tile for tile in shown().context["tiles"] if str(tile.label) == label]
    assert (tile.number, tile.kind) == ("0", "")


def test_a_filter_that_a_number_led_to_is_shown_and_can_be_removed() -> None:
    ended(2, at=timezone.now(), status=Status.FAILED)
    page = shown()
    (tile,) = [tile for tile in page.context["tiles"] if tile.kind == "error"]
    client = logged_in("view_delivery")
    listed = unescape(client.get(tile.url).content.decode())
    assert "since " + exactly(page.context["now"] - dt.timedelta(days=1)) in listed
    assert "no accepted copy" in listed
    assert "By finished" not in client.get(reverse("admin:email_integration_delivery_changelist")).content.decode()
    for wrong in (
        "finished_at__gte=x",
        "attempt=x",
        "attempt=outcome%3Da%26cause%3Db%26from%3Dx%26to%3Dy",
        "attempt=" + "%26a%3Db" * 9,
        "attempt=outcome%3Da%26cause%3D%2500%26from%3D2026-01-01%26to%3D2026-01-01",
    ):
        response = client.get(f"{reverse('admin:email_integration_delivery_changelist')}?{wrong}")
        assert response.headers["Location"].endswith("?e=1"), wrong


def test_the_longest_overdue_is_shown_while_sending_is_paused() -> None:
    """Held mail is not due at the moment. It counts from its first attempt, and the number leads to it."""
    SendingPause.begin()
    held = pretend(
        submitted(priority="bulk"),
        status=Status.DEFERRED,
        waits_for_relay=True,
        due_at=ago(-600),
        created_at=ago(9 * HOUR),
    )
    tried([held])
    DeliveryAttempt.objects.update(started_at=ago(2 * HOUR))
    other = pretend(submitted(), status=Status.DEFERRED, waits_for_relay=True, due_at=ago(-600), created_at=ago(300))
    pretend(submitted(), due_at=ago(-600))  # only later
    found = {str(row.label): (row.overdue, row.url) for row in shown().context["by_priority"]}
    pages = {
        name: reverse("admin:email_integration_delivery_change", args=[one.pk])
        for name, one in (("bulk", held), ("normal", other))
    }
    assert found == {"high": ("–", ""), "normal": ("5.0 min", pages["normal"]), "bulk": ("2.0 h", pages["bulk"])}


def test_the_throughput_is_accepted_mails_per_minute_by_priority() -> None:
    now = timezone.now()
    ended(30, at=now - dt.timedelta(seconds=5), every=1, priority=Priority.HIGH)
    ended(7, at=now - dt.timedelta(seconds=5), every=1, priority=Priority.HIGH, status=Status.FAILED)
    ended(4, at=now - dt.timedelta(minutes=6))
    found = {str(row.label): row.per_minute for row in shown().context["by_priority"]}
    assert found == {"high": "6.0", "normal": "0.0", "bulk": "0.0"}


def test_domains_are_for_those_who_may_see_addresses() -> None:
    """The recipients of a sample count, those of the choice alone."""
    now = timezone.now()

    def to(*recipients: tuple[str, str]) -> list[dict[str, str]]:
        return [{"address": address, "status": status} for address, status in recipients]

    ended(3, at=now, recipients=to(("a@Example.com", "accepted"), ("b@example.net", "failed")))
    ended(1, at=now, recipients=to(("a@example.com", "failed")), status=Status.FAILED, priority=Priority.BULK)
    ended(1, at=now, recipients="damaged")
    ended(1, at=now - dt.timedelta(days=2), recipients=to(("a@old.example", "accepted")))
    pretend(submitted("c@example.org"), status=Status.DEFERRED, due_at=ago(-60))
    assert "example.com" not in shown().content.decode()
    assert shown().context["domains"] is None
    seeing = logged_in("view_delivery", "view_delivery_content")

    def found(**asked: str) -> list[tuple[str, int, int, int]]:
        page = seeing.get(address(), {"period": "day", **asked})
        return [(each.name, each.accepted, each.deferred, each.failed) for each in page.context["domains"].found]

    assert found() == [("example.com", 3, 0, 1), ("example.net", 0, 0, 3), ("example.org", 0, 1, 0)]
    assert found(priority="bulk") == [("example.com", 0, 0, 1)]


def test_domains_are_of_a_bounded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "MAILS", 3)
    monkeypatch.setattr(domains, "DOMAINS", 1)
    now = timezone.now()
    ended(5, at=now, every=1, recipients=[{"address": "a@example.com", "status": "accepted"}])
    ended(1, at=now, recipients=[{"address": "a@example.net", "status": "accepted"}])
    client = logged_in("view_delivery", "view_delivery_content")
    page = client.get(address(), {"period": "hour"})
    assert "Recipients of a sample of 3 mails" in page.content.decode()
    assert "left out: 1." in page.content.decode()
    monkeypatch.setattr(domains, "CHARACTERS", 10)
    assert client.get(address(), {"period": "hour"}).context["domains"].found == []


def test_the_first_range_fits_the_age_of_the_data() -> None:
    """A fresh installation shows its last hour. A range that is chosen stays."""
    assert shown().context["period"] == "hour"
    old = ended(1, at=timezone.now(), took=1800)
    assert shown().context["period"] == "hour"
    assert shown(period="week").context["period"] == "week"
    Delivery.objects.filter(pk=old[0].pk).update(created_at=ago(1.1 * HOUR))
    assert shown().context["period"] == "day"


def test_ranges_reach_as_far_as_rows_are_kept(settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "ranges"}}
    now = timezone.now()
    for days, number in ((0, 1), (10, 2), (29, 4), (50, 8), (86, 16), (120, 32)):
        ended(number, at=now - dt.timedelta(days=days))
    for kept, offered in ((7, []), (30, ["month"]), (90, ["month", "quarter"])):
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RETENTION_DAYS": kept}
        page = shown()
        assert [each for each in ("month", "quarter") if f"?period={each}" in page.content.decode()] == offered
    assert totals(shown(period="month"))["accepted"] == 7
    assert totals(shown(period="quarter"))["accepted"] == 31
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RETENTION_DAYS": 7}
    assert shown(period="quarter").context["period"] == "day"


def test_past_days_are_counted_once(settings: Any) -> None:
    """The numbers of days that are over are kept, in the cache. Without the cache they are counted each time."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "days"}}
    now = timezone.now()
    ended(3, at=now - dt.timedelta(days=5), smtp_config="Old")
    ended(2, at=now)
    first = shown(period="month")
    with CaptureQueriesContext(connection) as queries:
        again = shown(period="month")
    assert totals(again) == totals(first) == {"accepted": 5, "deferred": 0, "failed": 0}
    assert beside(again) == beside(first)
    counting = [query["sql"] for query in queries if "COUNT(" in query["sql"] and "smtp_config" in query["sql"]]
    assert all(sql.count("SELECT") <= 4 for sql in counting), counting  # not one part for each of thirty days
    ended(1, at=now)
    assert totals(shown(period="month"))["accepted"] == 6


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("name", ["month", "quarter"])
def test_days_begin_at_midnight_also_when_the_clocks_are_changed(settings: Any, zone: str, name: str) -> None:
    settings.TIME_ZONE = zone
    period = PERIODS[name]
    for moment in (dt.datetime(2026, 4, 10, 12, tzinfo=dt.UTC), dt.datetime(2026, 11, 5, 23, 30, tzinfo=dt.UTC)):
        now = as_stored(moment)
        intervals = period.intervals(now)
        assert len(intervals) == 30
        assert intervals[-1].start <= now < intervals[-1].end
        for one, following in itertools.pairwise(intervals):
            assert one.end == following.start
            assert local_time(one.start).time() == dt.time()
        assert len({period.name(each) for each in intervals}) == 30
        assert 4 <= sum(period.is_mark(each.start) for each in intervals) <= 7


def test_the_first_section_is_sent_alone_to_the_pages_script() -> None:
    """It costs no statistics. Users without the permission do not get it either."""
    client = logged_in("view_delivery")
    part = client.get(address(), headers={"X-Dashboard-Part": "now"})
    text = part.content.decode()
    assert 'id="email-current"' in text
    assert 'id="email-top"' in text
    assert "email-counted" not in text
    assert "no-store" in part.headers["Cache-Control"]
    assert logged_in(name="lou").get(address(), headers={"X-Dashboard-Part": "now"}).status_code == 403


def test_the_index_of_the_admin_links_to_it_for_those_who_may_see_it() -> None:
    for permissions, linked in (((), False), (("view_smtpconfig",), False), (("view_delivery",), True)):
        client = logged_in(*permissions, name="-".join(("max", *permissions)))
        assert (address() in client.get(reverse("admin:index")).content.decode()) == linked


def test_it_says_what_is_known_while_workers_have_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last workers that answered, and the last sweep. An answer that comes too late is there the next time."""
    monkeypatch.setattr(live_status, "_asked", live_status._Asked())
    monkeypatch.setattr(live_status, "FIRST_PATIENCE", PATIENCE)
    monkeypatch.setattr(live_status, "PATIENCE", 0.0)
    monkeypatch.setattr(live_status.sweeper, "last_heartbeat", lambda: timezone.now().timestamp())
    go_on = threading.Event()
    monkeypatch.setattr(live_status.health, "alive", lambda *, timeout: ["mail@one"])
    assert "1 worker answers: mail@one" in shown().content.decode()
    monkeypatch.setattr(
        live_status.health, "alive", lambda *, timeout: [*(["mail@two"] if go_on.wait(PATIENCE) else [])]
    )
    text = " ".join(re.sub("<[^>]+>", " ", shown().content.decode()).split())
    assert "have not answered within 0.0 s" in text
    assert "these workers answered: mail@one." in text
    assert "A worker last looked for waiting mail at" in text
    assert "out of reach" not in text
    go_on.set()
    wait_until(lambda: live_status._asked.last.names == ["mail@two"], what="the late answer")
    go_on.clear()
    assert "these workers answered: mail@two." in " ".join(re.sub("<[^>]+>", " ", shown().content.decode()).split())
    go_on.set()
