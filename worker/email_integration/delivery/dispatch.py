"""Hand one mail to the active relay: find it, borrow a session, run the transaction, say how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from email_integration import conf, routing
from email_integration.addresses import envelope_address
from email_integration.exceptions import InvalidMail
from email_integration.smtp import (
    ConnectionLost,
    Envelope,
    Limits,
    Phase,
    Pool,
    Refused,
    Relay,
    Session,
    SMTPFailure,
)

from .outcome import Accepted, Deferred, Outcome, Skipped, classify, classify_recipients
from .render import from_header_of, with_from


@dataclass(frozen=True, kw_only=True)
class Mail:
    """What is to be sent to whom.

    ``from_open`` says that the content has no From header yet. ``sender`` is the envelope's; '' means the address of
    the From header.
    """

    from_header: str = field(repr=False)
    from_open: bool
    sender: str = field(default="", repr=False)
    recipients: tuple[str, ...] = field(repr=False)
    content: bytes = field(repr=False)


#: Asked just before the final dot, with the relay and the From header: may it be sent?
Claim = Callable[[Relay, str], bool]


def _limits() -> Limits:
    return Limits(
        idle=conf.get("SESSION_MAX_IDLE"),
        age=conf.get("SESSION_MAX_AGE"),
        transactions=conf.get("SESSION_MAX_TRANSACTIONS"),
        tries=conf.get("CONNECT_TRIES"),
    )


#: This process's SMTP sessions.
pool = Pool(_limits)


def dispatch(mail: Mail, claim: Claim) -> tuple[routing.Route, Outcome | Skipped]:
    """Send ``mail`` through the relay that is active now; return where it went, or did not, and the outcome."""
    fresh = False
    while True:
        route = routing.active_relay()
        if isinstance(route, routing.Nowhere):
            return route, Deferred(reason=route.reason, relay_at_fault=True)
        try:
            with pool.session(route, fresh=fresh) as session:
                if not _still_active(route):
                    continue  # replaced while the session was being opened: nothing begins with the old one
                reused = session.transactions > 0
                try:
                    return route, transact(session, mail, claim)
                except SMTPFailure as failure:
                    if not (reused and _was_over(failure)):
                        raise
                    fresh = True
        except SMTPFailure as failure:
            if failure.phase.before_mail and not _still_active(route):
                continue  # replaced while it was tried: the mail need not wait for what is wrong with the old one
            return route, classify(failure, own_sender=mail.from_open)
        except InvalidMail:
            return route, Deferred(
                reason=f"the sender of {route.name} is not an address; correct its from_email", relay_at_fault=True
            )


def transact(session: Session, mail: Mail, claim: Claim) -> Outcome | Skipped:
    """Run one transaction on ``session``. Raises ``SMTPFailure``, and ``InvalidMail`` for the relay's own sender."""
    from_header = mail.from_header or from_header_of(session.relay.from_email)
    content = with_from(mail.content, from_header) if mail.from_open else mail.content
    envelope = Envelope(sender=mail.sender or envelope_address(from_header), recipients=mail.recipients)
    started = session.begin(envelope, size=len(content), eight_bit=not content.isascii())
    if not started.accepted:
        return classify_recipients(started.refused)
    session.write(content)
    if not claim(session.relay, from_header):
        session.close()  # without the final dot the server has taken nothing
        return Skipped(reason="another worker was faster")
    reply = session.finish(timeout=conf.get("REPLY_TIMEOUT"))
    if not reply.positive:
        return classify(Refused(Phase.FINAL_DOT, "", reply))
    return Accepted(code=reply.code, accepted=started.accepted, refused=started.refused)


def _still_active(route: Relay) -> bool:
    return routing.active_relay() == route


def _was_over(failure: SMTPFailure) -> bool:
    """Whether a session that has carried mail had come to its end: nothing of this mail was taken, or even claimed."""
    if isinstance(failure, Refused):
        return failure.code == 421 and failure.phase in (Phase.MAIL, Phase.RCPT, Phase.DATA)
    return isinstance(failure, ConnectionLost) and failure.phase is Phase.MAIL
