"""The threads that send claimed mail, each over one session, and their results.

The threads speak SMTP and write the journal. The dispatcher claims and records in another thread.
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

#: Limits of one record: the number of outcomes, and the seconds that the first outcome waits for others.
MOST_RECORDED = 100
RECORD_WITHIN = 0.05

#: With this many unrecorded outcomes, no further mail is started, because the database is probably down.
_MOST_UNRECORDED = 200

#: Threads for all queues that a process serves at once. They are started when needed.
_MOST_THREADS = 1000

#: Seconds for which a mail waits for the session it was started on if another session may be free.
_WAITS_FOR_SESSION = 1.0


def _is_suspect(work: Work) -> bool:
    return work.delivery.returned >= SUSPECT


_limited = LimitedInARow()
_distance = Distance()


def _new_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=_MOST_THREADS, thread_name_prefix="email_integration sender")


#: The threads outlive a crew. A single mail therefore waits neither for threads to start nor for their connections to
#: the cache, which each thread opens separately.
_threads = _new_threads()


def _begin_anew() -> None:
    global _distance, _limited, _threads  # the parent's threads may hold the old locks
    _distance, _limited, _threads = Distance(), LimitedInARow(), _new_threads()


after_fork_in_child(_begin_anew)


class _Turn(Others):
    """A mail that one of the threads is sending, and the mail that follows it over the same session."""

    def __init__(self, crew: Crew, work: Work, journal: Journal | None) -> None:
        self._crew = crew
        self.work = work
        self.journal = journal
        # Both are changed under the crew's lock. ``abandoned`` is the prepared transaction of a mail that is to start
        # again.
        self.next: _Turn | None = None
        self.abandoned: PipelinedTransaction | None = None

    def try_it(self) -> Done:
        """Try the mail. Raises the errors of ``try_one``."""
        return try_one(self.work, journal=self.journal, others=self)

    def breaker_is_closed(self, relay: Relay) -> bool:
        return self._crew.questions.breaker_is_closed(relay)

    def begun(self) -> None:
        self._crew.begun()

    def following(self, session: Session) -> PipelinedTransaction | None:
        turn = self._crew.take_along(self)
        if turn is None:
            return None
        # An error that prevents its preparation occurs again, and is handled, when the mail is tried.
        with contextlib.suppress(Exception):
            if self.work.attempt is not None:
                self.work.attempt.hand.waits()  # the other mail is being read
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
        """The time just before MAIL, by ``time.monotonic()``; None before that."""
        return None if self.work.attempt is None else self.work.attempt.hand.mail_at


def _outcome(done: Done) -> Outcome | None:
    return done.change.outcome if isinstance(done.change, Ended) else None


def _may_be_followed(turn: _Turn, done: Done) -> bool:
    """Return whether the next mail was started, and the server may accept it after its reply to this turn's mail."""
    following, outcome = turn.next and turn.next.work.attempt, _outcome(done)
    return bool(following and following.has_begun) and not (isinstance(outcome, Deferred) and outcome.for_everybody)


class Crew:
    """At most ``sessions`` threads, fewer while the server is near. On exit of the context no thread works for it.

    All state is changed under one lock: the mails to send, the mails being sent, and the results. The threads wait for
    mails that they may start. The dispatcher waits until it must record or claim; a finished mail wakes it only then.
    The first mail goes ahead until it has a session, so that a server that refuses logins does not get one from each
    thread.
    """

    def __init__(self, *, sessions: int, journal: Journal | None) -> None:
        self._most_sessions = sessions
        self._sessions = _distance.sessions(sessions)
        self._journal = journal
        self._lock = threading.RLock()
        self._may_begin = threading.Condition(self._lock)
        self._is_needed = threading.Condition(self._lock)
        #: Questions of the threads, which ``attend`` answers.
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
                logger.error("A sender thread ended with the error %s.", type(lost).__name__)

    def take_on(self, batch: Batch, route: Route, *, journal: Journal | None) -> None:
        """Add the deliveries of a batch, to be tried by ``route`` in their order.

        ``journal`` is the journal that the batch was claimed with. If that has failed since, the deliveries are given
        back: it would report none of them as in doubt after a crash.
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
        """The number of sessions used at once if there is enough mail."""
        return self._sessions

    @property
    def journal(self) -> Journal | None:
        """The journal that records the mails being sent, if there is one."""
        return self._journal

    @property
    def is_idle(self) -> bool:
        """Whether no mail is left to send or to record."""
        with self._lock:
            return not (self._todo or self._in_hand or self._done)

    @property
    def wants_more(self) -> bool:
        """Whether a session is idle, or will be soon."""
        with self._lock:
            return len(self._todo) < self._sessions and len(self._done) < _MOST_UNRECORDED

    def give_back(self, batch: Batch) -> None:
        """Give back the deliveries of a batch that have not been started."""
        with self._lock:
            self._give_back(batch)

    def attend(self, *, late: Iterable[Batch]) -> None:
        """Do the periodic work: answer the threads' questions, give back late mail, and start more threads if useful.

        ``late`` are the batches whose lease is about to expire; their mails that still wait for a session are given
        back, because another process may have a free one. A mail that waits for the final dot of another mail is put
        back if another thread can start it.
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
        """Neither start nor record any delivery of the batch: another process has taken them over."""
        with self._lock:
            self._leave([work for work in self._todo if work.batch is batch])
            self._todo = deque(work for work in self._todo if work.batch is not batch)
            self._may_begin.notify_all()

    def permitted(self) -> None:
        """Wake the threads: more mails of a batch may be sent, or more results may wait to be recorded."""
        with self._lock:
            self._may_begin.notify_all()

    def done(self, *, within: float, unless_it_wants_more: bool = False) -> list[Done]:
        """Wait for at most ``within`` seconds until results are to be recorded; remove and return them.

        Results are recorded when there are enough, when they have waited long enough, or when no other mail is in
        progress. The call does not wait while a thread has a question, nor (``unless_it_wants_more``) while the crew
        wants more mail.
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
        """Return the time to record the results, by ``time.monotonic()``."""
        if not self._done:
            return float("inf")
        return 0.0 if self._is_to_record else self._first_done_at + RECORD_WITHIN

    @property
    def _is_to_record(self) -> bool:
        """Whether results are to be recorded now, whatever their age: there are enough, or no mail can be sent now."""
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
        """Return the next mail with its journal; None at the end.

        A mail claimed with a journal is sent with that journal.
        """
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
        """Return a mail to send after that turn over the same session, if it can be prepared meanwhile.

        Return None if another thread has time for it.
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
        """Put the mail that was to follow that turn back into the queue, to be tried like any other."""
        with self._lock:
            self._put_back(turn)

    def _go_on(self, turn: _Turn, done: Done) -> _Turn | None:
        """Add the result of a turn to those to record, and return the turn that follows."""
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
                self._may_begin.notify()  # there is room for another mail, or none had to be alone
        if turn.abandoned is not None:
            turn.abandoned.drop()
        return turn.next

    def _next(self) -> Work | None:
        """Return the first mail whose final dot is permitted, unless another mail goes ahead.

        A mail that may kill the process is sent alone, so that no other mail is lost or suspected with it.
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
                    logger.error("Writing to the journal failed (%s): fewer mails are sent at a time.", error)
                self._journal_failed = True
                self._journal = None
                # All of them were claimed with a journal, and so more of them are permitted than without one.
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
        """Start as many threads as are useful."""
        if self._todo and not self._has_idle_thread:
            _distance.see_under_way([turn.mail_at for turn in self._in_hand])
        self._sessions = _distance.sessions(self._most_sessions)
        while len(self._working) < min(self._sessions, len(self._in_hand) + len(self._todo)):
            self._working.append(_threads.submit(self._work))

    def _has_room(self, route: Route) -> bool:
        """Return whether one more session may be used."""
        return not isinstance(route, Relay) or len(self._in_hand) < pool.most(route)

    def _are_too_many(self, route: Route) -> bool:
        """Return whether more sessions are in use than are allowed now."""
        return isinstance(route, Relay) and len(self._in_hand) > pool.most(route)

    def _is_to_begin_anew(self, turn: _Turn) -> bool:
        """Return whether a mail that waits for the final dot of another need not, or cannot, wait any longer."""
        if turn.mail_at is None:
            return False  # it is being prepared
        if is_late(turn.work.batch):
            return True
        waited = time.monotonic() - turn.mail_at > _WAITS_FOR_SESSION
        return waited and self._has_idle_thread and self._has_room(turn.work.route)

    def _put_back(self, turn: _Turn) -> None:
        """Put the mail that follows that turn back to start again. The turn drops its prepared transaction."""
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
                self._give_back(work.batch)  # as the others of its batch when the journal failed
            self._may_begin.notify()

    def _leave(self, works: Iterable[Work]) -> None:
        """Free the journal slots of these mails, which another process owns or will own."""
        for work in works:
            if work.attempt is not None and work.attempt.hand.slot is not None:
                with contextlib.suppress(JournalUnavailable):
                    work.attempt.hand.slot.free()

    def _turn(self, work: Work) -> _Turn:
        self._todo.remove(work)
        if len(self._todo) == self._sessions - 1:
            self._is_needed.notify()  # the crew wants more
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
