"""Offer a mail to its recipients, transaction by transaction, until the server accepts or refuses it.

One recipient must not block the others: neither one whose address the server does not support, nor one at whose RCPT it
disconnects, nor those that are too many at once.
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
    """Return whether the remaining recipients are to be tried immediately, because the server limits their number."""
    if isinstance(outcome, InDoubt) or outcome.retry_in != 0:
        return False
    # For a server at fault, 0 means that it may be tried now.
    return not isinstance(outcome, Deferred) or outcome.cause is Cause.TOO_MANY_RECIPIENTS


class Offering:
    """The recipients of a mail in one attempt, and the result for each before a transaction ended."""

    def __init__(self, recipients: tuple[str, ...], put_off: Collection[str] = (), *, own_sender: bool = False) -> None:
        """Create the offering. ``put_off`` are the recipients that a server has deferred before; they are named last.

        ``own_sender``, which may change with the relay, is that of ``classify``.
        """
        self._put_off = frozenset(put_off)
        self.own_sender = own_sender
        self._all = recipients
        in_turn = tuple(sorted(recipients, key=lambda to: to in self._put_off)) if put_off else recipients
        self._open = self.named = in_turn
        # The refused recipients and the replies.
        self._refused: dict[str, Reply] = {}
        self._unsupported: tuple[str, ...] = ()
        # Left for another attempt: the server disconnected when this recipient was named first.
        self._aside: tuple[str, ...] = ()
        # The transaction ended at these recipients before others were named. Next time the others come first.
        self._last_next_time: tuple[str, ...] = ()
        self._at_most = len(recipients)
        self.sender_was_taken = False

    def over(self, session: Session) -> tuple[str, ...]:
        """Return the recipients to name in the next transaction of this session."""
        all_are_supported = session.takes_utf8 or "".join(self._open).isascii()
        self._unsupported = () if all_are_supported else tuple(to for to in self._open if not to.isascii())
        able = self._open
        if self._unsupported:  # if none is left, the session reports it
            able = tuple(to for to in able if to not in self._unsupported) or able
        if self._put_off:  # separate from the others, which would have to wait again with them
            able = tuple(to for to in able if to not in self._put_off) or able
        limits = [limit for limit in (session.relay.max_recipients, session.quirks.recipients) if limit]
        self.named = able[: min(self._at_most, *limits)] if limits else able[: self._at_most]
        return self.named

    @property
    def is_whole(self) -> bool:
        """Whether the named recipients are all recipients."""
        return len(self.named) == len(self._all)

    def begun(self, started: Started) -> bool:
        """Add the start of a transaction. Return whether there are others to name if none of these was accepted."""
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
        """Return the replies to all refused recipients, to be classified, and forget them."""
        refused, self._refused = self._refused, {}
        return refused

    def heard(self, failure: SMTPFailure) -> None:
        """Add the recipients that the server refused before this failure."""
        self._settle({to: reply for to, reply in failure.answered.items() if not reply.positive})

    def narrow(self, failure: SMTPFailure, session: Session) -> bool:
        """Add a failure during the recipients of a transaction.

        Return whether to offer the mail to others immediately.
        """
        self.heard(failure)
        if failure.phase is Phase.DATA and isinstance(failure, Refused) and failure.code != 421:
            return False  # it concerns all accepted recipients
        answered = list(failure.answered.values())
        if answered and not answered[-1].positive:
            return self._others_are_able  # it concerns that recipient
        if failure.phase is not Phase.RCPT:
            return False
        if answered:
            # The next recipient may be one too many.
            self._at_most = sum(reply.positive for reply in answered)
            if failure.reply is not None and recognise(Phase.RCPT, failure.reply) is Cause.TOO_MANY_RECIPIENTS:
                session.server.suspect(recipients=self._at_most)  # otherwise due to this recipient, or a restart
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
        """Make a mail with too many recipients at once be tried again immediately, with half of them.

        The server reported the limit too late to accept the mail for some.
        """
        if (
            not isinstance(outcome, Deferred)
            or outcome.cause is not Cause.TOO_MANY_RECIPIENTS
            or outcome.phase in (Phase.MAIL, Phase.RCPT)
        ):
            return outcome
        if len(self.named) == 1:
            session.server.learn(recipients=None)  # the number does not matter
            return outcome
        session.server.learn(recipients=len(self.named) // 2)
        return replace(outcome, retry_in=0.0)

    def complete(self, outcome: Outcome) -> Outcome:
        """Return the outcome of the last transaction, completed for the recipients that were not named in it."""
        if isinstance(outcome, InDoubt):
            return outcome
        refused = {**self._refused, **outcome.refused}
        if isinstance(outcome, Accepted) and self.is_whole and not (refused or self._unsupported):
            return outcome  # complete for most mails
        if self.own_sender and not isinstance(outcome, Accepted):
            # A reply about the configuration's sender settles no recipient.
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
            return replace(outcome, refused=refused)  # concerns the mail, for all recipients
        if not (isinstance(outcome, Accepted) and self._put_off.intersection(outcome.accepted)):
            left -= self._put_off  # they have a separate retry time
        retry_in = 0.0 if left else outcome.retry_in
        if isinstance(outcome, Accepted):
            return replace(outcome, refused=refused, unsupported=self._unsupported, retry_in=retry_in)
        # Recipients that were deferred before the content was refused have no reply about it.
        retry_in = retry_in if left else wait_of_refused(refused)
        return replace(outcome, refused=refused, unsupported=self._unsupported, retry_in=retry_in, recipients=named)
