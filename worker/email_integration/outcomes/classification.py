"""How an attempt ended, as values, and the one function that decides it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from email_integration.smtp import ConnectionLost, NotOffered, Phase, PoolBusy, Reply, SMTPFailure, TLSFailed

from .causes import Cause, quote, reason, recognise
from .schedule import hint

#: The reason of what was accepted.
ACCEPTED = "accepted by the server"

#: How many seconds to wait when a server that greylists does not say how long. Five minutes are the default of the
#: common ones (Postgrey, rspamd); some count from the start again, or block, when one comes back much sooner.
GREYLISTED_FOR = 300.0

#: How many seconds a mail waits that found all of this process's sessions lent.
POOL_BUSY_FOR = 1.0


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The server took the mail for ``accepted``; ``refused`` got it not, with the reply of each. ``unsupported`` could
    not be named to it, for want of SMTPUTF8.

    ``retry_in`` is how many seconds those that are left are to wait: 0 means at once, None what is usual. ``reply`` is
    the server's text here and below; it may hold addresses.
    """

    code: int
    accepted: tuple[str, ...] = field(repr=False)
    refused: dict[str, Reply] = field(repr=False)
    unsupported: tuple[str, ...] = field(default=(), repr=False)
    phase: Phase = Phase.FINAL_DOT
    reason: str = ACCEPTED
    retry_in: float | None = None
    reply: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Deferred:
    """Not now; ``retry_in`` is the server's hint in seconds. ``relay_at_fault``: nothing to do with this mail.

    ``for_everybody``: no other mail would fare better, whoever it is from and to.
    """

    code: int | None = None
    reason: str
    phase: Phase | None = None
    relay_at_fault: bool = False
    for_everybody: bool = False
    retry_in: float | None = None
    refused: dict[str, Reply] = field(default_factory=dict, repr=False)
    reply: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Never for ``recipients``, None being all that are left; others are to be tried in ``retry_in`` seconds."""

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
    """The server may or may not have it (RFC 1047)."""

    reason: str
    code: int | None = None
    phase: Phase = Phase.FINAL_DOT
    reply: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """There was nothing to do: finished, not due yet, or somebody else is at it."""

    reason: str


Outcome = Accepted | Deferred | Failed | InDoubt

#: What a server says who does not let us in, and will not until somebody does something.
REFUSED_LOGIN = frozenset(
    {
        Cause.PASSWORDS_OFF,
        Cause.LOCKED,
        Cause.TOO_MANY_LOGINS,
        Cause.TOKEN,
        Cause.APP_PASSWORD,
        Cause.LOGIN,
        Cause.LOGIN_NEEDED,
    }
)
#: About our login, and so about us and not about the mail, wherever they come (RFC 4954 §4 and §6, RFC 3207 §4).
_ABOUT_LOGIN = REFUSED_LOGIN | {Cause.STARTTLS_FIRST, Cause.LOGIN_LATER}
_ABOUT_US = _ABOUT_LOGIN | {Cause.LIMIT, Cause.UNAVAILABLE}
#: A 5yz for these is mended by an administrator, and burns no mail until then. This mail alone waits: others may pass.
_MENDABLE = frozenset({Cause.RELAYING, Cause.CLIENT})


def classify(failure: SMTPFailure, *, own_sender: bool = False) -> Outcome:
    """Decide what a failure of the whole transaction means; a pure function of phase, reply and kind of failure.

    ``own_sender`` says that the sender was the relay's, not the mail's: no mail is burnt for a wrong one.
    """
    if failure.reply is not None:
        return _refused(failure.phase, failure.reply, own_sender=own_sender)
    phase, detail = failure.phase, failure.detail
    if isinstance(failure, ConnectionLost) and phase is Phase.FINAL_DOT:
        return InDoubt(reason=f"{detail} after the final dot")
    if isinstance(failure, PoolBusy):
        return Deferred(reason=detail, phase=phase, retry_in=POOL_BUSY_FOR)
    if isinstance(failure, NotOffered) and not phase.before_mail:
        return Failed(reason=Cause.NO_SMTPUTF8.value, phase=phase)
    at_fault = phase.before_mail or isinstance(failure, TLSFailed)
    return Deferred(reason=f"{detail} ({phase})", phase=phase, relay_at_fault=at_fault, for_everybody=phase.before_mail)


def classify_recipients(refused: dict[str, Reply], *, own_sender: bool = False) -> Outcome:
    """Decide what it means that every recipient was refused, by the reply that leaves most hope.

    Many servers refuse the sender only now, so ``own_sender`` counts as in ``classify``.
    """
    outcomes = {address: _refused(Phase.RCPT, reply, own_sender=own_sender) for address, reply in refused.items()}
    waiting = {address: outcome for address, outcome in outcomes.items() if isinstance(outcome, Deferred)}
    if not waiting:
        failed = next(outcome for outcome in outcomes.values() if isinstance(outcome, Failed))
        return replace(failed, refused=refused)
    # What was said of the configuration's sender settles no recipient.
    settled = {
        address: reply for address, reply in refused.items() if address not in waiting or not is_permanent(reply)
    }
    retry_in = _longest(outcome.retry_in for outcome in waiting.values())
    return replace(next(iter(waiting.values())), retry_in=retry_in, refused=settled)


def accepted(
    code: int, accepted: tuple[str, ...], refused: dict[str, Reply], *, reply: Reply | None = None
) -> Accepted:
    """Make the outcome of a mail that the server took, by ``reply``, for ``accepted`` and not for ``refused``."""
    put_off = [(recognise(Phase.RCPT, one), one) for one in refused.values() if not is_permanent(one)]
    if put_off and all(cause is Cause.TOO_MANY_RECIPIENTS for cause, _ in put_off):
        retry_in: float | None = 0.0  # RFC 5321 §4.5.3.1.10: the rest goes in another transaction, at once
    else:
        retry_in = _longest(_retry_in(cause, one) for cause, one in put_off)
    said = quote(reply) if reply else ""
    return Accepted(code=code, accepted=accepted, refused=refused, retry_in=retry_in, reply=said)


def is_permanent(reply: Reply) -> bool:
    """Whether the recipient this was said of can be given up."""
    return isinstance(_refused(Phase.RCPT, reply), Failed)


def _refused(phase: Phase, reply: Reply, *, own_sender: bool = False) -> Deferred | Failed | InDoubt:
    cause = recognise(phase, reply)
    code, why, said = reply.code, reason(phase, reply), quote(reply)
    if cause is Cause.OUT_OF_TURN and phase is Phase.FINAL_DOT:
        return InDoubt(code=code, reason=why, reply=said)
    # 421 closes the session. Greylisting is about one mail, even with it.
    at_fault = phase.before_mail or cause in _ABOUT_US or (code == 421 and cause is not Cause.GREYLISTED)
    # After MAIL it may have been said of this mail's recipients alone.
    for_everybody = phase.before_mail or (phase is Phase.MAIL and (code == 421 or cause in _ABOUT_LOGIN))
    if not at_fault and not _waits(phase, reply, cause):
        if not (own_sender and _is_about_sender(phase, cause)):
            return Failed(code=code, reason=why, phase=phase, reply=said)
        at_fault = True
        why = f"the server refused the configuration's sender; correct its from_email ({reply.short})"
    return Deferred(
        code=code,
        reason=why,
        phase=phase,
        relay_at_fault=at_fault,
        for_everybody=for_everybody,
        retry_in=_retry_in(cause, reply),
        reply=said,
    )


def _waits(phase: Phase, reply: Reply, cause: Cause | None) -> bool:
    """Whether what was refused may be taken another time."""
    if cause is Cause.TOO_MANY_RECIPIENTS and phase is Phase.RCPT:
        return True  # whatever its first digit (RFC 5321 §4.5.3.1.10)
    return not reply.permanent or cause in _MENDABLE


def _is_about_sender(phase: Phase, cause: Cause | None) -> bool:
    """Whether the sender was refused for good: MAIL refuses that, or the size."""
    return cause in (Cause.SENDER, Cause.UNPROVEN) or (phase is Phase.MAIL and cause is not Cause.TOO_BIG)


def _retry_in(cause: Cause | None, reply: Reply) -> float | None:
    seconds = hint(quote(reply))
    return GREYLISTED_FOR if seconds is None and cause is Cause.GREYLISTED else seconds


def _longest(waits: Iterable[float | None]) -> float | None:
    return max((seconds for seconds in waits if seconds is not None), default=None)
