"""Every transition of a delivery: a conditional UPDATE that compares the fence and raises it.

Whoever has seen an older fence changes nothing, with one exception: that the server accepted a mail is a fact, and a
reply that arrives late is recorded whatever has happened since.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
import socket
from collections.abc import Collection, Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from email_integration import conf
from email_integration.addresses import addresses_in
from email_integration.message import content
from email_integration.models import FINAL, Delivery, DeliveryAttempt, InDoubtPolicy, Status
from email_integration.outcomes import settlement
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted, Deferred, Failed, InDoubt, Outcome
from email_integration.outcomes.schedule import first_ring, pause, seconds
from email_integration.routing import gate
from email_integration.smtp import Phase, Relay

from . import continuation, events, instrumentation, sql, steps, task_queue
from .records import Claim, Ended, Try
from .rows import database, is_readable, load
from .steps import Step

#: What can be tried: everything that is neither finished nor in somebody's hands.
CLAIMABLE = (Status.QUEUED, Status.DEFERRED)

#: Attempts, at all mails, that are the last ones.
_LAST = 1000


# -- transitions ----------------------------------------------------------------------------------------------------


def claim(delivery: Delivery, relay: Relay, *, from_header: str, sender: str, redirected_to: str = "") -> bool:
    """Take the right to send the final dot now; False when somebody else was faster.

    Committed when this returns. Pins a sender that was left open, and keeps who gets the mail instead.
    """
    wanted = Claim(delivery=delivery, relay=relay, from_header=from_header, sender=sender, redirected_to=redirected_to)
    _, (claimed,) = record_and_claim((), (wanted,))
    return claimed


def withhold(delivery: Delivery, addresses: Collection[str], cause: Cause) -> bool:
    """Settle these recipients as failed; False when the fence was overtaken."""
    recipients = [
        settlement.give_up([item], cause, cause.words)[0] if item["address"] in addresses else item
        for item in delivery.recipients
    ]
    return _move(delivery, among=CLAIMABLE, recipients=recipients)


def begin_again(*deliveries: Delivery) -> list[bool]:
    """Count an attempt before it begins, so that a mail that kills its worker is found out.

    The first at its first ring is not counted, which would cost every mail an UPDATE; and a ring that was lost says
    nothing of the mail.

    It has the time of a lease at least before the next ring overtakes it, and twice as long each time: a large mail
    on a slow line kills nobody. Says of each whether it was not overtaken.
    """
    return steps.make(map(_beginning_again, deliveries))


def forgive(*deliveries: Delivery) -> list[bool]:
    """Take back what ``begin_again`` counted: no worker was lost. Says of each whether it was not overtaken."""
    return steps.make(Step(one, {"unfinished": one.unfinished - 1}, among=CLAIMABLE) for one in deliveries)


def record(delivery: Delivery, outcome: Outcome, attempt: Try, *, report: bool = True) -> bool:
    """Write down how an attempt ended, with its result, in one commit; False when the fence was overtaken.

    ``delivery`` is brought up to date. The caller decides what to do when the database cannot be reached. Without
    ``report`` no result is stored.
    """
    (recorded,), _ = record_and_claim((Ended(delivery=delivery, outcome=outcome, attempt=attempt),), (), report=report)
    return recorded


def record_and_claim(
    ended: Sequence[Ended],
    wanted: Sequence[Claim],
    *,
    begun_again: Sequence[Delivery] = (),
    report: bool = True,
) -> tuple[list[bool], list[bool]]:
    """Do what ``record`` and ``claim`` do, for all of these in one commit; say of each whether it was done.

    In the same commit ``begin_again`` those that come next, as they show.
    """
    before = [one.delivery.recipients for one in ended]
    made = steps.make(
        itertools.chain(
            (_recording(one, report=report) for one in ended),
            map(_claiming, wanted),
            map(_beginning_again, begun_again),
        )
    )
    recorded = made[: len(ended)]
    for number, one in enumerate(ended):
        if not recorded[number] and isinstance(one.outcome, Accepted):
            recorded[number], before[number] = _accept_late(one, one.outcome, report=report)
        if recorded[number]:
            events.outcome(one, before[number])
            instrumentation.installed().attempted(one)
    return recorded, made[len(ended) : len(ended) + len(wanted)]


def lease_ran_out(delivery: Delivery) -> bool:
    """Record that a claimed delivery's lease ended without an outcome: it is in doubt."""
    outcome = InDoubt(cause=Cause.WORKER_LOST, reason="the worker was lost after the claim and before the outcome")
    attempt = Try(route=None, started_at=delivery.lease_until or timezone.now(), worker_lost=True)
    return record(delivery, outcome, attempt)


def lost_lately(*, but: Delivery) -> int:
    """How many claimed mails, apart from this one, were lost with their worker among the last attempts at all mails."""
    log = DeliveryAttempt.objects.using(database())
    last = log.order_by("-pk").values_list("pk", flat=True).first() or 0
    # Nobody saw how it ended, so it has no duration.
    lost = log.filter(pk__gt=last - _LAST, outcome=Status.IN_DOUBT, duration=None)
    return lost.exclude(delivery=but.pk).count()


def wait_for_relay(delivery: Delivery, closed: gate.GateClosed, *, wait: float) -> bool:
    """Put off, untried, a delivery whose relay is at fault, for ``wait`` seconds at most; False when overtaken."""
    due_at, before = timezone.now() + seconds(wait), delivery.status
    moved = _move(
        delivery,
        among=CLAIMABLE,
        report=True,
        status=Status.DEFERRED,
        code=closed.code,
        cause=closed.cause,
        reason=closed.reason[:255],
        smtp_config=closed.relay.name,
        due_at=due_at,
        ring_after=min(due_at, delivery.expires_at),
        rings=0,
        unfinished=0,
        waits_for_relay=True,
    )
    if moved and before != delivery.status:  # that it waits on is no news
        events.moved(delivery)
    return moved


def set_aside(delivery: Delivery, reason: str) -> bool:
    """Quarantine a row that cannot be read, without reading it; False when it is finished or was overtaken."""
    verdict = settlement.Verdict(status=Status.QUARANTINED, code=None, cause=Cause.DAMAGED.value, reason=reason)
    moved = _move(delivery, not_among=FINAL, report=True, **_finished(delivery, verdict))
    if moved:
        events.end(delivery)
    return moved


def send_now(delivery: Delivery, **changes: Any) -> bool:
    """Make a delivery due at once that nobody is sending, whatever its state; False when overtaken."""
    now = timezone.now()
    common: dict[str, Any] = {"due_at": now, "ring_after": now, "rings": 0, "unfinished": 0, "waits_for_relay": False}
    moved = _move(delivery, not_among=(Status.SENDING,), report=True, **(common | changes))
    if moved:
        task_queue.ring_on_commit(delivery, using=database())
    return moved


def send_prepared(
    delivery: Delivery, *, kept: str, due_at: dt.datetime | None = None, expires_at: dt.datetime | None = None
) -> bool:
    """Have a prepared delivery sent, with ``kept`` of the call that had it sent; False when overtaken.

    One that came to its end while it was prepared keeps that end, of which whatever follows it is told.
    """
    now = timezone.now()
    changes: dict[str, Any] = {"continued": False, "lease_until": None, "ring_after": now}
    if delivery.status == Status.PREPARED:
        due_at, expires_at = due_at or now, expires_at or delivery.expires_at
        ring_after = first_ring(due_at, expires_at, now)
        changes = {"status": Status.QUEUED, "due_at": due_at, "expires_at": expires_at, "ring_after": ring_after}
    moved = _move(delivery, among=(Status.PREPARED, *FINAL), options=kept, **changes)
    if moved and (delivery.due_at <= now or delivery.status in FINAL):
        task_queue.ring_on_commit(delivery, using=database())
    return moved


def end(delivery: Delivery, status: Status, cause: Cause, reason: str = "") -> bool:
    """End a delivery that nobody is sending: expired, cancelled or quarantined. What was accepted stays accepted.

    ``reason`` is the words where those of ``cause`` are not precise enough.
    """
    reason = reason or cause.words
    verdict = settlement.Verdict(status=status, code=delivery.code, cause=cause.value, reason=reason)
    recipients = delivery.recipients
    if is_readable(delivery):
        recipients = settlement.give_up(recipients, cause, reason)
        verdict = settlement.accepted(recipients) or verdict
    moved = _move(
        delivery,
        not_among=(*FINAL, Status.SENDING),
        report=True,
        recipients=recipients,
        **_finished(delivery, verdict),
    )
    if moved:
        events.end(delivery)
    return moved


def cancel(delivery_id: str) -> Delivery | None:
    """Cancel a delivery; None when it does not exist, is finished or is being sent at this moment."""
    delivery = load(delivery_id)
    while delivery is not None and not end(delivery, Status.CANCELLED, Cause.CANCELLED):
        if delivery.status in (*FINAL, Status.SENDING):
            return None
        delivery = load(delivery_id)  # somebody has moved it since
    if delivery is not None:
        continuation.leave(delivery)
    return delivery


def erase(delivery: Delivery, recipients: Any, **changes: Any) -> bool:
    """Write over what a delivery says of a person; False when it is being sent, or was overtaken.

    One that is not finished goes on to whoever is pending. When there is nobody it ends, and its content goes.
    """
    ends = delivery.status not in FINAL and not settlement.is_pending(recipients)
    if ends:
        cancelled = settlement.Verdict(
            status=Status.CANCELLED, code=delivery.code, cause=Cause.ERASED.value, reason=settlement.ERASED
        )
        changes |= _finished(delivery, settlement.accepted(recipients) or cancelled) | content.NONE
    moved = _move(delivery, not_among=(Status.SENDING,), report=ends, recipients=recipients, **changes)
    if moved and ends:
        events.end(delivery)
    return moved


# -- how ------------------------------------------------------------------------------------------------------------


def _move(
    delivery: Delivery,
    *,
    among: Collection[Status] = (),
    not_among: Collection[Status] = (),
    report: bool = False,
    **values: Any,
) -> bool:
    step = Step(delivery, values, report=report, among=among, not_among=not_among)
    return steps.make([step])[0]


def _beginning_again(delivery: Delivery) -> Step:
    patience = max(conf.get("LEASE"), pause(delivery.rings))
    values = {"unfinished": delivery.unfinished + 1, "ring_after": timezone.now() + seconds(patience)}
    return Step(delivery, values, among=CLAIMABLE)


def _claiming(claim: Claim) -> Step:
    delivery, relay = claim.delivery, claim.relay
    lease_until = timezone.now() + seconds(conf.get("LEASE"))
    values: dict[str, Any] = {
        "status": Status.SENDING,
        "lease_until": lease_until,
        "ring_after": lease_until,
        "smtp_config": relay.name,
        "config_version": relay.version,
        "worker": _worker(),
    }
    if delivery.from_at is not None:
        values |= {"from_header": claim.from_header, "sender": claim.sender}
    if claim.redirected_to:
        # What was redirected once stays recorded: a mail may be tried again under other settings.
        values["redirected_to"] = claim.redirected_to
    return Step(delivery, values, among=CLAIMABLE)


def _recording(one: Ended, *, report: bool) -> Step:
    values = _after(one.delivery, one.outcome, one.attempt)
    return Step(one.delivery, values, rows=lambda: (_log(one),), report=report, not_among=FINAL)


#: Not needed to record how it ended, and may be large.
_CONTENT = ("content",)


def _accept_late(one: Ended, outcome: Accepted, *, report: bool) -> tuple[bool, Any]:
    """Record what the server accepted although somebody has moved the delivery since; with who was settled before."""
    with steps.unchanged_on_error(one.delivery), transaction.atomic(using=database()):
        return _accept_under_lock(one, outcome, report=report)


def _accept_under_lock(one: Ended, outcome: Accepted, *, report: bool) -> tuple[bool, Any]:
    delivery, attempt = one.delivery, one.attempt
    before = delivery.recipients
    try:
        delivery.refresh_from_db(
            fields=[field.attname for field in Delivery._meta.concrete_fields if field.attname not in _CONTENT],
            from_queryset=Delivery.objects.using(database()).select_for_update(),
        )
    except Delivery.DoesNotExist:
        return False, []
    if not is_readable(delivery):
        delivery.recipients = before
    before = delivery.recipients
    if settlement.settle(before, outcome) == before:
        return False, before  # known already
    values = _after(delivery, outcome, attempt)
    if delivery.status in FINAL and delivery.continued:  # what follows has gone its way already
        values |= {"continued": True, "lease_until": None, "ring_after": None}
    if delivery.status == Status.SENDING and values["status"] not in FINAL:
        # Somebody may be sending it to the rest at this moment: he, or the end of his lease, says how that ended.
        values = {name: values[name] for name in ("recipients", "attempts")}
    return steps.make([Step(delivery, values, rows=lambda: (_log(one),), report=report)])[0], before


def _after(delivery: Delivery, outcome: Outcome, attempt: Try) -> dict[str, Any]:
    recipients = settlement.settle(delivery.recipients, outcome)
    verdict = settlement.judge(recipients, outcome)
    common = {
        "recipients": recipients,
        "attempts": delivery.attempts + 1,
        "smtp_config": (attempt.route.name if attempt.route else "") or delivery.smtp_config,
        "unfinished": delivery.unfinished + 1 if attempt.worker_lost else 0,
        "waits_for_relay": False,
    }
    if verdict.status is not None:
        return common | _finished(delivery, verdict)
    now = timezone.now()
    due_at = now + seconds(attempt.wait)
    # Whoever records that it is due at once goes on with it, and a ring would only overtake him.
    ring_after = due_at if attempt.wait else now + seconds(conf.get("RING_AFTER"))
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
        # What expires before it is due is not left lying until then.
        "ring_after": None if held else min(ring_after, delivery.expires_at),
        "lease_until": None,
        "rings": 0,
        "waits_for_relay": isinstance(outcome, Deferred) and outcome.relay_at_fault,
    }


def _without_sender(delivery: Delivery) -> dict[str, Any]:
    """Leave open again what a claim has taken from a configuration: it is to go with the sender that is corrected."""
    if delivery.from_at is None or not delivery.from_header:
        return {}
    own = delivery.sender not in addresses_in(delivery.from_header)
    return {"from_header": "", "sender": delivery.sender if own else ""}


def _finished(delivery: Delivery, verdict: settlement.Verdict) -> dict[str, Any]:
    follows = task_queue.installed().has_follow_up(delivery)
    now = timezone.now()
    # The lease now covers what follows, so that a second ring does not set it going as well.
    lease_until = now + seconds(conf.get("LEASE")) if follows else None
    drops_content = verdict.status == Status.ACCEPTED and not conf.get("CONTENT_RETENTION_DAYS")
    return {
        **(content.NONE if drops_content or settlement.names_erased(delivery.recipients) else {}),
        "status": verdict.status,
        "code": verdict.code,
        "cause": verdict.cause,
        "reason": verdict.reason[:255],
        "finished_at": now,
        "lease_until": lease_until,
        "continued": not follows,
        "ring_after": lease_until,
    }


def _log(one: Ended) -> sql.Row:
    delivery, outcome, attempt = one.delivery, one.outcome, one.attempt
    relay = attempt.route if isinstance(attempt.route, Relay) else None
    return sql.Row(
        model=DeliveryAttempt,
        values={
            "delivery": delivery.pk,
            "number": delivery.attempts,
            "started_at": attempt.started_at,
            "finished_at": timezone.now(),
            "duration": attempt.duration,
            "outcome": _WORDS[type(outcome)],
            "phase": (outcome.phase or Phase.CONNECT) if relay or isinstance(outcome, InDoubt) else "",
            "code": outcome.code,
            "cause": str(outcome.cause),
            "reason": outcome.reason[:255],
            "reply": outcome.reply,
            "smtp_config": delivery.smtp_config,
            "config_version": relay.version if relay else delivery.config_version if attempt.worker_lost else "",
            "tls_version": attempt.tls_version,
            "host": attempt.route.host if attempt.route else "",
            "worker": delivery.worker if attempt.worker_lost else _worker(),
        },
    )


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


_WORDS = {
    Accepted: Status.ACCEPTED,
    Deferred: Status.DEFERRED,
    Failed: Status.FAILED,
    InDoubt: Status.IN_DOUBT,
}
