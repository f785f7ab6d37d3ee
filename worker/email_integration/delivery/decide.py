"""What a person decides about a delivery that waits, is in doubt or was put aside."""

from __future__ import annotations

import datetime as dt

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from email_integration import conf
from email_integration.models import Delivery, Status

from . import doorbell, ledger, safety

#: What ``send_now`` takes.
CAN_BE_SENT = (Status.QUEUED, Status.DEFERRED, Status.IN_DOUBT, Status.QUARANTINED)


def send_now(delivery_id: str) -> bool:
    """Make a delivery due at once; False when it is finished for good or being sent at this moment.

    What is in doubt is sent again, the same bytes with the same Message-ID. What was quarantined is tried as if for
    the first time; whatever should have followed it has been told of its failure, and is not set going any more.
    """
    using = ledger.database()
    now = timezone.now()
    with transaction.atomic(using=using):
        delivery = Delivery.objects.using(using).defer("content").filter(pk=delivery_id, status__in=CAN_BE_SENT).first()
        if delivery is None:
            return False
        changes = {"status": Status.DEFERRED, "due_at": now, "ring_after": now, "rings": 0, "unfinished": 0}
        if delivery.status == Status.QUEUED:
            changes["status"] = Status.QUEUED
        if delivery.status == Status.QUARANTINED:
            changes |= {
                "recipients": [_pending_again(item) for item in delivery.recipients],
                "finished_at": None,
                "options": "" if delivery.continued else delivery.options,
                "continued": False,
            }
        if delivery.expires_at <= now:
            changes["expires_at"] = now + dt.timedelta(seconds=conf.get("GIVE_UP_AFTER"))
        rows = Delivery.objects.using(using).filter(pk=delivery_id, status=delivery.status, fence=delivery.fence)
        if not rows.update(fence=F("fence") + 1, **changes):
            return False
        delivery.refresh_from_db(fields=["status", "fence", "options", "recipients", "continued"])
        doorbell.installed().report(delivery)
        doorbell.ring_on_commit(delivery, using=using)
    return True


def give_up(delivery_id: str) -> bool:
    """Never send again what is in doubt; False when it is not in doubt (any more)."""
    delivery = ledger.load(delivery_id)
    if delivery is None or delivery.status != Status.IN_DOUBT:
        return False
    if not ledger.end(delivery, Status.FAILED, "given up by a person: the server may or may not have it"):
        return False
    if not delivery.continued:
        ledger.follow_up_later(delivery.pk)
        doorbell.ring_on_commit(delivery, using=ledger.database())
    return True


def _pending_again(item: dict[str, object]) -> dict[str, object]:
    """A recipient that only the quarantine has settled: no server's reply and no staging safety had a hand in it."""
    if item["status"] == "failed" and not item.get("code") and item.get("reply") != safety.WITHHELD:
        return {"address": item["address"], "status": "pending"}
    return item
