"""Batches: deliveries that a process claims together, records together, and that others take over when it is lost.

A claim makes a row of the batch, and writes its id into each of its deliveries. As long as the row is there, only its
owner records what happens to them; all others move them only in the transaction that deletes the row. Each writer
locks the row before the deliveries.
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

#: Seconds for which the claim of a process that was killed may still be under way in the database.
_FORESTALLED = 60.0


@dataclass(kw_only=True)
class Batch:
    """Deliveries that this process has claimed, in the order in which they are sent.

    The owner may send final dots for the first ``permitted`` of them, until ``lease_ends`` by ``time.monotonic()``.
    ``open`` are the ids of which nothing is recorded yet.
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
    """Of each change whether it was made; whether the batch is still its owner's: if not, what is open belongs to
    others.
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
    """Claim what is due of a broker's queue, the most urgent first; None when nothing is.

    That is mail of ``priorities`` without a queue of its own, and mail that has ``queue`` for its own. At most
    ``limit`` mails, and 4 MB of contents; a large or suspect mail goes alone. Up to half of them are of the priorities
    ``along``, which wait in other queues: a flood of those does not hold up this one. ``permitted`` None is all of
    them.
    ``only`` restricts it to these ids. With ``mark`` it does not look again where an earlier claim has seen all. The
    id of the batch is known before its claim is committed: ``noted`` is entered with it, and left when the claim has
    come to its end.

    Raises ``DatabaseError``. If the answer to the commit was lost, what was claimed is given back, now or by the next
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
    """Whether ``claim`` would find anything, at a third of its cost. Raises ``DatabaseError``."""
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
    """Record what happened to some of a batch's deliveries, all in one commit, and renew its lease.

    ``permitted`` is for how many of its mails final dots may be sent from now on. Without ``store_result`` no results
    are stored. After the commit each is emitted as signals and log lines. Raises ``DatabaseError``; then it is to be
    recorded again, which does nothing to what was recorded in fact. With no changes the lease is renewed.
    """
    ids = [change.delivery.id for change in changes]
    if len(set(ids)) != len(ids):
        raise ValueError("A delivery is recorded once at a time.")
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
    # Where the row is gone, it is not known whether that was asked: the answer to the commit may have been lost.
    if done.cancel_requested or not done.is_owned:
        _cancel_requested(batch, [change.delivery for change in changes])
    return Recorded(made=done.made, owned=owned)


def _cancel_requested(batch: Batch, recorded: Collection[Delivery]) -> None:
    """Note it on the open mails that are to be cancelled. Those that were recorded without an end are cancelled now."""
    transitions.cancel_requested(recorded)
    rows = Delivery.objects.filter(pk__in=batch.open, cancel_requested=True)
    requested = set(rows.values_list("pk", flat=True))
    for one in batch.deliveries:
        if one.pk in requested:
            one.cancel_requested = True


def renew(batch: Batch) -> bool:
    """Renew the lease of a batch; False when it is not its owner's any more. Raises ``DatabaseError``."""
    return record(batch, ()).owned if batch.open else False


def release(batch: Batch | str) -> bool:
    """Give back what is open of a batch, and delete its row; False when that is gone. Raises ``DatabaseError``."""
    batch_id = batch if isinstance(batch, str) else batch.id
    released = conflicts.repeated(lambda: _take_over(batch_id, lambda row, deliveries: (), waits=True)) is not None
    if isinstance(batch, Batch):
        batch.open.clear()
    return released


def take_over(
    batch_id: str, decide: Callable[[DeliveryBatch, list[Delivery]], Sequence[Change]], *, waits: bool = False
) -> list[Change]:
    """Move the deliveries of a batch of another owner, in the transaction that deletes its row; return what was made.

    ``decide`` is given the row, and those of its deliveries that are claimed with it still, in the order in which they
    are sent and without their contents. What it says nothing of is given back. An owner that lives on does not own
    them from then on. Nothing is done when the row is gone, or, unless it ``waits`` for that, is locked. Raises
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
        rows.update(suspected_at=timezone.now())  # a write first, which SQLite waits for
    elif connection.features.has_select_for_update_skip_locked and not waits:
        rows = rows.select_for_update(skip_locked=True)
    else:
        rows = rows.select_for_update()
    return rows.first()


def in_doubt(row: DeliveryBatch, delivery: Delivery, *, reason: str = "") -> Ended:
    """The end of a mail of a lost batch whose final dot was sent, or may have been: pinned to what it was sent by."""
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
    """The ids of the batches of an owner. Raises ``DatabaseError``."""
    rows = DeliveryBatch.objects.filter(owner=owner[:255])
    return list(rows.order_by("claimed_at").values_list("pk", flat=True))


def forestall(batch_id: str) -> None:
    """Wait for the claim of a batch to be committed, or have it fail when it is. Raises ``DatabaseError``.

    It is for the claim of a process that was killed meanwhile: the database may still be at it. A row of its id, with
    no mails and no owner, comes before the claim's own, and is deleted when its lease has run out.
    """
    ahead = database_time.DatabaseTime(ahead=_FORESTALLED)
    row = DeliveryBatch(
        id=batch_id, owner="", claimed_at=database_time.DatabaseTime(), lease_until=ahead, permitted=0, items=[]
    )
    DeliveryBatch.objects.bulk_create([row], ignore_conflicts=True)


def expired(*, suspected_for: float | None = None) -> list[DeliveryBatch]:
    """The batches whose lease has run out by the database's clock. Raises ``DatabaseError``.

    With ``suspected_for`` those alone that were marked by ``suspect`` so many seconds ago, and not heard of since.
    """
    rows = DeliveryBatch.objects.filter(lease_until__lt=database_time.DatabaseTime())
    if suspected_for is not None:
        rows = rows.filter(suspected_at__lte=database_time.DatabaseTime(ahead=-suspected_for))
    return list(rows.order_by("lease_until"))


def suspect(batch_id: str) -> bool:
    """Mark a batch whose lease has run out; False when it was marked before, renewed or is gone."""
    now = database_time.DatabaseTime()
    rows = DeliveryBatch.objects.filter(pk=batch_id, suspected_at=None, lease_until__lt=now)
    return bool(rows.update(suspected_at=now))


def give_back_lost() -> int:
    """Give back deliveries that are claimed with a batch whose row is gone, and return how many they were.

    No transaction leaves that behind; a backup of single tables can. Raises ``DatabaseError``.
    """
    claimed = Delivery.objects.filter(next_at__isnull=False).exclude(batch="")
    lost = claimed.filter(~Exists(DeliveryBatch.objects.filter(pk=OuterRef("batch"))))
    found = list(lost.order_by().values_list("pk", "batch", "version"))
    # Each as it was seen: it may have been recorded and claimed anew since.
    return sum(
        Delivery.objects.filter(pk=pk, batch=batch, version=version).update(batch="", version=version + 1)
        for pk, batch, version in found
    )


# -- lost answers ---------------------------------------------------------------------------------------------------


#: Batches of this process of which it is not known whether they were committed.
_unsure: list[str] = []
_releasing = threading.Lock()


def _close_if_lost() -> None:
    connection: Any = connections[database()]
    if connection.connection is not None and not connection.is_usable():
        connection.close()


def _release_unsure() -> None:
    """Give back what was claimed if its commit was done: the answer was lost."""
    with _releasing:
        while _unsure:
            batch_id = _unsure[0]
            forestall(batch_id)  # the server may still be at it
            if DeliveryBatch.objects.filter(pk=batch_id).exclude(owner="").exists():
                release(batch_id)
                logger.warning("Batch %s was claimed and its answer lost; it is given back.", batch_id)
            _unsure.pop(0)
