"""Recover the mail that a process was sending when it died.

On the same machine, its journal allows that immediately. Without it, the end of the lease does.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from django.db import DatabaseError, InterfaceError, connections

from email_integration import conf
from email_integration.ledger import batches, clock, continuation, installation, recording, rows, transitions
from email_integration.ledger.claiming import SUSPECT
from email_integration.ledger.records import Change, Ended, Try, Untried
from email_integration.models import Delivery, DeliveryBatch, Status
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Outcome, accepted, classify
from email_integration.queue import continuing, sweeper, wakeups
from email_integration.smtp import Phase, Refused, Reply
from email_integration.timezones import as_stored

from . import own_journal
from .journal import AbandonedJournal, JournalEntry, JournalUnavailable, SlotPhase, SlotState, abandoned
from .recording import wait_after

logger = logging.getLogger(__name__)

#: Seconds between finding an expired lease and taking the batch over: its owner may be slow, and renew it.
SUSPECTED_FOR = 10.0

#: Minimum seconds between two searches of a process for journals of others.
_LOOK_AFTER = 1.0

_looking = threading.Lock()
_looked_at = -_LOOK_AFTER


def look_for_journals() -> None:
    """Recover the mails of dead processes on this machine, unless this process searched a moment ago."""
    global _looked_at  # state of this process
    if not _looking.acquire(blocking=False):
        return
    try:
        if time.monotonic() - _looked_at < _LOOK_AFTER:
            return
        _looked_at = time.monotonic()
        recover_journals()
    except (DatabaseError, InterfaceError) as error:
        connections[rows.database()].close_if_unusable_or_obsolete()
        logger.warning(
            "Mails of a dead process could not be recovered now (%s); a later search recovers them.",
            type(error).__name__,
        )
    finally:
        _looking.release()


def recover_journals() -> None:
    """Recover mails from the journals of dead processes on this machine. Raises ``DatabaseError``."""
    try:
        with abandoned(own_journal.folder(), installation=installation.identity()) as journals:
            for found in journals:
                _recover(found)
                found.remove()
    except JournalUnavailable as error:
        logger.debug("The journals of other processes cannot be searched (%s).", error)


def recover_leases() -> None:
    """Take over the batches whose lease has expired and was not renewed since. Raises ``DatabaseError``."""
    for row in batches.expired():
        batches.suspect(row.pk)
    for row in batches.expired(suspected_for=SUSPECTED_FOR):
        _take_over(row.pk, _by_lease)


def _recover(found: AbandonedJournal) -> None:
    if found.boot_is_ours:
        for entry in found.entries:
            if _is_claim(entry):
                batches.forestall(entry.batch_id or "")
        decide = functools.partial(_by_journal, found.entries)
        for pk in batches.owned_by(found.owner):
            # Wait for a lock on the batch, because the journal is removed afterwards and nothing else is known.
            _take_over(pk, decide, waits=True)
    for entry in found.entries:
        _see_to_the_rest(entry)
    logger.warning(
        "The mails of the dead process %s are recovered: %d mails.",
        found.owner,
        sum(bool(one.delivery_id) for one in found.entries),
    )


def _take_over(
    pk: str, decide: Callable[[DeliveryBatch, Sequence[Delivery]], Sequence[Change]], *, waits: bool = False
) -> None:
    changed = batches.take_over(pk, decide, waits=waits)
    for change in changed:
        if change.delivery.continue_after is not None:
            continuing.publish(change.delivery)
    wakeups.notify({wakeups.key_of(change.delivery) for change in changed if change.delivery.next_at is not None})


def _see_to_the_rest(entry: JournalEntry) -> None:
    """Recover a mail that is no longer claimed: record a late reply, or let its continuation be published."""
    delivery = rows.load(entry.delivery_id) if entry.delivery_id else None
    if delivery is None:
        return
    if entry.state is SlotState.ANSWERED:
        recording.accept_late(_answered(delivery, entry))
    # For every mail in the journal: an end without a dot is recorded before the slot says so.
    if delivery.continue_after is not None:
        continuation.later(delivery.pk, 0)


def _by_journal(entries: Sequence[JournalEntry], row: DeliveryBatch, deliveries: Sequence[Delivery]) -> list[Change]:
    # Found by the batch, in which a mail has one slot, and not by the version, which a late reply may have changed. If
    # a slot could not be freed and there are two, the more advanced one counts.
    in_turn = sorted(entries, key=lambda entry: entry.state is not SlotState.IN_HAND)
    found = {entry.delivery_id: entry for entry in in_turn if entry.batch_id == row.pk}
    is_torn = any(entry.torn and not entry.delivery_id for entry in entries)
    alone = len(row.items) == 1 and sum(map(_may_have_killed, entries)) == 1
    changes: list[Change] = []
    for delivery in deliveries:
        entry = found.get(delivery.pk)
        if entry is None:
            # An unreadable entry may belong to any of these.
            changes.append(_in_doubt(delivery, row, None) if is_torn else _given_back(delivery))
        elif entry.state is SlotState.IN_HAND:
            changes.append(_suspect(delivery, alone=alone) if _may_have_killed(entry) else _given_back(delivery))
        elif entry.state is SlotState.DOT or entry.torn:
            changes.append(_in_doubt(delivery, row, entry))
        else:
            changes.append(_answered(delivery, entry, row))
    return changes


def _by_lease(row: DeliveryBatch, deliveries: Sequence[Delivery]) -> list[Change]:
    """Return the changes without a journal: permitted mails are in doubt, the others are not."""
    permitted = {pk for pk, _ in row.items[: row.permitted]}
    return [_in_doubt(one, row, None) if one.pk in permitted else _given_back(one) for one in deliveries]


def _given_back(delivery: Delivery) -> Change:
    return Untried(delivery=delivery, step=transitions.giving_back)


def _may_have_killed(entry: JournalEntry) -> bool:
    """Return whether the process died while it prepared or wrote the mail, and not while it waited for a reply."""
    return entry.state is SlotState.IN_HAND and entry.phase is not SlotPhase.WAITING and not _is_claim(entry)


def _is_claim(entry: JournalEntry) -> bool:
    """Return whether the entry is for a batch that was being claimed, and not for a mail."""
    return not entry.torn and not entry.delivery_id


def _suspect(delivery: Delivery, *, alone: bool) -> Change:
    """Return the change for a mail that may have killed its process. It is blamed only if no other mail may have.

    Up to SUSPECT, ``returned`` counts how often it may have been one of several. After that the mail is tried alone,
    and each such death counts towards its quarantine.
    """
    returned = max(delivery.returned, SUSPECT) + 1 if alone else min(delivery.returned + 1, SUSPECT)
    returned = max(returned, delivery.returned)
    if alone and returned - SUSPECT >= conf.get("QUARANTINE_AFTER"):
        reason = "the worker was lost at every attempt"
        quarantining = functools.partial(
            transitions.ending, status=Status.QUARANTINED, cause=Cause.WORKER_LOST, reason=reason
        )
        return Untried(delivery=delivery, step=quarantining)
    return Untried(delivery=delivery, step=functools.partial(transitions.giving_back, returned=returned))


def _in_doubt(delivery: Delivery, row: DeliveryBatch, entry: JournalEntry | None) -> Ended:
    ended = batches.in_doubt(row, delivery)
    return ended if entry is None else replace(ended, attempt=_as_noted(ended.attempt, entry))


def _answered(delivery: Delivery, entry: JournalEntry, row: DeliveryBatch | None = None) -> Ended:
    """Return the outcome of the reply to the final dot that the dead process did not record."""
    reply = Reply(code=entry.code or 0)
    outcome: Outcome
    if reply.positive and entry.dot is not None:
        addresses = [item["address"] for item in delivery.recipients]
        taken = tuple(addresses[place] for place in entry.dot.recipients)
        refused = {addresses[place]: Reply(code=code) for place, code in entry.dot.refused.items()}
        outcome = accepted(reply.code, taken, refused, reply=reply)
    else:
        outcome = classify(Refused(Phase.FINAL_DOT, "", reply), own_sender=delivery.from_at is not None)
    # Like one in doubt, it includes everything known about the attempt.
    known = batches.in_doubt(row, delivery).attempt if row is not None else Try(route=None, started_at=clock.now())
    known = replace(known, worker_lost=False, wait=wait_after(delivery, outcome))
    return Ended(delivery=delivery, outcome=outcome, attempt=_as_noted(known, entry))


def _as_noted(attempt: Try, entry: JournalEntry) -> Try:
    """Return the attempt with the values from the journal."""
    noted = replace(attempt, started_at=as_stored(dt.datetime.fromtimestamp(entry.started_at or 0.0, tz=dt.UTC)))
    if entry.dot is None:
        return noted
    return replace(noted, smtp_config=entry.dot.configuration, config_version=entry.dot.config_version)


sweeper.also(look_for_journals)
sweeper.where_leases_ended(recover_leases)
