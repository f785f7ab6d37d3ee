"""Who sets going what follows a finished delivery: whoever holds the lease on it, so that it happens once."""

from __future__ import annotations

from django.utils import timezone

from email_integration import conf
from email_integration.models import Delivery
from email_integration.outcomes.schedule import seconds

from . import steps, task_queue
from .rows import database


def resume(delivery: Delivery) -> bool:
    """Take over what follows a finished delivery, when whoever ended it did not come to it within the lease."""
    now = timezone.now()
    if delivery.continued or (delivery.lease_until is not None and delivery.lease_until > now):
        return False
    lease_until = now + seconds(conf.get("LEASE"))
    seen = {"continued": False, "lease_until": delivery.lease_until}
    taken = steps.Step(delivery, {"lease_until": lease_until, "ring_after": lease_until}, unless_changed=seen)
    return steps.make([taken])[0]


def keep(delivery: Delivery) -> bool:
    """Whether what follows a delivery that we have ended is ours still, or nobody has taken it over since."""
    return (delivery.lease_until is not None and delivery.lease_until > timezone.now()) or resume(delivery)


def leave(delivery: Delivery) -> None:
    """Leave what follows a finished delivery to a worker, soon.

    Whoever ended it may be a web request, and a broker out of reach must not hold that up.
    """
    if not delivery.continued:
        later(delivery.pk)
        task_queue.ring_on_commit(delivery, using=database())


def later(delivery_id: str) -> None:
    """Give up the lease on what follows the delivery; the sweep rings for it soon."""
    ring_after = timezone.now() + seconds(conf.get("RING_AFTER"))
    Delivery.objects.using(database()).filter(pk=delivery_id, continued=False).update(
        lease_until=None, ring_after=ring_after
    )


def done(delivery_id: str) -> None:
    """Record that what follows the delivery has been set going."""
    Delivery.objects.using(database()).filter(pk=delivery_id, continued=False).update(
        continued=True, lease_until=None, ring_after=None
    )
