"""Recover the mail that a process had in hand when it died.

Its journal says so at once, on the same machine. Without it, the end of the lease does.
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

#: Seconds between a lease found expired and the batch taken over: its owner may be slow, and renew it.
SUSPECTED_FOR = 10.0

#: A process looks for journals of others no more often than this, in seconds.
_LOOK_AFTER = 1.0

_looking = threading.Lock()
_looked_at = -_LOOK_AFTER


def look_for_journals() -> None:
    """Recover what processes of this machine had in hand that have died, unless that was looked for a moment ago."""
    global _looked_at  # of this process
    if not _looking.acquire(blocking=False):
        return
    try:
        if time.monotonic() - _looked_at < _LOOK_AFTER:
            return
        _looked_at = time.monotonic()
        recover_journals()
    except (DatabaseError, InterfaceError) as error:
        connections[rows.database()].close_if_unusable_or_obsolete()
        logger.warning("What a dead process had in hand is recovered later (%s).", type(error).__name__)
    finally:
        _looking.release()


def recover_journals() -> None:
    """Recover by the journals of processes of this machine that have died. Raises ``DatabaseError``."""
    try:
        with abandoned(own_journal.folder(), installation=installation.identity()) as journals:
            for found in journals:
                _recover(found)
                found.remove()
    except JournalUnavailable as error:
        logger.debug("Journals of others cannot be looked for (%s).", error)


def recover_leases() -> None:
    """Take over the batches whose lease has run out, if nothing was heard since. Raises ``DatabaseError``."""
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
            # It waits for who has it locked: the journal, which is removed after this, is all that is known.
            _take_over(pk, decide, waits=True)
    for entry in found.entries:
        _see_to_the_rest(entry)
    logger.warning(
        "What process %s had in hand is recovered: %d mails.",
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
    """What is known of a mail that was no longer claimed: a reply that is not recorded, or what follows it."""
    delivery = rows.load(entry.delivery_id) if entry.delivery_id else None
    if delivery is None:
        return
    if entry.state is SlotState.ANSWERED:
        recording.accept_late(_answered(delivery, entry))
    # Of whatever it had in hand: what ended without a dot has its end recorded before the slot says so.
    if delivery.continue_after is not None:
        continuation.later(delivery.pk, 0)


def _by_journal(entries: Sequence[JournalEntry], row: DeliveryBatch, deliveries: Sequence[Delivery]) -> list[Change]:
    # By its batch, in which a mail has one slot, and not by its version: a late reply may have moved that meanwhile.
    # Where one could not be freed and there are two, the one that came further tells.
    in_turn = sorted(entries, key=lambda entry: entry.state is not SlotState.IN_HAND)
    found = {entry.delivery_id: entry for entry in in_turn if entry.batch_id == row.pk}
    is_torn = any(entry.torn and not entry.delivery_id for entry in entries)
    alone = len(row.items) == 1 and sum(map(_may_have_killed, entries)) == 1
    changes: list[Change] = []
    for delivery in deliveries:
        entry = found.get(delivery.pk)
        if entry is None:
            # One of which the journal cannot be read may be any of these.
            changes.append(_in_doubt(delivery, row, None) if is_torn else _given_back(delivery))
        elif entry.state is SlotState.IN_HAND:
            changes.append(_suspect(delivery, alone=alone) if _may_have_killed(entry) else _given_back(delivery))
        elif entry.state is SlotState.DOT or entry.torn:
            changes.append(_in_doubt(delivery, row, entry))
        else:
            changes.append(_answered(delivery, entry, row))
    return changes


def _by_lease(row: DeliveryBatch, deliveries: Sequence[Delivery]) -> list[Change]:
    """What was permitted is in doubt, and what lies beyond is not."""
    permitted = {pk for pk, _ in row.items[: row.permitted]}
    return [_in_doubt(one, row, None) if one.pk in permitted else _given_back(one) for one in deliveries]


def _given_back(delivery: Delivery) -> Change:
    return Untried(delivery=delivery, step=transitions.giving_back)


def _may_have_killed(entry: JournalEntry) -> bool:
    """Whether its process was killed while it prepared or wrote it; not while it waited for a reply."""
    return entry.state is SlotState.IN_HAND and entry.phase is not SlotPhase.WAITING and not _is_claim(entry)


def _is_claim(entry: JournalEntry) -> bool:
    """Whether it is of a batch that was being claimed, and of no mail."""
    return not entry.torn and not entry.delivery_id


def _suspect(delivery: Delivery, *, alone: bool) -> Change:
    """One that may have killed its process; it is to blame only where no other may have.

    Up to SUSPECT it is counted how often it may have been one of several. From there on it is tried alone, and each
    such death counts towards its quarantine.
    """
    returned = max(delivery.returned, SUSPECT) + 1 if alone else min(delivery.returned + 1, SUSPECT)
    returned = max(returned, delivery.returned)
    if alone and returned - SUSPECT >= conf.get("QUARANTINE_AFTER"):
        reason = "its worker was lost every time it was tried"
        quarantining = functools.partial(
            transitions.ending, status=Status.QUARANTINED, cause=Cause.WORKER_LOST, reason=reason
        )
        return Untried(delivery=delivery, step=quarantining)
    return Untried(delivery=delivery, step=functools.partial(transitions.giving_back, returned=returned))


def _in_doubt(delivery: Delivery, row: DeliveryBatch, entry: JournalEntry | None) -> Ended:
    ended = batches.in_doubt(row, delivery)
    return ended if entry is None else replace(ended, attempt=_as_noted(ended.attempt, entry))


def _answered(delivery: Delivery, entry: JournalEntry, row: DeliveryBatch | None = None) -> Ended:
    """What the reply to the final dot meant that the dead process did not come to record."""
    reply = Reply(code=entry.code or 0)
    outcome: Outcome
    if reply.positive and entry.dot is not None:
        addresses = [item["address"] for item in delivery.recipients]
        taken = tuple(addresses[place] for place in entry.dot.recipients)
        refused = {addresses[place]: Reply(code=code) for place, code in entry.dot.refused.items()}
        outcome = accepted(reply.code, taken, refused, reply=reply)
    else:
        outcome = classify(Refused(Phase.FINAL_DOT, "", reply), own_sender=delivery.from_at is not None)
    # As one in doubt it has all that is known of the attempt.
    known = batches.in_doubt(row, delivery).attempt if row is not None else Try(route=None, started_at=clock.now())
    known = replace(known, worker_lost=False, wait=wait_after(delivery, outcome))
    return Ended(delivery=delivery, outcome=outcome, attempt=_as_noted(known, entry))


def _as_noted(attempt: Try, entry: JournalEntry) -> Try:
    """The attempt, with what the journal knows of it."""
    noted = replace(attempt, started_at=as_stored(dt.datetime.fromtimestamp(entry.started_at or 0.0, tz=dt.UTC)))
    if entry.dot is None:
        return noted
    return replace(noted, smtp_config=entry.dot.configuration, config_version=entry.dot.config_version)


sweeper.also(look_for_journals)
sweeper.where_leases_ended(recover_leases)
