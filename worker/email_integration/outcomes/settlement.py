"""What an outcome makes of each recipient, and of the delivery as a whole: pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from email_integration.smtp import Phase, Reply

from . import causes
from .classification import ACCEPTED, Accepted, Failed, InDoubt, Outcome, is_permanent
from .status import Status

#: ``{"address": …, "status": "pending" | "accepted" | "failed", "code": …, "reply": …, "reason": …}``;
#: ``reply`` is the server's text and may hold addresses, ``reason`` is ours and does not.
Recipient = dict[str, Any]

STATUSES = ("pending", "accepted", "failed")

#: What stands where something was erased that was known of a person.
ERASED = "erased"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a delivery stands: ``status`` is None while something is left to try."""

    status: Status | None
    code: int | None
    reason: str


def settle(recipients: list[Recipient], outcome: Outcome) -> list[Recipient]:
    """Settle each recipient the outcome says something of. What was accepted stays so, and wins over what was not."""
    return [_settle(item, outcome) for item in recipients]


def left(addresses: Iterable[str], outcome: Outcome) -> tuple[str, ...]:
    """Which of these addresses the outcome has not settled."""
    settled = settle([{"address": address, "status": "pending"} for address in addresses], outcome)
    return tuple(item["address"] for item in settled if _is(item, "pending"))


def give_up(recipients: list[Recipient], reason: str) -> list[Recipient]:
    """Settle those that nothing was decided about."""
    given_up = {"status": "failed", "reply": reason, "reason": reason}
    return [{**item, **given_up} if _is(item, "pending") else item for item in recipients]


def judge(recipients: list[Recipient], outcome: Outcome) -> Verdict:
    """Say how a delivery stands whose recipients ``outcome`` has just settled."""
    pending = [item for item in recipients if _is(item, "pending")]
    taken = accepted(recipients)
    if pending:
        if not isinstance(outcome, Accepted):
            return Verdict(status=None, code=outcome.code, reason=outcome.reason)
        reason = f"{len(pending)} of {len(recipients)} recipients were put off"
        return Verdict(status=None, code=pending[0].get("code"), reason=reason)
    return taken or Verdict(status=Status.FAILED, code=outcome.code, reason=outcome.reason)


def accepted(recipients: list[Recipient]) -> Verdict | None:
    """The verdict on a finished delivery that the server took for anybody; None when it took it for nobody."""
    taken = [item for item in recipients if _is(item, "accepted")]
    if not taken:
        return None
    reason = (
        ACCEPTED if len(taken) == len(recipients) else f"{ACCEPTED} for {len(taken)} of {len(recipients)} recipients"
    )
    return Verdict(status=Status.ACCEPTED, code=taken[-1].get("code"), reason=reason)


def is_pending(recipients: list[Recipient]) -> bool:
    """Whether there is somebody left to send to."""
    return any(_is(item, "pending") for item in recipients)


def names_erased(recipients: Any) -> bool:
    """Whether somebody was erased among them, who may still be named in the content. Takes what cannot be read too."""
    found = recipients if isinstance(recipients, list) else []
    return any(isinstance(item, dict) and item.get("address") == ERASED for item in found)


def _settle(item: Recipient, outcome: Outcome) -> Recipient:
    if isinstance(outcome, InDoubt) or _is(item, "accepted"):
        return item
    if isinstance(outcome, Accepted) and item["address"] in outcome.accepted:
        return {"address": item["address"], "status": "accepted", "code": outcome.code}
    if not _is(item, "pending"):
        return item
    reply = outcome.refused.get(item["address"])
    about_this = isinstance(outcome, Failed) and (outcome.recipients is None or item["address"] in outcome.recipients)
    if reply is not None:
        decided = about_this or is_permanent(reply)
        return {**item, "status": "failed" if decided else "pending", **_said(reply)}
    if isinstance(outcome, Accepted | Failed) and item["address"] in outcome.unsupported:
        words = str(causes.Cause.NO_SMTPUTF8)
        return {**item, "status": "failed", "code": None, "reply": words, "reason": words}
    if isinstance(outcome, Failed) and about_this:
        said = {"code": outcome.code, "reply": outcome.reply or outcome.reason, "reason": outcome.reason}
        return {**item, "status": "failed", **said}
    return item


def _is(item: Recipient, status: str) -> bool:
    return bool(item["status"] == status)


def _said(reply: Reply) -> dict[str, Any]:
    return {"code": reply.code, "reply": causes.quote(reply), "reason": causes.reason(Phase.RCPT, reply)}
