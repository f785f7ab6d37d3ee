"""The outcomes of an attempt, as values, and the function that decides them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from email_integration.smtp import (
    CannotConnect,
    ConnectionLost,
    NotOffered,
    NoToken,
    Phase,
    PoolBusy,
    Reply,
    SMTPFailure,
    TLSFailed,
)
from email_integration.smtp.dialogue import Malformed

from .causes import ABOUT_LOGIN, ABOUT_US, ACCOUNT_WIDE, ADMIN_FIXABLE, REFUSED_LOGIN, Cause
from .codes import DIALOGUE
from .recognition import quote, reason, recognise
from .schedule import hint

#: The reason of an accepted mail.
ACCEPTED = "accepted by the server"

#: Seconds to wait when a server that greylists does not give a time. Five minutes are the default of common software
#: (Postgrey, rspamd); some servers start again, or block, when the mail returns much sooner.
GREYLISTED_FOR = 300.0

#: Seconds that a mail waits when all sessions of this process are lent.
POOL_BUSY_FOR = 1.0


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The server accepted the mail for ``accepted`` and rejected ``refused``, with their replies.

    ``unsupported`` are recipients that the server cannot be given, because it lacks SMTPUTF8. ``retry_in`` is how many
    seconds the remaining recipients wait: 0 means none, None means the usual backoff. ``reply`` is the server's text
    here and in the other outcomes; it may contain addresses. There is no ``cause``.
    """

    code: int
    accepted: tuple[str, ...] = field(repr=False)
    refused: dict[str, Reply] = field(repr=False)
    unsupported: tuple[str, ...] = field(default=(), repr=False)
    phase: Phase = Phase.FINAL_DOT
    reason: str = ACCEPTED
    cause: str = ""
    retry_in: float | None = None
    reply: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Deferred:
    """Temporarily refused, or not sent; tried again. ``retry_in`` is the server's hint in seconds.

    ``relay_at_fault``: the cause is not this mail. ``for_everybody``: any other mail would fail too, from and to any
    address. ``recipients`` are those that the reply may be about, when no others were sent: they come first next time.
    """

    cause: Cause
    code: int | None = None
    reason: str
    phase: Phase | None = None
    relay_at_fault: bool = False
    for_everybody: bool = False
    recipients: tuple[str, ...] = field(default=(), repr=False)
    retry_in: float | None = None
    refused: dict[str, Reply] = field(default_factory=dict, repr=False)
    reply: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Permanently refused; not retried for ``recipients`` (None: all that remain).

    Other recipients are tried in ``retry_in`` seconds.
    """

    cause: Cause
    code: int | None = None
    reason: str
    phase: Phase | None = None
    recipients: tuple[str, ...] | None = field(default=None, repr=False)
    refused: dict[str, Reply] = field(default_factory=dict, repr=False)
    unsupported: tuple[str, ...] = field(default=(), repr=False)
    retry_in: float | None = None
    reply: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class InDoubt:
    """The server may or may not have the mail (RFC 1047)."""

    cause: Cause
    reason: str
    code: int | None = None
    phase: Phase = Phase.FINAL_DOT
    reply: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """There was nothing to do: the delivery is finished, not due yet, or another process is sending it."""

    reason: str


Outcome = Accepted | Deferred | Failed | InDoubt

#: For any first digit: the server accepts the mail later, or in another transaction (RFC 5321 §4.5.3.1.10).
_FOR_NOW = frozenset({Cause.TOO_MANY_RECIPIENTS, Cause.MAILBOX_BUSY})

#: Replies to MAIL that mean that the command is unknown or was not expected: any other mail would fail too. The other
#: codes of ``DIALOGUE`` are about the parameters of the command.
_NO_COMMAND = frozenset({500, 502, 503})


def classify(failure: SMTPFailure, *, own_sender: bool = False) -> Outcome:
    """Return the outcome of a failure of the whole transaction; a pure function of phase, reply and kind of failure.

    With ``own_sender`` the sender is the relay's, not the mail's: no mail fails because of a wrong one.
    """
    if failure.reply is not None:
        return _refused(failure.phase, failure.reply, own_sender=own_sender)
    phase, detail, cause = failure.phase, failure.detail, _without_reply(failure)
    if isinstance(failure, ConnectionLost) and phase is Phase.FINAL_DOT:
        return InDoubt(cause=Cause.IN_DOUBT, reason=f"{detail} after the final dot")
    if isinstance(failure, PoolBusy):
        return Deferred(cause=cause, reason=detail, phase=phase, retry_in=POOL_BUSY_FOR)
    if isinstance(failure, NotOffered) and not phase.before_mail:
        return Failed(cause=Cause.NO_SMTPUTF8, reason=Cause.NO_SMTPUTF8.words, phase=phase)
    at_fault = phase.before_mail or isinstance(failure, TLSFailed)
    return Deferred(
        cause=cause,
        reason=f"{detail} ({phase})",
        phase=phase,
        relay_at_fault=at_fault,
        for_everybody=phase.before_mail,
    )


def _without_reply(failure: SMTPFailure) -> Cause:
    if isinstance(failure, ConnectionLost):
        if isinstance(failure.__cause__, TimeoutError):
            return Cause.SILENT
        return Cause.MALFORMED if isinstance(failure.__cause__, Malformed) else Cause.CONNECTION_LOST
    return next((cause for kind, cause in _OF_KIND.items() if isinstance(failure, kind)), Cause.INTERNAL_ERROR)


_OF_KIND: dict[type[SMTPFailure], Cause] = {
    PoolBusy: Cause.POOL_BUSY,
    NoToken: Cause.NO_TOKEN,
    CannotConnect: Cause.NOT_CONNECTED,
    TLSFailed: Cause.TLS_FAILED,
    NotOffered: Cause.NOT_OFFERED,
}


def classify_recipients(refused: dict[str, Reply], *, own_sender: bool = False) -> Outcome:
    """Return the outcome when every recipient was refused.

    A reply that is about all mail decides; otherwise the one that leaves most hope. Many servers refuse the sender only
    now, so ``own_sender`` means the same as in ``classify``.
    """
    outcomes = {address: _refused(Phase.RCPT, reply, own_sender=own_sender) for address, reply in refused.items()}
    waiting = {address: outcome for address, outcome in outcomes.items() if isinstance(outcome, Deferred)}
    if not waiting:
        failed = next(outcome for outcome in outcomes.values() if isinstance(outcome, Failed))
        return replace(failed, refused=refused)
    # A refusal of the configuration's sender settles no recipient.
    settled = {
        address: reply for address, reply in refused.items() if address not in waiting or not is_permanent(reply)
    }
    retry_in = _longest(outcome.retry_in for outcome in waiting.values())
    decides = max(waiting.values(), key=lambda outcome: outcome.for_everybody)  # max() returns the first of them
    return replace(decides, retry_in=retry_in, refused=settled)


def accepted(
    code: int, accepted: tuple[str, ...], refused: dict[str, Reply], *, reply: Reply | None = None
) -> Accepted:
    """Return the outcome of a mail that the server accepted by ``reply``, for ``accepted`` and not for ``refused``."""
    said = quote(reply) if reply else ""
    return Accepted(code=code, accepted=accepted, refused=refused, retry_in=wait_of_refused(refused), reply=said)


def wait_of_refused(refused: dict[str, Reply]) -> float | None:
    """Return how many seconds the deferred ones of ``refused`` must wait, in the form of ``Accepted.retry_in``."""
    if not refused:
        return None
    put_off = [(recognise(Phase.RCPT, one), one) for one in refused.values() if not is_permanent(one)]
    if put_off and all(cause is Cause.TOO_MANY_RECIPIENTS for cause, _ in put_off):
        return 0.0  # RFC 5321 §4.5.3.1.10: the rest is sent in another transaction, at once
    return _longest(_retry_in(cause, one) for cause, one in put_off)


def is_permanent(reply: Reply, *, own_sender: bool = False) -> bool:
    """Return whether ``reply`` ends the delivery to its recipient. ``own_sender`` means the same as in ``classify``."""
    return isinstance(_refused(Phase.RCPT, reply, own_sender=own_sender), Failed)


def _refused(phase: Phase, reply: Reply, *, own_sender: bool = False) -> Deferred | Failed | InDoubt:
    cause = recognise(phase, reply)
    code, why, said = reply.code, reason(phase, reply), quote(reply)
    if cause is Cause.OUT_OF_TURN and phase is Phase.FINAL_DOT:
        return InDoubt(cause=cause, code=code, reason=why, reply=said)
    of_dialogue = phase is Phase.MAIL and reply.permanent and _is_of_dialogue(code, cause)
    # 421 closes the session. Greylisting is about one mail, even with this code.
    at_fault = phase.before_mail or cause in ABOUT_US or of_dialogue or (code == 421 and cause is not Cause.GREYLISTED)
    for_everybody = at_fault and _is_for_everybody(phase, code, cause)
    if own_sender and not at_fault and _is_about_configuration(phase, reply, cause):
        at_fault, for_everybody = True, cause in ADMIN_FIXABLE
        if cause is not Cause.CLIENT and cause is not Cause.RELAYING:
            cause, why = Cause.CONFIG_SENDER, f"{Cause.CONFIG_SENDER.words} ({reply.short})"
    if not at_fault and not _waits(phase, reply, cause):
        return Failed(cause=cause, code=code, reason=why, phase=phase, reply=said)
    return Deferred(
        cause=cause,
        code=code,
        reason=why,
        phase=phase,
        relay_at_fault=at_fault,
        for_everybody=for_everybody,
        retry_in=_retry_in(cause, reply),
        reply=said,
    )


def _is_of_dialogue(code: int, cause: Cause) -> bool:
    """Return whether MAIL was refused as a command, not for its parameters (RFC 5321 §4.2.2)."""
    return cause is Cause.PROTOCOL or (code in DIALOGUE and cause is not Cause.SENDER)


def _is_for_everybody(phase: Phase, code: int, cause: Cause) -> bool:
    """Return whether any other mail would fail too, for a failure that is not this mail's fault."""
    if phase.before_mail or cause in ACCOUNT_WIDE:
        return True
    if phase is Phase.MAIL:
        # Neither recipients nor content are known yet.
        return code == 421 or cause in ABOUT_LOGIN or cause is Cause.LIMIT or code in _NO_COMMAND
    # A reply to RCPT may be about these recipients only; later, a refused login is not about them.
    return phase is not Phase.RCPT and cause in REFUSED_LOGIN


def _is_about_configuration(phase: Phase, reply: Reply, cause: Cause) -> bool:
    """Return whether mail with the configuration's own sender is refused for a reason that an administrator can fix."""
    if cause is Cause.SENDER_NOT_ALLOWED:
        return True
    if phase is Phase.MAIL and cause in ADMIN_FIXABLE:
        return True  # of the mail, only the sender is known yet
    if not reply.permanent:
        return False
    # A permanent refusal of MAIL is about the sender or the size.
    return cause in (Cause.SENDER, Cause.UNPROVEN) or (phase is Phase.MAIL and cause is not Cause.TOO_BIG)


def _waits(phase: Phase, reply: Reply, cause: Cause) -> bool:
    """Return whether a later attempt may succeed."""
    if not reply.permanent or cause in ADMIN_FIXABLE or cause in _FOR_NOW:
        return True
    # A command that the server did not expect or understand says nothing about this recipient, or this mail.
    return reply.code == 503 or (phase in (Phase.RCPT, Phase.DATA) and reply.code in (500, 502, 504))


def _retry_in(cause: Cause, reply: Reply) -> float | None:
    seconds = hint(quote(reply))
    return GREYLISTED_FOR if seconds is None and cause is Cause.GREYLISTED else seconds


def _longest(waits: Iterable[float | None]) -> float | None:
    return max((seconds for seconds in waits if seconds is not None), default=None)
