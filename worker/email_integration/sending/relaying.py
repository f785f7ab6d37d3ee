"""Send one mail to its relay: borrow a session, run the transaction, return the outcome."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass

from email_integration import conf, routing
from email_integration.exceptions import InvalidMail
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import (
    Deferred,
    Failed,
    Outcome,
    Skipped,
    accepted,
    classify,
    classify_recipients,
)
from email_integration.secrecy import with_secrets
from email_integration.smtp import Phase, Refused, Relay, Session, SMTPFailure

from .guard import Guard, PipelinedTransaction
from .messages import OutgoingMail, PreparedMessage
from .offering import Offering
from .relay_access import RelayAccess
from .sessions import Replaced, begin, came_to_limit, is_about_session, pool, require_active


@dataclass(frozen=True, kw_only=True)
class Transmitted:
    """The outcome of a transmission.

    ``route`` is the relay, ``Nowhere``, or None when no relay was asked. ``tls_version`` is '' without TLS.
    ``redirected_to`` are the addresses that received the mail instead of its recipients.
    """

    route: routing.Route | None
    outcome: Outcome | Skipped
    tls_version: str = ""
    redirected_to: str = ""


def nowhere(route: routing.Nowhere) -> Deferred:
    """Return the outcome of an attempt while there is no relay."""
    return Deferred(cause=route.cause, reason=route.reason, relay_at_fault=True)


#: Limit on the number of times that one attempt offers a mail.
_TRIES = 20


@with_secrets
def transmit(
    mail: OutgoingMail, relay: Relay, guard: Guard, *, pipelined: PipelinedTransaction | None = None
) -> Transmitted:
    """Send ``mail`` through ``relay``, and report the progress to ``guard``.

    ``pipelined`` is its transaction if that was started along with another mail's final dot.

    Raises ``Replaced`` when another relay is to be used by now, ``BreakerOpen`` while its circuit breaker is open,
    ``ContentUnavailable``, and ``InvalidMail`` when the mail's own sender is invalid. In these cases the server has not
    accepted the mail.
    """
    fresh = renewed = False
    limited: Session | None = None
    tries = 0
    tls_version = ""
    if pipelined is not None:
        offering = pipelined.offering
    else:
        offering = Offering(mail.recipients, mail.put_off, own_sender=mail.has_sender_of(relay, Phase.RCPT))
    outcome: Outcome | Skipped
    while True:
        with RelayAccess(relay, guard, fresh=fresh, limited=limited) as access:
            try:
                if pipelined is not None:
                    lent, message, pipelined = pipelined.resume(), pipelined.message, None
                else:
                    lent, message = (
                        pool.session(relay, fresh=fresh, before_opening=access.before_opening, heard=guard.progressed),
                        None,
                    )
                with lent as session:
                    tls_version = session.tls_version
                    tries += 1
                    try:
                        outcome = _transact(session, mail, guard, offering, access, pipelined=message)
                    except SMTPFailure as failure:
                        fresh = is_about_session(failure, session, sender_was_taken=offering.sender_was_taken)
                        limited = session if fresh and came_to_limit(failure, session) else None
                        if (fresh or offering.narrow(failure, session)) and tries < _TRIES:
                            continue
                        outcome = classify(failure, own_sender=mail.has_sender_of(relay, failure.phase))
                        if fresh and isinstance(outcome, Failed):  # it did not concern this mail
                            cause = Cause.SESSION_ENDED
                            outcome = Deferred(cause=cause, reason=cause.words, phase=failure.phase)
                    if not isinstance(outcome, Skipped):
                        outcome = offering.split(outcome, session)
            except SMTPFailure as failure:
                if failure.phase.before_mail:
                    require_active(relay)  # a fault of a replaced relay must not delay the mail
                if not renewed and access.has_another_password(failure):
                    relay = _with_its_password(relay)
                    renewed = True
                    continue
                outcome = classify(failure, own_sender=mail.has_sender_of(relay, failure.phase))
            except InvalidMail:
                if mail.names_sender:
                    raise
                reason = f"the sender of {relay.name} is not an address; correct its from_email"
                outcome = Deferred(cause=Cause.UNUSABLE, reason=reason, relay_at_fault=True)
            if not isinstance(outcome, Skipped):
                outcome = guard.judged(offering.complete(outcome))
            outcome = access.report(outcome)
        return Transmitted(route=relay, outcome=outcome, tls_version=tls_version)


@with_secrets
def _with_its_password(relay: Relay) -> Relay:
    """Return the same relay with its current password. Raises ``Replaced`` when another relay is to be used.

    The result is for this attempt only: if the password differed each time it is read, ``Replaced`` would never stop.
    """
    now = routing.active_relay()
    if not isinstance(now, Relay) or dataclasses.replace(now, password=relay.password) != relay:
        raise Replaced
    return now


def _transact(
    session: Session,
    mail: OutgoingMail,
    guard: Guard,
    offering: Offering,
    access: RelayAccess,
    *,
    pipelined: PreparedMessage | None,
) -> Outcome | Skipped:
    """Run one transaction on ``session``, with the recipients whose turn it is.

    ``pipelined`` is its message if its first commands were sent along with the previous final dot. Raises
    ``SMTPFailure``, ``ContentUnavailable``, ``InvalidMail`` for an invalid sender, and ``Replaced``.
    """
    check = functools.partial(require_active, session.relay)
    while True:
        if pipelined is None:
            named = offering.over(session)
            guard.prepares()
        with pipelined or PreparedMessage(mail, session.relay, named) as message:
            if pipelined is None:
                guard.begins()
            started = begin(session, message.opening, before_saying=check, heard=guard.progressed)
            others = offering.begun(started)
            if started.accepted:
                if pipelined is not None:
                    check()  # the earlier check was while the server still processed the previous mail
                access.works()
                guard.writes()
                session.write(_watched(message.blocks, guard))
                break
        pipelined = None
        if not others or not session.is_idle:
            own_sender = mail.has_sender_of(session.relay, Phase.RCPT)
            return classify_recipients(offering.all_refused(), own_sender=own_sender)
    following = guard.following(session) if _may_be_kept(session) else None
    if following is not None and not following.may_begin():
        guard.not_along()
        following = None
    ended = guard.before_dot(session, started, message)
    if ended is not None:
        session.close()  # without the final dot the server has accepted nothing
        return ended
    if following is not None and not following.was_just_asked:
        guard.not_along()  # the lease had to be renewed meanwhile
        following = None
    try:
        ahead = None if following is None else following.message.opening
        reply = session.finish(timeout=conf.get("REPLY_TIMEOUT"), ahead=ahead)
    except SMTPFailure as failure:
        if failure.phase is Phase.CONTENT:
            guard.not_said()
        raise
    if following is not None and session.has_said_ahead:
        following.session = session
    guard.answered(reply)
    if not reply.positive:
        own_sender = mail.has_sender_of(session.relay, Phase.FINAL_DOT)
        return classify(Refused(Phase.FINAL_DOT, "", reply), own_sender=own_sender)
    return accepted(reply.code, started.accepted, started.refused, reply=reply)


def _may_be_kept(session: Session) -> bool:
    """Return whether the next mail may start on the session before it is returned to the pool."""
    return session.can_say_ahead and not (pool.has_expired(session) or pool.is_awaited(session.relay))


#: Octets after which progress is reported to the guard, because a line may be slow and a block large.
_PIECE = 64 * 1024


def _watched(blocks: Iterator[bytes], guard: Guard) -> Iterator[bytes]:
    """Yield the content in pieces.

    Report progress to the guard for each piece but the last, which is checked anyway.
    """
    has_progressed = False
    for block in blocks:
        for start in range(0, len(block), _PIECE):
            if has_progressed:
                guard.progressed()
            yield block[start : start + _PIECE]
            has_progressed = True
