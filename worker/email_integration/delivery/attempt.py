"""One attempt at one delivery, from the row to the recorded outcome.

A mail whose worker dies before the claim is simply tried again. One whose worker dies after it is found by the sweep
when the lease has run out, and is *in doubt*: the server may have it. One whose outcome is recorded is never sent
again, however often a ring repeats.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import random
import traceback

import tenacity
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, OperationalError, connections
from django.utils import timezone

from email_integration import conf, routing
from email_integration.models import Delivery, Status
from email_integration.smtp import Relay

from . import ledger, safety
from .dispatch import Mail, dispatch
from .outcome import Deferred, Failed, InDoubt, Outcome, Skipped
from .retry import backoff

logger = logging.getLogger(__name__)


def attempt(delivery_id: str) -> Delivery | Skipped:
    """Try the delivery once and return it as it stands then; ``Skipped`` when there was nothing to do.

    Raises ``DatabaseError`` when the database fails; the delivery is then rung for again.
    """
    delivery = ledger.load(delivery_id)
    if delivery is None:
        return Skipped(reason="unknown: its transaction was rolled back, or it was deleted")
    started_at = timezone.now()
    skipped = _prepare(delivery, started_at)
    if skipped is not None or Status(delivery.status).is_final:
        return skipped or delivery
    route, outcome = _send(delivery)
    if isinstance(outcome, Skipped):
        return outcome
    wait = backoff(
        delivery.attempts + 1,
        first=conf.get("RETRY_FIRST"),
        longest=conf.get("RETRY_MAX"),
        chance=random.random(),  # noqa: S311  # spreads load, guards nothing
        hint=outcome.retry_in if isinstance(outcome, Deferred) else None,
    )
    recorded = _record(delivery, outcome, ledger.Try(route=route, started_at=started_at, wait=wait))
    if recorded and delivery.waits_for_relay:
        _wake_if_mended(delivery, route)
    return delivery if recorded else _OVERTAKEN


def _wake_if_mended(delivery: Delivery, route: routing.Route | None) -> None:
    """Have it tried at once if what it waits for came before it was recorded, so that nobody woke it."""
    now = routing.active_relay()
    if not isinstance(now, routing.Nowhere) and now != route:
        ledger.wake(delivery.pk)


_OVERTAKEN = Skipped(reason="overtaken by another worker")


def _prepare(delivery: Delivery, now: dt.datetime) -> Skipped | None:
    """Bring the delivery to where it can be tried, or to its end; say why if there is nothing to do."""
    if Status(delivery.status).is_final:
        if delivery.continued or not ledger.resume_follow_up(delivery):
            return Skipped(reason=f"already {delivery.status}")
        return None
    if delivery.status == Status.SENDING:
        if delivery.lease_until is not None and delivery.lease_until > now:
            return Skipped(reason="another worker is sending it")
        if not ledger.lease_ran_out(delivery):
            return _OVERTAKEN
    if delivery.status == Status.IN_DOUBT:
        return Skipped(reason="in doubt, held for a person")
    moved = True
    if delivery.expires_at <= now:
        moved = ledger.end(delivery, Status.EXPIRED, "not accepted in time")
    elif delivery.due_at > timezone.now():
        return Skipped(reason="not due yet")
    elif delivery.unfinished >= conf.get("QUARANTINE_AFTER"):
        moved = ledger.end(delivery, Status.QUARANTINED, "its worker was lost every time it was tried")
    elif delivery.rings:
        moved = ledger.begin_again(delivery)
    return None if moved else _OVERTAKEN


def _send(delivery: Delivery) -> tuple[routing.Route | None, Outcome | Skipped]:
    try:
        plan = safety.plan_now(ledger.pending(delivery))
    except ImproperlyConfigured as error:
        return None, Deferred(reason=str(error))
    try:
        held_back = _withhold(delivery, plan) if plan.withheld else None
        if held_back is not None:
            return None, held_back
        mail = Mail(
            from_header=delivery.from_header,
            from_open=delivery.from_open,
            sender=delivery.sender,
            recipients=plan.envelope,
            content=bytes(delivery.content),
        )
        route, outcome = dispatch(mail, functools.partial(_claim, delivery, plan))
        return route, plan.of_recipients(outcome)
    except (DatabaseError, InterfaceError):
        raise
    except Exception as error:  # whatever it is, the mail is kept and the fault is shown
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = f"unexpected {type(error).__name__} in {frame.name}, line {frame.lineno}"
        # The error's own text may quote the mail, so it is not logged.
        logger.error("Delivery %s: %s of %s", delivery.pk, what, frame.filename)
        if delivery.status == Status.SENDING:
            return None, InDoubt(reason=what)
        return None, Deferred(reason=what)


def _claim(delivery: Delivery, plan: safety.Plan, relay: Relay, from_header: str) -> bool:
    return ledger.claim(delivery, relay, from_header=from_header, redirected_to=plan.redirected_to)


def _withhold(delivery: Delivery, plan: safety.Plan) -> Outcome | Skipped | None:
    """Settle those who must not be written to; None when there is still somebody to write to."""
    route = routing.active_relay()
    if isinstance(route, routing.Nowhere):
        return Deferred(reason=route.reason, relay_at_fault=True)  # a pause keeps everything as it is
    if not plan.envelope:
        return Failed(reason=safety.WITHHELD)
    return None if ledger.withhold(delivery, plan.withheld, safety.WITHHELD) else _OVERTAKEN


def _record(delivery: Delivery, outcome: Outcome, attempt_: ledger.Try) -> bool:
    """Record the outcome, again and again until the lease ends when the database is out of reach."""

    def reconnect(state: tenacity.RetryCallState) -> None:
        connections[ledger.database()].close()

    recording = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((OperationalError, InterfaceError)),
        wait=tenacity.wait_exponential(multiplier=0.1, max=5),
        stop=tenacity.stop_after_delay(conf.get("LEASE")),
        before_sleep=reconnect,
        reraise=True,
    )
    return recording(ledger.record, delivery, outcome, attempt_)
