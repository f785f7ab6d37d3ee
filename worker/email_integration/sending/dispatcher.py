"""Send the due mail of a queue: claim a batch, let the crew try it, record the outcomes; until no mail is due.

A dispatcher stays for a while after the last mail. It hands over after a time slice, so that other tasks of its worker
can run. Urgent mail waits behind at most one batch: its wake-up may wait behind others that the worker has fetched, for
one slice each, so the dispatchers of other queues also send urgent mail.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from django.db import DatabaseError, InterfaceError, connections

from email_integration import conf, routing
from email_integration.ledger import batches, instrumentation, rows, transitions
from email_integration.ledger.batches import Batch
from email_integration.ledger.low_water import LowWaterMark
from email_integration.ledger.records import Untried
from email_integration.models import Delivery, Priority
from email_integration.queue import continuing, wakeups
from email_integration.routing import Route
from email_integration.smtp import Relay

from . import own_journal, points, recovery
from .crew import Crew
from .distance import NEAR
from .in_hand import Others, is_late
from .journal import Journal, JournalUnavailable, Slot
from .recording import record, wake_others
from .sessions import Replaced
from .work import Done, Work, try_one

logger = logging.getLogger(__name__)

#: In seconds: how long a dispatcher takes mail, how long it stays without mail, and how often it checks then.
SLICE = 0.5
STAY = 0.1
LOOK = 0.01

#: Limits of one claim: the seconds of work at the current pace, and the number of mails.
_WORK = 0.25
_MOST = 100

#: Seconds over which the pace is measured.
_MEASURED = 0.05


#: Claims in eager mode, where claimed mail may be due again immediately.
_MOST_INLINE = 100


class _Pace:
    """How many mails a second this process sends, measured recently."""

    def __init__(self) -> None:
        self._rate = 0.0
        self.begins()

    def claims(self, sessions: int) -> int:
        """Return how many mails to claim next: at least two for each session."""
        return max(2 * sessions, min(_MOST, round(self._rate * _WORK)))

    def begins(self) -> None:
        """Restart the measurement, because there is mail after a pause."""
        self._since, self._sent = time.monotonic(), 0

    def sent(self, mails: int) -> None:
        """Add ``mails`` mails that were sent without a pause."""
        self._sent += mails
        seconds = time.monotonic() - self._since
        if self._sent and seconds > _MEASURED:
            rate = self._sent / seconds
            self._rate = (self._rate + rate) / 2 if self._rate else rate
            self.begins()


_pace = _Pace()
_running: dict[str, bool] = {}
_lock = threading.Lock()


def dispatch(queue: str, *, along: Collection[Priority] = ()) -> dict[str, int]:
    """Send the due mail of a broker queue. ``queue`` '' is Celery's default queue.

    Mail of the priorities ``along`` is sent too. Return the number of deliveries by final status. If this process is
    already serving the queue, do nothing: the running dispatcher checks once more before it ends.
    """
    with _lock:
        if queue in _running:
            _running[queue] = True
            return {}
        _running[queue] = False
    found: Counter[str] = Counter()
    try:
        while True:
            found += _Dispatcher(queue, along=along).run()
            with _lock:
                if not _running[queue]:
                    del _running[queue]
                    return dict(found)
                _running[queue] = False
    except BaseException:
        with _lock:
            _running.pop(queue, None)
        raise


class _Dispatcher:
    """One stay at a queue."""

    def __init__(self, queue: str, *, along: Collection[Priority] = ()) -> None:
        self._queue = queue
        self._along = along
        self._stay = wakeups.Stay(queue)
        self._ended: Counter[str] = Counter()
        self._until = time.monotonic() + SLICE
        self._last_mail = time.monotonic()
        self._handed_over = self._failed = False
        self._mark = LowWaterMark()
        #: Whether the last claim found no mail, so the next one probably finds none either.
        self._found_nothing = False
        #: Batches with open deliveries, by id.
        self._batches: dict[str, Batch] = {}

    def run(self) -> Counter[str]:
        recovery.look_for_journals()
        with Crew(sessions=conf.get("SESSIONS"), journal=own_journal.opened()) as crew:
            while True:
                crew.attend(late=[batch for batch in self._batches.values() if is_late(batch)])
                claimed = self._may_claim and crew.wants_more and self._claim(crew)
                self._settle(crew, crew.done(within=LOOK, unless_it_wants_more=claimed))
                if not self._handed_over and not self._failed:
                    self._stay.refresh()
                    if time.monotonic() > self._until:
                        self._hand_over(crew)
                if crew.is_idle and (self._handed_over or self._failed or self._has_ended(crew)):
                    return self._ended

    @property
    def _may_claim(self) -> bool:
        return not (self._handed_over or self._failed)

    def _claim(self, crew: Crew) -> bool:
        """Claim a batch for the crew. Return False when no mail is due. A database error ends the stay."""
        journal, connection = crew.journal, connections[rows.database()]
        was_open = connection.connection is not None
        try:
            try:
                found = self._look(journal, sessions=crew.sessions)
            except (DatabaseError, InterfaceError):
                # A connection that was kept open may have died meanwhile. Then the claim is repeated over a new one.
                if not was_open or (connection.connection is not None and connection.is_usable()):
                    raise
                connection.close()
                found = self._look(journal, sessions=crew.sessions)
        except (DatabaseError, InterfaceError) as error:
            logger.error(
                "The database failed during a claim (%s); the next sweep wakes the queue %r.",
                type(error).__name__,
                self._queue,
            )
            connection.close_if_unusable_or_obsolete()
            self._failed = True
            self._stay.failed()
            return False
        if found is None:
            return False
        batch, route = found
        self._last_mail = time.monotonic()
        if crew.is_idle:
            _pace.begins()
        self._batches[batch.id] = batch
        crew.take_on(batch, route, journal=journal)
        if batch.is_full:
            self._stay.join()
        return True

    def _look(self, journal: Journal | None, *, sessions: int) -> tuple[Batch, Route] | None:
        """Claim due mail. After a claim without mail, first ask with a cheaper query whether mail is due."""
        queue, along, mark = self._queue, self._along, self._mark
        if self._found_nothing and not batches.is_due(queue, wakeups.priorities_of(queue), along=along, mark=mark):
            return None
        batch, route = claim(queue, journal=journal, sessions=sessions, along=along, mark=mark)
        self._found_nothing = batch is None
        return None if batch is None else (batch, route)

    def _settle(self, crew: Crew, done: Sequence[Done]) -> None:
        by_batch: dict[str, list[Done]] = {}
        for one in done:
            by_batch.setdefault(one.work.batch.id, []).append(one)
        for together in by_batch.values():
            batch = together[0].work.batch
            recorded = settle(batch, together)
            if recorded.owned:
                crew.permitted()
            else:
                crew.leave(batch)
            if any(isinstance(one.change, Untried) for one in together):
                self._mark.drop()  # mail that was given back is due since the same time as before
            if not batch.open:
                self._batches.pop(batch.id, None)
            self._ended.update([one.work.delivery.current_status for one in together])
            self._last_mail = time.monotonic()
        _pace.sent(len(done))

    def _hand_over(self, crew: Crew) -> None:
        if crew.is_idle and time.monotonic() - self._last_mail > LOOK:
            return  # it ends anyway
        self._handed_over = True
        self._stay.handed_over()

    def _has_ended(self, crew: Crew) -> bool:
        """Return whether there was no mail for STAY seconds, and a last check finds none."""
        return time.monotonic() - self._last_mail >= STAY and not self._stay.ended(lambda: self._last_look(crew))

    def _last_look(self, crew: Crew) -> bool:
        self._mark.drop()
        return self._claim(crew)


def claim(
    queue: str,
    *,
    journal: Journal | None,
    sessions: int = NEAR,
    along: Collection[Priority] = (),
    only: Sequence[str] = (),
    mark: LowWaterMark | None = None,
) -> tuple[Batch | None, Route]:
    """Claim the due mail of a broker queue for ``sessions`` sessions, and return it with its route.

    ``along``, ``only`` and ``mark`` are those of ``batches.claim``. The journal, if there is one, contains the id of
    the batch meanwhile, because the claim may be committed after the death of this process. Raises ``DatabaseError``.
    """
    route = routing.active_relay(early=True)
    batch = batches.claim(
        queue,
        wakeups.priorities_of(queue),
        limit=_pace.claims(sessions),
        owner=own_journal.owner(journal),
        relay=route if isinstance(route, Relay) else None,
        permitted=None if journal else conf.get("IN_DOUBT_WINDOW"),
        along=along,
        only=only,
        mark=mark,
        noted=functools.partial(_noted, journal),
    )
    if batch is not None:
        points.reached("claimed", *[one.id for one in batch.deliveries])
    return batch, route


@contextlib.contextmanager
def _noted(journal: Journal | None, batch_id: str) -> Iterator[None]:
    slot: Slot | None = None
    with contextlib.suppress(JournalUnavailable):  # the first mail finds and handles the error again
        slot = journal.take("", 0, batch_id) if journal else None
    try:
        yield
    finally:
        if slot is not None:
            with contextlib.suppress(JournalUnavailable):
                slot.free()


def settle(batch: Batch, done: Sequence[Done]) -> batches.Recorded:
    """Record the results ``done`` of a batch, wake deliveries that they unblock, and publish continuations.

    The journal slots are freed afterwards.
    """
    changed = [(one, one.change) for one in done if one.change is not None]
    permitted = None if batch.permitted >= len(batch.deliveries) else batch.permitted + len(done)
    ids = [change.delivery.id for _, change in changed]
    points.reached("before the record", *ids)
    recorded = record(batch, [change for _, change in changed], permitted=permitted)
    points.reached("recorded", *ids)
    instrumentation.installed().recorded(
        [change for (_, change), made in zip(changed, recorded.made, strict=True) if made]
    )
    for (one, change), made in zip(changed, recorded.made, strict=True):
        if made:
            wake_others(change, one.tripped_relay)
            if change.delivery.continue_after is not None:
                if one.slot is not None:
                    with contextlib.suppress(JournalUnavailable):  # the mark in the database is enough
                        one.slot.continuing()
                continuing.publish(change.delivery)
    for one in done:
        if one.slot is not None:
            try:
                one.slot.free()
            except JournalUnavailable:  # its slot names a batch that is over
                pass
    return recorded


def send_inline(queue: str, *, only: Sequence[str] = ()) -> list[Delivery]:
    """Send the due mail of a broker queue in this thread, for Celery's eager mode. ``only`` restricts it to these ids.

    It sends one mail at a time, without a journal. Return the deliveries in their current state. Raises
    ``DatabaseError``.
    """
    tried: dict[str, Delivery] = {}
    for _ in range(_MOST_INLINE):
        batch, route = claim(queue, journal=None, only=only)
        if batch is None:
            break
        for place, delivery in enumerate(batch.deliveries):
            work = Work(delivery=delivery, batch=batch, place=place, route=route)
            try:
                done = try_one(work, journal=None, others=Others())
            except Replaced:
                done = Done(work=work, change=Untried(delivery=delivery, step=transitions.giving_back))
            if settle(batch, [done]).owned:
                tried[delivery.pk] = delivery
    return list(tried.values())
