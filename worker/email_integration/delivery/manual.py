"""What a person decides about a delivery that waits, is in doubt, was put aside or is to be sent once more.

Each decision is one transition of the ledger. It gives False when the delivery is not in a state for it (any more),
and raises ``ContentUnavailable`` when there is nothing that could be sent; then all is as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from django.utils import timezone

from email_integration import conf
from email_integration.async_safety import sync_only
from email_integration.exceptions import ContentUnavailable
from email_integration.ledger import clock, instrumentation, rows, transitions
from email_integration.message import content
from email_integration.models import Delivery, Status
from email_integration.outcomes import schedule, settlement
from email_integration.outcomes.causes import Cause
from email_integration.queue import submission
from email_integration.secrecy import with_secrets

#: What ``send_now`` takes.
CAN_BE_SENT = (Status.QUEUED, Status.DEFERRED, Status.IN_DOUBT, Status.QUARANTINED)


@sync_only("cancel()", instead="email_integration.acancel()")
def cancel(delivery_id: str) -> bool:
    """Cancel a delivery; False when it does not exist yet, or is finished.

    One that is being sent at this moment ends cancelled unless the server takes it. An id that is not known is kept for
    a day: a delivery that turns up with it is cancelled then.
    """
    return transitions.cancel(delivery_id) is not None


@sync_only("send_now()", instead="email_integration.asend_now()")
def send_now(delivery_id: str) -> bool:
    """Make a delivery due at once; False when it does not exist, is finished for good or is being sent at this moment.

    It goes the way of all mail: while sending is paused or the relay is at fault, it waits with the others. What is in
    doubt is sent again, the same bytes with the same Message-ID. What was quarantined is tried as if for the first
    time; whatever should have followed it has been told of its failure, and is not set going any more. A time to expire
    that has passed begins anew. Raises ``ContentUnavailable`` when its content is kept no longer or cannot be read.
    """
    return _send(delivery_id, CAN_BE_SENT)


@sync_only("release()", instead="email_integration.arelease()")
def release(delivery_id: str) -> bool:
    """Send again what is in doubt, as ``send_now`` does; False when it is not in doubt (any more).

    Raises ``ContentUnavailable``, as ``send_now`` does.
    """
    return _send(delivery_id, (Status.IN_DOUBT,))


@sync_only("discard()", instead="email_integration.adiscard()")
def discard(delivery_id: str) -> bool:
    """Never send again what is in doubt; False when it is not in doubt (any more).

    It has failed then, and what follows a failure is set going.
    """
    delivery = rows.load(delivery_id)
    if delivery is None or delivery.status != Status.IN_DOUBT:
        return False
    reason = f"{Cause.DISCARDED.words}: the server may or may not have it"
    return transitions.end(delivery, Status.FAILED, Cause.DISCARDED, reason)


@sync_only("resend()", instead="email_integration.aresend()")
@with_secrets
def resend(delivery_id: str) -> Delivery:
    """Submit a copy of a delivery and return it; the first one stays as it is.

    The same bytes go to all of the same recipients, whatever became of each. It is a mail of its own, with an id of its
    own; nothing of the caller's canvas follows it. Raises ``Delivery.DoesNotExist``, and ``ContentUnavailable`` when
    the content is kept no longer or cannot be read.
    """
    if not rows.is_name(delivery_id):
        raise Delivery.DoesNotExist
    original = Delivery.objects.get(pk=delivery_id)
    _require_readable(original)
    now = timezone.now()
    copy = Delivery(
        id=submission.new_id(),
        message_id=original.message_id,
        from_header=original.from_header,
        from_at=original.from_at,
        sender=original.sender,
        recipients=[
            {"address": item["address"], "status": "pending"}
            for item in original.recipients
            if item["address"] != settlement.ERASED
        ],
        priority=original.priority,
        in_doubt_policy=original.in_doubt_policy,
        created_at=now,
        due_at=now,
        expires_at=now + schedule.seconds(conf.get("GIVE_UP_AFTER")),
    )
    content.store(copy, b"".join(content.stored(original).blocks()))
    instrumentation.installed().submitting(copy)
    return submission.store(copy, unless_known=False)


def _send(delivery_id: str, statuses: Collection[Status]) -> bool:
    delivery = rows.load(delivery_id)
    while delivery is not None and delivery.status in statuses and not delivery.batch:
        _require_readable(delivery)
        if transitions.send_now(delivery, **_changes(delivery)):
            return True
        delivery = rows.load(delivery_id)  # somebody has moved it since
    return False


def _require_readable(delivery: Delivery) -> None:
    """Raise ``ContentUnavailable`` for what would be put off for the same reason at each attempt."""
    if not rows.is_readable(delivery):
        raise ContentUnavailable("its recipients cannot be read")
    with contextlib.closing(content.stored(delivery).blocks()) as blocks:
        next(blocks, b"")  # the first says whether it is there and can be opened


def _changes(delivery: Delivery) -> dict[str, object]:
    now = clock.now()
    changes: dict[str, object] = {"status": Status.QUEUED if delivery.status == Status.QUEUED else Status.DEFERRED}
    if delivery.status == Status.QUARANTINED:
        changes |= {
            "recipients": [_pending_again(item) for item in delivery.recipients],
            "finished_at": None,
            # What followed has been told of the failure, or is not to be told of it any more.
            "options": "" if delivery.is_settled else delivery.options,
            "continue_after": None,
        }
    if delivery.expires_at <= now:
        changes["expires_at"] = now + schedule.seconds(conf.get("GIVE_UP_AFTER"))
    return changes


#: What was settled by staging safety, or by erasing somebody, stays so.
_STAYS = (Cause.WITHHELD.value, Cause.ERASED.value)


def _pending_again(item: dict[str, object]) -> dict[str, object]:
    """A recipient that only the quarantine has settled: no server's reply and no staging safety had a hand in it."""
    if item["status"] == "failed" and not item.get("code") and item.get("cause") not in _STAYS:
        return {"address": item["address"], "status": "pending"}
    return item
