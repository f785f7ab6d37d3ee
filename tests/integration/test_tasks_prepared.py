"""Prepared mails in the ledger: called by one, whoever comes at the same time."""

from __future__ import annotations

import datetime as dt

import pytest
from django.utils import timezone

from email_integration.ledger import transitions
from email_integration.models import Delivery, Status
from email_integration.outcomes.causes import Cause
from email_integration.queue import sweeper
from email_integration.tasks import canvas
from tests.deliveries import RecordingDoorbell, ago, attempt, pretend, submitted

pytestmark = pytest.mark.django_db(transaction=True)


def prepared() -> Delivery:
    return submitted(prepared=True, kept=canvas.UNCALLED)


def seen_by(delivery: Delivery) -> Delivery:
    """What another worker has read of it."""
    return Delivery.objects.get(pk=delivery.pk)


def test_nobody_is_woken_until_it_is_called(bell: RecordingDoorbell) -> None:
    delivery = prepared()
    assert bell.woken == []
    assert sweeper.sweep() == 0
    assert attempt(delivery.pk) is None
    assert transitions.send_prepared(delivery, kept="{}")
    assert bell.woken == ["mail"]
    assert seen_by(delivery).status == Status.QUEUED


def test_of_two_that_call_it_at_once_one_is_overtaken(bell: RecordingDoorbell) -> None:
    delivery = prepared()
    other = seen_by(delivery)
    assert transitions.send_prepared(delivery, kept='{"task_id": "one"}')
    assert not transitions.send_prepared(other, kept='{"task_id": "two"}')
    assert canvas.task_id_of(seen_by(delivery)) == "one"
    assert bell.woken == ["mail"]


def test_called_while_it_is_cancelled_it_stays_cancelled_and_is_told(bell: RecordingDoorbell) -> None:
    delivery = prepared()
    caller = seen_by(delivery)
    assert transitions.end(delivery, Status.CANCELLED, Cause.CANCELLED)
    assert not transitions.send_prepared(caller, kept='{"task_id": "one"}')
    assert seen_by(delivery).options == canvas.UNCALLED
    assert transitions.send_prepared(seen_by(delivery), kept='{"task_id": "one"}')
    told = seen_by(delivery)
    assert (told.status, told.options) == (Status.CANCELLED, '{"task_id": "one"}')
    assert bell.sweeps == 1
    assert attempt(delivery.pk) is None
    sweeper.sweep()
    assert bell.continued == [delivery.pk]
    sweeper.sweep()
    assert bell.continued == [delivery.pk]


def test_it_expires_as_any_other_and_when_it_is_called_too_late(bell: RecordingDoorbell) -> None:
    forgotten, late = prepared(), prepared()
    for delivery in (forgotten, late):
        pretend(delivery, due_at=ago(1), expires_at=ago(1), next_at=ago(1))
    assert transitions.send_prepared(seen_by(late), kept="")
    assert sweeper.sweep() == 1
    for delivery in (forgotten, late):
        assert attempt(delivery.pk) is not None
        assert seen_by(delivery).status == Status.EXPIRED


def test_one_called_for_later_is_due_then(bell: RecordingDoorbell) -> None:
    delivery, then = prepared(), timezone.now() + dt.timedelta(hours=1)
    assert transitions.send_prepared(delivery, kept="", due_at=then)
    row = seen_by(delivery)
    assert (row.status, row.due_at, row.next_at) == (Status.QUEUED, then, then)
    assert bell.woken == []
