"""Wake deliveries that wait for a relay, after a configuration change or after the first success at a faulty relay."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from email_integration import routing
from email_integration.ledger import task_queue
from email_integration.ledger.rows import database
from email_integration.models import DatabaseTime, Delivery, SendingPause, Status
from email_integration.on_commit import after_commit
from email_integration.routing import breaker
from email_integration.smtp import Relay

#: Limit in seconds for a sweep at the exact time of a probe. A worker holds the message until then.
_SOON = 60.0

#: Delay in seconds of a sweep after the probe that it is scheduled for.
_LATER = 0.2

#: The last probe at each relay for which this process scheduled a sweep, by the key of its circuit breaker.
_called_for: dict[str, dt.datetime] = {}


def waiting() -> int:
    """Return how many deliveries wait for their relay, including those that are already due."""
    return Delivery.objects.filter(status=Status.DEFERRED, waits_for_relay=True).count()


def wake(*delivery_ids: str) -> int:
    """Make deliveries due that wait for their relay, and return how many.

    With ``delivery_ids``, only these are made due. Deliveries that wait for their own retry are not.
    """
    waiting = _waiting_for_relay()
    if delivery_ids:
        waiting = waiting.filter(pk__in=delivery_ids)
    woken = waiting.update(due_at=DatabaseTime(), next_at=DatabaseTime())
    if woken:
        task_queue.call_for_sweep(using=database())
    return woken


def wake_one() -> None:
    """Make one delivery due that waits for its relay, unless one is already due: one delivery must try the relay.

    It chooses the delivery with the fewest attempts, because the failures of others may be their own fault.
    """
    rows = Delivery.objects.filter(status=Status.DEFERRED, waits_for_relay=True, batch="")
    if rows.filter(due_at__lte=DatabaseTime()).exists():
        return
    found = rows.order_by("attempts", "due_at").values_list("pk", "due_at").first()
    if found is not None:
        # No call for a sweep: the caller is a sweep, and it wakes the queue.
        rows.filter(pk=found[0], due_at=found[1]).update(due_at=DatabaseTime(), next_at=DatabaseTime())


def sweep_at_probe(relay: Relay, at: dt.datetime, seconds: float) -> None:
    """Schedule a sweep for the next probe of a relay at ``at``, ``seconds`` from now; one mail then tries the relay.

    Only one sweep is scheduled for each probe, and none for a probe that is more than a minute away: the periodic
    sweeps are enough for that.
    """
    if seconds <= _SOON and _called_for.get(key := breaker.key(relay)) != at:
        _called_for[key] = at
        # A sweep before that time finds nothing to do, and the clocks of two hosts differ slightly.
        task_queue.call_for_sweep(using=database(), after=max(0.0, seconds) + _LATER)


def try_now(relay: Relay) -> None:
    """Have a relay at fault probed at once, and wake the deliveries that wait for it. Its breaker stays open."""
    if breaker.probe_now(only=relay):
        wake()


def reset_breaker(relay: Relay) -> None:
    """Reset the circuit breaker of a relay that works again, and wake the deliveries that wait for the relay."""
    with transaction.atomic(using=database()):
        was_open = breaker.reset(relay)
        if was_open:
            wake()
    if was_open:
        # Wake again: a delivery that was deferred meanwhile still saw an open breaker, and the first call missed it.
        wake()


def _waiting_for_relay() -> QuerySet[Delivery]:
    """Return the deliveries that wait for their relay, are not due yet, and are not claimed."""
    waiting = Delivery.objects.filter(status=Status.DEFERRED, waits_for_relay=True, batch="")
    return waiting.filter(due_at__gt=DatabaseTime())


def wake_on_commit(*, sender: Any = None, using: str | None = None, **kwargs: Any) -> None:
    """Wake waiting deliveries when a configuration change is committed, and reset the breakers of former relays.

    A relay that is still used keeps its open breaker, and is probed at once: only the server can show that it works
    again. A pause, and its end, change no relay. Receiver of the signals that are sent after a write. ``using`` is the
    alias of the database.
    """

    def go() -> None:
        if breaker.probe_now() and sender is not SendingPause:
            route = routing.configured_route()
            breaker.reset_all(but=route if isinstance(route, Relay) else None)
        wake()

    after_commit("wake waiting mail", go, using=using)  # on failure, the periodic retries remain
