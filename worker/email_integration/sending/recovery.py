"""What becomes of mail that a process had in hand when it died.

Its journal says so at once, on the same machine. Without it, the end of the lease does.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from django.db import DatabaseError, InterfaceError, connections

from email_integration import conf
from email_integration.addresses import envelope_address
from email_integration.exceptions import InvalidMail
from email_integration.ledger import batches, clock, continuation, installation, rows, transitions
from email_integration.ledger.records import Change, Ended, Try, Untried
from email_integration.message.rendering import from_header_of
from email_integration.models import Delivery, DeliveryBatch, Status
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import InDoubt, Outcome, accepted, classify
from email_integration.queue import sweeper, wakeups
from email_integration.smtp import Phase, Refused, Reply

from . import own_journal
from .journal import Abandoned, Entry, State, abandoned
from .recording import go_on

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
    for found in abandoned(own_journal.folder(), installation=installation.identity()):
        try:
            _recover(found)
        except BaseException:
            found.release()
            raise
        found.remove()


def recover_leases() -> None:
    """Take over the batches whose lease has run out and whose owner was not heard of since. Raises ``DatabaseError``."""
    for row in batches.expired():
        if row.suspected_at is None:
            batches.suspect(row.pk)
        elif clock.now() - row.suspected_at > dt.timedelta(seconds=SUSPECTED_FOR):
            _take_over(row.pk, _by_lease)


def _recover(found: Abandoned) -> None:
    by_id = {entry.delivery_id: entry for entry in found.entries if not entry.is_torn}
    if found.boot_is_ours:
        decide = functools.partial(_by_journal, by_id, any(entry.is_torn for entry in found.entries))
        for pk in batches.owned_by(found.owner):
            _take_over(pk, decide)
    for entry in by_id.values():
        _see_to_the_rest(entry)
    logger.warning("What process %s had in hand is recovered: %d mails.", found.owner, len(by_id))


def _take_over(pk: str, decide: Callable[[DeliveryBatch, Sequence[Delivery]], Sequence[Change]]) -> None:
    changed = batches.take_over(pk, decide)
    for change in changed:
        if change.delivery.continue_after is not None:
            go_on(change.delivery)
    wakeups.notify({wakeups.key_of(change.delivery) for change in changed if change.delivery.next_at is not None})


def _see_to_the_rest(entry: Entry) -> None:
    """What is known of a mail that was no longer claimed: a reply that is not recorded, or something to be published."""
    if entry.state not in (State.ANSWERED, State.CONTINUING):
        return
    delivery = rows.load(entry.delivery_id)
    if delivery is None:
        return
    if entry.state is State.ANSWERED:
        batches.accept_late(_answered(delivery, entry))
    if delivery.continue_after is not None:
        continuation.later(delivery.pk, 0)


def _by_journal(
    entries: Mapping[str, Entry], is_torn: bool, row: DeliveryBatch, deliveries: Sequence[Delivery]
) -> list[Change]:
    alone = len(row.items) == 1
    changes: list[Change] = []
    for delivery in deliveries:
        entry = entries.get(delivery.pk)
        if entry is None or entry.version != delivery.fence:
            # One of which the journal cannot be read may be any of these.
            changes.append(_in_doubt(delivery, row, None) if is_torn else _given_back(delivery))
        elif entry.state is State.IN_HAND:
            changes.append(_suspect(delivery, alone=alone) if entry.is_suspect else _given_back(delivery))
        elif entry.state is State.DOT:
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


def _suspect(delivery: Delivery, *, alone: bool) -> Change:
    """One whose process was killed while it prepared or wrote it; it is to blame only where it was alone."""
    returned = delivery.returned + 1
    if alone and returned >= conf.get("QUARANTINE_AFTER"):
        reason = "its worker was lost every time it was tried"
        quarantining = functools.partial(
            transitions.ending, status=Status.QUARANTINED, cause=Cause.WORKER_LOST, reason=reason
        )
        return Untried(delivery=delivery, step=quarantining)
    return Untried(delivery=delivery, step=functools.partial(transitions.giving_back, returned=returned))


def _in_doubt(delivery: Delivery, row: DeliveryBatch, entry: Entry | None) -> Change:
    outcome = InDoubt(cause=Cause.WORKER_LOST, reason="the worker was lost after the final dot and before its outcome")
    return _ended(delivery, outcome, entry, row)


def _answered(delivery: Delivery, entry: Entry, row: DeliveryBatch | None = None) -> Ended:
    """What the reply to the final dot meant that the dead process did not come to record."""
    addresses = [item["address"] for item in delivery.recipients]
    refused = {addresses[place]: Reply(code=code) for place, code in entry.refused.items() if place < len(addresses)}
    reply = Reply(code=entry.code)
    outcome: Outcome
    if reply.positive:
        outcome = accepted(reply.code, tuple(addresses[place] for place in entry.recipients), refused, reply=reply)
    else:
        outcome = classify(Refused(Phase.FINAL_DOT, "", reply), own_sender=delivery.from_at is not None)
    return _ended(delivery, outcome, entry, row)


def _ended(delivery: Delivery, outcome: Outcome, entry: Entry | None, row: DeliveryBatch | None) -> Ended:
    began = row.claimed_at if row is not None else clock.now()
    if entry is not None:
        began = dt.datetime.fromtimestamp(entry.started_at, tz=dt.UTC)
    from_header, sender = _sent_from(delivery, row)
    this = Try(
        route=None,
        started_at=began,
        worker_lost=True,
        from_header=from_header,
        sender=sender,
        smtp_config=entry.configuration if entry else row.smtp_config if row else "",
        config_version=entry.config_version if entry else row.config_version if row else "",
        worker=row.owner if row is not None else "",
    )
    return Ended(delivery=delivery, outcome=outcome, attempt=this)


def _sent_from(delivery: Delivery, row: DeliveryBatch | None) -> tuple[str, str]:
    """The From header and the sender with which it went; blank where that is not known, or in the row."""
    if delivery.from_at is None or delivery.from_header or row is None:
        return "", ""
    try:
        header = from_header_of(row.from_email)
        return header, delivery.sender or envelope_address(row.from_email)
    except InvalidMail:
        return "", ""


sweeper.also(look_for_journals)
sweeper.also(recover_leases)
