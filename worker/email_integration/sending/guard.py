"""What a transmission asks and reports on its way, so that it needs to know of no journal and no lease."""

from __future__ import annotations

import contextlib
import time

from email_integration.outcomes.classification import Outcome, Skipped
from email_integration.smtp import Phase, Relay, Reply, Session, Started

from .messages import OutgoingMail, PreparedMessage
from .offering import Offering
from .sessions import pool, require_active

#: Seconds from the question which relay is active to the octets of MAIL: a moment. A writer waits for as long as an
#: answer may be relied on, and half as long again, which is 0.05 s.
ANSWER_HOLDS = 0.03


class Guard:
    """This one lets everything pass, and keeps nothing."""

    def waits(self) -> None:
        """The mail is about to wait, for a session or for another mail."""

    def opens(self) -> None:
        """A session is about to be opened, which is waited for."""

    def breaker_is_closed(self, relay: Relay) -> bool:
        """Whether the circuit breaker of ``relay`` is known to be closed at this moment; else it is to be asked."""
        return False

    def prepares(self) -> None:
        """There is a session, and the content is about to be read."""

    def begins(self) -> None:
        """MAIL is about to be said; from now on replies are waited for."""

    def progressed(self) -> None:
        """The server has answered a command, or taken a part of the content."""

    def writes(self) -> None:
        """The content is about to be written."""

    def following(self, session: Session) -> PipelinedTransaction | None:
        """Give the mail that is to follow over the same session, made ready, if one is to be begun along with the dot
        of this one.
        """

    def not_along(self) -> None:
        """That mail is not begun along with the dot, after all."""

    def before_dot(self, session: Session, started: Started, message: PreparedMessage) -> Outcome | Skipped | None:
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


class PipelinedTransaction:
    """The transaction of a mail on the session that still carries the one before it.

    What begins it goes along with that one's final dot. The content is at hand by then, so that the server is not kept
    waiting for it.
    """

    def __init__(self, mail: OutgoingMail, session: Session, guard: Guard) -> None:
        """Raises what entering a ``PreparedMessage`` raises."""
        relay = session.relay
        self.guard = guard
        self.offering = Offering(mail.recipients, mail.put_off, own_sender=mail.has_sender_of(relay, Phase.RCPT))
        guard.prepares()
        self.message = PreparedMessage(mail, relay, self.offering.over(session)).__enter__()
        guard.waits()
        self._relay = relay
        self._asked_at = 0.0
        #: Over which it was begun; None when it was not, and is to be sent as any other.
        self.session: Session | None = None

    def may_begin(self) -> bool:
        """Ask whether it may be said now; asked before the final dot of the other mail is noted."""
        # Whatever is in the way is found again, and seen to, when it is its turn.
        with contextlib.suppress(Exception):
            self.guard.begins()
            self._asked_at = time.monotonic()
            require_active(self._relay)
            return True
        return False

    @property
    def was_just_asked(self) -> bool:
        """Whether the question was a moment ago."""
        return time.monotonic() - self._asked_at <= ANSWER_HOLDS

    def resume(self) -> contextlib.AbstractContextManager[Session]:
        """Give the context of the session over which it was begun, once."""
        if self.session is None:
            raise RuntimeError("it was not begun")
        session, self.session = self.session, None
        return pool.still_lent(session)

    def drop(self) -> None:
        """Do not go on with it: the server, which has nothing of its content, forgets it with its session."""
        self.message.__exit__()
        if self.session is not None:
            with self.resume() as session:
                session.close()
