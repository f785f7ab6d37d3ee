"""Attempts at deliveries that one message rang for: in turn, over one session, as long as all goes well.

With the final dot of each mail goes what begins the next one, and one commit records how the last one ended and claims
the next. Each is claimed before its own dot, so that a crash leaves one mail in doubt; GROUP_COMMIT makes it more.
Whatever does not go well is left to ``attempt``, mail by mail.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from email_integration import conf, routing
from email_integration.models import FINAL, Delivery
from email_integration.routing import gate
from email_integration.smtp import Relay, Session, SMTPFailure, Started

from . import content, ledger, rows, safety
from .attempt import attempt
from .dispatch import Letter, Mail, Way, judge, pool
from .outcome import Deferred, InDoubt, Outcome, Skipped, classify, classify_recipients
from .recording import Begun, forgive, goes_on, record

logger = logging.getLogger(__name__)

#: Deliveries whose contents are in memory at a time.
_AT_ONCE = 25

#: Seconds within which a server answers what was said along with the final dot, if it is quick. One that takes longer
#: is not waited for with the outcome of the last mail unrecorded, which a crash would leave in doubt.
_PROMPTLY = 0.02


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
    try:
        waiting = deque(_begin_again(plain))
        while waiting:
            convoy = _Convoy(waiting)
            try:
                convoy.run()
            finally:
                yield from convoy.ended
            alone += convoy.alone
    except (DatabaseError, InterfaceError):
        for delivery in plain:
            if delivery.status in ledger.CLAIMABLE:
                forgive(delivery)
        raise
    for pk in alone:
        ended = attempt(pk)
        if isinstance(ended, Skipped):
            logger.debug("Delivery %s: %s", pk, ended.reason)
        else:
            yield ended


def _is_plain(delivery: Delivery) -> bool:
    """Whether it can go with others: everything else is for ``attempt`` to find out and to do."""
    if not (rows.is_readable(delivery) and delivery.status in ledger.CLAIMABLE):
        return False
    now = timezone.now()
    pending = rows.pending(delivery)
    if not (pending and delivery.due_at <= now < delivery.expires_at) or delivery.unfinished:
        return False
    try:
        plan = safety.plan_now(pending)
    except ImproperlyConfigured:
        return False
    return not (plan.withheld or plan.redirected)


def _begin_again(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Count the attempt of those that were rung for before; give those that nobody else has moved meanwhile."""
    again = [one for one in deliveries if one.rings]
    moved = {one.pk for one, is_moved in zip(again, ledger.begin_again(*again), strict=True) if is_moved}
    return [one for one in deliveries if not one.rings or one.pk in moved]


class _Ready:
    """A delivery that is ready to be sent to a relay. Raises what ``Letter`` raises."""

    def __init__(self, delivery: Delivery, relay: Relay) -> None:
        self.delivery = delivery
        self.begun = Begun(
            delivery=delivery, at=timezone.now(), counted_from=time.monotonic(), waited=delivery.waits_for_relay
        )
        mail = Mail(
            from_header=delivery.from_header,
            from_at=delivery.from_at,
            sender=delivery.sender,
            recipients=rows.pending(delivery),
            content=content.stored(delivery),
        )
        self.own_sender = mail.from_at is not None
        self.letter = Letter(mail, relay).__enter__()
        self.claim = ledger.Claim(
            delivery=delivery, relay=relay, from_header=self.letter.from_header, sender=self.letter.sender
        )
        #: When it was claimed, by ``time.monotonic()``.
        self.claimed_at: float | None = None

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
        self._waiting = waiting
        self._ready: deque[_Ready] = deque()
        self._unrecorded: list[tuple[Begun, ledger.Ended]] = []

    def run(self) -> None:
        """Send them, at least one of them. Raises ``DatabaseError`` when the database fails."""
        route = routing.active_relay()
        if not isinstance(route, Relay):
            self._leave_all()
            return
        try:
            with Way(route) as way, pool.session(route, before_opening=way.enter) as session:
                try:
                    self._send_all(session, way)
                finally:
                    self._come_to_an_end(session, way)
        except (SMTPFailure, gate.GateClosed):
            self._leave_all()  # there is no session to be had; what that means, each finds out for itself

    def _leave_all(self) -> None:
        self.alone += [delivery.pk for delivery in self._waiting]
        self._waiting.clear()

    def _send_all(self, session: Session, way: Way) -> None:
        ready = self._take(session)
        while ready is not None:
            ready = self._send(session, way, ready)
        self._settle(())

    def _send(self, session: Session, way: Way, ready: _Ready) -> _Ready | None:
        """Send one, and give the next one, whose transaction may have begun with that."""
        try:
            started = session.begin(ready.letter.opening)
            if started.accepted:
                session.write(ready.letter.blocks)
        except Exception:  # whatever it is, nothing was taken, and 'attempt' finds a name for it
            self._give_back(ready, session, way)
            self.alone.append(self._waiting.popleft().pk)
            return self._next(session) if session.is_idle else None
        finally:
            ready.close()
        if not started.accepted:
            self._note(ready, classify_recipients(started.refused, own_sender=ready.own_sender), session, way)
            return self._next(session)
        if not self._is_claimed(ready, session):
            session.close()  # without the final dot the server has taken nothing
            return None
        return self._finish(session, way, ready, started)

    def _finish(self, session: Session, way: Way, ready: _Ready, started: Started) -> _Ready | None:
        patience = conf.get("REPLY_TIMEOUT")
        if time.monotonic() - (ready.claimed_at or 0.0) > conf.get("LEASE") - patience:
            session.close()
            self._note(ready, Deferred(reason="it took too long to claim it in the database"), session, way)
            return None
        ahead = self._next(session)
        outcome: Outcome
        try:
            reply = session.finish(timeout=patience, ahead=ahead.letter.opening if ahead else None)
            outcome = judge(started, reply)
        except SMTPFailure as failure:
            outcome = classify(failure, own_sender=ready.own_sender)
        except Exception as error:  # the dot may be out
            session.close()
            logger.error("Delivery %s: unexpected %s at its final dot.", ready.delivery.pk, type(error).__name__)
            outcome = InDoubt(reason=f"unexpected {type(error).__name__} at the final dot")
        self._note(ready, outcome, session, way)
        if ahead is not None and session.is_closed:
            self._give_back(ahead, session, way)
            return None
        if ahead is not None and not session.is_answered(within=_PROMPTLY):
            self._settle(())
        return ahead

    # -- what comes next ----------------------------------------------------------------------------------------

    def _next(self, session: Session) -> _Ready | None:
        """The next one; None when there is none, or when it must not go over this session any more."""
        # Asked for each: it is the promise of a live switch, and cheap.
        if session.is_closed or pool.has_expired(session) or routing.active_relay() != session.relay:
            return None
        return self._take(session)

    def _take(self, session: Session) -> _Ready | None:
        if self._ready:
            return self._ready.popleft()
        while self._waiting:
            delivery = self._waiting.popleft()
            try:
                return _Ready(delivery, session.relay)
            except Exception:  # as above
                self.alone.append(delivery.pk)
        return None

    def _give_back(self, ready: _Ready, session: Session, way: Way) -> None:
        """Put one that was not sent where it was taken from."""
        ready.close()
        if ready.claimed_at is not None:
            released = Deferred(reason="the session ended before its turn", retry_in=0)
            self._note(ready, released, session, way)
            self._settle(())
        self._waiting.appendleft(ready.delivery)

    def _come_to_an_end(self, session: Session, way: Way) -> None:
        """Leave nothing unrecorded, and nothing claimed that was not sent."""
        while self._ready:
            self._give_back(self._ready.pop(), session, way)
        self._settle(())

    # -- what is written ----------------------------------------------------------------------------------------

    def _is_claimed(self, ready: _Ready, session: Session) -> bool:
        """Whether the right to send its final dot is ours; GROUP_COMMIT claims as many in one commit."""
        if ready.claimed_at is None:
            wanted = [ready]
            while len(wanted) < conf.get("GROUP_COMMIT") and (another := self._take(session)) is not None:
                wanted.append(another)
            asked_at = time.monotonic()
            for one, is_ours in zip(wanted, self._settle(wanted), strict=True):
                one.claimed_at = asked_at if is_ours else None
            for one in wanted[1:]:
                if one.claimed_at is None:
                    one.close()  # somebody else has it
                else:
                    self._ready.append(one)
        return ready.claimed_at is not None

    def _note(self, ready: _Ready, outcome: Outcome, session: Session, way: Way) -> None:
        """Have it recorded with the next commit how a transaction ended."""
        told = way.tell(outcome)
        ended = ready.begun.ended(told, route=session.relay, tls_version=session.tls_version)
        self._unrecorded.append((ready.begun, ended))
        if isinstance(told, Deferred) and told.for_everybody:
            session.close()

    def _settle(self, wanted: Sequence[_Ready]) -> list[bool]:
        """Record how the last ones ended and claim these, in one commit; say which are ours."""
        unrecorded, self._unrecorded = self._unrecorded, []
        if not (unrecorded or wanted):
            return []
        try:
            recorded, claimed = ledger.record_and_claim(
                [ended for _, ended in unrecorded], [ready.claim for ready in wanted]
            )
        except Exception:
            if not unrecorded:
                raise
            # They were sent, and that is known: it is recorded one by one, with patience, and nothing is sent before.
            recorded, claimed = [record(ended) for _, ended in unrecorded], [False] * len(wanted)
            self._waiting.extendleft(ready.delivery for ready in reversed(wanted))
        for (begun, ended), is_recorded in zip(unrecorded, recorded, strict=True):
            if is_recorded:
                begun.see_to_others(ended)
                if goes_on(ended):
                    self.alone.append(ended.delivery.pk)
                else:
                    self.ended.append(ended.delivery)
        return claimed
