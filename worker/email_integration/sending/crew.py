"""The threads that send what a process has claimed, each over a session of its own, and what they have done so far.

They speak SMTP and write the journal; the dispatcher, in its own thread, claims and records.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable
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
from email_integration.outcomes.classification import Accepted, Deferred, Outcome
from email_integration.routing import Route
from email_integration.smtp import Relay, Session

from .asking import Questions
from .distance import Distance
from .guard import PipelinedTransaction
from .in_hand import Others, is_late
from .journal import Journal, JournalUnavailable
from .limited import LimitedInARow
from .sessions import Replaced, pool
from .work import Done, Work, take_in_hand, try_one

logger = logging.getLogger(__name__)

#: Outcomes in one record, and the seconds that the first of them waits for others.
MOST_RECORDED = 100
RECORD_WITHIN = 0.05

#: Unrecorded outcomes with which no further mail is begun: the database is away.
_MOST_UNRECORDED = 200

#: For all queues that a process may serve at a time. Made when they are needed.
_MOST_THREADS = 1000

#: Seconds for which a mail waits for the session that it was begun on ahead while another one may be free.
_WAITS_FOR_SESSION = 1.0


def _is_suspect(work: Work) -> bool:
    return work.delivery.returned >= SUSPECT


_limited = LimitedInARow()
_distance = Distance()


def _new_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=_MOST_THREADS, thread_name_prefix="email_integration sender")


#: They outlast a crew: a lone mail waits neither for threads to start nor for their connections to the cache, which
#: each has in its own context.
_threads = _new_threads()


def _begin_anew() -> None:
    global _distance, _limited, _threads  # the threads are the parent's, and so may be the holders of the locks
    _distance, _limited, _threads = Distance(), LimitedInARow(), _new_threads()


after_fork_in_child(_begin_anew)


class _Turn(Others):
    """A mail in the hands of one of the threads, and the one that follows it over the same session."""

    def __init__(self, crew: Crew, work: Work, journal: Journal | None) -> None:
        self._crew = crew
        self.work = work
        self.journal = journal
        # Both are changed under the lock of the crew. The other is what was prepared of one that is to begin anew.
        self.next: _Turn | None = None
        self.abandoned: PipelinedTransaction | None = None

    def try_it(self) -> Done:
        """Try it. Raises what ``try_one`` raises."""
        return try_one(self.work, journal=self.journal, others=self)

    def breaker_is_closed(self, relay: Relay) -> bool:
        return self._crew.questions.breaker_is_closed(relay)

    def begun(self) -> None:
        self._crew.begun()

    def following(self, session: Session) -> PipelinedTransaction | None:
        turn = self._crew.take_along(self)
        if turn is None:
            return None
        # What keeps it from being prepared is found again, and seen to, when it is its turn.
        with contextlib.suppress(Exception):
            if self.work.attempt is not None:
                self.work.attempt.hand.waits()  # it is the other that is read
            prepared = take_in_hand(turn.work, journal=turn.journal, others=turn).prepare(session)
            if prepared is not None:
                return prepared
        if turn.work.attempt is not None:
            turn.work.attempt.drop()
            with contextlib.suppress(JournalUnavailable):
                turn.work.attempt.hand.waits()
        self._crew.put_back(self)
        return None

    def not_along(self) -> None:
        self._crew.put_back(self)

    def judged(self, relay: Relay | None, recipients: Collection[str], outcome: Outcome) -> Outcome:
        return _limited.see(relay, recipients, outcome)

    @property
    def mail_at(self) -> float | None:
        """When MAIL was about to be said, by ``time.monotonic()``; None before that."""
        return None if self.work.attempt is None else self.work.attempt.hand.mail_at


def _outcome(done: Done) -> Outcome | None:
    return done.change.outcome if isinstance(done.change, Ended) else None


def _may_be_followed(turn: _Turn, done: Done) -> bool:
    """Whether the one that follows was begun, and the server may take it after what it said of that turn's mail."""
    following, outcome = turn.next and turn.next.work.attempt, _outcome(done)
    return bool(following and following.has_begun) and not (isinstance(outcome, Deferred) and outcome.for_everybody)


class Crew:
    """At most ``sessions`` threads, fewer while the server is near; a context, at whose end none is at work for it.

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
        #: Of the threads, which ``attend`` answers.
        self.questions = Questions(self._asked)
        self._waiting = 0
        self._todo: deque[Work] = deque()
        self._in_hand: set[_Turn] = set()
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
            self._leave(self._todo)
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
            self._set_to_work()
            self._may_begin.notify_all()

    @property
    def sessions(self) -> int:
        """Over how many it sends at a time, if there is enough to do."""
        return self._sessions

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

    def attend(self, *, late: Iterable[Batch]) -> None:
        """See to what waits; called every now and then.

        Answer what the threads ask. Begin none of those whose lease comes to its end, which is ``late``, while they
        wait for a session: others may have one free. Let none wait for the final dot of another while a thread may
        begin it. Set more threads to work if that helps.
        """
        self.questions.answer()
        with self._lock:
            for turn in self._in_hand:
                if turn.next is not None and self._is_to_begin_anew(turn.next):
                    self._put_back(turn)
            for batch in late:
                self._give_back(batch)
            self._set_to_work()

    def leave(self, batch: Batch) -> None:
        """Begin and record none of its deliveries any more: another process has taken them over."""
        with self._lock:
            self._leave([work for work in self._todo if work.batch is batch])
            self._todo = deque(work for work in self._todo if work.batch is not batch)
            self._may_begin.notify_all()

    def permitted(self) -> None:
        """More of a batch may be sent than before, or more may wait to be recorded: all look what they may begin."""
        with self._lock:
            self._may_begin.notify_all()

    def done(self, *, within: float, unless_it_wants_more: bool = False) -> list[Done]:
        """Wait, ``within`` so many seconds, until something is to be recorded; take and return it.

        That is when there is enough of it, when it has waited long enough, or when nothing else is under way. It is not
        waited for ``unless_it_wants_more`` than it has to do, nor while a thread asks something.
        """
        until = time.monotonic() + within
        with self._lock:
            while (left := min(until, self._record_at()) - time.monotonic()) > 0:
                if self.questions.are_open or (unless_it_wants_more and self.wants_more):
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
                turn = self._go_on(turn, done) or self._take()
        finally:
            connections.close_all()

    def _take(self) -> _Turn | None:
        """What to do next, with the journal for it: one that was claimed while there was a journal goes with it."""
        with self._lock:
            while not self._ends:
                work = self._next() if len(self._done) < _MOST_UNRECORDED else None
                if work is not None:
                    turn = self._turn(work)
                    self._in_hand.add(turn)
                    self._is_alone = _is_suspect(work)
                    return turn
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
            if len(self._done) >= _MOST_UNRECORDED or self._are_too_many(route):
                return None
            if self._has_idle_thread and self._has_room(route):
                return None
            work = self._first_permitted()
            if work is None or not work.may_follow or work.route is not route:
                return None
            if _is_suspect(work) or work.delivery.content_file:
                return None
            turn.next = self._turn(work)
            return turn.next

    def put_back(self, turn: _Turn) -> None:
        """Have what was to follow that turn tried as any other."""
        with self._lock:
            self._put_back(turn)

    def _go_on(self, turn: _Turn, done: Done) -> _Turn | None:
        """Have what is done of a turn recorded, and return the one that follows."""
        with self._lock:
            if turn.next is not None and (self._ends or not _may_be_followed(turn, done)):
                self._put_back(turn)
            self._in_hand.remove(turn)
            if turn.next is not None:
                self._in_hand.add(turn.next)
            self._is_alone = False
            self._add(done)
            if turn.mail_at is not None and isinstance(_outcome(done), Accepted):
                _distance.see(time.monotonic() - turn.mail_at)
            if self._waiting and self._todo:
                self._may_begin.notify()  # there is room for one more, or none had to be alone
        if turn.abandoned is not None:
            turn.abandoned.drop()
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

    def _asked(self) -> None:
        with self._lock:
            self._is_needed.notify()

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
        return len(self._in_hand) < len(self._working)

    def _set_to_work(self) -> None:
        """Have as many threads as are of use."""
        if self._todo and not self._has_idle_thread:
            _distance.see_under_way([turn.mail_at for turn in self._in_hand])
        self._sessions = _distance.sessions(self._most_sessions)
        while len(self._working) < min(self._sessions, len(self._in_hand) + len(self._todo)):
            self._working.append(_threads.submit(self._work))

    def _has_room(self, route: Route) -> bool:
        """Whether one more session may be used."""
        return not isinstance(route, Relay) or len(self._in_hand) < pool.most(route)

    def _are_too_many(self, route: Route) -> bool:
        """Whether more sessions are used than are to be by now."""
        return isinstance(route, Relay) and len(self._in_hand) > pool.most(route)

    def _is_to_begin_anew(self, turn: _Turn) -> bool:
        """Whether one that waits for the final dot of another one need not, or cannot, wait for it any longer."""
        if turn.mail_at is None:
            return False  # it is being prepared
        if is_late(turn.work.batch):
            return True
        waited = time.monotonic() - turn.mail_at > _WAITS_FOR_SESSION
        return waited and self._has_idle_thread and self._has_room(turn.work.route)

    def _put_back(self, turn: _Turn) -> None:
        """Have what was to follow that turn begin anew; the turn drops what was prepared of it."""
        following, turn.next = turn.next, None
        if following is None:
            return
        work = following.work
        if work.attempt is not None:
            turn.abandoned = work.attempt.let_go()
        work.may_follow = False
        if self._ends:
            self._leave([work])
        else:
            self._todo.appendleft(work)
            if self._journal is not following.journal:
                self._give_back(work.batch)  # as its others were when that failed
            self._may_begin.notify()

    def _leave(self, works: Iterable[Work]) -> None:
        """Forget these, which are another process's, or will be."""
        for work in works:
            if work.attempt is not None and work.attempt.hand.slot is not None:
                with contextlib.suppress(JournalUnavailable):
                    work.attempt.hand.slot.free()

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
            slot = None if work.attempt is None else work.attempt.hand.slot
            self._add(Done(work=work, change=Untried(delivery=work.delivery, step=transitions.giving_back), slot=slot))
