"""The hooks of a transmission, so that it does not depend on the journal or the lease."""

from __future__ import annotations

import contextlib
import time

from email_integration.outcomes.classification import Outcome, Skipped
from email_integration.smtp import Phase, Relay, Reply, Session, Started

from .messages import OutgoingMail, PreparedMessage
from .offering import Offering
from .sessions import pool, require_active

#: Seconds for which an answer about the active relay is valid until the octets of MAIL are sent. A process that changes
#: the configuration waits 1.5 times as long as an answer is trusted; the extra half is 0.05 s.
ANSWER_HOLDS = 0.03


class Guard:
    """A guard that permits everything and stores nothing."""

    def waits(self) -> None:
        """The mail is about to wait, for a session or for another mail."""

    def opens(self) -> None:
        """A session is about to be opened, and the mail waits for it."""

    def breaker_is_closed(self, relay: Relay) -> bool:
        """Return whether the circuit breaker of ``relay`` is known to be closed now. If not, it must be queried."""
        return False

    def prepares(self) -> None:
        """A session is ready, and the content is about to be read."""

    def begins(self) -> None:
        """MAIL is about to be sent. From now on the mail waits for replies."""

    def progressed(self) -> None:
        """The server has replied to a command, or accepted a part of the content."""

    def writes(self) -> None:
        """The content is about to be written."""

    def following(self, session: Session) -> PipelinedTransaction | None:
        """Return the prepared mail that follows over the same session, if one is to be started along with the dot."""

    def not_along(self) -> None:
        """The following mail is not started along with the dot after all."""

    def before_dot(self, session: Session, started: Started, message: PreparedMessage) -> Outcome | Skipped | None:
        """All but the final dot, and a small end of the content, is sent. Return None to send the dot.

        Any other return value is the outcome, and the dot is not sent. ``started`` has the replies to the recipients,
        and ``message`` the sender.
        """

    def not_said(self) -> None:
        """The final dot was not sent after all."""

    def answered(self, reply: Reply) -> None:
        """The server has replied to the final dot."""

    def judged(self, outcome: Outcome) -> Outcome:
        """Return the outcome of the attempt, possibly changed because of the outcomes of other mails."""
        return outcome


class PipelinedTransaction:
    """The transaction of a mail on a session that still carries the previous mail.

    Its first commands are sent along with the previous mail's final dot. The content is ready by then, so the server
    does not wait for it.
    """

    def __init__(self, mail: OutgoingMail, session: Session, guard: Guard) -> None:
        """Prepare the message. Raises the errors of entering a ``PreparedMessage``."""
        relay = session.relay
        self.guard = guard
        self.offering = Offering(mail.recipients, mail.put_off, own_sender=mail.has_sender_of(relay, Phase.RCPT))
        guard.prepares()
        self.message = PreparedMessage(mail, relay, self.offering.over(session)).__enter__()
        guard.waits()
        self._relay = relay
        self._asked_at = 0.0
        #: The session it was started over; None when it was not started, and must be sent like any other.
        self.session: Session | None = None

    def may_begin(self) -> bool:
        """Return whether it may be sent now. Called before the final dot of the other mail is noted in the journal."""
        # Any obstacle is found again, and handled, when the mail is tried.
        with contextlib.suppress(Exception):
            self.guard.begins()
            self._asked_at = time.monotonic()
            require_active(self._relay)
            return True
        return False

    @property
    def was_just_asked(self) -> bool:
        """Whether ``may_begin`` was called at most ANSWER_HOLDS seconds ago."""
        return time.monotonic() - self._asked_at <= ANSWER_HOLDS

    def resume(self) -> contextlib.AbstractContextManager[Session]:
        """Return the context manager of the session it was started over. This works once."""
        if self.session is None:
            raise RuntimeError("The transaction was not started, or was resumed before.")
        session, self.session = self.session, None
        return pool.still_lent(session)

    def drop(self) -> None:
        """Abandon it. The server has none of its content, and forgets the transaction when the session closes."""
        self.message.__exit__()
        if self.session is not None:
            with self.resume() as session:
                session.close()
