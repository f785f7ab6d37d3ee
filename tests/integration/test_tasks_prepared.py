"""Prepared mails in the ledger: only one caller starts each of them, even if several call at the same time."""

from __future__ import annotations

import datetime as dt

import pytest
from django.utils import timezone

from email_integration.ledger import transitions
from email_integration.ledger.queues import queue_of
from email_integration.models import Delivery, Status
from email_integration.outcomes.causes import Cause
from email_integration.queue import sweeper
from email_integration.tasks import canvas
from tests.deliveries import RecordingTaskQueue, ago, attempt, pretend, submitted

pytestmark = pytest.mark.django_db(transaction=True)


def prepared() -> Delivery:
    return submitted(prepared=True, kept=canvas.UNCALLED)


def seen_by(delivery: Delivery) -> Delivery:
    """Return the row as another worker has read it."""
    return Delivery.objects.get(pk=delivery.pk)


def test_a_prepared_mail_is_not_tried_until_it_is_called(task_queue: RecordingTaskQueue) -> None:
    delivery = prepared()
    assert task_queue.woken == []
    assert sweeper.sweep() == 0
    assert attempt(delivery.pk) is None
    assert transitions.send_prepared(delivery, kept="{}")
    assert task_queue.woken == [queue_of("normal")]
    assert seen_by(delivery).status == Status.QUEUED


def test_of_two_that_call_it_at_once_one_is_overtaken(task_queue: RecordingTaskQueue) -> None:
    delivery = prepared()
    other = seen_by(delivery)
    assert transitions.send_prepared(delivery, kept='{"task_id": "one"}')
    assert not transitions.send_prepared(other, kept='{"task_id": "two"}')
    assert canvas.task_id_of(seen_by(delivery)) == "one"
    assert task_queue.woken == [queue_of("normal")]


def test_called_while_it_is_cancelled_it_stays_cancelled_and_continues(task_queue: RecordingTaskQueue) -> None:
    delivery = prepared()
    caller = seen_by(delivery)
    assert transitions.end(delivery, Status.CANCELLED, Cause.CANCELLED)
    assert not transitions.send_prepared(caller, kept='{"task_id": "one"}')
    assert seen_by(delivery).options == canvas.UNCALLED
    assert transitions.send_prepared(seen_by(delivery), kept='{"task_id": "one"}')
    after = seen_by(delivery)
    assert (after.status, after.options) == (Status.CANCELLED, '{"task_id": "one"}')
    assert (task_queue.woken, task_queue.sweeps) == ([], 1)
    assert after.continue_after is not None
    assert sweeper.sweep() == 0
    assert task_queue.continued == [delivery.pk]
    assert seen_by(delivery).continue_after is None
    assert attempt(delivery.pk) is None


def test_it_expires_as_any_other_and_when_it_is_called_too_late(task_queue: RecordingTaskQueue) -> None:
    forgotten, late = prepared(), prepared()
    for delivery in (forgotten, late):
        pretend(delivery, due_at=ago(1), expires_at=ago(1))
    assert transitions.send_prepared(seen_by(late), kept="")
    assert sweeper.sweep() == 1
    for delivery in (forgotten, late):
        assert isinstance(attempt(delivery.pk), Delivery)
        assert seen_by(delivery).status == Status.EXPIRED


def test_one_called_for_later_is_due_then(task_queue: RecordingTaskQueue) -> None:
    delivery, then = prepared(), timezone.now() + dt.timedelta(hours=1)
    assert transitions.send_prepared(delivery, kept="", due_at=then)
    row = seen_by(delivery)
    assert (row.status, row.due_at, row.next_at) == (Status.QUEUED, then, then)
    assert task_queue.woken == []
