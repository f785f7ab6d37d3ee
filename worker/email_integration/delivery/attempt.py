"""One attempt at one delivery, from the row to the recorded outcome.

A mail whose worker dies before the claim is simply tried again. One whose worker dies after it is found by the sweep
when the lease has run out, and is *in doubt*: the server may have it. One whose outcome is recorded is never sent
again, however often a ring repeats.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import logging
import random
import time
import traceback

import tenacity
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, connections
from django.utils import timezone

from email_integration import conf, routing
from email_integration.exceptions import ContentUnavailable, InvalidMail
from email_integration.models import FINAL, Delivery, Status
from email_integration.routing import gate
from email_integration.smtp import Relay

from . import content, ledger, rows, safety, waking
from .dispatch import Dispatched, Mail, dispatch
from .outcome import Accepted, Deferred, Failed, InDoubt, Outcome, Skipped
from .retry import backoff

logger = logging.getLogger(__name__)


def attempt(delivery_id: str) -> Delivery | Skipped:
    """Try the delivery and return it as it stands then; ``Skipped`` when there was nothing to do.

    Once, unless the server takes so many recipients at a time: the rest goes at once, in another transaction. Raises
    ``DatabaseError`` when the database fails; the delivery is then rung for again.
    """
    while True:
        ended, goes_on = _attempt_once(delivery_id)
        if not goes_on:
            return ended


def _attempt_once(delivery_id: str) -> tuple[Delivery | Skipped, bool]:
    delivery = rows.load(delivery_id)
    if delivery is None:
        return Skipped(reason="unknown: its transaction was rolled back, or it was deleted"), False
    started_at, started = timezone.now(), time.monotonic()
    skipped = _prepare(delivery, started_at)
    if skipped is not None or Status(delivery.status).is_final:
        return skipped or delivery, False
    waited = delivery.waits_for_relay
    try:
        sent = _send(delivery)
    except gate.GateClosed as closed:
        return _wait_for_relay(delivery, closed), False
    except InvalidMail:
        return delivery if ledger.set_aside(delivery, "its sender cannot be read") else _OVERTAKEN, False
    except (DatabaseError, InterfaceError):
        _forgive(delivery)
        raise
    if isinstance(sent, Skipped):
        return sent, False
    route, outcome = sent.route, sent.outcome
    if isinstance(outcome, Skipped):
        return outcome, False
    hint = None if isinstance(outcome, Failed | InDoubt) else outcome.retry_in
    wait = backoff(
        delivery.attempts + 1,
        first=conf.get("RETRY_FIRST"),
        longest=conf.get("RETRY_MAX"),
        chance=random.random(),  # noqa: S311  # spreads load, guards nothing
        hint=hint,
    )
    this = ledger.Try(
        route=route,
        started_at=started_at,
        duration=time.monotonic() - started,
        tls_version=sent.tls_version,
        wait=wait,
    )
    if not _record(delivery, outcome, this):
        return _OVERTAKEN, False
    if delivery.waits_for_relay:
        _wake_if_mended(delivery, route)
    elif waited and isinstance(outcome, Accepted) and isinstance(route, Relay):
        _wake_others(route)
    return delivery, delivery.status == Status.DEFERRED and isinstance(outcome, Accepted) and hint == 0


def _forgive(delivery: Delivery) -> None:
    """It is the database that failed, and not the mail that killed its worker."""
    if delivery.rings and delivery.unfinished:
        with contextlib.suppress(DatabaseError, InterfaceError):  # if it can be had again already
            connections[rows.database()].close_if_unusable_or_obsolete()
            ledger.forgive(delivery)


def _wait_for_relay(delivery: Delivery, closed: gate.GateClosed) -> Delivery | Skipped:
    """Put the delivery off untried. Whatever opens the gate wakes it; the time is for the case that nobody does."""
    longest = conf.get("RETRY_MAX")
    wait = longest * (1 + random.random())  # noqa: S311  # as above
    if not ledger.wait_for_relay(delivery, closed, wait=wait):
        return _OVERTAKEN
    if not gate.is_closed(closed.relay):
        waking.wake(delivery.pk)  # it was opened before this was recorded, so that nobody woke it
    return delivery


def _wake_if_mended(delivery: Delivery, route: routing.Route | None) -> None:
    """Have it tried at once if what it waits for came before it was recorded, so that nobody woke it."""
    now = routing.active_relay()
    if not isinstance(now, routing.Nowhere) and now != route:
        waking.wake(delivery.pk)


def _wake_others(relay: Relay) -> None:
    """Open the gate if it is closed still: over a session that was open nobody has been asked for it."""
    with contextlib.suppress(DatabaseError, InterfaceError):  # the next one will
        if gate.is_closed(relay):
            waking.reopen(relay)


_OVERTAKEN = Skipped(reason="overtaken by another worker")


def _prepare(delivery: Delivery, now: dt.datetime) -> Skipped | None:
    """Bring the delivery to where it can be tried, or to its end; say why if there is nothing to do."""
    if not rows.is_readable(delivery) and delivery.status not in FINAL:
        return None if ledger.set_aside(delivery, "its row is damaged") else _OVERTAKEN
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
    elif not rows.pending(delivery):
        moved = ledger.end(delivery, Status.FAILED, "nobody is left to send it to")
    elif _workers_lost(delivery) >= conf.get("QUARANTINE_AFTER"):
        moved = ledger.end(delivery, Status.QUARANTINED, "its worker was lost every time it was tried")
    elif delivery.due_at > timezone.now():
        return Skipped(reason="not due yet")
    elif delivery.rings:
        moved = ledger.begin_again(delivery)
    return None if moved else _OVERTAKEN


def _workers_lost(delivery: Delivery) -> int:
    """How many workers in a row this mail seems to have killed.

    The attempt at the first ring is not counted before it begins, which would cost every mail an UPDATE; that a second
    one was lost says that there was a first.
    """
    return delivery.unfinished + bool(delivery.rings and delivery.unfinished)


def _send(delivery: Delivery) -> Dispatched | Skipped:
    try:
        plan = safety.plan_now(rows.pending(delivery))
    except ImproperlyConfigured as error:
        return Dispatched(route=None, outcome=Deferred(reason=str(error)))
    try:
        held_back = _withhold(delivery, plan) if plan.withheld else None
        if held_back is not None:
            return held_back if isinstance(held_back, Skipped) else Dispatched(route=None, outcome=held_back)
        mail = Mail(
            from_header=delivery.from_header,
            from_at=delivery.from_at,
            sender=delivery.sender,
            recipients=plan.envelope,
            content=content.stored(delivery),
        )
        sent = dispatch(mail, functools.partial(_claim, delivery, plan))
        return dataclasses.replace(sent, outcome=plan.of_recipients(sent.outcome))
    except (DatabaseError, InterfaceError, InvalidMail, gate.GateClosed):
        raise
    except ContentUnavailable as error:
        return Dispatched(route=None, outcome=Deferred(reason=str(error)))
    except Exception as error:  # whatever it is, the mail is kept and the fault is shown
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = f"unexpected {type(error).__name__} in {frame.name}, line {frame.lineno}"
        # The error's own text may quote the mail, so it is not logged.
        logger.error("Delivery %s: %s of %s", delivery.pk, what, frame.filename)
        in_doubt = delivery.status == Status.SENDING
        return Dispatched(route=None, outcome=InDoubt(reason=what) if in_doubt else Deferred(reason=what))


def _claim(delivery: Delivery, plan: safety.Plan, relay: Relay, from_header: str, sender: str) -> bool:
    return ledger.claim(delivery, relay, from_header=from_header, sender=sender, redirected_to=plan.redirected_to)


def _withhold(delivery: Delivery, plan: safety.Plan) -> Outcome | Skipped | None:
    """Settle those who must not be written to; None when there is still somebody to write to."""
    route = routing.active_relay()
    if isinstance(route, routing.Nowhere):
        return Deferred(reason=route.reason, relay_at_fault=True)  # a pause keeps everything as it is
    if not plan.envelope:
        return Failed(reason=safety.WITHHELD)
    return None if ledger.withhold(delivery, plan.withheld, safety.WITHHELD) else _OVERTAKEN


#: How a database says that it is out of reach, or will not be written to for a while: a standby is an InternalError.
_AWAY = (OperationalError, InterfaceError, InternalError)


def _record(delivery: Delivery, outcome: Outcome, attempt_: ledger.Try) -> bool:
    """Record the outcome, again and again until the lease ends when the database is out of reach."""

    def reconnect(state: tenacity.RetryCallState) -> None:
        connections[rows.database()].close()

    recording = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_AWAY),
        wait=tenacity.wait_exponential(multiplier=0.1, max=5),
        stop=tenacity.stop_after_delay(conf.get("LEASE")),
        before_sleep=reconnect,
        reraise=True,
    )
    try:
        return recording(ledger.record, delivery, outcome, attempt_)
    except _AWAY:
        raise
    except Exception as error:  # of whoever stores results; how the mail stands matters more
        logger.error("The result of delivery %s cannot be stored (%s).", delivery.pk, type(error).__name__)
        return recording(ledger.record, delivery, outcome, attempt_, report=False)
