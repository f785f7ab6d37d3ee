"""How an attempt ended, as values, and the one function that decides it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from email_integration.smtp import ConnectionLost, NotOffered, Phase, Reply, SMTPFailure, TLSFailed

#: The reason of what was accepted.
ACCEPTED = "accepted by the server"


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The server took the mail for ``accepted``; ``refused`` got it not, with the reply of each."""

    code: int
    accepted: tuple[str, ...] = field(repr=False)
    refused: dict[str, Reply] = field(repr=False)
    phase: Phase = Phase.FINAL_DOT
    reason: str = ACCEPTED


@dataclass(frozen=True, kw_only=True)
class Deferred:
    """Not now; ``retry_in`` is the server's hint in seconds. ``relay_at_fault``: nothing to do with this mail."""

    code: int | None = None
    reason: str
    phase: Phase | None = None
    relay_at_fault: bool = False
    retry_in: float | None = None
    refused: dict[str, Reply] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Never."""

    code: int | None = None
    reason: str
    phase: Phase | None = None
    refused: dict[str, Reply] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class InDoubt:
    """The server may or may not have it (RFC 1047)."""

    reason: str
    code: int | None = None
    phase: Phase = Phase.FINAL_DOT


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """There was nothing to do: finished, not due yet, or somebody else is at it."""

    reason: str


Outcome = Accepted | Deferred | Failed | InDoubt

#: About us, not the mail, wherever they come (RFC 4954 §6); 550 5.7.30 is Microsoft's 'basic authentication disabled'.
_LOGIN_CODES = frozenset({530, 534, 535})
_LOGIN_ENHANCED = frozenset({"5.7.30"})
_RELAYING_DENIED = re.compile(
    r"relay(ing)?\b.*\b(denied|prohibited|not permitted|not allowed)|unable to relay", re.I | re.S
)
_TOO_MANY_RECIPIENTS = re.compile(r"too many recipients", re.I)
_TRY_AGAIN_IN = re.compile(r"\b(?:in|after)\s+(\d{1,6})\s*(s|secs?|seconds?|m|mins?|minutes?)\b", re.I)


def classify(failure: SMTPFailure, *, own_sender: bool = False) -> Outcome:
    """Decide what a failure of the whole transaction means; a pure function of phase, reply and kind of failure.

    ``own_sender`` says that the sender was the relay's, not the mail's: no mail is burnt for a wrong one.
    """
    reply, phase = failure.reply, failure.phase
    if reply is not None:
        if own_sender and phase is Phase.MAIL and _is_about_sender(reply):
            reason = f"the server refused the configuration's sender ({reply.short}); correct its from_email"
            return Deferred(code=reply.code, phase=phase, relay_at_fault=True, reason=reason)
        return _refused(phase, reply)
    if isinstance(failure, ConnectionLost) and phase is Phase.FINAL_DOT:
        return InDoubt(reason=f"{failure.detail} after the final dot")
    at_fault = phase.before_mail or isinstance(failure, TLSFailed | NotOffered)
    return Deferred(reason=f"{failure.detail} ({phase})", phase=phase, relay_at_fault=at_fault)


def classify_recipients(refused: dict[str, Reply]) -> Outcome:
    """Decide what it means that every recipient was refused, by the reply that leaves most hope."""
    outcomes = [_refused(Phase.RCPT, reply) for reply in refused.values()]
    hopeful = next((outcome for outcome in outcomes if isinstance(outcome, Deferred)), None)
    if hopeful is not None:
        return Deferred(
            code=hopeful.code,
            reason=hopeful.reason,
            phase=Phase.RCPT,
            relay_at_fault=hopeful.relay_at_fault,
            retry_in=hopeful.retry_in,
            refused=refused,
        )
    first = outcomes[0]
    return Failed(code=first.code, reason=first.reason, phase=Phase.RCPT, refused=refused)


def is_permanent(reply: Reply) -> bool:
    """Whether the recipient this was said of can be given up."""
    return isinstance(_refused(Phase.RCPT, reply), Failed)


def _is_about_sender(reply: Reply) -> bool:
    """Whether a refused MAIL is about its address: not about the size (552, X.3.4), nor for now."""
    return reply.permanent and reply.code != 552 and reply.enhanced not in ("5.3.4", "5.2.3")


def _refused(phase: Phase, reply: Reply) -> Outcome:
    said = f"({reply.short})"
    if reply.code in _LOGIN_CODES or reply.enhanced in _LOGIN_ENHANCED:
        return Deferred(
            code=reply.code,
            phase=phase,
            relay_at_fault=True,
            reason=f"the server did not accept the login {said}; check user name and password of the configuration",
        )
    if phase.before_mail or reply.code == 421:
        return Deferred(
            code=reply.code,
            phase=phase,
            relay_at_fault=True,
            retry_in=_hint(reply),
            reason=f"the server refused {said}",
        )
    if reply.permanent and _RELAYING_DENIED.search(reply.text):
        return Deferred(code=reply.code, phase=phase, reason=f"the server does not relay for us {said}")
    # RFC 5321 §4.5.3.1.10: a 552 for too many recipients is to be treated as a 452.
    if reply.permanent and not (reply.code == 552 and _TOO_MANY_RECIPIENTS.search(reply.text)):
        return Failed(code=reply.code, phase=phase, reason=f"{_WHAT[phase]} was refused {said}")
    return Deferred(code=reply.code, phase=phase, retry_in=_hint(reply), reason=f"{_WHAT[phase]} was put off {said}")


_WHAT = {
    Phase.MAIL: "the sender",
    Phase.RCPT: "every recipient",
    Phase.DATA: "the mail",
    Phase.CONTENT: "the mail",
    Phase.FINAL_DOT: "the mail",
}


def _hint(reply: Reply) -> float | None:
    found = _TRY_AGAIN_IN.search(reply.text)
    if found is None:
        return None
    return float(found[1]) * (60 if found[2].lower().startswith("m") else 1)
