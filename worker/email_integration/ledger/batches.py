"""Batches: deliveries that a process claims and records together, and that other processes take over if it dies.

A claim creates a row for the batch, and writes its id into each of its deliveries. While the row exists, only its owner
records outcomes of these deliveries. All other processes move them only in the transaction that deletes the row. Each
writer locks the row before the deliveries.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from email_integration import conf
from email_integration.message.rendering import from_header_of
from email_integration.models import Delivery, DeliveryBatch, database_time
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import InDoubt
from email_integration.smtp import Relay

from . import claiming, conflicts, recording, transitions
from .low_water import LowWaterMark
from .records import Change, Ended, Try, Untried
from .rows import database

logger = logging.getLogger(__name__)

#: Seconds for which the database may still process the claim of a killed process.
_FORESTALLED = 60.0


@dataclass(kw_only=True)
class Batch:
    """Deliveries that this process has claimed, in the order of sending.

    The owner may send final dots for the first ``permitted`` deliveries, until ``lease_ends`` by ``time.monotonic()``.
    ``open`` holds the ids of the deliveries without a recorded outcome.
    """

    id: str
    owner: str
    relay: Relay | None = field(repr=False)
    deliveries: list[Delivery] = field(repr=False)
    permitted: int
    lease_ends: float
    is_full: bool
    open: set[str]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The result of a record.

    ``made`` says for each change whether it was made. ``owned`` is false when the batch has a new owner, to whom the
    open deliveries belong.
    """

    made: list[bool]
    owned: bool


def claim(
    queue: str,
    priorities: Collection[str],
    *,
    limit: int,
    owner: str,
    relay: Relay | None,
    permitted: int | None = None,
    along: Collection[str] = (),
    only: Collection[str] = (),
    mark: LowWaterMark | None = None,
    noted: Callable[[str], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> Batch | None:
    """Claim the due mail of a broker's queue, the most urgent first. Return None when no mail is due.

    The claim selects mail of ``priorities`` without a queue chosen by the caller, and mail for which the caller has
    chosen ``queue``. It selects at most ``limit`` mails, and 4 MB of contents. A large or suspect mail is claimed
    alone. Up to half of the mails have the priorities ``along``, which wait in other queues; many of these cannot block
    this queue. ``owner`` names this process, and ``relay`` is the one to send through. ``permitted`` is the number of
    mails whose final dots may be sent; None means all.

    ``only`` restricts the claim to these ids. With ``mark`` the claim skips index entries that an earlier claim has
    already seen. The id of the batch is known before the claim is committed: the context manager ``noted(id)`` is
    entered before the claim, and exited after it.

    Raises ``DatabaseError``. If the answer to the commit was lost, the claimed mail is given back, now or by the next
    claim of this process.
    """
    if not (queue or priorities):
        return None
    _release_unsure()
    wanted = claiming.Wanted(
        queue=queue, priorities=tuple(priorities), along=tuple(along), limit=limit, only=tuple(only), mark=mark
    )
    row = claiming.NewBatch(
        id="",
        owner=owner[:255],
        lease=float(conf.get("LEASE")),
        permitted=permitted,
        smtp_config=relay.name if relay else "",
        config_version=relay.version if relay else "",
        from_email=relay.from_email if relay else "",
    )
    return conflicts.repeated(lambda: _claim(wanted, replace(row, id=str(uuid.uuid4())), relay, noted))


def is_due(queue: str, priorities: Collection[str], *, along: Collection[str] = (), mark: LowWaterMark) -> bool:
    """Return whether ``claim`` with these arguments would find mail, at a third of its cost.

    Raises ``DatabaseError``.
    """
    _release_unsure()
    wanted = claiming.Wanted(queue=queue, priorities=tuple(priorities), along=tuple(along), limit=1, mark=mark)
    return bool(queue or priorities) and conflicts.repeated(lambda: claiming.is_due(wanted, using=database()))


def _claim(
    wanted: claiming.Wanted,
    row: claiming.NewBatch,
    relay: Relay | None,
    noted: Callable[[str], contextlib.AbstractContextManager[object]],
) -> Batch | None:
    using = database()
    asked_at = time.monotonic()
    try:
        with noted(row.id):
            claimed = claiming.claim(wanted, row, asked_at=asked_at, using=using)
    except BaseException as error:
        if not connections[using].in_atomic_block and not conflicts.is_conflict(error):
            _unsure.append(row.id)
            _close_if_lost()
            with contextlib.suppress(OperationalError, InterfaceError):
                _release_unsure()
        raise
    if not claimed.deliveries:
        return None
    return Batch(
        id=row.id,
        owner=row.owner,
        relay=relay,
        deliveries=claimed.deliveries,
        permitted=len(claimed.deliveries) if row.permitted is None else row.permitted,
        lease_ends=asked_at + row.lease,
        is_full=claimed.is_full,
        open={one.id for one in claimed.deliveries},
    )


def record(
    batch: Batch, changes: Sequence[Change], *, permitted: int | None = None, store_result: bool = True
) -> Recorded:
    """Record the outcomes of some deliveries of a batch in one commit, and renew its lease.

    ``permitted`` is the number of mails for which final dots may be sent from now on. Without ``store_result`` no
    results are stored. After the commit, signals and log lines are emitted for each change. With no changes only the
    lease is renewed.

    Raises ``DatabaseError``. Then the caller must record the same changes again; a change that was recorded is not made
    twice. Raises ``ValueError`` when a delivery has two changes.
    """
    ids = [change.delivery.id for change in changes]
    if len(set(ids)) != len(ids):
        raise ValueError("A delivery must not occur twice in one recording.")
    closes = batch.open.issubset(ids)
    asked_at = time.monotonic()
    done = conflicts.repeated(
        lambda: recording.record_changes(
            changes, batch=batch.id, permitted=permitted, closes=closes, store_result=store_result
        )
    )
    was_open = bool(batch.open)
    batch.open.difference_update(ids)
    owned = done.is_owned or (was_open and not batch.open and all(done.made))
    if owned:
        batch.lease_ends = asked_at + float(conf.get("LEASE"))
        batch.permitted = max(batch.permitted, permitted or 0)
    else:
        batch.lease_ends = asked_at
        batch.open.clear()
    # If the row is gone, a requested cancellation is unknown, because the answer to the commit may have been lost.
    if done.cancel_requested or not done.is_owned:
        _cancel_requested(batch, [change.delivery for change in changes])
    return Recorded(made=done.made, owned=owned)


def _cancel_requested(batch: Batch, recorded: Collection[Delivery]) -> None:
    """Set ``cancel_requested`` on the open mails to cancel. Recorded mails that are not finished are cancelled now."""
    transitions.cancel_requested(recorded)
    rows = Delivery.objects.filter(pk__in=batch.open, cancel_requested=True)
    requested = set(rows.values_list("pk", flat=True))
    for one in batch.deliveries:
        if one.pk in requested:
            one.cancel_requested = True


def renew(batch: Batch) -> bool:
    """Renew the lease of a batch. Return False when this process no longer owns it. Raises ``DatabaseError``."""
    return record(batch, ()).owned if batch.open else False


def release(batch: Batch | str) -> bool:
    """Give back the open deliveries of a batch, and delete its row. Return False if the row is gone.

    Raises ``DatabaseError``.
    """
    batch_id = batch if isinstance(batch, str) else batch.id
    released = conflicts.repeated(lambda: _take_over(batch_id, lambda row, deliveries: (), waits=True)) is not None
    if isinstance(batch, Batch):
        batch.open.clear()
    return released


def take_over(
    batch_id: str, decide: Callable[[DeliveryBatch, list[Delivery]], Sequence[Change]], *, waits: bool = False
) -> list[Change]:
    """Move the deliveries of another owner's batch in the transaction that deletes its row. Return the changes made.

    ``decide`` gets the row, and the deliveries that are still claimed with it, in the order of sending and without
    their contents. Deliveries without a decision are given back. A living owner no longer owns the deliveries
    afterwards. Nothing is done when the row is gone, or when it is locked and ``waits`` is false. Raises
    ``DatabaseError``.
    """
    return conflicts.repeated(lambda: _take_over(batch_id, decide, waits=waits)) or []


def _take_over(
    batch_id: str, decide: Callable[[DeliveryBatch, list[Delivery]], Sequence[Change]], *, waits: bool
) -> list[Change] | None:
    with transaction.atomic(using=database()):
        row = _locked(batch_id, waits=waits)
        if row is None:
            return None
        places = {pk: place for place, pk in enumerate(recording.ids(row))}
        claimed = sorted(recording.of(row).defer("content"), key=lambda one: places[one.pk])
        changes = list(decide(row, claimed))
        decided = {change.delivery.pk for change in changes}
        rest = [Untried(delivery=one, step=transitions.giving_back) for one in claimed if one.pk not in decided]
        done = recording.record_changes([*changes, *rest], batch=batch_id, closes=True)
    if row.cancel_requested:
        transitions.cancel_requested(claimed)
    return [change for change, is_made in zip(changes, done.made, strict=False) if is_made]


def _locked(batch_id: str, *, waits: bool) -> DeliveryBatch | None:
    rows = DeliveryBatch.objects.filter(pk=batch_id)
    connection = transaction.get_connection(rows.db)
    if connection.vendor == "sqlite":
        rows.update(suspected_at=timezone.now())  # SQLite waits only when a write comes first
    elif connection.features.has_select_for_update_skip_locked and not waits:
        rows = rows.select_for_update(skip_locked=True)
    else:
        rows = rows.select_for_update()
    return rows.first()


def in_doubt(row: DeliveryBatch, delivery: Delivery, *, reason: str = "") -> Ended:
    """Return the outcome of a mail of a lost batch whose final dot was, or may have been, sent.

    ``row`` is that of the batch; ``reason`` replaces the usual text. The outcome records the sender and the
    configuration that the mail was sent with.
    """
    default = "the worker was lost after the claim and before the outcome"
    from_header = sender = ""
    if delivery.from_at is not None and not delivery.from_header and row.from_email:
        from_header, sender = from_header_of(row.from_email), delivery.sender
    attempt = Try(
        route=None,
        started_at=row.claimed_at,
        worker_lost=True,
        from_header=from_header,
        sender=sender,
        smtp_config=row.smtp_config,
        config_version=row.config_version,
        worker=row.owner,
    )
    outcome = InDoubt(cause=Cause.WORKER_LOST, reason=reason or default)
    return Ended(delivery=delivery, outcome=outcome, attempt=attempt)


def owned_by(owner: str) -> list[str]:
    """Return the ids of the batches of an owner. Raises ``DatabaseError``."""
    rows = DeliveryBatch.objects.filter(owner=owner[:255])
    return list(rows.order_by("claimed_at").values_list("pk", flat=True))


def forestall(batch_id: str) -> None:
    """Wait for the claim of a batch to be committed, or make it fail at its commit. Raises ``DatabaseError``.

    The process that made the claim was killed, but the database may still execute the claim. This function inserts a
    row with the batch's id, no mails and no owner before the claim's row. The row is deleted when its lease has
    expired.
    """
    ahead = database_time.DatabaseTime(ahead=_FORESTALLED)
    row = DeliveryBatch(
        id=batch_id, owner="", claimed_at=database_time.DatabaseTime(), lease_until=ahead, permitted=0, items=[]
    )
    DeliveryBatch.objects.bulk_create([row], ignore_conflicts=True)


def expired(*, suspected_for: float | None = None) -> list[DeliveryBatch]:
    """Return the batches whose lease has expired by the database's clock. Raises ``DatabaseError``.

    With ``suspected_for``, return only those that ``suspect`` marked at least that many seconds ago, and that were not
    renewed since.
    """
    rows = DeliveryBatch.objects.filter(lease_until__lt=database_time.DatabaseTime())
    if suspected_for is not None:
        rows = rows.filter(suspected_at__lte=database_time.DatabaseTime(ahead=-suspected_for))
    return list(rows.order_by("lease_until"))


def suspect(batch_id: str) -> bool:
    """Mark a batch whose lease has expired. Return False when it was marked before, was renewed or is gone.

    Raises ``DatabaseError``.
    """
    now = database_time.DatabaseTime()
    rows = DeliveryBatch.objects.filter(pk=batch_id, suspected_at=None, lease_until__lt=now)
    return bool(rows.update(suspected_at=now))


def give_back_lost() -> int:
    """Give back deliveries that are claimed with a batch whose row is gone, and return their number.

    No transaction leaves such deliveries behind, but restoring a backup of single tables can. Raises ``DatabaseError``.
    """
    claimed = Delivery.objects.filter(next_at__isnull=False).exclude(batch="")
    lost = claimed.filter(~Exists(DeliveryBatch.objects.filter(pk=OuterRef("batch"))))
    found = list(lost.order_by().values_list("pk", "batch", "version"))
    # Only the version that was read: the delivery may have been recorded and claimed again since.
    return sum(
        Delivery.objects.filter(pk=pk, batch=batch, version=version).update(batch="", version=version + 1)
        for pk, batch, version in found
    )


# -- lost answers ---------------------------------------------------------------------------------------------------


#: Batches of this process whose claim may or may not be committed.
_unsure: list[str] = []
_releasing = threading.Lock()


def _close_if_lost() -> None:
    connection: Any = connections[database()]
    if connection.connection is not None and not connection.is_usable():
        connection.close()


def _release_unsure() -> None:
    """Give back batches whose claim was committed although its answer was lost."""
    with _releasing:
        while _unsure:
            batch_id = _unsure[0]
            forestall(batch_id)  # the server may still execute the claim
            if DeliveryBatch.objects.filter(pk=batch_id).exclude(owner="").exists():
                release(batch_id)
                logger.warning("Batch %s was claimed, but the answer was lost; it is given back.", batch_id)
            _unsure.pop(0)
