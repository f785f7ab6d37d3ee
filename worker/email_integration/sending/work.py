"""Try one claimed mail. In every case there is a change to record, or the mail is given back."""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import dataclass

from django.db import DatabaseError, InterfaceError, connections
from django.utils import timezone

from email_integration import conf
from email_integration.ledger import rows, transitions
from email_integration.ledger.batches import Batch
from email_integration.ledger.records import Change, Ended, Try, Untried
from email_integration.models import Delivery
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import InDoubt
from email_integration.routing import Route
from email_integration.smtp import Relay

from .attempts import Attempt
from .in_hand import InHand, Others
from .journal import Journal, JournalUnavailable, Slot
from .sessions import Replaced

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class Work:
    """A claimed delivery, and its position in its batch."""

    delivery: Delivery
    batch: Batch
    place: int
    route: Route
    #: The attempt, once a thread has taken the mail.
    attempt: Attempt | None = None
    #: Whether it may be started along with the final dot of another mail.
    may_follow: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Done:
    """The result of one mail. ``change`` is None when another process owns the mail by now."""

    work: Work
    change: Change | None
    slot: Slot | None = None
    #: The relay whose circuit breaker was found open.
    tripped_relay: Relay | None = None


def take_in_hand(work: Work, *, journal: Journal | None, others: Others) -> Attempt:
    """Return the attempt at a claimed delivery, which starts here. Raises ``JournalUnavailable``.

    ``journal`` records its progress; None means no journal. ``others`` are the mails that are sent at the same time.
    """
    if work.attempt is None:
        hand = InHand(
            work.delivery,
            work.batch,
            journal=journal if isinstance(work.route, Relay) else None,
            started_at=time.time(),
        )
        work.attempt = Attempt(work.delivery, work.route, hand)
    work.attempt.hand.others = others
    return work.attempt


def try_one(work: Work, *, journal: Journal | None, others: Others) -> Done:
    """Try a claimed delivery. The arguments are those of ``take_in_hand``.

    Raises ``Replaced`` and ``JournalUnavailable``; then it was not sent.
    """
    attempt = take_in_hand(work, journal=journal, others=others)
    delivery, hand = work.delivery, attempt.hand
    change: Change | None
    of_mail = {"delivery_id": delivery.pk}
    try:
        change = attempt.run()
    except (Replaced, JournalUnavailable):
        if hand.slot is not None:
            hand.slot.free()
        raise
    except (DatabaseError, InterfaceError) as error:
        logger.error("Delivery %s: the database failed (%s).", delivery.pk, type(error).__name__, extra=of_mail)
        connections[rows.database()].close_if_unusable_or_obsolete()
        # Not immediately, because the database may fail each time for some mails.
        step = functools.partial(transitions.giving_back, wait=conf.get("RETRY_FIRST"))
        change = Untried(delivery=delivery, step=step)
    except Exception as error:
        # The error's text is omitted, because it may quote the mail.
        what = f"unexpected {type(error).__name__} {'after' if hand.sent_from else 'before'} its final dot"
        logger.error("Delivery %s: %s", delivery.pk, what, extra=of_mail)
        change = Untried(delivery=delivery, step=functools.partial(transitions.setting_aside, reason=what))
        if hand.sent_from is not None:
            doubt = InDoubt(cause=Cause.INTERNAL_ERROR, reason=what)
            change = Ended(delivery=delivery, outcome=doubt, attempt=Try(route=work.route, started_at=timezone.now()))
    return Done(work=work, change=change, slot=hand.slot, tripped_relay=hand.tripped_relay)
