"""The effect of an outcome on each recipient, and on the delivery as a whole: pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from email_integration.smtp import Phase, Reply

from .causes import Cause
from .classification import ACCEPTED, Accepted, Deferred, Failed, InDoubt, Outcome, is_permanent
from .recognition import quote, reason, recognise
from .status import Status

#: ``{"address": …, "status": "pending" | "accepted" | "failed", "code": …, "reply": …, "cause": …, "reason": …}``;
#: ``reply`` is the server's text and may contain addresses, ``cause`` and ``reason`` are this app's and do not.
Recipient = dict[str, Any]

STATUSES = ("pending", "accepted", "failed")

#: Replaces erased personal data.
ERASED = "erased"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The state of a delivery: ``status`` is None while recipients are left to try, ``cause`` '' after acceptance."""

    status: Status | None
    code: int | None
    cause: str
    reason: str


def settle(recipients: list[Recipient], outcome: Outcome) -> list[Recipient]:
    """Return the recipients settled by ``outcome``. An accepted one stays accepted; acceptance replaces failure."""
    taken = outcome.accepted if isinstance(outcome, Accepted) else ()
    return [
        {"address": item["address"], "status": "accepted", "code": outcome.code}
        if item["address"] in taken and item["status"] != "accepted"
        else _settle(item, outcome)
        for item in recipients
    ]


def left(addresses: Iterable[str], outcome: Outcome) -> tuple[str, ...]:
    """Return the addresses that the outcome has not settled."""
    settled = settle([{"address": address, "status": "pending"} for address in addresses], outcome)
    return tuple(item["address"] for item in settled if item["status"] == "pending")


def give_up(recipients: list[Recipient], cause: Cause, reason: str) -> list[Recipient]:
    """Return the recipients with all pending ones failed for ``cause``."""
    given_up = {"status": "failed", "reply": reason, "cause": cause.value, "reason": reason}
    return [{**item, **given_up} if item["status"] == "pending" else item for item in recipients]


def judge(recipients: list[Recipient], outcome: Outcome) -> Verdict:
    """Return the verdict on a delivery whose recipients ``outcome`` has just settled."""
    pending = [item for item in recipients if item["status"] == "pending"]
    taken = accepted(recipients)
    if pending:
        if not isinstance(outcome, Accepted):
            return Verdict(status=None, code=outcome.code, cause=str(outcome.cause), reason=outcome.reason)
        first, why = pending[0], f"{len(pending)} of {len(recipients)} recipients were deferred"
        return Verdict(status=None, code=first.get("code"), cause=first.get("cause", ""), reason=why)
    return taken or Verdict(status=Status.FAILED, code=outcome.code, cause=str(outcome.cause), reason=outcome.reason)


def accepted(recipients: list[Recipient]) -> Verdict | None:
    """Return the verdict on a finished delivery that was accepted for at least one recipient; None if for none."""
    taken = [item for item in recipients if item["status"] == "accepted"]
    if not taken:
        return None
    for_some = "" if len(taken) == len(recipients) else f" for {len(taken)} of {len(recipients)} recipients"
    return Verdict(status=Status.ACCEPTED, code=taken[-1].get("code"), cause="", reason=f"{ACCEPTED}{for_some}")


def is_pending(recipients: list[Recipient]) -> bool:
    """Return whether a recipient is still pending."""
    return any(item["status"] == "pending" for item in recipients)


def names_erased(recipients: Any) -> bool:
    """Return whether a recipient was erased, whom the content may still name. Accepts unreadable values too."""
    found = recipients if isinstance(recipients, list) else []
    return any(isinstance(item, dict) and item.get("address") == ERASED for item in found)


def _settle(item: Recipient, outcome: Outcome) -> Recipient:
    if item["status"] == "accepted" or isinstance(outcome, InDoubt):
        return item
    if item["status"] != "pending":
        return item
    reply = outcome.refused.get(item["address"])
    about_this = isinstance(outcome, Failed) and (outcome.recipients is None or item["address"] in outcome.recipients)
    if reply is not None:
        decided = about_this or is_permanent(reply)
        return {**item, "status": "failed" if decided else "pending", **_said(reply)}
    if isinstance(outcome, Accepted | Failed) and item["address"] in outcome.unsupported:
        return _failed(item, Cause.NO_SMTPUTF8, Cause.NO_SMTPUTF8.words)
    if isinstance(outcome, Deferred) and item["address"] in outcome.recipients:
        what = {"code": outcome.code, "reply": outcome.reply, "cause": str(outcome.cause), "reason": outcome.reason}
        return {**item, **what}
    if isinstance(outcome, Failed) and about_this:
        return _failed(item, outcome.cause, outcome.reason, code=outcome.code, reply=outcome.reply)
    return item


def _failed(item: Recipient, cause: Cause, why: str, *, code: int | None = None, reply: str = "") -> Recipient:
    return {**item, "status": "failed", "code": code, "reply": reply or why, "cause": cause.value, "reason": why}


def _said(reply: Reply) -> dict[str, Any]:
    return {
        "code": reply.code,
        "reply": quote(reply),
        "cause": recognise(Phase.RCPT, reply).value,
        "reason": reason(Phase.RCPT, reply),
    }
