"""Hand one mail to its relay: borrow a session, run the transaction, say how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self, TypeVar

from django.db import DatabaseError, InterfaceError

from email_integration import conf, routing
from email_integration.addresses import NULL_SENDER, envelope_address
from email_integration.exceptions import InvalidMail
from email_integration.ledger import instrumentation
from email_integration.message.content import Content
from email_integration.message.rendering import from_header_of, from_line, one_line
from email_integration.on_commit import after_commit
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
from email_integration.queue import retry_now
from email_integration.routing import gate, quirks
from email_integration.secrecy import with_secrets
from email_integration.smtp import (
    Envelope,
    Limits,
    Opening,
    Phase,
    Pool,
    Refused,
    Relay,
    Reply,
    Session,
    SMTPFailure,
    Started,
)

from .ahead import Ahead, Trip
from .offering import Offering
from .sessions import Replaced, begin, came_to_limit, is_about_session, require_active

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Mail:
    """What is to be sent to whom.

    ``from_at`` says where in the content a From header is missing, if one is; it is ``from_header`` then, '' the
    relay's own. ``sender`` is the envelope's; '' means the address of the From header, '<>' nobody. ``put_off`` are the
    recipients that a server has put off before.
    """

    from_header: str = field(repr=False)
    from_at: int | None
    sender: str = field(default="", repr=False)
    recipients: tuple[str, ...] = field(repr=False)
    put_off: tuple[str, ...] = field(default=(), repr=False)
    content: Content

    @property
    def names_sender(self) -> bool:
        """Whether it has a sender of its own, be it since an earlier attempt."""
        return self.from_at is None or bool(self.from_header)

    def has_sender_of(self, relay: Relay, phase: Phase) -> bool:
        """Whether what a server takes for its sender in ``phase`` is a relay's: the envelope's up to DATA, the From
        header's after that. It may be that of an earlier attempt.
        """
        if self.from_at is None or phase in (Phase.CONTENT, Phase.FINAL_DOT):
            return self.from_at is not None
        try:
            theirs = envelope_address(one_line(self.from_header) if self.from_header else relay.from_email)
        except InvalidMail:
            return True  # no mail is burnt for it
        return self.sender in ("", theirs)

    def from_relay(self, relay: Relay) -> tuple[str, str]:
        """The From header and the envelope's sender with which it goes to ``relay``. Raises ``InvalidMail``."""
        if self.names_sender:
            return self.from_header, self.sender or envelope_address(one_line(self.from_header))
        return from_header_of(relay.from_email), self.sender or envelope_address(relay.from_email)


class Letter:
    """A mail made ready for a relay; the context in which its content is read.

    Entering raises ``InvalidMail`` for a sender that is none, and ``ContentUnavailable``: no server needs to be told
    of a mail that cannot be read.
    """

    def __init__(self, mail: Mail, relay: Relay, recipients: tuple[str, ...]) -> None:
        """``recipients`` are those of the mail's whose turn it is."""
        self.from_header, self.sender = mail.from_relay(relay)
        content = mail.content
        if mail.from_at is not None:
            content = content.with_line(from_line(self.from_header), mail.from_at)
        envelope_sender = "" if self.sender == NULL_SENDER else self.sender
        self.opening = Opening(
            envelope=Envelope(sender=envelope_sender, recipients=recipients),
            size=content.size,
            eight_bit=content.eight_bit,
        )
        self._blocks = content.blocks()
        self._first = b""

    def __enter__(self) -> Self:
        self._first = next(self._blocks, b"")
        return self

    def __exit__(self, *error: object) -> None:
        self._blocks.close()

    @property
    def blocks(self) -> Iterator[bytes]:
        """The content, once."""
        return itertools.chain((self._first,), self._blocks)


@dataclass(frozen=True, kw_only=True)
class Transmitted:
    """How it ended, and where it went: the relay, nowhere, or None when none was asked; '' is no TLS.

    ``redirected_to`` are those who got it instead of its recipients.
    """

    route: routing.Route | None
    outcome: Outcome | Skipped
    tls_version: str = ""
    redirected_to: str = ""


def nowhere(route: routing.Nowhere) -> Deferred:
    """How an attempt ends while there is no relay."""
    return Deferred(cause=route.cause, reason=route.reason, relay_at_fault=True)


class Guard:
    """What a transmission asks and reports on its way. This one lets everything pass, and keeps nothing."""

    def opens(self) -> None:
        """A session is about to be opened, which is waited for."""

    def prepares(self) -> None:
        """There is a session, and the content is about to be read."""

    def begins(self) -> None:
        """MAIL is about to be said; from now on replies are waited for."""

    def progressed(self) -> None:
        """The server has answered a command, or taken a part of the content."""

    def writes(self) -> None:
        """The content is about to be written."""

    def before_dot(self, session: Session, started: Started, letter: Letter) -> Outcome | Skipped | None:
        """All is said but the final dot, and a small end of the content. What this returns, unless None, is how it
        ends, without the dot.
        """

    def not_said(self) -> None:
        """The final dot was not sent, after all."""

    def answered(self, reply: Reply) -> None:
        """The server has replied to the final dot."""

    def judged(self, outcome: Outcome) -> Outcome:
        """Give the outcome of the attempt, or what it is amid others."""
        return outcome


def _limits() -> Limits:
    return Limits(
        size=conf.get("SESSIONS"),
        idle=conf.get("SESSION_MAX_IDLE"),
        age=conf.get("SESSION_MAX_AGE"),
        transactions=conf.get("SESSION_MAX_TRANSACTIONS"),
        tries=conf.get("CONNECT_TRIES"),
    )


#: This process's SMTP sessions.
pool = Pool(_limits, instrumentation.installed, quirks.memory)

_ahead = Ahead()

_Told = TypeVar("_Told", bound=Outcome | Skipped)


class Way:
    """The way to one relay, for one mail: through its gate, which it closes and opens.

    With ``fresh`` it is the way over a fresh session, after what was said of another one: others of this process that
    are to take it wait until it is found to be open, or its gate is closed. ``limited`` is that other one, if it came
    to a limit.
    """

    def __init__(self, relay: Relay, guard: Guard, *, fresh: bool = False, limited: Session | None = None) -> None:
        self.relay = relay
        self._guard = guard
        self._fresh = fresh
        self._limited = limited
        self._trip: Trip | None = None
        self._probing = False

    def __enter__(self) -> Self:
        if self._fresh:
            self._trip = _ahead.go(self.relay)
        return self

    def __exit__(self, *error: object) -> None:
        """Whoever has come to no verdict lets somebody else probe."""
        try:
            if self._probing and not gate.in_transaction():
                with self._bearing_the_database():
                    gate.give_up_probe(self.relay)
        finally:
            if self._trip is not None:
                _ahead.end(self._trip, well=False)

    def is_open(self) -> None:
        """The server takes the mail, but for what it may say of its content."""
        if self._trip is not None:
            _ahead.end(self._trip, well=True)
        limited, self._limited = self._limited, None
        if limited is not None:  # the limit was its own: it is none of mails by time
            limited.server.ended_after(limited.carried)

    def enter(self) -> None:
        """Ask for a new session. Raises ``GateClosed``, and ``Replaced``: nobody logs in with what holds no longer."""
        require_active(self.relay)
        if not self._probing:
            self._probing = gate.enter(self.relay)
        self._guard.opens()

    def has_another_password(self, failure: SMTPFailure) -> bool:
        """Whether the login was refused with a password that is another by now where it is kept.

        What waits for the relay with the old one is woken: it waits for nothing that can come.
        """
        if failure.reply is None or failure.phase is not Phase.AUTH or not routing.password_has_changed(self.relay):
            return False
        pool.discard(self.relay)
        if not gate.in_transaction():
            with self._bearing_the_database():
                retry_now.reopen(self.relay)
        return True

    def tell(self, outcome: _Told) -> _Told:
        """Have the gate know how it ended; an outcome that the relay is to blame for says when to try it again."""
        probing, self._probing = self._probing, False
        if not (probing or isinstance(outcome, Deferred)):
            return outcome  # it moves no gate
        if gate.in_transaction():
            # Of a caller of the direct backend, who may leave it open for long: nobody must have to wait for that.
            later = functools.partial(self._tell, outcome, probing=probing)
            after_commit(f"move the gate of {self.relay}", later, using=gate.database())
            return outcome
        return self._tell(outcome, probing=probing)

    def _tell(self, outcome: _Told, *, probing: bool) -> _Told:
        with self._bearing_the_database():
            goes_on = probing and self._is_the_limit_that_closed(outcome)
            if isinstance(outcome, Deferred) and (outcome.for_everybody or goes_on):
                pool.discard(self.relay)
                if outcome.cause is Cause.LIMIT:
                    pool.reduce(self.relay)
                wait = gate.close(self.relay, outcome, probing=probing)
                # It may be a limit of its recipients alone: then another mail probes before it does so again.
                return dataclasses.replace(outcome, for_everybody=True, retry_in=2 * wait if goes_on else wait)
            if probing:
                retry_now.reopen(self.relay)
        return outcome

    def _is_the_limit_that_closed(self, outcome: Outcome | Skipped) -> bool:
        """Whether a prober met the limit that its gate was closed for, said of it alone: to RCPT, or later."""
        if not isinstance(outcome, Deferred) or outcome.for_everybody or outcome.cause is not Cause.LIMIT:
            return False
        return gate.is_closed(self.relay, by=Cause.LIMIT)

    @contextlib.contextmanager
    def _bearing_the_database(self) -> Iterator[None]:
        """What the server said of the mail matters more than the gate, which the next prober opens or closes."""
        try:
            yield
        except (DatabaseError, InterfaceError) as error:
            logger.error("The gate of %s could not be moved (%s).", self.relay, type(error).__name__)


#: How often in one attempt a mail is offered anew, at most.
_TRIES = 20


@with_secrets
def transmit(mail: Mail, relay: Relay, guard: Guard) -> Transmitted:
    """Send ``mail`` through ``relay``.

    Raises ``Replaced`` when another one is to be used by now, ``GateClosed`` when it is at fault,
    ``ContentUnavailable``, and ``InvalidMail`` when the mail's own sender is none; no server was told of the mail then.
    """
    fresh = renewed = False
    limited: Session | None = None
    tries = 0
    tls_version = ""
    offering = Offering(mail.recipients, mail.put_off, own_sender=mail.has_sender_of(relay, Phase.RCPT))
    outcome: Outcome | Skipped
    while True:
        with Way(relay, guard, fresh=fresh, limited=limited) as way:
            try:
                lent = pool.session(relay, fresh=fresh, before_opening=way.enter, heard=guard.progressed)
                with lent as session:
                    tls_version = session.tls_version
                    tries += 1
                    try:
                        outcome = _transact(session, mail, guard, offering, way)
                    except SMTPFailure as failure:
                        fresh = is_about_session(failure, session, sender_was_taken=offering.sender_was_taken)
                        limited = session if fresh and came_to_limit(failure, session) else None
                        if (fresh or offering.narrow(failure, session)) and tries < _TRIES:
                            continue
                        outcome = classify(failure, own_sender=mail.has_sender_of(relay, failure.phase))
                        if fresh and isinstance(outcome, Failed):  # it was not of this mail
                            cause = Cause.SESSION_ENDED
                            outcome = Deferred(cause=cause, reason=cause.words, phase=failure.phase)
                    if not isinstance(outcome, Skipped):
                        outcome = offering.split(outcome, session)
            except SMTPFailure as failure:
                if failure.phase.before_mail:
                    require_active(relay)  # the mail need not wait for what is wrong with one that was replaced
                if not renewed and way.has_another_password(failure):
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
            outcome = way.tell(outcome)
        return Transmitted(route=relay, outcome=outcome, tls_version=tls_version)


@with_secrets
def _with_its_password(relay: Relay) -> Relay:
    """The same relay with the password that it has now. Raises ``Replaced`` when another one is to be used.

    For this attempt alone: one whose password is another each time it is asked for would be ``Replaced`` without end.
    """
    now = routing.active_relay()
    if not isinstance(now, Relay) or dataclasses.replace(now, password=relay.password) != relay:
        raise Replaced
    return now


@with_secrets
def _transact(session: Session, mail: Mail, guard: Guard, offering: Offering, way: Way) -> Outcome | Skipped:
    """Run one transaction on ``session``, with those of the recipients whose turn it is.

    Raises ``SMTPFailure``, ``ContentUnavailable``, ``InvalidMail`` for a sender that is none, and ``Replaced``.
    """
    while True:
        named = offering.over(session)
        guard.prepares()
        with Letter(mail, session.relay, named) as letter:
            guard.begins()
            require_active(session.relay)  # the last before MAIL: nothing that may take time comes between
            started = begin(session, letter.opening, heard=guard.progressed)
            others = offering.begun(started)
            if started.accepted:
                way.is_open()
                guard.writes()
                session.write(_watched(letter.blocks, guard))
                break
        if not others or not session.is_idle:
            own_sender = mail.has_sender_of(session.relay, Phase.RCPT)
            return classify_recipients(offering.all_refused(), own_sender=own_sender)
    ended = guard.before_dot(session, started, letter)
    if ended is not None:
        session.close()  # without the final dot the server has taken nothing
        return ended
    try:
        reply = session.finish(timeout=conf.get("REPLY_TIMEOUT"))
    except SMTPFailure as failure:
        if failure.phase is Phase.CONTENT:
            guard.not_said()
        raise
    guard.answered(reply)
    if not reply.positive:
        own_sender = mail.has_sender_of(session.relay, Phase.FINAL_DOT)
        return classify(Refused(Phase.FINAL_DOT, "", reply), own_sender=own_sender)
    return accepted(reply.code, started.accepted, started.refused, reply=reply)


#: Octets after which the guard is told that the server has taken some: a line may be slow, and a block large.
_PIECE = 64 * 1024


def _watched(blocks: Iterator[bytes], guard: Guard) -> Iterator[bytes]:
    """Cut the content into pieces, and tell the guard of each but the last: after that one it is asked anyway."""
    has_progressed = False
    for block in blocks:
        for start in range(0, len(block), _PIECE):
            if has_progressed:
                guard.progressed()
            yield block[start : start + _PIECE]
            has_progressed = True
