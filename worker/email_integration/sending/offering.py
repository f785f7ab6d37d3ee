"""To whom a mail is offered, transaction by transaction, until the server takes it or says no.

One recipient must not hold up the others: not one whose address the server does not support, not one at whom it hangs
up, and not all those that are too many at a time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import (
    Accepted,
    Deferred,
    InDoubt,
    Outcome,
    is_permanent,
    wait_of_refused,
)
from email_integration.outcomes.recognition import recognise
from email_integration.smtp import Phase, Refused, Reply, Session, SMTPFailure, Started

_OF_THE_CONTENT = (Phase.DATA, Phase.CONTENT, Phase.FINAL_DOT)


def goes_on(outcome: Outcome) -> bool:
    """Whether those that are left are to be tried at once: the server takes so many at a time."""
    if isinstance(outcome, InDoubt) or outcome.retry_in != 0:
        return False
    # Of a server at fault 0 says that it may be tried now.
    return not isinstance(outcome, Deferred) or outcome.cause is Cause.TOO_MANY_RECIPIENTS


class Offering:
    """The recipients of a mail in one attempt, and what was found out of each before a transaction came to its end."""

    def __init__(self, recipients: tuple[str, ...], put_off: Collection[str] = (), *, own_sender: bool = False) -> None:
        """``put_off`` are those that a server has put off before: they are named last. ``own_sender``, which may change
        with the relay, is ``classify``'s.
        """
        self._put_off = frozenset(put_off)
        self.own_sender = own_sender
        self._all = recipients
        in_turn = tuple(sorted(recipients, key=lambda to: to in self._put_off)) if put_off else recipients
        self._open = self.named = in_turn
        # Who was refused, and how.
        self._refused: dict[str, Reply] = {}
        self._unsupported: tuple[str, ...] = ()
        # Left for another attempt: the server hung up where it was named first.
        self._aside: tuple[str, ...] = ()
        # At whom it all ended although others were not named yet: those come first next time.
        self._last_next_time: tuple[str, ...] = ()
        self._at_most = len(recipients)
        self.sender_was_taken = False

    def over(self, session: Session) -> tuple[str, ...]:
        """Whom to name in the next transaction of this session."""
        all_are_supported = session.takes_utf8 or "".join(self._open).isascii()
        self._unsupported = () if all_are_supported else tuple(to for to in self._open if not to.isascii())
        able = self._open
        if self._unsupported:  # if none is left the session says so itself
            able = tuple(to for to in able if to not in self._unsupported) or able
        if self._put_off:  # not along with the others, who would have to wait with them again
            able = tuple(to for to in able if to not in self._put_off) or able
        limits = [limit for limit in (session.relay.max_recipients, session.quirks.recipients) if limit]
        self.named = able[: min(self._at_most, *limits)] if limits else able[: self._at_most]
        return self.named

    @property
    def is_whole(self) -> bool:
        """Whether those who are named are all there are."""
        return len(self.named) == len(self._all)

    def begun(self, started: Started) -> bool:
        """Take in how a transaction began; say whether there are others to name, if none of these may get it."""
        self.sender_was_taken = True
        if started.left:
            self.named = tuple(to for to in self.named if to not in started.left)
        self._settle(started.refused)
        if started.accepted:
            return False
        return self._others_are_able

    @property
    def _others_are_able(self) -> bool:
        return any(to not in self._unsupported for to in self._open)

    def all_refused(self) -> dict[str, Reply]:
        """The replies to all who were named in vain, for one who says what they come to."""
        refused, self._refused = self._refused, {}
        return refused

    def heard(self, failure: SMTPFailure) -> None:
        """Take in whom the server refused before it came to that."""
        self._settle({to: reply for to, reply in failure.answered.items() if not reply.positive})

    def narrow(self, failure: SMTPFailure, session: Session) -> bool:
        """Take in what ended a transaction amid its recipients; say whether to offer it to others at once."""
        self.heard(failure)
        if failure.phase is Phase.DATA and isinstance(failure, Refused) and failure.code != 421:
            return False  # it was for all who may get it
        answered = list(failure.answered.values())
        if answered and not answered[-1].positive:
            return self._others_are_able  # it was for that one
        if failure.phase is not Phase.RCPT:
            return False
        if answered:
            # The next one may be one too many.
            self._at_most = sum(reply.positive for reply in answered)
            if failure.reply is not None and recognise(Phase.RCPT, failure.reply) is Cause.TOO_MANY_RECIPIENTS:
                session.server.suspect(recipients=self._at_most)  # else it may have been for this one, or a restart
            return True
        if self._aside or len(self._open) == 1:
            self._last_next_time = self._aside + self.named[:1]
            return False
        self._aside = self.named[:1]
        self._open = tuple(to for to in self._open if to not in self._aside)
        return self._others_are_able

    def _settle(self, refused: dict[str, Reply]) -> None:
        if not refused:
            return
        self._refused |= refused
        self._open = tuple(to for to in self._open if to not in refused)

    def split(self, outcome: Outcome, session: Session) -> Outcome:
        """Have a mail tried again at once that has too many recipients at a time, by half of them: the server has said
        so too late to take it for some.
        """
        if (
            not isinstance(outcome, Deferred)
            or outcome.cause is not Cause.TOO_MANY_RECIPIENTS
            or outcome.phase in (Phase.MAIL, Phase.RCPT)
        ):
            return outcome
        if len(self.named) == 1:
            session.server.learn(recipients=None)  # it is no matter of how many
            return outcome
        session.server.learn(recipients=len(self.named) // 2)
        return replace(outcome, retry_in=0.0)

    def complete(self, outcome: Outcome) -> Outcome:
        """Say of the outcome of the last transaction what it means for those who were not named in it."""
        if isinstance(outcome, InDoubt):
            return outcome
        refused = {**self._refused, **outcome.refused}
        if isinstance(outcome, Accepted) and self.is_whole and not (refused or self._unsupported):
            return outcome  # of most mails it is all there is to say
        if self.own_sender and not isinstance(outcome, Accepted):
            # What was said of the configuration's sender settles no recipient.
            refused = {
                to: reply
                for to, reply in refused.items()
                if not is_permanent(reply) or is_permanent(reply, own_sender=True)
            }
        left = set(self._open) - set(self.named) - set(self._unsupported)
        named = tuple(to for to in self.named if to in self._open)
        if isinstance(outcome, Deferred):
            if left and outcome.phase in _OF_THE_CONTENT and outcome.cause is not Cause.TOO_MANY_RECIPIENTS:
                self._last_next_time += named
            return replace(outcome, refused=refused, recipients=self._last_next_time)
        if outcome.phase is Phase.MAIL:
            return replace(outcome, refused=refused)  # said of the mail, for all recipients
        if not (isinstance(outcome, Accepted) and self._put_off.intersection(outcome.accepted)):
            left -= self._put_off  # they have a time of their own
        retry_in = 0.0 if left else outcome.retry_in
        if isinstance(outcome, Accepted):
            return replace(outcome, refused=refused, unsupported=self._unsupported, retry_in=retry_in)
        # Those who were put off before the content was refused have not been asked about it.
        retry_in = retry_in if left else wait_of_refused(refused)
        return replace(outcome, refused=refused, unsupported=self._unsupported, retry_in=retry_in, recipients=named)
