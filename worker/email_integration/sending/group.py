"""Attempts at deliveries that one message rang for: in turn, over one session, as long as all goes well.

With the final dot of each mail goes what begins the next one, and one commit records how the last one ended and claims
the next. Each is claimed before its own dot, so that a crash leaves one mail in doubt; GROUP_COMMIT makes it more.
Whatever does not go well is left to ``attempt``, mail by mail.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from email_integration import conf, recursion, routing
from email_integration.ledger import records, rows, transitions
from email_integration.message import content
from email_integration.models import FINAL, Delivery, Status
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred, InDoubt, Outcome, Skipped, classify, classify_recipients
from email_integration.secrecy import with_secrets
from email_integration.smtp import Phase, Relay, Session, SMTPFailure, Started

from . import sandbox
from .attempt import attempt
from .dispatch import Letter, Mail, Way, judge, pool
from .offering import Offering
from .recording import AWAY, Begun, forgive, goes_on, record
from .sessions import begin, is_about_session

logger = logging.getLogger(__name__)

#: Deliveries whose contents are in memory at a time.
_AT_ONCE = 50

#: Seconds within which a server answers what was said along with the final dot, if it is quick. One that takes longer
#: is not waited for with the outcome of the last mail unrecorded, which a crash would leave in doubt; nor is the line,
#: for contents of more octets than this.
_PROMPTLY = 0.02
_SHORT = 64 * 1024

#: Octets of the largest content that goes along with others. A larger one takes its time, and those after it would wait
#: for their turn while somebody else rings for them.
_LARGEST = 256 * 1024

#: Mails in a row, none of them to a recipient of the others, that a limit has put off: it is not their recipients'.
_LIMITED_IN_A_ROW = 3

#: Lost workers in a row that say nothing of a mail: it may have been with a killer once.
_LOST_WITHOUT_GUILT = 1

#: Seconds after which those that have ended are handed over, before others are begun: something may follow them.
_AT_MOST = 10.0


@with_secrets
def attempt_group(delivery_ids: Sequence[str]) -> Iterator[Delivery]:
    """Try each delivery once, and give it as it stands then, unless there was nothing to do.

    Raises ``DatabaseError`` when the database fails; what is left is rung for again.
    """
    for start in range(0, len(delivery_ids), _AT_ONCE):
        yield from _attempt_some(delivery_ids[start : start + _AT_ONCE])


def _attempt_some(delivery_ids: Sequence[str]) -> Iterator[Delivery]:
    found = {delivery.pk: delivery for delivery in rows.load_all(delivery_ids)}
    known = [found[pk] for pk in dict.fromkeys(delivery_ids) if pk in found]
    left = [one for one in known if not (one.status in FINAL and one.continued)]
    plain: list[Delivery] = []
    alone: list[str] = []
    for one in left:
        if _is_plain(one):
            plain.append(one)
        else:
            alone.append(one.pk)
    waiting = deque(plain)
    try:
        while waiting:
            convoy = _Convoy(waiting)
            try:
                convoy.run()
            finally:
                yield from convoy.ended
            alone += convoy.alone
    finally:
        # No worker was lost with those that are left; 'attempt' counts anew.
        forgive(*plain)
    for pk in alone:
        ended = attempt(pk)
        if isinstance(ended, Skipped):
            logger.debug("Delivery %s: %s", pk, ended.reason, extra={"delivery_id": pk})
        else:
            yield ended


def _is_plain(delivery: Delivery) -> bool:
    """Whether it can go with others: everything else is for ``attempt`` to find out and to do."""
    if not (rows.is_readable(delivery) and delivery.status in transitions.CLAIMABLE):
        return False
    if delivery.options == recursion.ABOUT_MAIL:
        return False  # what is logged amid the others may be mailed
    now = timezone.now()
    pending = rows.pending(delivery)
    if not (pending and delivery.due_at <= now < delivery.expires_at) or delivery.unfinished:
        return False
    if delivery.content_size > _LARGEST or (delivery.rings and conf.get("QUARANTINE_AFTER") <= _LOST_WITHOUT_GUILT):
        return False
    try:
        plan = sandbox.plan_now(pending)
    except ImproperlyConfigured:
        return False
    return not (plan.withheld or plan.redirected)


def _is_uncounted(delivery: Delivery) -> bool:
    """Whether its attempt has to be counted before it begins: it was rung for before."""
    return bool(delivery.rings and not delivery.unfinished)


def _begin(delivery: Delivery) -> Begun:
    return Begun(delivery=delivery, at=timezone.now(), counted_from=time.monotonic(), waited=delivery.waits_for_relay)


class _Ready:
    """A delivery that is ready to be sent to a relay. Raises what ``Letter`` raises."""

    def __init__(self, delivery: Delivery, relay: Relay) -> None:
        self.delivery = delivery
        mail = Mail(
            from_header=delivery.from_header,
            from_at=delivery.from_at,
            sender=delivery.sender,
            recipients=rows.pending(delivery),
            put_off=rows.put_off(delivery),
            content=content.stored(delivery),
        )
        self.has_sender_of = functools.partial(mail.has_sender_of, relay)
        self.offering = Offering(mail.recipients, mail.put_off, own_sender=self.has_sender_of(Phase.RCPT))
        self.letter = Letter(mail, relay).__enter__()
        self.claim = records.Claim(
            delivery=delivery, relay=relay, from_header=self.letter.from_header, sender=self.letter.sender
        )
        #: When it was claimed, by ``time.monotonic()``.
        self.claimed_at: float | None = None
        self.begin()

    def begin(self) -> None:
        """It is its turn."""
        self.begun = _begin(self.delivery)

    def close(self) -> None:
        """Have done with its content."""
        self.letter.__exit__()


class _Convoy:
    """As many of the deliveries that wait as go well over one session; it takes them from ``waiting``.

    ``ended`` are those that came to an end or were put off, ``alone`` the ids of those to be tried by themselves.
    """

    def __init__(self, waiting: deque[Delivery]) -> None:
        self.ended: list[Delivery] = []
        self.alone: list[str] = []
        self._since = time.monotonic()
        self._waiting = waiting
        # The next ones, their contents at hand; the first of them may be claimed already.
        self._ready: deque[_Ready] = deque()
        self._unrecorded: list[tuple[Begun, records.Ended]] = []
        # The recipients of each of the last ones that were put off by a limit.
        self._limited: list[frozenset[str]] = []

    def run(self) -> None:
        """Send them, at least one of them. Raises ``DatabaseError`` when the database fails."""
        route = routing.active_relay()
        if not isinstance(route, Relay):
            self._leave_all()
            return
        begun = _begin(self._waiting[0])
        try:
            with Way(route) as way:
                try:
                    with pool.session(route, before_opening=way.enter) as session:
                        try:
                            self._send_all(session, way)
                        finally:
                            # Nothing stays unrecorded, and nothing claimed that was not sent.
                            self._give_all_back()
                            self._settle(())
                except SMTPFailure as failure:
                    self._note_no_session(begun, failure, route, way)
        except (DatabaseError, InterfaceError):
            raise
        except Exception:  # the gate is closed, or whatever it is: each finds out for itself
            self._leave_all()

    def _note_no_session(self, begun: Begun, failure: SMTPFailure, route: Relay, way: Way) -> None:
        """It was the attempt of the first: the server is not asked again for each, nor logged in to."""
        replaced = routing.active_relay() != route or way.has_another_password(failure)
        if not replaced:  # else nobody need wait for what is wrong with the old one
            told = way.tell(classify(failure, own_sender=self._waiting.popleft().from_at is not None))
            self._unrecorded.append((begun, begun.ended(told, route=route)))
            self._settle(())
        self._leave_all()

    def _leave_all(self) -> None:
        self.alone += [delivery.pk for delivery in self._waiting]
        self._waiting.clear()

    def _send_all(self, session: Session, way: Way) -> None:
        self._prepare(session)
        ready = self._first(session)
        while ready is not None:
            ready = self._send(session, way, ready)

    def _send(self, session: Session, way: Way, ready: _Ready) -> _Ready | None:
        """Send one, and give the next one, whose transaction may have begun with that."""
        if self._unrecorded and not (ready.letter.opening.size <= _SHORT and session.is_answered(within=_PROMPTLY)):
            self._settle(())
            if routing.active_relay() != session.relay:  # replaced while that was written
                session.close()
                self._give_back(ready)
                return None
        try:
            started = begin(session, ready.letter.opening)
            others = ready.offering.begun(started)
            if started.accepted:
                session.write(ready.letter.blocks)
        except Exception as error:  # whatever it is, nothing was taken, and 'attempt' finds a name for it
            if isinstance(error, SMTPFailure) and is_about_session(error, session):
                self._give_back(ready)
                return None
            if isinstance(error, SMTPFailure) and session.is_idle:  # this is no news of the session
                outcome = classify(error, own_sender=ready.has_sender_of(error.phase))
                ready.offering.heard(error)
                self._note(ready, ready.offering.complete(ready.offering.split(outcome, session)), session, way)
                return self._next(session)
            self._leave(ready)
            return self._next(session) if session.is_idle else None
        finally:
            ready.close()
        if others:
            self._leave(ready)
            return self._next(session)
        if not started.accepted:
            refused = ready.offering.all_refused()
            own_sender = ready.has_sender_of(Phase.RCPT)
            self._note(ready, classify_recipients(refused, own_sender=own_sender), session, way)
            return self._next(session)
        self._prepare(session)  # before the claim: what may kill us, or take long, leaves this one in no doubt
        if not self._is_claimed(ready):
            session.close()  # without the final dot the server has taken nothing
            return None
        return self._finish(session, way, ready, started)

    def _finish(self, session: Session, way: Way, ready: _Ready, started: Started) -> _Ready | None:
        patience = conf.get("REPLY_TIMEOUT")
        ahead = self._next(session)
        asked_at = time.monotonic()
        outcome: Outcome
        if asked_at - (ready.claimed_at or 0.0) > conf.get("LEASE") - patience:
            session.close()
            outcome = Deferred(cause=Cause.TOO_SLOW, reason=Cause.TOO_SLOW.words, phase=Phase.CONTENT)
        else:
            try:
                reply = session.finish(timeout=patience, ahead=ahead.letter.opening if ahead else None)
                outcome = judge(started, reply, own_sender=ready.has_sender_of(Phase.FINAL_DOT))
            except SMTPFailure as failure:
                outcome = classify(failure, own_sender=ready.has_sender_of(failure.phase))
            except Exception as error:  # the dot may be out
                session.close()
                what, pk = type(error).__name__, ready.delivery.pk
                logger.error("Delivery %s: unexpected %s at its final dot.", pk, what, extra={"delivery_id": pk})
                outcome = InDoubt(cause=Cause.INTERNAL_ERROR, reason=f"unexpected {what} at the final dot")
        self._note(ready, ready.offering.complete(ready.offering.split(outcome, session)), session, way)
        if ahead is None:
            return None
        if routing.active_relay() != session.relay:
            session.close()  # replaced meanwhile: what was said of the next one counts for nothing without its content
        if session.is_closed:
            self._give_back(ahead)
            return None
        return ahead

    # -- what comes next ----------------------------------------------------------------------------------------

    def _next(self, session: Session) -> _Ready | None:
        """The next one; None when there is none, or when it must not go over this session any more."""
        if session.is_closed or pool.has_expired(session):
            return None
        self._prepare(session)
        if not self._ready or (self._ready[0].claimed_at is None and time.monotonic() - self._since > _AT_MOST):
            return None
        return self._first(session)

    def _first(self, session: Session) -> _Ready | None:
        """The first that is ready, unless another relay is active by now."""
        if not self._ready:
            return None
        self._ready[0].begin()  # before it is asked for the relay: no attempt begins with one that was replaced
        return self._ready.popleft() if routing.active_relay() == session.relay else None

    def _prepare(self, session: Session) -> None:
        """Have the next one ready, or as many as one commit claims with the one whose turn it is."""
        while len(self._ready) < _ahead() and self._waiting:
            if _is_uncounted(self._waiting[0]):
                transitions.begin_again(*self._uncounted())
            delivery = self._waiting.popleft()
            if _is_uncounted(delivery):
                continue  # somebody else has moved it
            if delivery.expires_at <= timezone.now():
                self.alone.append(delivery.pk)
                continue
            if delivery.content_file:
                self._settle(())  # it may take long to read
            try:
                ready = _Ready(delivery, session.relay)
            except Exception:  # as above
                self.alone.append(delivery.pk)
                continue
            ready.offering.over(session)
            if ready.offering.is_whole:
                self._ready.append(ready)
            else:  # more than one transaction, or not for all of them
                ready.close()
                self.alone.append(delivery.pk)

    def _uncounted(self) -> list[Delivery]:
        """Those to be counted among the next. Not all that wait: with a worker only those in its hands are lost."""
        return [one for one in itertools.islice(self._waiting, _ahead()) if _is_uncounted(one)]

    def _give_back(self, ready: _Ready) -> None:
        """Put one that was not sent where it was taken from."""
        ready.close()
        if ready.claimed_at is not None:
            released = Deferred(
                cause=Cause.SESSION_ENDED, reason=Cause.SESSION_ENDED.words, phase=Phase.MAIL, retry_in=0
            )
            self._unrecorded.append((ready.begun, ready.begun.ended(released, route=ready.claim.relay)))
        self._waiting.appendleft(ready.delivery)

    def _leave(self, ready: _Ready) -> None:
        """Have one that was not sent tried by itself."""
        self._give_back(ready)
        self.alone.append(self._waiting.popleft().pk)

    def _give_all_back(self) -> None:
        while self._ready:
            self._give_back(self._ready.pop())

    # -- what is written ----------------------------------------------------------------------------------------

    def _is_claimed(self, ready: _Ready) -> bool:
        """Whether the right to send its final dot is ours; GROUP_COMMIT claims as many in one commit."""
        if ready.claimed_at is None:
            along = [self._ready.popleft() for _ in range(min(conf.get("GROUP_COMMIT") - 1, len(self._ready)))]
            asked_at = time.monotonic()
            for one, is_ours in zip([ready, *along], self._settle([ready, *along]), strict=True):
                one.claimed_at = asked_at if is_ours else None
            for one in reversed(along):
                if one.claimed_at is None:
                    one.close()  # somebody else has it
                else:
                    self._ready.appendleft(one)
        return ready.claimed_at is not None

    def _note(self, ready: _Ready, outcome: Outcome, session: Session, way: Way) -> None:
        """Have it recorded with the next commit how a transaction ended."""
        told = way.tell(self._said_of_all(ready, outcome))
        ended = ready.begun.ended(told, route=session.relay, tls_version=session.tls_version)
        self._unrecorded.append((ready.begun, ended))
        if isinstance(told, Deferred) and told.for_everybody:
            session.close()

    def _said_of_all(self, ready: _Ready, outcome: Outcome) -> Outcome:
        """The outcome; that of a limit is for everybody where several in a row have come to it."""
        if not isinstance(outcome, Deferred) or outcome.cause is not Cause.LIMIT:
            self._limited.clear()
            return outcome
        named = frozenset(rows.pending(ready.delivery))
        if not any(named & others for others in self._limited):
            self._limited.append(named)
        return replace(outcome, for_everybody=True) if len(self._limited) >= _LIMITED_IN_A_ROW else outcome

    def _settle(self, wanted: Sequence[_Ready]) -> list[bool]:
        """Record how the last ones ended and claim these, in one commit; say which are ours."""
        unrecorded, self._unrecorded = self._unrecorded, []
        if not (unrecorded or wanted):
            return []
        try:
            recorded, claimed = transitions.record_and_claim(
                [ended for _, ended in unrecorded],
                [ready.claim for ready in wanted],
                begun_again=self._uncounted() if wanted else (),
            )
        except Exception as error:
            is_away = isinstance(error, AWAY)
            if is_away and not unrecorded:
                raise
            # How they ended is known: it is recorded one by one, with patience, before anything is sent again.
            recorded = [record(ended) for _, ended in unrecorded]
            claimed = [ready.delivery.status == Status.SENDING for ready in wanted]
            left = [ready.delivery for ready, is_ours in zip(wanted, claimed, strict=True) if not is_ours]
            if is_away:
                self._give_all_back()
                self._waiting.extendleft(reversed(left))
            else:  # one of them cannot be written, and each finds out which
                self.alone += [delivery.pk for delivery in left]
        for (begun, ended), is_recorded in zip(unrecorded, recorded, strict=True):
            delivery = ended.delivery
            if not is_recorded or delivery in self._waiting or delivery.pk in self.alone:
                continue
            begun.see_to_others(ended)
            if goes_on(ended):
                self.alone.append(delivery.pk)
            else:
                self.ended.append(delivery)
        return claimed


def _ahead() -> int:
    """How many are made ready before their turn."""
    return max(1, int(conf.get("GROUP_COMMIT")) - 1)
