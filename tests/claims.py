"""Short ways to claim and to record, for tests of what happens to a delivery in between."""

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

#: A queue that no setting names.
QUEUE = "mail"


def claim(*deliveries: Delivery | str, relay: Relay = RELAY, **how: Any) -> Batch | None:
    """What is due, or these alone if it is them: most urgent first, at most 100."""
    only = tuple(one if isinstance(one, str) else one.pk for one in deliveries)
    how = {"limit": 100, "owner": "here", "queue": QUEUE, "priorities": PRIORITIES, **how}
    return batches.claim(how.pop("queue"), how.pop("priorities"), relay=relay, only=only, **how)


def claimed(*deliveries: Delivery | str, relay: Relay = RELAY, **how: Any) -> Batch:
    """The same, when something is due."""
    batch = claim(*deliveries, relay=relay, **how)
    assert batch is not None
    return batch


def attempt(*, relay: Relay = RELAY, wait: float = 60.0, **how: Any) -> records.Try:
    """An attempt that began a second ago."""
    return records.Try(**{"route": relay, "started_at": ago(1), "duration": 1.0, "wait": wait, **how})


def ended(delivery: Delivery, outcome: Outcome | None = None, **how: Any) -> records.Ended:
    """The end of an attempt; accepted for all of its recipients unless said otherwise."""
    if outcome is None:
        outcome = Accepted(code=250, accepted=tuple(one["address"] for one in delivery.recipients), refused={})
    return records.Ended(delivery=delivery, outcome=outcome, attempt=attempt(**how))


def record(batch: Batch, outcome: Outcome | None = None, *, store_result: bool = True, **how: Any) -> bool:
    """Record the same outcome for all of its mails, and say whether all was made."""
    changes = [ended(one, outcome, **how) for one in batch.deliveries]
    return all(batches.record(batch, changes, store_result=store_result).made)


def lose(batch: Batch | str) -> None:
    """What the sweeper does when nothing was heard of its owner: its mails are in doubt."""
    pk = batch if isinstance(batch, str) else batch.id
    DeliveryBatch.objects.filter(pk=pk).update(lease_until=ago(60), suspected_at=timezone.now())
    batches.take_over(pk, lambda row, deliveries: [batches.in_doubt(row, one) for one in deliveries])
