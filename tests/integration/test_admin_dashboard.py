"""The dashboard: permissions, and numbers that match the rows."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from email_integration.dashboard import live_status, shares, statistics
from email_integration.dashboard.intervals import PERIODS
from email_integration.models import Delivery, Priority, SendingPause, Status
from email_integration.outcomes.causes import Cause
from tests.deliveries import RecordingTaskQueue, ago, pretend, submitted
from tests.history import ended, tried

from .admin_site import config, logged_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("task_queue")]

HOUR = 3600.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait only briefly for workers: there are none."""
    monkeypatch.setattr(live_status, "FOR_WORKERS", 0.02)


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
    assert [(reason, number) for _, reason, number, _ in page.context["causes"]] == [("the mailbox is full", 5)]
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
    found = tiles(page)
    assert found == {
        "queued": "2",
        "deferred": "0",
        "in doubt": "1",
        "failed in the last 24 hours": "2",
        "quarantined": "2",
        "oldest waiting": "3.0 h",
    }
    client = logged_in("view_delivery", name="lou")
    for tile in page.context["tiles"]:
        rows = list(client.get(tile.url).context["cl"].result_list)
        if tile.number.isdigit():
            assert len(rows) == int(tile.number), tile
        else:
            assert rows[0].created_at == min(row.created_at for row in rows)


def test_the_reasons_are_shown_of_the_last_attempts_alone_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "ATTEMPTS", 4)
    now = timezone.now()
    tried(ended(3, at=now - dt.timedelta(hours=2), every=1), cause=Cause.FULL)
    tried(ended(4, at=now, every=1), cause=Cause.BUSY)
    page = shown()
    assert [(reason, number) for _, reason, number, _ in page.context["causes"]] == [(Cause.BUSY.words, 4)]
    assert "Of the last attempts alone" in page.content.decode()


def test_reasons_are_counted_by_their_cause() -> None:
    """The wording does not matter. An unknown cause is shown as stored."""
    now = timezone.now()
    for words in ("the mailbox is full (552 5.2.2)", "the mailbox is full (452 4.2.2)", "in other words"):
        tried(ended(2, at=now), cause=Cause.FULL, reason=words)
    tried(ended(1, at=now), cause="of_another_version", reason=Cause.FULL.words)
    found = [(reason, number, url) for _, reason, number, url in shown().context["causes"]]
    listed = reverse("admin:email_integration_delivery_changelist")
    assert found == [
        (Cause.FULL.words, 6, f"{listed}?cause=full"),
        ("of_another_version", 1, f"{listed}?cause=of_another_version"),
    ]


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
    assert "Sending is paused. Mail is taken and waits. Reason: A restored backup. Since " in text


def test_workers_that_answer_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No worker answered within" in shown().content.decode()
    monkeypatch.setattr(live_status.health, "alive", lambda *, timeout: ["mail@one", "mail@two"])
    assert "2 workers answer: mail@one, mail@two" in shown().content.decode()


def test_an_unreachable_broker_does_not_delay_the_page(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page loads and reports the missing broker."""
    from celery import current_app

    monkeypatch.setattr(current_app.conf, "broker_write_url", "redis://127.0.0.1:1/0")
    assert "The broker is out of reach" in shown().content.decode()


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
