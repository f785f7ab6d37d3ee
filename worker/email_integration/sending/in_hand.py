"""One claimed mail while a session carries it: its journal slot, and whether its final dot may be sent."""

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
    """Return whether the lease is nearly over: it has REPLY_TIMEOUT and a third of the rest left, or less."""
    patience, lease = conf.get("REPLY_TIMEOUT"), conf.get("LEASE")
    return bool(batch.lease_ends - time.monotonic() <= patience + (lease - patience) / 3)


class Others:
    """The mails that are sent at the same time. This class has none."""

    def breaker_is_closed(self, relay: Relay) -> bool:
        """Return whether the circuit breaker of ``relay`` is known to be closed without a further query."""
        return False

    def begun(self) -> None:
        """A session is open, and its transaction begins."""

    def following(self, session: Session) -> PipelinedTransaction | None:
        """Return the prepared mail that follows over this session, if there is one."""
        return None

    def not_along(self) -> None:
        """The following mail is not started along with the final dot after all."""

    def judged(self, relay: Relay | None, recipients: Collection[str], outcome: Outcome) -> Outcome:
        """Return the outcome of a mail by ``relay``, possibly changed because of the outcomes of other mails.

        ``recipients`` are those of a deferred mail, and empty for any other outcome.
        """
        return outcome


class InHand(Guard):
    """Records the progress of the mail in the journal, if there is one, and renews the lease while it makes progress.

    Creating an instance, and each method that writes to the journal, may raise ``JournalUnavailable``.
    """

    def __init__(
        self,
        delivery: Delivery,
        batch: Batch,
        *,
        journal: Journal | None,
        started_at: float,
    ) -> None:
        """Take a slot of the journal. ``started_at`` is in seconds since the epoch."""
        self._delivery = delivery
        self._id = delivery.pk
        self._batch = batch
        patience, lease = conf.get("REPLY_TIMEOUT"), conf.get("LEASE")
        # The lease is renewed when at most this many seconds of it are left.
        self._renewed_at = patience + (lease - patience) * 2 / 3
        self._patience = patience
        #: The mails that are sent at the same time.
        self.others = Others()
        self.slot: Slot | None = None
        if journal is not None:
            self.slot = journal.take(self._id, delivery.version, batch.id, started_at=started_at)
        points.reached("in hand", self._id)
        #: The From header and the envelope sender that were sent; None before the final dot.
        self.sent_from: tuple[str, str] | None = None
        #: The time just before the last MAIL, by ``time.monotonic()``; None before that.
        self.mail_at: float | None = None
        #: The relay whose circuit breaker was found open.
        self.tripped_relay: Relay | None = None
        #: The recipients that the addresses in the envelope replace; None when the envelope has the recipients
        #: themselves.
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
        # A small content is read before MAIL and written along with the final dot, so its state changes directly to
        # DOT.
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
            return Skipped(reason="another process has taken over the batch")
        if not kept:
            return Deferred(cause=Cause.TOO_SLOW, reason=Cause.TOO_SLOW.words, phase=Phase.CONTENT)
        if self.slot is not None:
            # The recipients are noted before the dot is sent: after a crash here the mail is in doubt for them.
            self._note_dot(self.slot, started)
        self.sent_from = message.from_header, message.sender
        points.reached("dot noted", self._id)
        return None

    def not_said(self) -> None:
        if self.slot is not None:
            with contextlib.suppress(JournalUnavailable):  # then a crash leaves it in doubt
                self.slot.not_said()
        self.sent_from = None

    def answered(self, reply: Reply) -> None:
        points.reached("answered", self._id)
        if self.slot is not None:
            try:
                self.slot.answered(reply.code)
            except (
                JournalUnavailable
            ) as error:  # it was sent, and will be recorded: only a crash before that leaves a doubt
                logger.error("The reply to a final dot could not be written to the journal (%s).", error)
        points.reached("answer noted", self._id)

    def judged(self, outcome: Outcome) -> Outcome:
        # The recipients matter only for a deferred mail.
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
        """Return whether the lease lasts for a reply to the final dot; None when this process no longer owns the batch.

        The lease is renewed when a third of the time beyond such a reply is over, so it outlasts any wait for the
        server.
        """
        if self._batch.lease_ends - time.monotonic() > self._renewed_at:
            return True
        try:
            if not batches.renew(self._batch):
                return None  # otherwise the renewal may have been slow
        except (DatabaseError, InterfaceError) as error:
            logger.warning("The lease of a batch could not be renewed (%s).", type(error).__name__)
        return bool(self._batch.lease_ends - time.monotonic() > self._patience)
