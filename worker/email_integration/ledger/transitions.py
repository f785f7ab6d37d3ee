"""All transitions of a delivery: conditional UPDATEs that compare the version and increment it.

A process with an older version changes nothing, with one exception: a server's acceptance is a fact, and is recorded
even if the reply arrives late (``recording``).

A process that has claimed a delivery moves it by a step, in a record of its batch. All other processes move it only
while it is not claimed. A request to cancel a claimed delivery is stored, and carried out by the batch's next record.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from django.db import transaction

from email_integration.message import content
from email_integration.models import FINAL, Delivery, DeliveryBatch, RevokedTask, Status
from email_integration.on_commit import Act, after_commit, after_commit_each
from email_integration.outcomes import settlement
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.schedule import seconds
from email_integration.routing.breaker import BreakerOpen

from . import clock, columns, events, sql, steps, task_queue
from .records import Change, Ended
from .rows import database, is_name, is_readable, load
from .steps import Step

#: Statuses in which a delivery can be tried: all that are neither finished nor held.
CLAIMABLE = (Status.QUEUED, Status.DEFERRED)


# -- steps, for the process that has claimed the delivery and for the functions below ----------------------------------


def ending(
    delivery: Delivery, status: Status, cause: Cause, reason: str = "", *, continue_in: float | None = None
) -> Step:
    """Return a step that ends a delivery without an attempt. Recipients that were accepted stay accepted.

    ``status`` is expired, cancelled, failed or quarantined. ``reason`` is the text if that of ``cause`` is not precise
    enough. ``continue_in``, in seconds, is that of ``columns.finished``.
    """
    reason = reason or cause.words
    verdict = settlement.Verdict(status=status, code=delivery.code, cause=cause.value, reason=reason)
    recipients = delivery.recipients
    if is_readable(delivery):
        recipients = settlement.give_up(recipients, cause, reason)
        verdict = settlement.accepted(recipients) or verdict
    values = {"recipients": recipients, **columns.finished(delivery, verdict, recipients, continue_in=continue_in)}
    return Step(delivery, values, not_among=FINAL, store_result=True, emit=events.end)


def setting_aside(delivery: Delivery, reason: str) -> Step:
    """Return a step that quarantines an unreadable row, for this ``reason``, without reading it."""
    verdict = settlement.Verdict(status=Status.QUARANTINED, code=None, cause=Cause.DAMAGED.value, reason=reason)
    return Step(delivery, columns.finished(delivery, verdict), not_among=FINAL, store_result=True, emit=events.end)


def waiting_for_relay(delivery: Delivery, breaker_open: BreakerOpen, *, wait: float) -> Step:
    """Return a step that defers a delivery without an attempt, because its relay is at fault.

    It waits for at most ``wait`` seconds. ``breaker_open`` gives the relay, the cause and the reason.
    """
    due_at, before = clock.now() + seconds(wait), delivery.status
    values = {
        "status": Status.DEFERRED,
        "code": breaker_open.code,
        "cause": breaker_open.cause,
        "reason": breaker_open.reason[:255],
        "smtp_config": breaker_open.relay.name,
        "due_at": due_at,
        "next_at": min(due_at, delivery.expires_at),
        "returned": 0,
        "waits_for_relay": True,
    }
    is_news = before != Status.DEFERRED  # waiting on is not reported again
    return Step(delivery, values, among=CLAIMABLE, store_result=True, emit=events.moved if is_news else None)


def giving_back(delivery: Delivery, *, returned: int | None = None, wait: float | None = None) -> Step:
    """Return a step that ends the claim. All else stays as before the claim, except ``returned`` if given.

    With ``wait`` the delivery is due in that many seconds. Without it, the delivery can be claimed again immediately.
    """
    values: dict[str, Any] = {} if returned is None else {"returned": returned}
    if wait is not None:
        due_at = clock.now() + seconds(wait)
        values |= {"due_at": due_at, "next_at": min(due_at, delivery.expires_at)}
    return Step(delivery, values)


#: The columns of a delivery's status that are not text.
_STATUS_COLUMNS = (
    *("status", "code", "attempts", "returned", "waits_for_relay", "due_at", "next_at", "finished_at"),
    *("cancel_requested", "continue_after"),
)


def without_texts(change: Change, delivery: Delivery) -> Step:
    """Return the step of ``change`` without the values that a database may refuse: texts and the attempt."""
    if isinstance(change, Ended):
        values = columns.after_attempt(change)
        emit = events.end if values["status"] in FINAL else events.moved
    else:
        step = change.step(delivery)
        values, emit = dict(step.values), None
        step.undo()
    kept = {name: values[name] for name in _STATUS_COLUMNS if name in values}
    if "recipients" in values:
        names = ("address", "status", "code")
        kept["recipients"] = [{name: item[name] for name in names if name in item} for item in values["recipients"]]
    return Step(delivery, kept, not_among=FINAL, emit=emit)


# -- transitions for all other processes ------------------------------------------------------------------------------


def set_aside(delivery: Delivery, reason: str) -> bool:
    """Quarantine an unreadable row for this ``reason``.

    Return False if it is finished, claimed or has moved meanwhile.
    """
    return _apply(delivery, functools.partial(setting_aside, reason=reason))


def send_now(delivery: Delivery, **changes: Any) -> bool:
    """Make a delivery due now, in any status. Return False when it is claimed, or has moved meanwhile.

    ``changes`` are further columns to set.
    """
    now = clock.now()
    common = {"due_at": now, "next_at": now, "returned": 0, "waits_for_relay": False, "cancel_requested": False}
    moved = _apply(delivery, lambda one: Step(one, common | changes, store_result=True))
    if moved:
        task_queue.notify_on_commit(delivery, using=database())
    return moved


def send_prepared(
    delivery: Delivery,
    *,
    kept: str,
    queue: str = "",
    due_at: dt.datetime | None = None,
    expires_at: dt.datetime | None = None,
) -> bool:
    """Send a prepared delivery. Return False when it has moved meanwhile.

    ``kept`` is the part of the call that the row stores, and ``queue`` the queue of the call. ``due_at`` is now by
    default, and ``expires_at`` stays unchanged by default. A delivery that ended while it was prepared keeps its
    status, and its continuation gets that status.
    """
    now = clock.now()
    changes: dict[str, Any] = {"continue_after": now}
    if delivery.status == Status.PREPARED:
        due_at, expires_at = due_at or now, expires_at or delivery.expires_at
        next_at = min(due_at, expires_at)
        changes = {"status": Status.QUEUED, "due_at": due_at, "expires_at": expires_at, "next_at": next_at}
    changes |= {"options": kept, "queue": queue}
    moved = _apply(delivery, lambda one: Step(one, changes, among=(Status.PREPARED, *FINAL)))
    if moved and delivery.status in FINAL:
        task_queue.call_for_sweep(using=database())
    elif moved and delivery.due_at <= now:
        task_queue.notify_on_commit(delivery, using=database())
    return moved


def end(delivery: Delivery, status: Status, cause: Cause, reason: str = "") -> bool:
    """End an unclaimed delivery as ``ending`` does. Return False when it is finished, claimed or has moved meanwhile.

    The sweeper is asked to publish its continuation immediately.
    """
    moved = _apply(delivery, lambda one: ending(one, status, cause, reason, continue_in=0.0))
    if moved and delivery.continue_after is not None:
        task_queue.call_for_sweep(using=database())
    return moved


def cancel(delivery_id: str) -> Delivery | None:
    """Cancel a delivery and return it. Return None when it does not exist yet, or is finished.

    A claimed delivery is cancelled by the next record of its batch, unless it is accepted before that. An unknown id is
    kept for a day: a delivery that is submitted with it is cancelled when it is claimed.
    """
    delivery = load(delivery_id)
    if delivery is None and is_name(delivery_id):
        _remember_revoked(delivery_id)
        delivery = load(delivery_id)  # it may have been inserted before the commit
    while delivery is not None and delivery.status not in FINAL:
        if _request_cancel(delivery) if delivery.batch else end(delivery, Status.CANCELLED, Cause.CANCELLED):
            return delivery
        delivery = load(delivery_id)  # it has moved meanwhile
    return None


def erase(delivery: Delivery, recipients: Any, **changes: Any) -> bool:
    """Overwrite the personal data of a delivery. Return False when it is claimed, or has moved meanwhile.

    ``recipients`` are the new recipients. An unfinished delivery is still sent to those that are pending. If none is
    pending, the delivery ends and its content is removed. A claimed delivery that would end is only asked to be
    cancelled; it can be erased afterwards.
    """
    ends = delivery.status not in FINAL and not settlement.is_pending(recipients)
    if delivery.batch:
        if ends:
            _request_cancel(delivery)
        return False
    if ends:
        erased = settlement.Verdict(
            status=Status.CANCELLED, code=delivery.code, cause=Cause.ERASED.value, reason=settlement.ERASED
        )
        verdict = settlement.accepted(recipients) or erased
        changes |= columns.finished(delivery, verdict, recipients, continue_in=0.0) | content.ERASED
    changes["recipients"] = recipients
    moved = _apply(delivery, lambda one: Step(one, changes, store_result=ends, emit=events.end if ends else None))
    if moved and ends and delivery.continue_after is not None:
        task_queue.call_for_sweep(using=database())
    return moved


def cancel_requested(deliveries: Collection[Delivery]) -> None:
    """Cancel those of ``deliveries`` for which a cancellation was requested while they were claimed.

    Deliveries that are still claimed are left out.
    """
    by_id = {one.pk: one for one in deliveries if one.status not in FINAL}
    rows = Delivery.objects.filter(pk__in=by_id, cancel_requested=True, batch="")
    for pk in list(rows.order_by().values_list("pk", flat=True)):
        if not end(by_id[pk], Status.CANCELLED, Cause.CANCELLED):
            cancel(pk)  # it has moved meanwhile


# -- internals --------------------------------------------------------------------------------------------------------


def _apply(delivery: Delivery, step: steps.Maker) -> bool:
    return not delivery.batch and apply_steps([step(delivery)])[0]


def _request_cancel(delivery: Delivery) -> bool:
    """Request the cancellation of a claimed delivery. Return False when that claim has ended.

    The owner sees the request with its next record. The batch is locked first, as in all code that locks both.
    """
    with transaction.atomic(using=database()):
        batches = DeliveryBatch.objects.filter(pk=delivery.batch)
        is_owned = bool(batches.update(cancel_requested=True))
        rows = Delivery.objects.filter(pk=delivery.pk, batch=delivery.batch)
        if not is_owned:
            # If it was recorded meanwhile, this finds no row. If the row of the batch was lost, no record will follow.
            rows.filter(version=delivery.version).update(batch="", version=delivery.version + 1)
            return False
        requested = bool(rows.update(cancel_requested=True))
    if requested:
        delivery.cancel_requested = True
    return requested


def _remember_revoked(delivery_id: str) -> None:
    using = database()
    RevokedTask.objects.bulk_create([RevokedTask(pk=delivery_id)], ignore_conflicts=True)
    if transaction.get_connection(using).in_atomic_block:
        # If the commit comes later, a delivery that is submitted before it does not see the row.
        after_commit("cancel a delivery", functools.partial(_cancel_if_there, delivery_id), using=using)


def _cancel_if_there(delivery_id: str) -> None:
    if load(delivery_id) is not None:
        cancel(delivery_id)


def apply_steps(those: Iterable[Step]) -> list[bool]:
    """Make the transitions in one commit. Return for each whether no other process was faster.

    Pass a generator: if one step cannot be created, the steps before it are undone as well. Raises ``DatabaseError``.
    """
    with steps.undone_on_error() as ready:
        ready.extend(those)
        made = sql.execute(ready, using=database()) if ready else []
    after_commit_each(finish(ready, made), using=database())
    return made


def finish(those: Sequence[Step], made: Sequence[bool]) -> list[Act]:
    """Undo the steps that were not made. Return the acts to do after the others are committed."""
    acts: list[Act] = []
    with_result: list[Delivery] = []
    for step, is_made in zip(those, made, strict=True):
        if not is_made:
            step.undo()
            continue
        acts += step.made()
        if step.stores_result:
            with_result.append(step.delivery)
    # Results come first, because a receiver of a signal may read the result.
    return [*_results_elsewhere(with_result), *acts]


def _results_elsewhere(deliveries: Sequence[Delivery]) -> list[Act]:
    queue = task_queue.installed()
    if not (deliveries and queue.stores_results_elsewhere()):
        return []
    return [("store a result", functools.partial(queue.store_result, one)) for one in deliveries]
