"""One claimed mail while a session carries it: what the journal has of it, and whether its final dot may be said."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection

from django.db import DatabaseError, InterfaceError

from email_integration import conf
from email_integration.ledger import batches, rows
from email_integration.ledger.batches import Batch
from email_integration.models import Delivery
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred, Outcome, Skipped
from email_integration.smtp import ALONG_WITH_DOT, Phase, Relay, Reply, Session, Started

from . import points
from .guard import Guard, PipelinedTransaction
from .journal import Journal, JournalUnavailable, Slot
from .messages import PreparedMessage

logger = logging.getLogger(__name__)


def is_late(batch: Batch) -> bool:
    """Whether no more is left of its lease than a reply to a final dot may take, and a third of what is beyond that."""
    patience, lease = conf.get("REPLY_TIMEOUT"), conf.get("LEASE")
    return bool(batch.lease_ends - time.monotonic() <= patience + (lease - patience) / 3)


class Others:
    """The mails that are sent beside one. There are none."""

    def breaker_is_closed(self, relay: Relay) -> bool:
        """Whether it is known without a question of one's own that the circuit breaker of ``relay`` is closed."""
        return False

    def begun(self) -> None:
        """A session is open, and its transaction begins."""

    def following(self, session: Session) -> PipelinedTransaction | None:
        """Give the one that is to follow over this session, made ready, if there is one."""
        return None

    def not_along(self) -> None:
        """That one is not begun along with the final dot, after all."""

    def judged(self, relay: Relay | None, recipients: Collection[str], outcome: Outcome) -> Outcome:
        """Give the outcome of a mail by ``relay``, or what it is amid the others'; with the recipients of one that is
        deferred.
        """
        return outcome


class InHand(Guard):
    """Notes in the journal, if there is one, how far the mail came, and renews the lease while it makes progress.

    Making one raises ``JournalUnavailable``, as does whatever writes to the journal.
    """

    def __init__(
        self,
        delivery: Delivery,
        batch: Batch,
        *,
        journal: Journal | None,
        started_at: float,
    ) -> None:
        """``started_at`` is in seconds since the epoch."""
        self._delivery = delivery
        self._id = delivery.pk
        self._batch = batch
        patience, lease = conf.get("REPLY_TIMEOUT"), conf.get("LEASE")
        # The lease is renewed when no more seconds are left of it.
        self._renewed_at = patience + (lease - patience) * 2 / 3
        self._patience = patience
        #: Those beside which it is sent.
        self.others = Others()
        self.slot: Slot | None = None
        if journal is not None:
            self.slot = journal.take(self._id, delivery.version, batch.id, started_at=started_at)
        points.reached("in hand", self._id)
        #: The From header and the sender of the envelope that it went with; None before its final dot.
        self.sent_from: tuple[str, str] | None = None
        #: When MAIL was about to be said last, by ``time.monotonic()``; None before that.
        self.mail_at: float | None = None
        #: The relay whose circuit breaker was found open.
        self.tripped_relay: Relay | None = None
        #: The addresses that stand for recipients in the envelope; None when these are the recipients themselves.
        self.redirected_from: Collection[str] | None = None

    def waits(self) -> None:
        if self.slot is not None:
            self.slot.waiting()

    def opens(self) -> None:
        self.waits()
        points.reached("before a session", self._id)

    def breaker_is_closed(self, relay: Relay) -> bool:
        self.waits()
        return self.others.breaker_is_closed(relay)

    def prepares(self) -> None:
        if self.slot is not None:
            self.slot.preparing()
        points.reached("before it is read", self._id)

    def begins(self) -> None:
        self.others.begun()
        self.waits()
        points.reached("before MAIL", self._id)
        self.mail_at = time.monotonic()

    def progressed(self) -> None:
        if self._batch.lease_ends - time.monotonic() <= self._renewed_at:
            self._keep_lease()

    def writes(self) -> None:
        # A small one was read before MAIL and is written along with the final dot: it goes on to DOT as it is.
        if self.slot is not None and self._delivery.content_size > ALONG_WITH_DOT:
            self.slot.writing()
        points.reached("before the content", self._id)

    def following(self, session: Session) -> PipelinedTransaction | None:
        return self.others.following(session)

    def not_along(self) -> None:
        self.others.not_along()

    def before_dot(self, session: Session, started: Started, message: PreparedMessage) -> Outcome | Skipped | None:
        points.reached("before the dot", self._id)
        kept = self._keep_lease()
        if kept is None:
            return Skipped(reason="another process has taken the batch over")
        if not kept:
            return Deferred(cause=Cause.TOO_SLOW, reason=Cause.TOO_SLOW.words, phase=Phase.CONTENT)
        if self.slot is not None:
            # The dot is said only once it is noted to whom: after a death here the mail is in doubt for them.
            self._note_dot(self.slot, started)
        self.sent_from = message.from_header, message.sender
        points.reached("dot noted", self._id)
        return None

    def not_said(self) -> None:
        if self.slot is not None:
            with contextlib.suppress(JournalUnavailable):  # then it is in doubt after a death
                self.slot.not_said()
        self.sent_from = None

    def answered(self, reply: Reply) -> None:
        points.reached("answered", self._id)
        if self.slot is not None:
            try:
                self.slot.answered(reply.code)
            except (
                JournalUnavailable
            ) as error:  # it was sent, and is recorded: only its death in between leaves a doubt
                logger.error("The reply to a final dot could not be noted (%s).", error)
        points.reached("answer noted", self._id)

    def judged(self, outcome: Outcome) -> Outcome:
        # Only of one that is deferred it matters to whom it was.
        recipients = rows.pending(self._delivery) if isinstance(outcome, Deferred) else ()
        return self.others.judged(self._batch.relay, recipients, outcome)

    def _note_dot(self, slot: Slot, started: Started) -> None:
        places = {item["address"]: place for place, item in enumerate(self._delivery.recipients)}
        accepted = started.accepted if self.redirected_from is None else self.redirected_from
        refused = started.refused if self.redirected_from is None else {}
        relay = self._batch.relay
        slot.dot(
            recipients=[places[to] for to in accepted],
            refused={places[to]: reply.code for to, reply in refused.items()},
            count=len(places),
            configuration=relay.name if relay else "",
            config_version=relay.version if relay else "",
        )

    def _keep_lease(self) -> bool | None:
        """Whether the lease lasts for a reply to the final dot; None when the batch is ours no longer.

        It is renewed when a third of what it has beyond that is over: so it outlasts any wait for the server.
        """
        if self._batch.lease_ends - time.monotonic() > self._renewed_at:
            return True
        try:
            if not batches.renew(self._batch):
                return None  # else it may have taken long
        except (DatabaseError, InterfaceError) as error:
            logger.warning("The lease of a batch could not be renewed (%s).", type(error).__name__)
        return bool(self._batch.lease_ends - time.monotonic() > self._patience)
