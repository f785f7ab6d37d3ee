"""Batches: claimed, recorded, given back and taken over."""

from __future__ import annotations

import pytest
from django.utils import timezone

from email_integration.ledger import batches, transitions
from email_integration.ledger.batches import Batch
from email_integration.ledger.records import Ended, Try, Untried
from email_integration.models import Delivery, DeliveryAttempt, DeliveryBatch
from email_integration.outcomes.classification import Accepted
from email_integration.smtp import Relay
from tests.deliveries import RecordingTaskQueue, submitted

pytestmark = pytest.mark.django_db(transaction=True)
RELAY = Relay(name="first", host="smtp.example.com", from_email="noreply@example.com", version="v1")
LANES = ("high", "normal", "bulk")


def claimed(*only: str, queue: str = "mail", limit: int = 100, permitted: int | None = None) -> Batch:
    batch = batches.claim(queue, LANES, limit=limit, owner="here", relay=RELAY, permitted=permitted, only=only)
    assert batch is not None
    return batch


def accepted(delivery: Delivery) -> Ended:
    to = tuple(item["address"] for item in delivery.recipients)
    outcome = Accepted(code=250, accepted=to, refused={})
    return Ended(delivery=delivery, outcome=outcome, attempt=Try(route=RELAY, started_at=timezone.now()))


def test_a_batch_is_claimed_and_recorded(bell: RecordingTaskQueue) -> None:
    ids = [submitted(f"kim{number}@example.com").pk for number in range(3)]
    batch = claimed()
    assert [one.pk for one in batch.deliveries] == ids
    row = DeliveryBatch.objects.get()
    assert (row.pk, row.owner, row.permitted, row.items) == (batch.id, "here", 3, [[pk, 1] for pk in ids])
    assert set(Delivery.objects.values_list("status", "batch", "fence")) == {("queued", batch.id, 1)}
    assert batches.claim("mail", LANES, limit=100, owner="there", relay=RELAY) is None
    first, *others = batch.deliveries
    done = batches.record(batch, [accepted(first)])
    assert (done.made, done.cancel_requested, done.owned) == ([True], set(), True)
    assert (first.status, first.batch, first.fence) == ("accepted", "", 2)
    assert batch.open == set(ids[1:])
    done = batches.record(batch, [accepted(others[0]), Untried(delivery=others[1], step=transitions.giving_back)])
    assert done.made == [True, True]
    assert not DeliveryBatch.objects.exists()
    assert DeliveryAttempt.objects.count() == 2
    assert [(one.status, one.batch, one.fence) for one in Delivery.objects.order_by("pk")] == [
        ("accepted", "", 2),
        ("accepted", "", 2),
        ("queued", "", 2),
    ]
    assert bell.reports == [(ids[0], "accepted"), (ids[1], "accepted")]
    assert [one.pk for one in claimed().deliveries] == [ids[2]]
