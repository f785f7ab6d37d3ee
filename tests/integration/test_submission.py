"""Submitting: one row in the caller's transaction, one wake-up on commit, and once per id and key."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from config.local.processes import PATIENCE
from email_integration.exceptions import InvalidMail
from email_integration.message import content
from email_integration.models import Delivery
from email_integration.queue.submission import submit
from tests.deliveries import RecordingTaskQueue, mail, submitted

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_mail_is_one_row_and_one_wake_up(task_queue: RecordingTaskQueue) -> None:
    delivery = submitted("kim@example.com", bcc=["lee@example.com"])
    stored = Delivery.objects.get()
    assert (stored.pk, stored.status, stored.version) == (delivery.pk, "queued", 0)
    assert [item["address"] for item in stored.recipients] == ["kim@example.com", "lee@example.com"]
    assert b"lee@" not in content.read(stored)
    assert stored.message_id.encode() in content.read(stored)
    assert (stored.queue, stored.batch) == ("", "")
    assert task_queue.woken == ["mail"]


def test_a_mail_costs_one_query(task_queue: RecordingTaskQueue, django_assert_num_queries: Any) -> None:
    with transaction.atomic(), django_assert_num_queries(1):
        submitted()


def test_nothing_is_woken_before_the_commit_and_each_queue_once_then(task_queue: RecordingTaskQueue) -> None:
    with transaction.atomic():
        for priority in ("normal", "high", "normal"):
            submitted(priority=priority)
        assert task_queue.woken == []
    assert sorted(task_queue.woken) == ["mail", "mail.high"]


def test_a_transaction_that_is_rolled_back_leaves_nothing(task_queue: RecordingTaskQueue) -> None:
    with transaction.atomic():
        submitted()
        transaction.set_rollback(True)
    assert not Delivery.objects.exists()
    assert task_queue.woken == []


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_savepoint_that_is_rolled_back_stops_no_other_wake_up(task_queue: RecordingTaskQueue, order: str) -> None:
    ids = []
    with transaction.atomic():
        if order == "last":
            ids.append(submitted().pk)
        with transaction.atomic():
            submitted()
            transaction.set_rollback(True)
        if order == "first":
            ids.append(submitted().pk)
    assert [delivery.pk for delivery in Delivery.objects.all()] == ids
    assert task_queue.woken == ["mail"]


def test_nothing_is_woken_for_what_was_rolled_back_by_the_next_mail(task_queue: RecordingTaskQueue) -> None:
    with transaction.atomic():
        submitted(priority="high")
        transaction.set_rollback(True)
    submitted()
    assert task_queue.woken == ["mail"]


def test_a_dead_broker_loses_no_mail(task_queue: RecordingTaskQueue, caplog: pytest.LogCaptureFixture) -> None:
    task_queue.broken = ConnectionError("redis://user:s3cret@host")
    delivery = submitted()
    assert Delivery.objects.get().pk == delivery.pk
    assert "s3cret" not in caplog.text
    assert "the sweeper will wake them" in caplog.text


@pytest.mark.parametrize("same", ["delivery_id", "idempotency_key"])
def test_the_same_again_gives_back_the_first(task_queue: RecordingTaskQueue, same: str) -> None:
    first = submitted(subject="first", **{same: "one"})
    second = submitted(subject="second", **{same: "one"})
    assert first.pk == second.pk
    assert b"first" in content.read(second)
    assert Delivery.objects.count() == 1
    assert task_queue.woken == ["mail"]


def test_the_same_again_does_not_spoil_the_callers_transaction(task_queue: RecordingTaskQueue) -> None:
    submitted(idempotency_key="one")
    with transaction.atomic():
        submitted(idempotency_key="one")
        submitted(priority="high")
    assert Delivery.objects.count() == 2
    assert task_queue.woken == ["mail", "mail.high"]


def test_a_key_of_one_and_an_id_of_another_name_the_id(task_queue: RecordingTaskQueue) -> None:
    by_id = submitted(delivery_id="one")
    submitted(idempotency_key="key")
    assert submitted(delivery_id="one", idempotency_key="key").pk == by_id.pk


@pytest.mark.parametrize("same", ["delivery_id", "idempotency_key"])
def test_the_same_from_many_threads_is_one_delivery(task_queue: RecordingTaskQueue, same: str) -> None:
    start = threading.Barrier(4)
    found: list[str] = []

    def work() -> None:
        try:
            start.wait(PATIENCE)
            found.append(submitted(**{same: "one"}).pk)
        finally:
            connection.close()

    run([work] * 4)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert Delivery.objects.count() == 1
    assert task_queue.woken == ["mail"]


def test_the_same_while_the_first_is_not_committed_waits_for_it(task_queue: RecordingTaskQueue) -> None:
    """If the first is rolled back, the second is stored instead."""
    inside, go_on = threading.Event(), threading.Event()
    found: list[str] = []

    def first() -> None:
        try:
            with transaction.atomic():
                submitted(subject="first", idempotency_key="one")
                inside.set()
                go_on.wait(PATIENCE)
                transaction.set_rollback(True)
        finally:
            connection.close()

    def second() -> None:
        try:
            inside.wait(PATIENCE)
            threading.Timer(0.1, go_on.set).start()
            found.append(submitted(subject="second", idempotency_key="one").pk)
        finally:
            connection.close()

    run([first, second])
    assert [delivery.pk for delivery in Delivery.objects.all()] == found
    assert b"second" in content.read(Delivery.objects.get())


def run(targets: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


def test_a_mail_for_later_wakes_no_worker_now(task_queue: RecordingTaskQueue) -> None:
    due = timezone.now() + dt.timedelta(hours=1)
    delivery = submitted(due_at=due)
    assert task_queue.woken == []
    assert (delivery.due_at, delivery.next_at) == (due, due)
    assert delivery.expires_at == due + dt.timedelta(days=5)


def test_a_mail_that_expires_before_it_is_due_is_claimed_then(task_queue: RecordingTaskQueue) -> None:
    now = timezone.now()
    expires = now + dt.timedelta(minutes=1)
    assert submitted(due_at=now + dt.timedelta(hours=1), expires_at=expires).next_at == expires


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("due_at", {"due_at": "tomorrow"}),
        ("due_at", {"due_at": 7}),
        ("expires_at", {"expires_at": 7}),
        ("task_id", {"delivery_id": ""}),
        ("task_id", {"delivery_id": "x" * 256}),
        ("task_id", {"delivery_id": "a\0b"}),
        ("idempotency_key", {"idempotency_key": 7}),
        ("idempotency_key", {"idempotency_key": ""}),
        ("due_at", {"due_at": dt.datetime(9999, 12, 31, tzinfo=dt.UTC)}),
        ("9999-12-27", {"due_at": dt.datetime(9999, 12, 27, tzinfo=dt.UTC)}),
        ("expires_at", {"expires_at": dt.datetime.max.replace(tzinfo=dt.UTC)}),
        ("envelope_sender:", {"envelope_sender": "nonsense"}),
    ],
)
def test_what_is_wrong_is_refused_and_named(
    task_queue: RecordingTaskQueue, argument: str, given: dict[str, Any]
) -> None:
    with pytest.raises(InvalidMail, match=f"^{argument} "):
        submit(mail(), **given)
    assert not Delivery.objects.exists()
