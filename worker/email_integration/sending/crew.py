"""The threads that send what a process has claimed, each over a session of its own, and what they have done so far.

They speak SMTP and write the journal; the dispatcher, in its own thread, claims and records.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from django.db import connections

from email_integration import recursion
from email_integration.forks import after_fork_in_child
from email_integration.ledger import transitions
from email_integration.ledger.batches import Batch
from email_integration.ledger.claiming import SUSPECT
from email_integration.ledger.records import Ended, Untried
from email_integration.outcomes.classification import Deferred, Outcome
from email_integration.routing import Route
from email_integration.smtp import Relay, Session

from .attempts import Attempt
from .guard import Prepared
from .in_hand import Others, is_late
from .journal import Journal, JournalUnavailable
from .limited import LimitedInARow
from .sessions import Replaced, pool
from .work import Done, Work, put_down, take_in_hand, try_one

logger = logging.getLogger(__name__)

#: Outcomes in one record, and the seconds that the first of them waits for others.
MOST_RECORDED = 100
RECORD_WITHIN = 0.05

#: Unrecorded outcomes with which no further mail is begun: the database is away.
_MOST_UNRECORDED = 200

#: For all queues that a process may serve at a time. Made when they are needed.
_MOST_THREADS = 1000

#: Sessions at a time while a server answers at once: more of them bring nothing then.
_NEAR = 4

#: Seconds that a mail takes at least, of so many in a row, at a server that is far away, or slow.
_FAR = 0.02
_IN_A_ROW = 20

#: Seconds for which a mail waits for the session that it was begun on ahead while another one may be free.
_WAITS_FOR_SESSION = 1.0


def _is_suspect(work: Work) -> bool:
    return work.delivery.returned >= SUSPECT


class _Distance:
    """How long the mails of this process take at least, from MAIL to the reply to the final dot."""

    def __init__(self) -> None:
        self._seen, self._least = 0, float("inf")
        self._is_far = False

    def see(self, seconds: float) -> None:
        """Take in how long one took. A busy machine may make many of them slow, but not all."""
        self._seen += 1
        self._least = min(self._least, seconds)
        if self._seen == _IN_A_ROW:
            self._is_far = self._least > _FAR
            self._seen, self._least = 0, float("inf")

    def sessions(self, most: int) -> int:
        """How many sessions are of use, ``most`` at the most."""
        return most if self._is_far else min(most, _NEAR)


_limited = LimitedInARow()
_distance = _Distance()


def _new_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=_MOST_THREADS, thread_name_prefix="email_integration sender")


#: They outlast a crew: a lone mail waits neither for threads to start nor for their connections to the cache, which
#: each has in its own context.
_threads = _new_threads()


def _begin_anew() -> None:
    global _limited, _threads  # the threads are the parent's, and so may be the holder of the lock
    _limited, _threads = LimitedInARow(), _new_threads()


after_fork_in_child(_begin_anew)


class _Turn(Others):
    """A mail in the hands of one of the threads, and the one that follows it over the same session."""

    def __init__(self, crew: Crew, work: Work, journal: Journal | None) -> None:
        self._crew = crew
        self.work = work
        self.journal = journal
        #: Made when it is its turn, or earlier, while it is prepared for that.
        self.attempt: Attempt | None = None
        #: Known once this one has ended.
        self.next: _Turn | None = None
        #: What was prepared of one that was to follow, and is another thread's by now.
        self.abandoned: Attempt | None = None

    def try_it(self) -> Done:
        """Try it. Raises what ``try_one`` raises."""
        if self.attempt is None:
            self.attempt = take_in_hand(self.work, journal=self.journal, others=self)
        return try_one(self.work, self.attempt)

    def begun(self) -> None:
        self._crew.begun()

    def following(self, session: Session) -> Prepared | None:
        turn = self._crew.take_along(self)
        if turn is None:
            return None
        prepared: Prepared | None = None
        # What keeps it from being prepared is found again, and seen to, when it is its turn.
        with contextlib.suppress(Exception):
            turn.attempt = take_in_hand(turn.work, journal=turn.journal, others=turn)
            prepared = turn.attempt.prepare(session)
        if prepared is None:
            turn.begin_anew()
        return prepared

    def ended(self, done: Done) -> None:
        """Have the one that follows go on with what was begun of it, or have it begin anew."""
        self.next = self._crew.next_after(self)
        if self.abandoned is not None:
            self.abandoned.drop()
        if self.next is not None and not self.next.may_go_on(done):
            self.next.begin_anew()

    def may_go_on(self, done: Done) -> bool:
        """Whether it was begun, and the server may take it after what it said of the one before."""
        if self.attempt is None or not self.attempt.has_begun:
            return False
        outcome = done.change.outcome if isinstance(done.change, Ended) else None
        return not (isinstance(outcome, Deferred) and outcome.for_everybody)

    def begin_anew(self) -> None:
        """Drop what was prepared of it."""
        if self.attempt is not None:
            with contextlib.suppress(JournalUnavailable):  # as is found, and seen to, when it is its turn
                put_down(self.attempt)
            self.attempt = None

    def give_up(self) -> Attempt | None:
        """Let another thread have it that waits behind another one's final dot for so long; None if it does not."""
        attempt = self.attempt
        if attempt is None or attempt.hand.mail_at is None:
            return None  # it is being prepared, or it is to begin anew
        if time.monotonic() - attempt.hand.mail_at < _WAITS_FOR_SESSION:
            return None
        try:
            if attempt.hand.slot is not None:
                attempt.hand.slot.free()
        except JournalUnavailable:
            return None
        self.attempt = None
        return attempt

    def judged(self, relay: Relay | None, recipients: Collection[str], outcome: Outcome) -> Outcome:
        return _limited.see(relay, recipients, outcome)


class Crew:
    """At most ``sessions`` threads, fewer while the server is near; a context, at whose end they are at work for it no longer.

    All state is changed under one lock: what is to be done, how many mails are in hand, what is done. The threads wait
    for what they may begin, and the dispatcher until it is needed, to record or to claim; a mail that is done wakes
    them only if it brings that. One goes ahead until it has come to a session: a server that refuses logins is not
    asked by all of them.
    """

    def __init__(self, *, sessions: int, journal: Journal | None) -> None:
        self._most_sessions = sessions
        self._sessions = _distance.sessions(sessions)
        self._journal = journal
        self._lock = threading.RLock()
        self._may_begin = threading.Condition(self._lock)
        self._is_needed = threading.Condition(self._lock)
        self._waiting = 0
        self._todo: deque[Work] = deque()
        # By the turns that they follow.
        self._following: dict[_Turn, _Turn] = {}
        self._in_hand = 0
        self._done: list[Done] = []
        self._first_done_at = 0.0
        self._working: list[Future[None]] = []
        self._ends = False
        self._has_session = False
        self._is_alone = False
        self._journal_failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._ends = True
            self._todo.clear()
            self._may_begin.notify_all()
        for working in wait(self._working).done:
            if (lost := working.exception()) is not None:
                logger.error("A sender ended with %s.", type(lost).__name__)

    def take_on(self, batch: Batch, route: Route, *, journal: Journal | None) -> None:
        """Have the deliveries of a batch tried by ``route``, in their order.

        ``journal`` is what it was claimed with. If that has failed since, they are given back: after a death none of
        them would be in doubt.
        """
        works = [Work(delivery=one, batch=batch, place=at, route=route) for at, one in enumerate(batch.deliveries)]
        with self._lock:
            self._todo.extend(works)
            if self._journal is not journal:
                self._give_back(batch)
            self._sessions = _distance.sessions(self._most_sessions)
            wanted = min(self._sessions, self._in_hand + len(self._todo))
            self._may_begin.notify_all()
        while len(self._working) < wanted:
            self._working.append(_threads.submit(self._work))

    @property
    def journal(self) -> Journal | None:
        """The journal in which is noted what is in hand, if there is one."""
        return self._journal

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do, nor to record."""
        with self._lock:
            return not (self._todo or self._in_hand or self._done)

    @property
    def wants_more(self) -> bool:
        """Whether a session has nothing to do, or will have soon."""
        with self._lock:
            return len(self._todo) < self._sessions and len(self._done) < _MOST_UNRECORDED

    def give_back(self, batch: Batch) -> None:
        """Begin none of its deliveries any more."""
        with self._lock:
            self._give_back(batch)

    def give_back_late(self) -> None:
        """Begin none of those whose lease comes to its end while they wait for a session: others may have one free.

        And let no mail wait for a final dot to be answered while a thread has nothing to do.
        """
        with self._lock:
            for turn in [*self._following] if self._has_idle_thread else ():
                following = self._following[turn]
                if (given_up := following.give_up()) is not None:
                    turn.abandoned = given_up
                    del self._following[turn]
                    self._todo.appendleft(following.work)
                    self._may_begin.notify()
            for batch in {one.batch.id: one.batch for one in self._todo if is_late(one.batch)}.values():
                self._give_back(batch)

    def cancel(self, batch: Batch, ids: Collection[str]) -> None:
        """Have those of its deliveries that are not begun end as cancelled, of which these are the ids."""
        with self._lock:
            for work in [*self._todo, *(turn.work for turn in self._following.values())]:
                if work.batch is batch and work.delivery.pk in ids:
                    work.delivery.cancel_requested = True

    def leave(self, batch: Batch) -> None:
        """Begin and record none of its deliveries any more: another process has taken them over."""
        with self._lock:
            self._todo = deque(work for work in self._todo if work.batch is not batch)
            self._may_begin.notify_all()

    def permitted(self) -> None:
        """More of a batch may be sent than before, or more may wait to be recorded: all look what they may begin."""
        with self._lock:
            self._may_begin.notify_all()

    def done(self, *, within: float, unless_it_wants_more: bool = False) -> list[Done]:
        """Wait, ``within`` so many seconds, until something is to be recorded; take and return it.

        That is when there is enough of it, when it has waited long enough, or when nothing else is under way. It is not
        waited for ``unless_it_wants_more`` than it has to do.
        """
        until = time.monotonic() + within
        with self._lock:
            while (left := min(until, self._record_at()) - time.monotonic()) > 0:
                if unless_it_wants_more and self.wants_more:
                    break
                self._is_needed.wait(left)
            if self._record_at() > time.monotonic():
                return []
            taken, self._done = self._done[:MOST_RECORDED], self._done[MOST_RECORDED:]
            return taken

    def _record_at(self) -> float:
        """When what is done is to be recorded, by ``time.monotonic()``."""
        if not self._done:
            return float("inf")
        return 0.0 if self._is_to_record else self._first_done_at + RECORD_WITHIN

    @property
    def _is_to_record(self) -> bool:
        """Whether what is done is to be recorded whenever it was done: it is enough, or all that there is to do now."""
        if len(self._done) >= MOST_RECORDED or not (self._todo or self._in_hand):
            return True
        return bool(self._todo) and all(work.place >= work.batch.permitted for work in self._todo)

    # -- in the threads -----------------------------------------------------------------------------------------

    @recursion.within_attempts()
    def _work(self) -> None:
        try:
            turn = self._take()
            while turn is not None:
                done = self._try(turn)
                turn.ended(done)
                turn = self._end(turn, done) or self._take()
        finally:
            connections.close_all()

    def _take(self) -> _Turn | None:
        """What to do next, with the journal for it: one that was claimed while there was a journal goes with it."""
        with self._lock:
            while not self._ends:
                work = self._next() if len(self._done) < _MOST_UNRECORDED else None
                if work is not None:
                    self._in_hand += 1
                    self._is_alone = _is_suspect(work)
                    return self._turn(work)
                self._waiting += 1
                self._may_begin.wait()
                self._waiting -= 1
        return None

    def take_along(self, turn: _Turn) -> _Turn | None:
        """What to do after that turn over the same session, if it can be prepared meanwhile; None if another thread has
        the time for it.
        """
        route = turn.work.route
        with self._lock:
            if self._ends or self._is_alone or self._journal is not turn.journal:
                return None
            if len(self._done) >= _MOST_UNRECORDED or (self._has_idle_thread and self._has_room(route)):
                return None
            work = self._first_permitted()
            if work is None or work.route is not route or _is_suspect(work) or work.delivery.content_file:
                return None
            self._following[turn] = following = self._turn(work)
            return following

    def next_after(self, turn: _Turn) -> _Turn | None:
        """What follows that turn, which has ended."""
        with self._lock:
            return self._following.pop(turn, None)

    def _end(self, turn: _Turn, done: Done) -> _Turn | None:
        """Have what is done of a turn recorded; return the one that follows it."""
        with self._lock:
            if turn.next is None:
                self._in_hand -= 1
                self._is_alone = False
            self._add(done)
            if turn.attempt is not None and turn.attempt.hand.mail_at is not None:
                _distance.see(time.monotonic() - turn.attempt.hand.mail_at)
            if self._waiting and self._todo:
                self._may_begin.notify()  # there is room for one more, or none had to be alone
            return turn.next

    def _next(self) -> Work | None:
        """The first whose final dot is permitted, unless another one goes ahead.

        One that may kill the process is alone in it, so that none of the others dies of it, or is taken for it.
        """
        if self._in_hand and (self._is_alone or not self._has_session):
            return None
        work = self._first_permitted()
        if work is None or (self._in_hand and _is_suspect(work)):
            return None
        return work if self._has_room(work.route) else None

    def _try(self, turn: _Turn) -> Done:
        work = turn.work
        try:
            return turn.try_it()
        except Replaced:
            self.give_back(work.batch)
        except JournalUnavailable as error:
            with self._lock:
                if not self._journal_failed:
                    logger.error("The journal cannot be written to (%s): fewer mails are sent at a time.", error)
                self._journal_failed = True
                self._journal = None
                # All of them were claimed with a journal, and more may be sent of them than without one.
                for batch in {one.batch.id: one.batch for one in self._todo}.values():
                    self._give_back(batch)
        return Done(work=work, change=Untried(delivery=work.delivery, step=transitions.giving_back))

    def begun(self) -> None:
        if not self._has_session:
            with self._lock:
                self._has_session = True
                self._may_begin.notify_all()

    # -- under the lock -----------------------------------------------------------------------------------------

    def _first_permitted(self) -> Work | None:
        return next((work for work in self._todo if work.place < work.batch.permitted), None)

    @property
    def _has_idle_thread(self) -> bool:
        return self._in_hand < len(self._working)

    def _has_room(self, route: Route) -> bool:
        """Whether one more session may be used."""
        return not isinstance(route, Relay) or self._in_hand < pool.most(route)

    def _turn(self, work: Work) -> _Turn:
        self._todo.remove(work)
        if len(self._todo) == self._sessions - 1:
            self._is_needed.notify()  # it wants more
        return _Turn(self, work, self._journal)

    def _add(self, done: Done) -> None:
        if not self._done:
            self._first_done_at = time.monotonic()
        self._done.append(done)
        if self._is_to_record:
            self._is_needed.notify()

    def _give_back(self, batch: Batch) -> None:
        for work in [one for one in self._todo if one.batch is batch]:
            self._todo.remove(work)
            self._add(Done(work=work, change=Untried(delivery=work.delivery, step=transitions.giving_back)))
