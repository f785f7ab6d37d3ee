"""Record what happened to claimed deliveries: all in one commit, and what the server accepted in any case."""

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

#: Not needed to record how it ended, and may be large.
_CONTENT = ("content",)


@dataclass(frozen=True, kw_only=True)
class RecordedChanges:
    """Of each change whether it was made; whether the batch was there, and one of its mails is to be cancelled."""

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
    """Make the changes, renew the batch, or delete it with ``closes``, all in one commit. Raises ``DatabaseError``.

    A change that was made already, and whose commit's answer was lost, is made; whose delivery has been moved since is
    not, unless the server accepted it. The instances of those made are brought up to date, and their events emitted.
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
    """Emit an attempt whose recipients stood so before; return what is to be done for that after the commit."""
    instrumentation.installed().attempted(ended)
    return events.outcome(ended, before)


def _record(
    ready: Sequence[Step], *, batch: str, permitted: int | None, closes: bool
) -> record_statement.StatementResult:
    using, lease = database(), float(conf.get("LEASE"))
    connection = connections[using]
    if connection.vendor == "postgresql":
        # In the transaction of another a savepoint, so that it survives what fails here.
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
    """Lock the row of a batch; say whether it is there, and whether one of its mails is to be cancelled."""
    # By a write, which SQLite waits for; it would refuse one after a question.
    if not batches.update(suspected_at=None):
        return False, False
    return True, bool(batches.values_list("cancel_requested", flat=True).get())


def renew(batches: Any, *, permitted: int | None, lease: float) -> bool:
    """Have the lease of these batches end ``lease`` seconds from now, and permit more; False when there are none."""
    values: dict[str, Any] = {"suspected_at": None, "lease_until": database_time.DatabaseTime(ahead=lease)}
    if permitted is not None:
        values["permitted"] = Greatest(F("permitted"), Value(permitted))
    return bool(batches.update(**values))


# -- what was moved since -------------------------------------------------------------------------------------------


def accept_late(ended: Ended, *, store_result: bool = True) -> bool:
    """Record what the server accepted, although its delivery has been moved since; False when that was known.

    Its recipients are settled, whoever sends to the others meanwhile.
    """
    return isinstance(ended.outcome, Accepted) and _record_late(ended, batch=None, store_result=store_result)


def _record_late(change: Change, *, batch: str | None, store_result: bool) -> bool:
    """Make a change whose delivery has a newer version by now: as said in ``record_changes``.

    ``batch`` is the one that it was claimed with, if that is there still.
    """
    delivery = change.delivery
    with steps.unchanged_on_error(delivery), transaction.atomic(using=database()):
        before = dict(delivery.__dict__)
        number = delivery.attempts + 1
        if not _reload_under_lock(delivery):
            return False
        if isinstance(change, Ended) and _is_logged(change, number):
            # The answer to the commit was lost, and nothing of it has been emitted yet.
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
    """Whether this attempt is recorded already."""
    log = DeliveryAttempt.objects.filter(delivery=ended.delivery.pk, number=number)
    worker = ended.attempt.worker or columns.this_worker()
    return log.filter(started_at=ended.attempt.started_at, worker=worker).exists()


def _emit_recorded(ended: Ended, before: dict[str, Any]) -> None:
    """Emit what was recorded of a delivery as it was ``before``."""
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
        return False  # known already
    values = columns.after_attempt(replace(ended, withheld=()))
    if delivery.is_settled:  # what follows has gone its way already
        values["continue_after"] = None
    if delivery.batch and values["status"] not in FINAL:
        # It may be sent to the rest at this moment: who has it in hand says how that ended, on top of this.
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
    """Delete the row of a batch none of whose deliveries is claimed with it any more."""
    with transaction.atomic(using=database()):
        row = DeliveryBatch.objects.select_for_update().filter(pk=batch).first()
        if row is not None and not of(row).exists():
            row.delete()


def of(row: DeliveryBatch) -> Any:
    """The deliveries that are claimed with a batch still."""
    return Delivery.objects.filter(pk__in=ids(row), batch=row.pk)


def ids(row: DeliveryBatch) -> Collection[str]:
    """The ids that a batch was claimed with, in the order in which they are sent."""
    return [pk for pk, _version in row.items]
