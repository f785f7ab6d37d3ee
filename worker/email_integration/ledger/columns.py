"""The columns of a delivery after a transition, and the row of its attempt."""

from __future__ import annotations

import datetime as dt
import functools
import os
import socket
from collections.abc import Collection
from typing import Any

from django.utils import timezone

from email_integration import conf
from email_integration.addresses import addresses_in
from email_integration.forks import after_fork_in_child
from email_integration.message import content
from email_integration.models import Delivery, DeliveryAttempt, InDoubtPolicy, Status
from email_integration.outcomes import settlement
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted, Deferred, Failed, InDoubt, Outcome
from email_integration.outcomes.schedule import seconds
from email_integration.smtp import Phase, Relay

from . import clock, task_queue
from .records import Ended
from .steps import Row


def after_attempt(ended: Ended, *, now: dt.datetime | None = None) -> dict[str, Any]:
    """Return the columns that the end of an attempt changes in its delivery.

    A delivery that is to be cancelled ends now, unless it is accepted. ``now`` is ``timezone.now()`` if the caller
    already has it.
    """
    delivery, outcome, attempt = ended.delivery, ended.outcome, ended.attempt
    route = attempt.route
    known = withheld(delivery.recipients, ended.withheld) if ended.withheld else delivery.recipients
    recipients = settlement.settle(known, outcome)
    verdict = settlement.judge(recipients, outcome)
    common: dict[str, Any] = {
        "recipients": recipients,
        "attempts": delivery.attempts + 1,
        "smtp_config": (route.name if route else "") or attempt.smtp_config or delivery.smtp_config,
        "config_version": (route.version if isinstance(route, Relay) else attempt.config_version)
        or delivery.config_version,
        "worker": attempt.worker or this_worker(),
        "returned": 0,
        "waits_for_relay": False,
    }
    if attempt.from_header and delivery.from_at is not None:
        common |= {"from_header": attempt.from_header, "sender": attempt.sender}
    if attempt.redirected_to:
        # A redirection stays recorded, because the mail may be tried again with other settings.
        common["redirected_to"] = attempt.redirected_to
    if verdict.status is None and delivery.cancel_requested:
        recipients = settlement.give_up(recipients, Cause.CANCELLED, Cause.CANCELLED.words)
        verdict = cancelled(delivery, recipients)
        common["recipients"] = recipients
    if verdict.status is not None:
        return common | finished(delivery, verdict, recipients, now=now)
    due_at = clock.now() + seconds(attempt.wait)
    policy = delivery.in_doubt_policy or conf.get("IN_DOUBT")
    held = isinstance(outcome, InDoubt) and policy == InDoubtPolicy.HOLD
    if verdict.cause == Cause.CONFIG_SENDER and settlement.accepted(recipients) is None:
        common |= _without_sender(delivery)
    return common | {
        "status": Status.IN_DOUBT if held else Status.DEFERRED,
        "code": verdict.code,
        "cause": verdict.cause,
        "reason": verdict.reason[:255],
        "due_at": due_at,
        # A delivery that expires before it is due is claimed when it expires.
        "next_at": None if held else min(due_at, delivery.expires_at),
        "waits_for_relay": isinstance(outcome, Deferred) and outcome.relay_at_fault,
    }


def finished(
    delivery: Delivery,
    verdict: settlement.Verdict,
    recipients: Any = None,
    *,
    continue_in: float | None = None,
    now: dt.datetime | None = None,
) -> dict[str, Any]:
    """Return the columns that an end changes in a delivery. ``recipients`` defaults to those of the delivery.

    The process that records the end publishes the continuation. After ``continue_in`` seconds (by default the setting
    LEASE) the sweeper publishes it. ``now`` is as in ``after_attempt``.
    """
    continue_after = None
    if task_queue.installed().has_continuation(delivery):
        continue_after = clock.now() + seconds(conf.get("LEASE") if continue_in is None else continue_in)
    drops_content = verdict.status == Status.ACCEPTED and not conf.get("CONTENT_RETENTION_DAYS")
    found = delivery.recipients if recipients is None else recipients
    dropped = content.NONE if drops_content else {}
    return {
        **(content.ERASED if settlement.names_erased(found) else dropped),
        "status": verdict.status,
        "code": verdict.code,
        "cause": verdict.cause,
        "reason": verdict.reason[:255],
        "finished_at": now or timezone.now(),
        "next_at": None,
        "cancel_requested": False,
        "continue_after": continue_after,
    }


def cancelled(delivery: Delivery, recipients: list[settlement.Recipient]) -> settlement.Verdict:
    """Return the verdict for a delivery that is cancelled. It stays accepted if the server accepted any recipient."""
    return settlement.accepted(recipients) or settlement.Verdict(
        status=Status.CANCELLED, code=delivery.code, cause=Cause.CANCELLED.value, reason=Cause.CANCELLED.words
    )


def withheld(recipients: list[settlement.Recipient], addresses: Collection[str]) -> list[settlement.Recipient]:
    """Return the recipients, with those in ``addresses`` settled as withheld."""
    return [
        settlement.give_up([item], Cause.WITHHELD, Cause.WITHHELD.words)[0] if item["address"] in addresses else item
        for item in recipients
    ]


def attempt_row(ended: Ended, *, now: dt.datetime | None = None) -> Row:
    """Return the row of the attempt.

    The delivery already has its recorded values. ``now`` is as in ``after_attempt``.
    """
    delivery, outcome, attempt = ended.delivery, ended.outcome, ended.attempt
    is_relay = isinstance(attempt.route, Relay)
    return Row(
        model=DeliveryAttempt,
        values={
            "delivery": delivery.id,
            "number": delivery.attempts,
            "started_at": attempt.started_at,
            "finished_at": now or timezone.now(),
            "duration": attempt.duration,
            "outcome": _WORDS[type(outcome)],
            "phase": (outcome.phase or Phase.CONNECT) if is_relay or isinstance(outcome, InDoubt) else "",
            "code": outcome.code,
            "cause": str(outcome.cause),
            "reason": outcome.reason[:255],
            "reply": outcome.reply,
            "smtp_config": delivery.smtp_config,
            "config_version": attempt.route.version if isinstance(attempt.route, Relay) else attempt.config_version,
            "tls_version": attempt.tls_version,
            "host": attempt.route.host if attempt.route else "",
            "worker": attempt.worker or this_worker(),
        },
    )


@functools.cache
def this_worker() -> str:
    """Return a readable name of this process: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


after_fork_in_child(this_worker.cache_clear)


def _without_sender(delivery: Delivery) -> dict[str, Any]:
    """Remove a sender that came from a configuration, so the mail is sent with the corrected sender."""
    if delivery.from_at is None or not delivery.from_header:
        return {"from_header": delivery.from_header, "sender": delivery.sender}
    own = delivery.sender not in addresses_in(delivery.from_header)
    return {"from_header": "", "sender": delivery.sender if own else ""}


_WORDS: dict[type[Outcome], Status] = {
    Accepted: Status.ACCEPTED,
    Deferred: Status.DEFERRED,
    Failed: Status.FAILED,
    InDoubt: Status.IN_DOUBT,
}
