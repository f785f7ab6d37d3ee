"""Turn the outcome of an attempt into a record, and wake deliveries that it unblocks."""

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

#: The errors of a database that is unreachable, or cannot be written for a while: a standby raises InternalError.
AWAY = (OperationalError, InterfaceError, InternalError)

#: Minimum wait in seconds of a mail that could be tried immediately, but not for its remaining recipients.
_SHORTEST = 1.0


def chance() -> float:
    """Return the part (0 to 1) of the longest wait that a retry waits. ``email_integration.testing`` fixes it."""
    return random.random()  # noqa: S311  # spreads load, guards nothing


def wait_after(delivery: Delivery, outcome: Outcome) -> float:
    """Return how many seconds the delivery waits if its next attempt has this outcome."""
    if isinstance(outcome, Accepted) and len(outcome.accepted) == len(delivery.recipients):
        return 0.0  # it is finished
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
    """The start of an attempt, by the clock and by ``time.monotonic()``, and whether it had waited for its relay."""

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
        """Return the ended attempt, with the time to wait before the next.

        ``route``, ``tls_version`` and ``redirected_to`` are those of the transmission. ``sent_from`` are the From
        header and the envelope sender that were sent with a final dot. ``mail_at``, by ``time.monotonic()``, is when
        the relay was confirmed and MAIL sent: this is the start of the attempt. If that was along with the final dot of
        another mail, the wait for its reply is not part of the duration.
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
    """Record the changes of the batch, and repeat this while the database is unreachable.

    Changes that the database refuses are written one by one, then without the result for Celery, and finally without
    any text, because the status matters most. If that is refused too, the change is not made, and the end of the lease
    decides. ``permitted`` is that of ``batches.record``.
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
        _complain("The status of delivery %s cannot be stored (%s).", change, error)
    return Recorded(made=[False], owned=True)


def _complain(words: str, change: Change, error: Exception) -> None:
    pk = change.delivery.pk
    logger.error(words, pk, type(error).__name__, extra={"delivery_id": pk})


def wake_others(change: Change, tripped_relay: Relay | None) -> None:
    """Wake deliveries that this change unblocks. Call it after the change is recorded.

    ``tripped_relay`` is a relay whose circuit breaker was found open.
    """
    delivery = change.delivery
    ended = change if isinstance(change, records.Ended) else None
    if not (delivery.waits_for_relay or (ended and ended.attempt.waited)):
        return  # as for most mails
    with contextlib.suppress(DatabaseError, InterfaceError):  # then they wait for their time, or for the next mail
        if delivery.waits_for_relay:
            for_everybody = ended and isinstance(ended.outcome, Deferred) and ended.outcome.for_everybody
            route = ended.attempt.route if ended else tripped_relay
            _wake_if_fixed(delivery, route, waits_for_breaker=bool(tripped_relay or for_everybody))
        elif ended and isinstance(ended.outcome, Accepted):
            _reset_breaker(ended.attempt.route)


def _wake_if_fixed(delivery: Delivery, route: routing.Route | None, *, waits_for_breaker: bool) -> None:
    """Retry the delivery now if its obstacle was removed before it was recorded, because then no event woke it."""
    now = routing.active_relay()
    if isinstance(now, routing.Nowhere):
        return
    # A fault of the relay with this mail alone trips no breaker, so a closed breaker proves nothing. Inside a caller's
    # transaction, breakers are tripped and reset at its commit.
    asked = route if waits_for_breaker and isinstance(route, Relay) and not breaker.in_transaction() else None
    probe = breaker.next_probe(asked) if asked else None
    if now != route or (asked and probe is None):
        retry_now.wake(delivery.pk)
    elif asked and probe is not None:
        retry_now.sweep_at_probe(asked, *probe)


def _reset_breaker(relay: routing.Route | None) -> None:
    """Reset the breaker if it is still open. A session that existed before does not ask the breaker."""
    if isinstance(relay, Relay) and breaker.is_open(relay):
        retry_now.reset_breaker(relay)
