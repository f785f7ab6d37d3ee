"""To whom a mail is offered, transaction by transaction, until the server takes it or says no.

One recipient must not hold up the others: not one that the server cannot be told, not one at whom it hangs up, and not
all those that are too many at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred, Failed, InDoubt, Outcome, Skipped
from email_integration.smtp import Phase, Reply, Session, SMTPFailure, Started

_Ended = TypeVar("_Ended", bound=Outcome | Skipped)


class Offering:
    """The recipients of a mail in one attempt, and what was found out of each before a transaction came to its end."""

    def __init__(self, recipients: tuple[str, ...]) -> None:
        self._all = self._open = self.named = recipients
        # Who was refused, and how.
        self._refused: dict[str, Reply] = {}
        self._unsupported: tuple[str, ...] = ()
        # Left for another attempt: the server hung up where it was named first.
        self._aside: tuple[str, ...] = ()
        self._at_most = len(recipients)

    def over(self, session: Session) -> tuple[str, ...]:
        """Whom to name in the next transaction of this session."""
        self._unsupported = () if session.takes_utf8 else tuple(to for to in self._open if not to.isascii())
        # If none is left the session says so itself.
        able = tuple(to for to in self._open if to not in self._unsupported) or self._open
        limits = (session.relay.max_recipients, session.quirks.recipients, self._at_most)
        self.named = able[: min(limit for limit in limits if limit)]
        return self.named

    @property
    def is_whole(self) -> bool:
        """Whether those who are named are all there are."""
        return self.named == self._all

    def begun(self, started: Started) -> bool:
        """Take in how a transaction began; say whether there are others to name, if none of these may get it."""
        self.named = tuple(to for to in self.named if to not in started.left)
        if started.accepted:
            return False
        self._settle(started.refused)
        return any(to not in self._unsupported for to in self._open)

    def all_refused(self) -> dict[str, Reply]:
        """The replies to all who were named in vain, for one who says what they come to."""
        refused, self._refused = self._refused, {}
        return refused

    def narrow(self, failure: SMTPFailure, session: Session) -> bool:
        """Take in what ended a transaction amid its recipients; say whether to offer it to others at once."""
        refused = {to: reply for to, reply in failure.answered.items() if not reply.positive}
        self._settle(refused)
        if failure.phase is not Phase.RCPT or not self._open:
            return False
        taken = len(failure.answered) - len(refused)
        if taken:
            # The next one may be one too many.
            self._at_most = taken
            session.server.suspect(recipients=taken)
        elif not refused:
            if self._aside or len(self._open) == 1:
                return False
            self._aside = self.named[:1]
            self._open = tuple(to for to in self._open if to not in self._aside)
        return True

    def _settle(self, refused: dict[str, Reply]) -> None:
        self._refused |= refused
        self._open = tuple(to for to in self._open if to not in refused)

    def split(self, outcome: _Ended, session: Session) -> _Ended:
        """Have a mail tried again at once that has too many recipients at a time, by half of them: the server has said
        so too late to take it for some.
        """
        if (
            not isinstance(outcome, Deferred)
            or outcome.cause is not Cause.TOO_MANY_RECIPIENTS
            or outcome.phase in (Phase.MAIL, Phase.RCPT)
            or len(self.named) == 1
        ):
            return outcome
        session.server.learn(recipients=len(self.named) // 2)
        return replace(outcome, retry_in=0.0)

    def complete(self, outcome: _Ended) -> _Ended:
        """Say of the outcome of the last transaction what it means for those who were not named in it."""
        if isinstance(outcome, InDoubt | Skipped):
            return outcome
        refused = {**self._refused, **outcome.refused}
        if isinstance(outcome, Deferred) or (isinstance(outcome, Failed) and outcome.phase is Phase.MAIL):
            return replace(outcome, refused=refused)  # said of the mail, whoever gets it
        left = any(to not in self.named and to not in self._unsupported for to in self._open)
        retry_in = 0.0 if left else outcome.retry_in
        known = replace(outcome, refused=refused, unsupported=self._unsupported, retry_in=retry_in)
        return replace(known, recipients=self.named) if isinstance(known, Failed) and not self.is_whole else known
