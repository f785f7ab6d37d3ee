"""The threads that send what a process has claimed, each over a session of its own, and what they have done so far.

They speak SMTP and write the journal; the dispatcher, in its own thread, claims and records.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from django.db import DatabaseError, InterfaceError, connections
from django.utils import timezone

from email_integration import conf, recursion
from email_integration.forks import after_fork_in_child
from email_integration.ledger import rows, transitions
from email_integration.ledger.batches import Batch
from email_integration.ledger.claiming import SUSPECT
from email_integration.ledger.records import Change, Ended, Try, Untried
from email_integration.models import Delivery
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred, InDoubt, Outcome
from email_integration.routing import Route
from email_integration.smtp import Relay

from .attempts import attempt
from .in_hand import InHand, Others, is_late
from .journal import Journal, JournalUnavailable, Slot
from .relaying import pool
from .sessions import Replaced

logger = logging.getLogger(__name__)

#: Outcomes in one record, and the seconds that the first of them waits for others.
MOST_RECORDED = 100
RECORD_WITHIN = 0.05

#: Unrecorded outcomes with which no further mail is begun: the database is away.
_MOST_UNRECORDED = 200

#: For all queues that a process may serve at a time. Made when they are needed.
_MOST_THREADS = 1000

#: Mails in a row, none of them to a recipient of the others, that a limit has put off: it is not their recipients'.
_LIMITED_IN_A_ROW = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """A claimed delivery, and its place in its batch."""

    delivery: Delivery
    batch: Batch
    place: int
    route: Route


@dataclass(frozen=True, kw_only=True, eq=False)
class Done:
    """What is to be recorded of one; None of a mail that is another process's by now."""

    work: Work
    change: Change | None
    slot: Slot | None = None
    #: The relay whose gate was found closed.
    closed: Relay | None = None


def try_one(work: Work, *, journal: Journal | None, others: Others) -> Done:
    """Try a claimed delivery. Raises ``Replaced`` and ``JournalUnavailable``: it was not sent then."""
    delivery = work.delivery
    hand = InHand(
        delivery,
        work.batch,
        journal=journal if isinstance(work.route, Relay) else None,
        started_at=time.time(),
        others=others,
    )
    change: Change | None
    of_mail = {"delivery_id": delivery.pk}
    try:
        change = attempt(delivery, work.route, hand)
    except (Replaced, JournalUnavailable):
        if hand.slot is not None:
            hand.slot.free()
        raise
    except (DatabaseError, InterfaceError) as error:
        logger.error("Delivery %s: the database failed (%s).", delivery.pk, type(error).__name__, extra=of_mail)
        connections[rows.database()].close_if_unusable_or_obsolete()
        # Not at once: of some mails it may fail each time.
        step = functools.partial(transitions.giving_back, wait=conf.get("RETRY_FIRST"))
        change = Untried(delivery=delivery, step=step)
    except Exception as error:
        # Not its text, which may quote the mail.
        what = f"unexpected {type(error).__name__} {'after' if hand.sent_from else 'before'} its final dot"
        logger.error("Delivery %s: %s", delivery.pk, what, extra=of_mail)
        change = Untried(delivery=delivery, step=functools.partial(transitions.setting_aside, reason=what))
        if hand.sent_from is not None:
            doubt = InDoubt(cause=Cause.INTERNAL_ERROR, reason=what)
            change = Ended(delivery=delivery, outcome=doubt, attempt=Try(route=work.route, started_at=timezone.now()))
    return Done(work=work, change=change, slot=hand.slot, closed=hand.closed)


def _is_suspect(work: Work) -> bool:
    return work.delivery.returned >= SUSPECT


class LimitedInARow:
    """Sees a process's outcomes in turn: that of a limit is for everybody where several in a row have come to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._relay: Relay | None = None
        self._limited: list[frozenset[str]] = []

    def see(self, relay: Relay | None, recipients: Collection[str], outcome: Outcome) -> Outcome:
        """The outcome of the next mail, which went to these recipients by ``relay``."""
        with self._lock:
            if relay != self._relay or not isinstance(outcome, Deferred) or outcome.cause is not Cause.LIMIT:
                self._limited.clear()
            self._relay = relay
            if not isinstance(outcome, Deferred) or outcome.cause is not Cause.LIMIT:
                return outcome
            named = frozenset(recipients)
            if not any(named & others for others in self._limited):
                self._limited.append(named)
            return replace(outcome, for_everybody=True) if len(self._limited) >= _LIMITED_IN_A_ROW else outcome


_limited = LimitedInARow()


def _new_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=_MOST_THREADS, thread_name_prefix="email_integration sender")


#: They outlast a crew: a lone mail waits neither for threads to start nor for their connections to the cache, which
#: each has in its own context.
_threads = _new_threads()


def _begin_anew() -> None:
    global _limited, _threads  # the threads are the parent's, and so may be the holder of the lock
    _limited, _threads = LimitedInARow(), _new_threads()


after_fork_in_child(_begin_anew)


class Crew(Others):
    """``sessions`` threads; a context, at whose end they are at work for it no longer.

    All state is changed under one lock: what is to be done, how many mails are in hand, what is done. The threads wait
    for what they may begin, and the dispatcher until it is needed, to record or to claim; a mail that is done wakes
    them only if it brings that. One goes ahead until it has come to a session: a server that refuses logins is not
    asked by all of them.
    """

    def __init__(self, *, sessions: int, journal: Journal | None) -> None:
        self._sessions = sessions
        self._journal = journal
        self._lock = threading.RLock()
        self._may_begin = threading.Condition(self._lock)
        self._is_needed = threading.Condition(self._lock)
        self._waiting = 0
        self._todo: deque[Work] = deque()
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
        """Begin none of those whose lease comes to its end while they wait for a session: others may have one free."""
        with self._lock:
            for batch in {one.batch.id: one.batch for one in self._todo}.values():
                if is_late(batch):
                    self._give_back(batch)

    def cancel(self, batch: Batch, ids: Collection[str]) -> None:
        """Have those of its deliveries that are not begun end as cancelled, of which these are the ids."""
        with self._lock:
            for work in self._todo:
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
            while (taken := self._take()) is not None:
                done = self._try(*taken)
                with self._lock:
                    self._in_hand -= 1
                    self._is_alone = False
                    self._add(done)
                    if self._waiting and self._todo:
                        self._may_begin.notify()  # there is room for one more, or none had to be alone
        finally:
            connections.close_all()

    def _take(self) -> tuple[Work, Journal | None] | None:
        """What to do next, and the journal for it: one that was claimed while there was a journal goes with it."""
        with self._lock:
            while not self._ends:
                work = self._next() if len(self._done) < _MOST_UNRECORDED else None
                if work is not None:
                    self._todo.remove(work)
                    self._in_hand += 1
                    self._is_alone = _is_suspect(work)
                    if len(self._todo) == self._sessions - 1:
                        self._is_needed.notify()  # it wants more
                    return work, self._journal
                self._waiting += 1
                self._may_begin.wait()
                self._waiting -= 1
        return None

    def _next(self) -> Work | None:
        """The first whose final dot is permitted, unless another one goes ahead.

        One that may kill the process is alone in it, so that none of the others dies of it, or is taken for it.
        """
        if self._in_hand and (self._is_alone or not self._has_session):
            return None
        work = next((work for work in self._todo if work.place < work.batch.permitted), None)
        if work is None or (self._in_hand and _is_suspect(work)):
            return None
        return None if isinstance(work.route, Relay) and self._in_hand >= pool.most(work.route) else work

    def _try(self, work: Work, journal: Journal | None) -> Done:
        try:
            return try_one(work, journal=journal, others=self)
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

    def judged(self, relay: Relay | None, recipients: Collection[str], outcome: Outcome) -> Outcome:
        return _limited.see(relay, recipients, outcome)

    # -- under the lock -----------------------------------------------------------------------------------------

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
