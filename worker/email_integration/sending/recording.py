"""From the outcome of an attempt to what is recorded of it, and what that means for others."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import random
import time
from dataclasses import dataclass

import tenacity
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, connections

from email_integration import conf, routing
from email_integration.ledger import records, rows, transitions
from email_integration.models import Delivery, Status
from email_integration.outcomes.classification import Accepted, InDoubt, Outcome
from email_integration.outcomes.schedule import backoff
from email_integration.queue import retry_now
from email_integration.routing import gate
from email_integration.smtp import Relay

from . import offering

logger = logging.getLogger(__name__)

#: How a database says that it is out of reach, or will not be written to for a while: a standby is an InternalError.
AWAY = (OperationalError, InterfaceError, InternalError)


def chance() -> float:
    """Return which part (0 to 1) of the longest wait a retry waits for; ``email_integration.testing`` has no chance."""
    return random.random()  # noqa: S311  # spreads load, guards nothing


@dataclass(frozen=True, kw_only=True)
class Begun:
    """When an attempt at a delivery began, by the clock and by ``time.monotonic()``, and whether it had waited for its
    relay.
    """

    delivery: Delivery
    at: dt.datetime
    counted_from: float
    waited: bool

    def ended(self, outcome: Outcome, *, route: routing.Route | None, tls_version: str = "") -> records.Ended:
        """How it ended, with the time to wait before the next."""
        wait = backoff(
            self.delivery.attempts + 1,
            first=conf.get("RETRY_FIRST"),
            longest=conf.get("RETRY_MAX"),
            chance=chance(),
            hint=None if isinstance(outcome, InDoubt) else outcome.retry_in,
        )
        this = records.Try(
            route=route,
            started_at=self.at,
            duration=time.monotonic() - self.counted_from,
            tls_version=tls_version,
            wait=wait,
            late=(self.at - max(self.delivery.due_at, self.delivery.created_at)).total_seconds(),
        )
        return records.Ended(delivery=self.delivery, outcome=outcome, attempt=this)

    def see_to_others(self, ended: records.Ended) -> None:
        """Wake whoever waits for what this has shown, once it is recorded."""
        route = ended.attempt.route
        with contextlib.suppress(DatabaseError, InterfaceError):  # then they wait for their time, or for the next one
            if self.delivery.waits_for_relay:
                _wake_if_mended(self.delivery, route)
            elif self.waited and isinstance(ended.outcome, Accepted) and isinstance(route, Relay):
                _wake_others(route)


def goes_on(ended: records.Ended) -> bool:
    """Whether the rest of the recipients is to be tried at once, if there is one."""
    return ended.delivery.status == Status.DEFERRED and offering.goes_on(ended.outcome)


def record(ended: records.Ended) -> bool:
    """Record how it ended, again and again until the lease ends when the database is out of reach.

    False when somebody else has moved the delivery. Raises what the database raises.
    """

    def reconnect(state: tenacity.RetryCallState) -> None:
        connections[rows.database()].close()

    recording = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(AWAY),
        wait=tenacity.wait_exponential(multiplier=0.1, max=5),
        stop=tenacity.stop_after_delay(conf.get("LEASE")),
        before_sleep=reconnect,
        reraise=True,
    )
    delivery, outcome, attempt = ended.delivery, ended.outcome, ended.attempt
    try:
        return recording(transitions.record, delivery, outcome, attempt)
    except AWAY:
        raise
    except Exception as error:  # of whoever stores results; how the mail stands matters more
        name = type(error).__name__
        extra = {"delivery_id": delivery.pk}
        logger.error("The result of delivery %s cannot be stored (%s).", delivery.pk, name, extra=extra)
        return recording(transitions.record, delivery, outcome, attempt, report=False)


def forgive(*deliveries: Delivery) -> None:
    """Take back what was counted of those that wait still: no worker was lost with them. The database may be away."""
    counted = [one for one in deliveries if one.unfinished and one.status in transitions.CLAIMABLE]
    if counted:
        with contextlib.suppress(DatabaseError, InterfaceError):  # if it can be had again already
            connections[rows.database()].close_if_unusable_or_obsolete()
            transitions.forgive(*counted)


def _wake_if_mended(delivery: Delivery, route: routing.Route | None) -> None:
    """Have it tried at once if what it waits for came before it was recorded, so that nobody woke it."""
    now = routing.active_relay()
    if not isinstance(now, routing.Nowhere) and now != route:
        retry_now.wake(delivery.pk)


def _wake_others(relay: Relay) -> None:
    """Open the gate if it is closed still: over a session that was open nobody has been asked for it."""
    if gate.is_closed(relay):
        retry_now.reopen(relay)
