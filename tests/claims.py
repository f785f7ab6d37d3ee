"""Short functions to claim and to record, for tests that change a delivery in between."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from email_integration.ledger import batches, records
from email_integration.ledger.batches import Batch
from email_integration.ledger.claiming import PRIORITIES
from email_integration.models import Delivery, DeliveryBatch
from email_integration.outcomes.classification import Accepted, Outcome
from email_integration.smtp import Relay

from .deliveries import ago

RELAY = Relay(name="Primary", host="mail.example.com", password="s3cret", from_email="noreply@example.com")

#: The queue of normal priority.
QUEUE = "mail"


def claim(*deliveries: Delivery | str, relay: Relay = RELAY, **how: Any) -> Batch | None:
    """Claim due deliveries, at most 100, most urgent first. If deliveries are given, claim only these."""
    only = tuple(one if isinstance(one, str) else one.pk for one in deliveries)
    how = {"limit": 100, "owner": "here", "queue": QUEUE, "priorities": PRIORITIES, **how}
    return batches.claim(how.pop("queue"), how.pop("priorities"), relay=relay, only=only, **how)


def claimed(*deliveries: Delivery | str, relay: Relay = RELAY, **how: Any) -> Batch:
    """Claim, and require that a delivery was due."""
    batch = claim(*deliveries, relay=relay, **how)
    assert batch is not None
    return batch


def attempt(*, relay: Relay = RELAY, wait: float = 60.0, **how: Any) -> records.Try:
    """Return an attempt that began a second ago."""
    return records.Try(**{"route": relay, "started_at": ago(1), "duration": 1.0, "wait": wait, **how})


def ended(delivery: Delivery, outcome: Outcome | None = None, **how: Any) -> records.Ended:
    """Return the end of an attempt. The default outcome is acceptance for all recipients."""
    if outcome is None:
        outcome = Accepted(code=250, accepted=tuple(one["address"] for one in delivery.recipients), refused={})
    return records.Ended(delivery=delivery, outcome=outcome, attempt=attempt(**how))


def record(batch: Batch, outcome: Outcome | None = None, *, store_result: bool = True, **how: Any) -> bool:
    """Record the same outcome for all mails of the batch, and return whether all changes were made."""
    changes = [ended(one, outcome, **how) for one in batch.deliveries]
    return all(batches.record(batch, changes, store_result=store_result).made)


def lose(batch: Batch | str) -> None:
    """Take the batch over, as the sweeper does if its owner is silent: its mails are in doubt."""
    pk = batch if isinstance(batch, str) else batch.id
    DeliveryBatch.objects.filter(pk=pk).update(lease_until=ago(60), suspected_at=timezone.now())
    batches.take_over(pk, lambda row, deliveries: [batches.in_doubt(row, one) for one in deliveries])
