"""Ring for every delivery that is due and that no task is working on."""

from __future__ import annotations

import datetime as dt
import itertools

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from email_integration import conf
from email_integration.models import Delivery

from . import doorbell, ledger, swept

#: How many deliveries are taken in one short transaction.
BATCH = 500

#: A delivery is rung for at least this often, in seconds, however often it was before.
_LONGEST_PAUSE = 900.0


def sweep() -> int:
    """Ring for what is due and return how many deliveries that were. Any number of sweeps may run at once."""
    total = 0
    while taken := _take(timezone.now()):
        if not doorbell.ring(taken):
            _give_back(taken)
            break
        total += len(taken)
        if len(taken) < BATCH:
            break
    swept.leave_mark()
    return total


def _take(now: dt.datetime) -> list[Delivery]:
    """Move the next ring of a batch on, doubling, so that a deep queue is not rung again at each tick."""
    using = ledger.database()
    rows = Delivery.objects.using(using)
    with transaction.atomic(using=using):
        due = rows.filter(ring_after__lte=now).order_by("ring_after").only("id", "status", "options", "rings")
        if transaction.get_connection(using).features.has_select_for_update_skip_locked:
            due = due.select_for_update(skip_locked=True)
        taken = list(due[:BATCH])
        for rings, group in itertools.groupby(sorted(taken, key=_rings), key=_rings):
            pause = min(conf.get("RING_AFTER") * 2.0 ** min(rings, 20), _LONGEST_PAUSE)
            rows.filter(pk__in=[delivery.pk for delivery in group]).update(
                rings=rings + 1, ring_after=now + ledger.seconds(pause)
            )
    return taken


def _give_back(taken: list[Delivery]) -> None:
    """Undo the doubling: who cannot be rung for now is rung for as soon as the broker is back."""
    rows = Delivery.objects.using(ledger.database()).filter(pk__in=[delivery.pk for delivery in taken], rings__gt=0)
    rows.update(rings=F("rings") - 1, ring_after=timezone.now())


def _rings(delivery: Delivery) -> int:
    return delivery.rings
