"""Record the outcomes of claimed deliveries in one commit, and always record that the server accepted a mail."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db import connections, transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest
from django.utils import timezone

from email_integration import conf
from email_integration.models import FINAL, Delivery, DeliveryAttempt, DeliveryBatch, Status, database_time
from email_integration.on_commit import Act, after_commit_each
from email_integration.outcomes import settlement
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted

from . import columns, events, instrumentation, record_statement, sql, steps, transitions
from .records import Change, Ended
from .rows import database, is_readable
from .steps import Step

#: Not needed to record an outcome, and possibly large.
_CONTENT = ("content",)


@dataclass(frozen=True, kw_only=True)
class RecordedChanges:
    """The result of recording changes.

    ``made`` says for each change whether it was made, ``is_owned`` whether the batch existed, and ``cancel_requested``
    whether one of its mails is to be cancelled.
    """

    made: list[bool]
    is_owned: bool
    cancel_requested: bool


def record_changes(
    changes: Sequence[Change],
    *,
    batch: str,
    permitted: int | None = None,
    closes: bool = False,
    store_result: bool = True,
) -> RecordedChanges:
    """Make the changes, and renew the batch or delete it (``closes``), all in one commit. Raises ``DatabaseError``.

    A change counts as made if it was committed before and the answer was lost. A change whose delivery has moved since
    is not made, unless the server accepted the mail. The instances of the changes made are updated, and their events
    emitted. ``permitted`` is the number of mails whose final dots may be sent from now on. Without ``store_result`` no
    results are stored.
    """
    now = timezone.now()
    with steps.undone_on_error() as ready:
        for change in changes:
            ready.append(_step(change, store_result=store_result, now=now))
        result = _record(ready, batch=batch, permitted=permitted, closes=closes)
    after_commit_each(events.together(transitions.finish(ready, result.made)), using=database())
    made = list(result.made)
    missed = [number for number, is_made in enumerate(made) if not is_made]
    for number in missed:
        made[number] = _record_late(
            changes[number], batch=batch if result.is_owned else None, store_result=store_result
        )
    if missed and closes:
        _delete_if_done(batch)
    return RecordedChanges(made=made, is_owned=result.is_owned, cancel_requested=result.cancel_requested)


def _step(change: Change, *, store_result: bool, now: dt.datetime | None = None) -> Step:
    delivery = change.delivery
    if isinstance(change, Ended):
        return _of_ended(
            change, columns.after_attempt(change, now=now), store_result=store_result, not_among=FINAL, now=now
        )
    step = change.step(delivery)
    if delivery.cancel_requested and delivery.status not in FINAL:
        step.undo()
        return transitions.ending(delivery, Status.CANCELLED, Cause.CANCELLED)
    return step


def _of_ended(
    ended: Ended,
    values: dict[str, Any],
    *,
    store_result: bool,
    not_among: Collection[Status] = (),
    now: dt.datetime | None = None,
) -> Step:
    before = ended.delivery.recipients
    return Step(
        ended.delivery,
        values,
        rows=lambda: (columns.attempt_row(ended, now=now),),
        store_result=store_result,
        not_among=not_among,
        emit=lambda _: _emit(ended, before),
    )


def _emit(ended: Ended, before: list[dict[str, Any]]) -> list[Act]:
    """Report an attempt to the observer, and return the acts to do after the commit.

    ``before`` are its old recipients.
    """
    instrumentation.installed().attempted(ended)
    return events.outcome(ended, before)


def _record(
    ready: Sequence[Step], *, batch: str, permitted: int | None, closes: bool
) -> record_statement.StatementResult:
    using, lease = database(), float(conf.get("LEASE"))
    connection = connections[using]
    if connection.vendor == "postgresql":
        # A savepoint inside the caller's transaction, so that it survives an error here.
        together = transaction.atomic(using=using) if connection.in_atomic_block else contextlib.nullcontext()
        with together:
            return record_statement.record(
                ready, batch=batch, lease=lease, permitted=permitted, closes=closes, using=using
            )
    with transaction.atomic(using=using):
        batches = DeliveryBatch.objects.filter(pk=batch)
        is_owned, requested = _lock(batches)
        made = [False] * len(ready)
        if is_owned and ready:
            made = sql.execute(ready, batch=batch, using=using)
        if is_owned and closes and all(made):
            batches.delete()
        elif is_owned:
            renew(batches, permitted=permitted, lease=lease)
    return record_statement.StatementResult(is_owned=is_owned, cancel_requested=requested, made=made)


def _lock(batches: Any) -> tuple[bool, bool]:
    """Lock the row of a batch. Return whether it exists, and whether one of its mails is to be cancelled."""
    # A write locks it. SQLite waits for a write, but refuses one after a read.
    if not batches.update(suspected_at=None):
        return False, False
    return True, bool(batches.values_list("cancel_requested", flat=True).get())


def renew(batches: Any, *, permitted: int | None, lease: float) -> bool:
    """Set the lease of these batches to end ``lease`` seconds from now, and raise ``permitted``.

    Return False when there are no such batches.
    """
    values: dict[str, Any] = {"suspected_at": None, "lease_until": database_time.DatabaseTime(ahead=lease)}
    if permitted is not None:
        values["permitted"] = Greatest(F("permitted"), Value(permitted))
    return bool(batches.update(**values))


# -- deliveries that have moved since ----------------------------------------------------------------------------------


def accept_late(ended: Ended, *, store_result: bool = True) -> bool:
    """Record that the server accepted a mail, although its delivery has moved since. Return False if that was known.

    The accepted recipients are settled, even if another process sends to the other recipients meanwhile. Without
    ``store_result`` no result is stored.
    """
    return isinstance(ended.outcome, Accepted) and _record_late(ended, batch=None, store_result=store_result)


def _record_late(change: Change, *, batch: str | None, store_result: bool) -> bool:
    """Make a change whose delivery has a newer version by now, under the conditions of ``record_changes``.

    ``batch`` is the batch that it was claimed with, if that still exists.
    """
    delivery = change.delivery
    with steps.unchanged_on_error(delivery), transaction.atomic(using=database()):
        before = dict(delivery.__dict__)
        number = delivery.attempts + 1
        if not _reload_under_lock(delivery):
            return False
        if isinstance(change, Ended) and _is_logged(change, number):
            # The answer to the commit was lost, and no events have been emitted yet.
            _emit_recorded(change, before)
            return True
        if batch is not None and delivery.batch == batch:
            return transitions.apply_steps([_step(change, store_result=store_result)])[0]
        if isinstance(change, Ended) and isinstance(change.outcome, Accepted):
            return _accept_under_lock(change, change.outcome, store_result=store_result)
        delivery.__dict__.clear()
        delivery.__dict__.update(before)
        return False


def _reload_under_lock(delivery: Delivery) -> bool:
    recipients = delivery.recipients
    names = [field.attname for field in Delivery._meta.concrete_fields if field.attname not in _CONTENT]
    try:
        delivery.refresh_from_db(fields=names, from_queryset=Delivery.objects.select_for_update())
    except Delivery.DoesNotExist:
        return False
    if not is_readable(delivery):
        delivery.recipients = recipients
    return True


def _is_logged(ended: Ended, number: int) -> bool:
    """Return whether this attempt is already recorded."""
    log = DeliveryAttempt.objects.filter(delivery=ended.delivery.pk, number=number)
    worker = ended.attempt.worker or columns.this_worker()
    return log.filter(started_at=ended.attempt.started_at, worker=worker).exists()


def _emit_recorded(ended: Ended, before: dict[str, Any]) -> None:
    """Emit the recorded attempt of a delivery that was as in ``before``."""
    delivery = ended.delivery
    now = dict(delivery.__dict__)
    delivery.__dict__.update(before)
    values = columns.after_attempt(ended)
    delivery.__dict__.update(values)
    after_commit_each(_emit(ended, before["recipients"]), using=database())
    delivery.__dict__.update(now)


def _accept_under_lock(ended: Ended, outcome: Accepted, *, store_result: bool) -> bool:
    delivery = ended.delivery
    before = delivery.recipients
    if settlement.settle(before, outcome) == before:
        return False  # already known
    values = columns.after_attempt(replace(ended, withheld=()))
    if delivery.is_settled:  # the continuation is already published
        values["continue_after"] = None
    if delivery.batch and values["status"] not in FINAL:
        # Another process may be sending it to the other recipients now, and records their outcome on top of this one.
        _settle_only(delivery, values)
        logged = dict(columns.attempt_row(ended).values)
        DeliveryAttempt.objects.create(delivery_id=logged.pop("delivery"), **logged)
        after_commit_each(_emit(ended, before), using=database())
        return True
    return transitions.apply_steps([_of_ended(ended, values, store_result=store_result)])[0]


def _settle_only(delivery: Delivery, values: dict[str, Any]) -> None:
    kept = {name: values[name] for name in ("recipients", "attempts")}
    delivery.__dict__.update(kept, version=delivery.version + 1)
    Delivery.objects.filter(pk=delivery.pk).update(**kept, version=delivery.version)


def _delete_if_done(batch: str) -> None:
    """Delete the row of a batch when none of its deliveries is claimed with it any more."""
    with transaction.atomic(using=database()):
        row = DeliveryBatch.objects.select_for_update().filter(pk=batch).first()
        if row is not None and not of(row).exists():
            row.delete()


def of(row: DeliveryBatch) -> Any:
    """Return the deliveries that are still claimed with a batch."""
    return Delivery.objects.filter(pk__in=ids(row), batch=row.pk)


def ids(row: DeliveryBatch) -> Collection[str]:
    """Return the ids that a batch was claimed with, in the order of sending."""
    return [pk for pk, _version in row.items]
