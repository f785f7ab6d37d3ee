"""One attempt at one delivery, from the row to the recorded outcome.

A mail whose worker dies before the claim is simply tried again. One whose worker dies after it is found by the sweep
when the lease has run out, and is *in doubt*: the server may have it. One whose outcome is recorded is never sent
again, however often a ring repeats.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import logging
import random
import time
import traceback

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from email_integration import conf, recursion, routing
from email_integration.exceptions import ContentUnavailable, InvalidMail
from email_integration.ledger import continuation, rows, transitions
from email_integration.message import content
from email_integration.models import FINAL, Delivery, Status
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred, Failed, InDoubt, Outcome, Skipped
from email_integration.queue import retry_now
from email_integration.routing import gate
from email_integration.secrecy import with_secrets
from email_integration.smtp import Relay

from . import sandbox
from .dispatch import Dispatched, Mail, dispatch
from .recording import Begun, forgive, goes_on, record

logger = logging.getLogger(__name__)


@with_secrets
def attempt(delivery_id: str) -> Delivery | Skipped:
    """Try the delivery and return it as it stands then; ``Skipped`` when there was nothing to do.

    Once, unless the server takes so many recipients at a time: the rest goes at once, in another transaction. Raises
    ``DatabaseError`` when the database fails; the delivery is then rung for again.
    """
    while True:
        ended, again = _attempt_once(delivery_id)
        if not again:
            return ended


def _attempt_once(delivery_id: str) -> tuple[Delivery | Skipped, bool]:
    delivery = rows.load(delivery_id)
    if delivery is None:
        return Skipped(reason="unknown: its transaction was rolled back, or it was deleted"), False
    recursion.comes_to(delivery.options)
    begun = Begun(delivery=delivery, at=timezone.now(), counted_from=time.monotonic(), waited=delivery.waits_for_relay)
    skipped = _prepare(delivery, begun.at)
    if skipped is not None or Status(delivery.status).is_final:
        return skipped or delivery, False
    try:
        sent = _send(delivery)
    except gate.GateClosed as closed:
        return _wait_for_relay(delivery, closed), False
    except InvalidMail:
        return delivery if transitions.set_aside(delivery, "its sender cannot be read") else _OVERTAKEN, False
    except (DatabaseError, InterfaceError):
        forgive(delivery)
        raise
    if isinstance(sent, Skipped):
        return sent, False
    if isinstance(sent.outcome, Skipped):
        return sent.outcome, False
    ended = begun.ended(sent.outcome, route=sent.route, tls_version=sent.tls_version)
    if not record(ended):
        return _OVERTAKEN, False
    begun.see_to_others(ended)
    return delivery, goes_on(ended)


def _wait_for_relay(delivery: Delivery, closed: gate.GateClosed) -> Delivery | Skipped:
    """Put the delivery off untried. Whatever opens the gate wakes it; the time is for the case that nobody does."""
    longest = conf.get("RETRY_MAX")
    wait = longest * (1 + random.random())  # noqa: S311  # as above
    if not transitions.wait_for_relay(delivery, closed, wait=wait):
        return _OVERTAKEN
    if not gate.is_closed(closed.relay):
        retry_now.wake(delivery.pk)  # it was opened before this was recorded, so that nobody woke it
    return delivery


_OVERTAKEN = Skipped(reason="overtaken by another worker")


def _prepare(delivery: Delivery, now: dt.datetime) -> Skipped | None:
    """Bring the delivery to where it can be tried, or to its end; say why if there is nothing to do."""
    if not rows.is_readable(delivery) and delivery.status not in FINAL:
        return None if transitions.set_aside(delivery, "its row is damaged") else _OVERTAKEN
    if Status(delivery.status).is_final:
        if delivery.continued or not continuation.resume(delivery):
            return Skipped(reason=f"already {delivery.status}")
        return None
    if delivery.status == Status.SENDING:
        if delivery.lease_until is not None and delivery.lease_until > now:
            return Skipped(reason="another worker is sending it")
        if not transitions.lease_ran_out(delivery):
            return _OVERTAKEN
    if delivery.status == Status.IN_DOUBT:
        return Skipped(reason="in doubt, held for a person")
    moved = True
    if delivery.expires_at <= now:
        moved = transitions.end(delivery, Status.EXPIRED, Cause.EXPIRED)
    elif not rows.pending(delivery):
        moved = transitions.end(delivery, Status.FAILED, Cause.NO_RECIPIENTS)
    elif _kills_its_workers(delivery):
        reason = "its worker was lost every time it was tried"
        moved = transitions.end(delivery, Status.QUARANTINED, Cause.WORKER_LOST, reason)
    elif delivery.due_at > timezone.now():
        return Skipped(reason="not due yet")
    elif delivery.rings or delivery.unfinished:
        moved = all(transitions.begin_again(delivery))
    return None if moved else _OVERTAKEN


def _kills_its_workers(delivery: Delivery) -> bool:
    """Whether so many workers were lost with it that it is to blame.

    Twice as many, if others were lost lately that had nothing to do with it: then somebody else seems to kill them.
    """
    enough: int = conf.get("QUARANTINE_AFTER")
    if delivery.unfinished < enough:
        return False
    at_once: int = conf.get("GROUP_COMMIT")  # so many may have been lost with it, in a group
    return delivery.unfinished >= 2 * enough or transitions.lost_lately(but=delivery) <= at_once


def _send(delivery: Delivery) -> Dispatched | Skipped:
    try:
        plan = sandbox.plan_now(rows.pending(delivery))
    except ImproperlyConfigured as error:
        return Dispatched(route=None, outcome=Deferred(cause=Cause.SETTINGS, reason=str(error)))
    try:
        held_back = _withhold(delivery, plan) if plan.withheld else None
        if held_back is not None:
            return held_back if isinstance(held_back, Skipped) else Dispatched(route=None, outcome=held_back)
        mail = Mail(
            from_header=delivery.from_header,
            from_at=delivery.from_at,
            sender=delivery.sender,
            recipients=plan.envelope,
            put_off=rows.put_off(delivery),
            content=content.stored(delivery),
        )
        sent = dispatch(mail, functools.partial(_claim, delivery, plan))
        return dataclasses.replace(sent, outcome=plan.of_recipients(sent.outcome))
    except (DatabaseError, InterfaceError, InvalidMail, gate.GateClosed):
        raise
    except ContentUnavailable as error:
        return Dispatched(route=None, outcome=Deferred(cause=Cause.CONTENT_UNAVAILABLE, reason=str(error)))
    except Exception as error:  # whatever it is, the mail is kept and the fault is shown
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = f"unexpected {type(error).__name__} in {frame.name}, line {frame.lineno}"
        # The error's own text may quote the mail, so it is not logged.
        logger.error("Delivery %s: %s of %s", delivery.pk, what, frame.filename, extra={"delivery_id": delivery.pk})
        kind = InDoubt if delivery.status == Status.SENDING else Deferred
        return Dispatched(route=None, outcome=kind(cause=Cause.INTERNAL_ERROR, reason=what))


def _claim(delivery: Delivery, plan: sandbox.Plan, relay: Relay, from_header: str, sender: str) -> bool:
    return transitions.claim(delivery, relay, from_header=from_header, sender=sender, redirected_to=plan.redirected_to)


def _withhold(delivery: Delivery, plan: sandbox.Plan) -> Outcome | Skipped | None:
    """Settle those who must not be written to; None when there is still somebody to write to."""
    route = routing.active_relay()
    if isinstance(route, routing.Nowhere):
        # A pause keeps everything as it is.
        return Deferred(cause=route.cause, reason=route.reason, relay_at_fault=True)
    if not plan.envelope:
        return Failed(cause=Cause.WITHHELD, reason=Cause.WITHHELD.words)
    return None if transitions.withhold(delivery, plan.withheld, Cause.WITHHELD) else _OVERTAKEN
