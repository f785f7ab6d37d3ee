"""From the outcome of an attempt to what is recorded of it, and what that means for others."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import tenacity
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, connections

from email_integration import conf, routing
from email_integration.ledger import batches, instrumentation, records, rows, transitions
from email_integration.ledger.batches import Batch, Recorded
from email_integration.ledger.records import Change
from email_integration.models import Delivery
from email_integration.outcomes import schedule
from email_integration.outcomes.classification import Accepted, Deferred, InDoubt, Outcome
from email_integration.queue import retry_now
from email_integration.routing import breaker
from email_integration.smtp import Relay

from . import offering

logger = logging.getLogger(__name__)

#: How a database says that it is out of reach, or will not be written to for a while: a standby is an InternalError.
AWAY = (OperationalError, InterfaceError, InternalError)

#: Seconds that a mail waits at least that may be tried at once, but not with what is left of its recipients.
_SHORTEST = 1.0


def chance() -> float:
    """Return which part (0 to 1) of the longest wait a retry waits for; ``email_integration.testing`` has no chance."""
    return random.random()  # noqa: S311  # spreads load, guards nothing


def wait_after(delivery: Delivery, outcome: Outcome) -> float:
    """Return how many seconds the delivery waits after its next attempt, if that ends so."""
    if isinstance(outcome, Accepted) and len(outcome.accepted) == len(delivery.recipients):
        return 0.0  # it has ended
    wait = schedule.backoff(
        delivery.attempts + 1,
        first=conf.get("RETRY_FIRST"),
        longest=conf.get("RETRY_MAX"),
        chance=chance(),
        hint=None if isinstance(outcome, InDoubt) else outcome.retry_in,
    )
    return wait if wait or offering.goes_on(outcome) else _SHORTEST


@dataclass(frozen=True, kw_only=True)
class StartedAttempt:
    """When an attempt at a delivery began, by the clock and by ``time.monotonic()``, and whether it had waited for its
    relay.
    """

    delivery: Delivery
    at: dt.datetime
    counted_from: float
    waited: bool

    def ended(
        self,
        outcome: Outcome,
        *,
        route: routing.Route | None,
        tls_version: str = "",
        sent_from: tuple[str, str] = ("", ""),
        mail_at: float | None = None,
        redirected_to: str = "",
    ) -> records.Ended:
        """How it ended, with the time to wait before the next.

        ``sent_from`` are the From header and the sender that a final dot was said for. At ``mail_at``, by
        ``time.monotonic()``, it was found that the relay is the one to be used, and MAIL was said: then it began. Where
        that was along with the final dot of another mail, the wait for its reply is no part of the duration.
        """
        duration = time.monotonic() - self.counted_from
        started_at = self.at + schedule.seconds(0.0 if mail_at is None else mail_at - self.counted_from)
        instrumentation.installed().tried(self.delivery, duration)
        this = records.Try(
            route=route,
            started_at=started_at,
            duration=duration,
            tls_version=tls_version,
            from_header=sent_from[0],
            sender=sent_from[1],
            redirected_to=redirected_to,
            wait=wait_after(self.delivery, outcome),
            waited=self.waited,
            late=(self.at - max(self.delivery.due_at, self.delivery.created_at)).total_seconds(),
        )
        return records.Ended(delivery=self.delivery, outcome=outcome, attempt=this)


def record(batch: Batch, changes: Sequence[Change], *, permitted: int | None = None) -> Recorded:
    """Record what happened to deliveries of the batch, again and again while the database is out of reach.

    What it refuses to write is written by itself, then without the result that Celery is to have, at last without any
    text: how a mail stands matters more. If that is refused too it is not made, and the end of the lease decides.
    ``permitted`` is ``batches.record``'s.
    """

    def reconnect(state: tenacity.RetryCallState) -> None:
        connections[rows.database()].close()

    recording = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(AWAY),
        wait=lambda state: schedule.doubled(0.1, state.attempt_number - 1, longest=1.0),
        before_sleep=reconnect,
        reraise=True,
    )
    write = functools.partial(recording, batches.record, batch, permitted=permitted)
    try:
        return write(changes)
    except Exception as error:
        if len(changes) > 1:
            half = len(changes) // 2
            first, second = (record(batch, part, permitted=permitted) for part in (changes[:half], changes[half:]))
            return Recorded(made=first.made + second.made, owned=second.owned)
        if not changes:
            raise
        change = changes[0]
        _complain("The result of delivery %s cannot be stored (%s).", change, error)
    try:
        return write([change], store_result=False)
    except Exception as error:
        _complain("The attempt at delivery %s cannot be stored (%s).", change, error)
    try:
        step = functools.partial(transitions.without_texts, change)
        return write([records.Untried(delivery=change.delivery, step=step)], store_result=False)
    except Exception as error:
        _complain("How delivery %s stands cannot be stored (%s).", change, error)
    return Recorded(made=[False], owned=True)


def _complain(words: str, change: Change, error: Exception) -> None:
    pk = change.delivery.pk
    logger.error(words, pk, type(error).__name__, extra={"delivery_id": pk})


def wake_others(change: Change, tripped_relay: Relay | None) -> None:
    """Wake what waits for what this has shown, once it is recorded.

    ``tripped_relay`` is a relay whose circuit breaker was found open.
    """
    delivery = change.delivery
    ended = change if isinstance(change, records.Ended) else None
    if not (delivery.waits_for_relay or (ended and ended.attempt.waited)):
        return  # as most
    with contextlib.suppress(DatabaseError, InterfaceError):  # then they wait for their time, or for the next one
        if delivery.waits_for_relay:
            for_everybody = ended and isinstance(ended.outcome, Deferred) and ended.outcome.for_everybody
            route = ended.attempt.route if ended else tripped_relay
            _wake_if_fixed(delivery, route, waits_for_breaker=bool(tripped_relay or for_everybody))
        elif ended and isinstance(ended.outcome, Accepted):
            _reset_breaker(ended.attempt.route)


def _wake_if_fixed(delivery: Delivery, route: routing.Route | None, *, waits_for_breaker: bool) -> None:
    """Have it tried at once if what it waits for came before it was recorded, so that nothing woke it."""
    now = routing.active_relay()
    if isinstance(now, routing.Nowhere):
        return
    # What the relay is to blame for with this mail alone has tripped no breaker: that it is closed proves nothing.
    # Amid a caller's transaction breakers are tripped and reset when that is committed.
    asked = route if waits_for_breaker and isinstance(route, Relay) and not breaker.in_transaction() else None
    probe = breaker.next_probe(asked) if asked else None
    if now != route or (asked and probe is None):
        retry_now.wake(delivery.pk)
    elif asked and probe is not None:
        retry_now.sweep_at_probe(asked, *probe)


def _reset_breaker(relay: routing.Route | None) -> None:
    """Reset the breaker if it is still open: over a session that was there before it has not been asked."""
    if isinstance(relay, Relay) and breaker.is_open(relay):
        retry_now.reset_breaker(relay)
