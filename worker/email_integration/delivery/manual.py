"""Manual decisions about a delivery that waits, is in doubt, was quarantined or is to be sent again.

Each decision is one transition of the ledger. A function returns False when the state of the delivery does not (or no
longer) allow it, and raises ``ContentUnavailable`` when the content cannot be sent. In both cases nothing changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from django.utils import timezone

from email_integration import conf
from email_integration.async_safety import sync_only
from email_integration.exceptions import ContentUnavailable
from email_integration.ledger import clock, instrumentation, rows, transitions
from email_integration.message import content, rendering, sealed_subjects
from email_integration.models import Delivery, Status
from email_integration.outcomes import schedule, settlement
from email_integration.outcomes.causes import Cause
from email_integration.queue import submission
from email_integration.secrecy import with_secrets

#: Statuses that ``send_now`` accepts.
CAN_BE_SENT = (Status.QUEUED, Status.DEFERRED, Status.IN_DOUBT, Status.QUARANTINED)


@sync_only("cancel()", instead="email_integration.acancel()")
def cancel(delivery_id: str) -> bool:
    """Cancel a delivery. Return False when it does not exist yet, or is finished.

    A delivery that is being sent now ends cancelled unless the server accepts it. An unknown id is kept for a day: a
    delivery that is submitted with it is then cancelled.
    """
    return transitions.cancel(delivery_id) is not None


@sync_only("send_now()", instead="email_integration.asend_now()")
def send_now(delivery_id: str) -> bool:
    """Make a delivery due now. Return False when it does not exist, is permanently finished, or is being sent now.

    It is sent like any other mail: it waits while sending is paused or the relay is at fault. A mail in doubt is sent
    again, as the same bytes with the same Message-ID. A quarantined mail is tried as if for the first time; its failure
    was already reported to its continuation, which is not started any more. An expiry time that has passed is set
    again, to GIVE_UP_AFTER seconds from now.

    Raises ``ContentUnavailable`` when the content is no longer kept or cannot be read.
    """
    return _send(delivery_id, CAN_BE_SENT)


@sync_only("release()", instead="email_integration.arelease()")
def release(delivery_id: str) -> bool:
    """Send a mail in doubt again, like ``send_now``. Return False when it is not, or no longer, in doubt.

    Raises ``ContentUnavailable``, like ``send_now``.
    """
    return _send(delivery_id, (Status.IN_DOUBT,))


@sync_only("discard()", instead="email_integration.adiscard()")
def discard(delivery_id: str) -> bool:
    """Give up a mail in doubt: it is never sent again. Return False when it is not, or no longer, in doubt.

    The mail then has failed, and the continuation for a failure is started.
    """
    delivery = rows.load(delivery_id)
    if delivery is None or delivery.status != Status.IN_DOUBT:
        return False
    reason = f"{Cause.DISCARDED.words}: the server may or may not have it"
    return transitions.end(delivery, Status.FAILED, Cause.DISCARDED, reason)


@sync_only("resend()", instead="email_integration.aresend()")
@with_secrets
def resend(delivery_id: str, *, idempotency_key: str | None = None) -> Delivery:
    """Submit a copy of a delivery and return the copy. The original stays unchanged.

    The same bytes are sent to all of the same recipients, whatever their status in the original. The copy has a new id
    and no continuation in the caller's canvas. With the same ``idempotency_key`` (at most 255 characters) again, the
    first copy is returned and nothing is submitted. Raises ``Delivery.DoesNotExist``, and ``ContentUnavailable`` when
    the content is no longer kept or cannot be read.
    """
    if not rows.is_name(delivery_id):
        raise Delivery.DoesNotExist
    if idempotency_key is not None:
        submission.check_name("idempotency_key", idempotency_key)
    original = Delivery.objects.get(pk=delivery_id)
    _require_readable(original)
    now = timezone.now()
    copy = Delivery(
        id=submission.new_id(),
        copy_of=original.pk,
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
        idempotency_key=idempotency_key,
        created_at=now,
        due_at=now,
        expires_at=now + schedule.seconds(conf.get("GIVE_UP_AFTER")),
    )
    octets = b"".join(content.stored(original).blocks())
    content.store(copy, octets)
    sealed_subjects.store(copy, sealed_subjects.of(original) or rendering.subject_in(octets))
    instrumentation.installed().submitting(copy)
    return submission.store(copy, unless_known=False)


def _send(delivery_id: str, statuses: Collection[Status]) -> bool:
    delivery = rows.load(delivery_id)
    while delivery is not None and delivery.status in statuses and not delivery.batch:
        _require_readable(delivery)
        if transitions.send_now(delivery, **_changes(delivery)):
            return True
        delivery = rows.load(delivery_id)  # it was changed meanwhile
    return False


def _require_readable(delivery: Delivery) -> None:
    """Raise ``ContentUnavailable`` for a delivery whose attempts would all be deferred for the same reason."""
    if not rows.is_readable(delivery):
        raise ContentUnavailable("its recipients cannot be read")
    with contextlib.closing(content.stored(delivery).blocks()) as blocks:
        next(blocks, b"")  # the first block shows whether it exists and can be decrypted


def _changes(delivery: Delivery) -> dict[str, object]:
    now = clock.now()
    changes: dict[str, object] = {"status": Status.QUEUED if delivery.status == Status.QUEUED else Status.DEFERRED}
    if delivery.status == Status.QUARANTINED:
        changes |= {
            "recipients": [_pending_again(item) for item in delivery.recipients],
            "finished_at": None,
            # The continuation was already told of the failure, or must not be told any more.
            "options": "" if delivery.is_settled else delivery.options,
            "continue_after": None,
        }
    if delivery.expires_at <= now:
        changes["expires_at"] = now + schedule.seconds(conf.get("GIVE_UP_AFTER"))
    return changes


#: Causes of recipients that stay settled: staging safety, and erasure.
_STAYS = (Cause.WITHHELD.value, Cause.ERASED.value)


def _pending_again(item: dict[str, object]) -> dict[str, object]:
    """Return a recipient as pending if only the quarantine settled it.

    A server's reply, staging safety or an erasure stays in force.
    """
    if item["status"] == "failed" and not item.get("code") and item.get("cause") not in _STAYS:
        return {"address": item["address"], "status": "pending"}
    return item
