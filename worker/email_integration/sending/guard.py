"""What a transmission asks and reports on its way, so that it needs to know of no journal and no lease."""

from __future__ import annotations

import contextlib

from email_integration.outcomes.classification import Outcome, Skipped
from email_integration.smtp import Phase, Reply, Session, Started

from .letters import Letter, Mail
from .offering import Offering
from .sessions import pool


class Guard:
    """This one lets everything pass, and keeps nothing."""

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

    def following(self, session: Session) -> Prepared | None:
        """Give the mail that is to follow over the same session, made ready, if one is to be begun along with the dot
        of this one.
        """

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


class Prepared:
    """A mail made ready for the session that still carries the one before it.

    What begins its transaction goes along with that one's final dot. Its content is at hand by then, so that the
    server is not kept waiting for it.
    """

    def __init__(self, mail: Mail, session: Session, guard: Guard) -> None:
        """Raises what entering a ``Letter`` raises."""
        relay = session.relay
        self.guard = guard
        self.offering = Offering(mail.recipients, mail.put_off, own_sender=mail.has_sender_of(relay, Phase.RCPT))
        guard.prepares()
        self.letter = Letter(mail, relay, self.offering.over(session)).__enter__()
        #: Over which it was begun; None when it was not, and is to be sent as any other.
        self.session: Session | None = None

    def resume(self) -> contextlib.AbstractContextManager[Session]:
        """Give the context of the session over which it was begun, once."""
        if self.session is None:
            raise RuntimeError("it was not begun")
        session, self.session = self.session, None
        return pool.still_lent(session)

    def drop(self) -> None:
        """Do not go on with it: the server, which has nothing of its content, forgets it with its session."""
        self.letter.__exit__()
        if self.session is not None:
            with self.resume() as session:
                session.close()
