"""Ring for every delivery that is due and that no task is working on, and leave a mark of it."""

from __future__ import annotations

import datetime as dt
import itertools
import logging
import time

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from email_integration import routing
from email_integration.django_internals import can_skip_locked_rows
from email_integration.ledger import task_queue
from email_integration.ledger.rows import database
from email_integration.models import Delivery, RelayGate
from email_integration.outcomes import schedule
from email_integration.routing import gate
from email_integration.shared_cache import shared_cache
from email_integration.smtp import Relay

from . import retry_now

logger = logging.getLogger(__name__)

#: The key of the mark in the shared cache.
KEY = "email_integration:swept"

#: How many deliveries are taken in one short transaction.
BATCH = 500

#: Counted so far, and no further than the column goes.
_MOST_RINGS = 32_000


def sweep() -> int:
    """Ring for what is due and return how many deliveries that were. Any number of sweeps may run at once."""
    total = 0
    if _is_anything_due(timezone.now()):
        _have_the_relay_tried()
        while taken := _take(timezone.now()):
            heard = task_queue.ring(taken)
            if heard is None:
                _give_back(taken)
                break
            # Those that a queue of their own kept from being heard wait for their next ring, and hold up no other.
            total += heard
            if len(taken) < BATCH:
                break
    leave_mark()
    return total


def _is_anything_due(now: dt.datetime) -> bool:
    """Whether there is a delivery to ring for or a relay to try: one question, as most sweeps find neither."""
    deliveries = Delivery.objects.using(database()).filter(ring_after__lte=now).order_by().values_list("pk")
    gates = RelayGate.objects.using(database()).filter(probe_at__lte=now).order_by().values_list("pk")
    # From Django 6.1 on, a union has the ordering of the model again, which these columns do not have.
    return bool(deliveries.union(gates, all=True).order_by()[:1])


def _have_the_relay_tried() -> None:
    """Wake one of the mails that wait for a relay that may be tried again: whoever was to do it may be gone."""
    due = gate.due()
    relay = routing.active_relay() if due else None
    if not isinstance(relay, Relay):
        return
    if gate.key(relay) in due:
        retry_now.wake_one()
    elif routing.password_is_elsewhere(relay) and gate.forget_former(relay):
        retry_now.wake()


def _take(now: dt.datetime) -> list[Delivery]:
    """Move the next ring of a batch on, doubling, so that a deep queue is not rung again at each tick."""
    using = database()
    rows = Delivery.objects.using(using)
    with transaction.atomic(using=using):
        due = rows.filter(ring_after__lte=now).order_by("ring_after").only("id", "status", "lane", "options", "rings")
        if can_skip_locked_rows(transaction.get_connection(using)):
            due = due.select_for_update(skip_locked=True)
        taken = list(due[:BATCH])
        for rings, group in itertools.groupby(sorted(taken, key=_rings), key=_rings):
            rows.filter(pk__in=[delivery.pk for delivery in group]).update(
                rings=min(rings + 1, _MOST_RINGS), ring_after=now + schedule.seconds(schedule.pause(rings))
            )
    return taken


def _give_back(taken: list[Delivery]) -> None:
    """Undo the doubling: who cannot be rung for now is rung for as soon as the broker is back."""
    rows = Delivery.objects.using(database()).filter(pk__in=[delivery.pk for delivery in taken], rings__gt=0)
    # Some may have been heard, and be at their end already.
    rows.filter(ring_after__isnull=False).update(rings=F("rings") - 1, ring_after=timezone.now())


def _rings(delivery: Delivery) -> int:
    return delivery.rings


def leave_mark() -> None:
    """Say that a sweep was made now. Never raises: sweeping matters, the mark does not."""
    try:
        with shared_cache() as cache:
            cache.set(KEY, time.time(), timeout=None)
    except Exception as error:  # every cache backend has exceptions of its own
        logger.debug("The sweep could not leave its mark in the cache (%s).", type(error).__name__)


def last_mark() -> float | None:
    """When the last sweep was made, in seconds since the epoch by the clock of its host; None if none is known.

    Raises what the cache raises.
    """
    with shared_cache() as cache:
        found = cache.get(KEY)
    return float(found) if found is not None else None
