"""Waking what waits for a relay: by a change of the configuration, and by the first success at a relay at fault."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from email_integration.ledger import task_queue
from email_integration.ledger.rows import database
from email_integration.models import DatabaseTime, Delivery, Status
from email_integration.on_commit import after_commit
from email_integration.routing import breaker
from email_integration.smtp import Relay

#: Seconds within which the time of a probe is kept exactly. A worker has the message until then.
_SOON = 60.0

#: Seconds by which a sweep comes later than the probe that it is called for.
_LATER = 0.2

#: The last probe at each relay that this process has called for a sweep for, by the key of its circuit breaker.
_called_for: dict[str, dt.datetime] = {}


def waiting() -> int:
    """How many deliveries wait for their relay, those that are due already among them."""
    return Delivery.objects.filter(status=Status.DEFERRED, waits_for_relay=True).count()


def wake(*delivery_ids: str) -> int:
    """Make every delivery due, or these alone, that waits for its relay and not for itself; returns how many."""
    waiting = _waiting_for_relay()
    if delivery_ids:
        waiting = waiting.filter(pk__in=delivery_ids)
    woken = waiting.update(due_at=DatabaseTime(), next_at=DatabaseTime())
    if woken:
        task_queue.call_for_sweep(using=database())
    return woken


def wake_one() -> None:
    """Make one delivery due that waits for its relay, unless one is already: one has to try it.

    The one that was tried least: what was said of others may be their own fault.
    """
    rows = Delivery.objects.filter(status=Status.DEFERRED, waits_for_relay=True, batch="")
    if rows.filter(due_at__lte=DatabaseTime()).exists():
        return
    found = rows.order_by("attempts", "due_at").values_list("pk", "due_at").first()
    if found is not None:
        # No call for a sweep: it is a sweep that asks for this, and that wakes the queue.
        rows.filter(pk=found[0], due_at=found[1]).update(due_at=DatabaseTime(), next_at=DatabaseTime())


def sweep_at_probe(relay: Relay, at: dt.datetime, seconds: float) -> None:
    """Call for a sweep, which has one mail try the relay, for the time of its next probe, in so many ``seconds``.

    Once for each probe, and not for one that is far off: the sweeps that come by themselves are good enough for that.
    """
    if seconds <= _SOON and _called_for.get(key := breaker.key(relay)) != at:
        _called_for[key] = at
        # A sweep before that time finds nothing to do, and the clocks of two hosts differ a little.
        task_queue.call_for_sweep(using=database(), after=max(0.0, seconds) + _LATER)


def reset_breaker(relay: Relay) -> None:
    """Reset the circuit breaker of a relay that works again, and wake what waits for the relay."""
    with transaction.atomic(using=database()):
        was_open = breaker.reset(relay)
        if was_open:
            wake()
    if was_open:
        # Once more: what was put off meanwhile has still seen an open breaker, and was not seen by the first call.
        wake()


def _waiting_for_relay() -> QuerySet[Delivery]:
    """What waits for its relay, is not due yet, and is in nobody's hands."""
    waiting = Delivery.objects.filter(status=Status.DEFERRED, waits_for_relay=True, batch="")
    return waiting.filter(due_at__gt=DatabaseTime())


def wake_on_commit(*, using: str | None = None, **kwargs: Any) -> None:
    """Reset every circuit breaker and wake what waits, once a change of the configuration is committed.

    Receiver of the signals sent after a write.
    """

    def go() -> None:
        breaker.reset_all()
        wake()

    after_commit("wake what waits", go, using=using)  # it is tried again in any case
