"""One attempt at one claimed delivery: from its row to the change to record."""

from __future__ import annotations

import datetime as dt
import functools
import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError

from email_integration import conf, recursion, routing
from email_integration.exceptions import ContentUnavailable, InvalidMail
from email_integration.ledger import clock, rows, transitions
from email_integration.ledger.records import Change, Untried
from email_integration.ledger.steps import Step
from email_integration.message import content
from email_integration.models import Delivery, Status
from email_integration.outcomes import schedule
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred, Failed, InDoubt, Skipped
from email_integration.routing.breaker import BreakerOpen
from email_integration.secrecy import with_secrets
from email_integration.smtp import Session

from . import recording, sandbox
from .guard import PipelinedTransaction
from .in_hand import InHand
from .journal import JournalUnavailable
from .messages import OutgoingMail
from .relaying import Transmitted, nowhere, transmit
from .sessions import Replaced

logger = logging.getLogger(__name__)


class Attempt:
    """One attempt at a claimed delivery, by ``route``."""

    def __init__(self, delivery: Delivery, route: routing.Route, hand: InHand) -> None:
        self._delivery = delivery
        self._route = route
        self.hand = hand
        self._plan: sandbox.Plan | None = None
        self._mail: OutgoingMail | None = None
        self._pipelined: PipelinedTransaction | None = None

    @with_secrets
    def prepare(self, session: Session) -> PipelinedTransaction | None:
        """Prepare the mail for a session that still carries another mail. Return None when the mail is not to be tried.

        Raises the error that keeps it from being sent.
        """
        if _without_attempt(self._delivery, clock.now()) is not None or not self._plan_now().envelope:
            return None
        self._pipelined = PipelinedTransaction(self._mail_now(self._plan_now()), session, self.hand)
        return self._pipelined

    @property
    def has_begun(self) -> bool:
        """Whether the transaction was started on the server, along with the final dot of another mail."""
        return self._pipelined is not None and self._pipelined.session is not None

    def let_go(self) -> PipelinedTransaction | None:
        """Reset the attempt, and return its prepared transaction, which the caller must drop."""
        pipelined, self._pipelined = self._pipelined, None
        self.hand.mail_at = None
        return pipelined

    def drop(self) -> None:
        """Drop the prepared transaction. The attempt starts again if it is run again."""
        pipelined = self.let_go()
        if pipelined is not None:
            pipelined.drop()

    def run(self) -> Change | None:
        """Try the delivery, and return the change to record; None when another process owns it by now.

        Raises ``Replaced`` when another relay is to be used, ``JournalUnavailable``, and the errors of the database. In
        these cases it was not sent.
        """
        try:
            return self._run()
        finally:
            if self._pipelined is not None:
                self._pipelined.drop()

    @with_secrets
    def _run(self) -> Change | None:
        delivery, hand = self._delivery, self.hand
        recursion.comes_to(delivery.options)
        started = recording.StartedAttempt(
            delivery=delivery, at=clock.now(), counted_from=time.monotonic(), waited=delivery.waits_for_relay
        )
        step = _without_attempt(delivery, started.at)
        if step is not None:
            return Untried(delivery=delivery, step=step)
        try:
            sent, withheld = self._send()
        except BreakerOpen as breaker_open:
            hand.tripped_relay = breaker_open.relay
            wait = schedule.wait_for_probe(conf.get("BREAKER_PROBE_MAX"), chance=recording.chance())
            step = functools.partial(transitions.waiting_for_relay, breaker_open=breaker_open, wait=wait)
            return Untried(delivery=delivery, step=step)
        except InvalidMail:
            reason = "its sender cannot be read"
            return Untried(delivery=delivery, step=functools.partial(transitions.setting_aside, reason=reason))
        if isinstance(sent.outcome, Skipped):
            logger.debug("Delivery %s: %s", delivery.pk, sent.outcome.reason, extra=_of(delivery))
            return None
        ended = started.ended(
            sent.outcome,
            route=sent.route,
            tls_version=sent.tls_version,
            sent_from=hand.sent_from or ("", ""),
            mail_at=hand.mail_at,
            redirected_to=sent.redirected_to,
        )
        return replace(ended, withheld=withheld) if withheld else ended

    def _send(self) -> tuple[Transmitted, tuple[str, ...]]:
        """Send the mail. Return its outcome, and the recipients that must not receive it."""
        withheld: tuple[str, ...] = ()
        try:
            if isinstance(self._route, routing.Nowhere):
                return Transmitted(route=self._route, outcome=nowhere(self._route)), ()
            plan = self._plan_now()
            withheld = plan.withheld
            if not plan.envelope:
                failed = Failed(cause=Cause.WITHHELD, reason=Cause.WITHHELD.words)
                return Transmitted(route=None, outcome=failed), withheld
            if plan.redirected:
                self.hand.redirected_from = plan.recipients
            sent = transmit(self._mail_now(plan), self._route, self.hand, pipelined=self._pipelined)
            if plan.redirected:
                sent = replace(sent, outcome=plan.of_recipients(sent.outcome), redirected_to=plan.redirected_to)
            return sent, withheld
        except (InvalidMail, BreakerOpen, Replaced, JournalUnavailable):
            raise
        except ImproperlyConfigured as error:
            return Transmitted(route=None, outcome=Deferred(cause=Cause.SETTINGS, reason=str(error))), ()
        except ContentUnavailable as error:
            unavailable = Deferred(cause=Cause.CONTENT_UNAVAILABLE, reason=str(error))
            return Transmitted(route=None, outcome=unavailable), withheld
        except Exception as error:  # after any error the mail is kept and the error shown
            if isinstance(error, DatabaseError | InterfaceError) and self.hand.sent_from is None:
                raise
            frame = traceback.extract_tb(error.__traceback__)[-1]
            what = f"unexpected {type(error).__name__} in {frame.name}, line {frame.lineno}"
            # The error's text is not logged, because it may quote the mail.
            logger.error("Delivery %s: %s of %s", self._delivery.pk, what, frame.filename, extra=_of(self._delivery))
            kind = InDoubt if self.hand.sent_from is not None else Deferred
            return Transmitted(route=None, outcome=kind(cause=Cause.INTERNAL_ERROR, reason=what)), withheld

    def _plan_now(self) -> sandbox.Plan:
        if self._plan is None:
            self._plan = sandbox.plan_now(rows.pending(self._delivery))
        return self._plan

    def _mail_now(self, plan: sandbox.Plan) -> OutgoingMail:
        if self._mail is None:
            delivery = self._delivery
            self._mail = OutgoingMail(
                from_header=delivery.from_header,
                from_at=delivery.from_at,
                sender=delivery.sender,
                recipients=plan.envelope,
                put_off=rows.put_off(delivery),
                content=content.stored(delivery),
            )
        return self._mail


def _without_attempt(delivery: Delivery, now: dt.datetime) -> Callable[[Delivery], Step] | None:
    """Return the step for a delivery that must not be tried ``now``; None when it is to be tried."""
    if not rows.is_readable(delivery):
        return functools.partial(transitions.setting_aside, reason="its row is damaged")
    if delivery.cancel_requested:
        return functools.partial(transitions.ending, status=Status.CANCELLED, cause=Cause.CANCELLED)
    if delivery.expires_at <= now:
        return functools.partial(transitions.ending, status=Status.EXPIRED, cause=Cause.EXPIRED)
    if not rows.pending(delivery):
        return functools.partial(transitions.ending, status=Status.FAILED, cause=Cause.NO_RECIPIENTS)
    return None


def _of(delivery: Delivery) -> dict[str, str]:
    return {"delivery_id": delivery.pk}
