"""The places of dispatchers: at most half of a worker's processes dispatch, but always at least one.

All processes may dispatch if the worker serves only mail. So a large amount of mail leaves processes for a worker's
other tasks.

A wake-up that finds no place is neither lost nor published repeatedly. A note is made that its queue waits, once for
each queue, and the process is free immediately. A process with a place serves the waiting queues, urgent ones first,
when its own slice is over. It publishes a wake-up for each remaining queue when it leaves. So urgent mail waits for one
slice.

No queue is missed because one lock makes each of two operations atomic: finding no place and noting the queue; and
leaving a place and taking all notes. For example, the dispatcher of Q, which has the only place, has checked for the
last time. Then mail is committed, and its wake-up runs before that dispatcher has left its place. Q is noted before the
dispatcher leaves, so the dispatcher publishes the wake-up again. If the wake-up runs later, it finds a place. For
``queue.wakeups`` a note is an outstanding wake-up.

Places are POSIX locks of octets in a file without a name. The system releases them when a process dies, and a forked
process has none. Notes are in memory that is shared before the fork. If all processes with a place are killed, the next
process that leaves a place publishes their notes. Until then the sweep finds the mail, as it does for each wake-up
whose process is killed.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from celery import signals

from email_integration import conf
from email_integration.forks import after_fork_in_child
from email_integration.ledger.queues import priorities_of, queue_of
from email_integration.models import Priority
from email_integration.queue import wakeups

from . import names

try:
    import fcntl
except ImportError:  # Windows, where a worker has one process
    fcntl = None  # type: ignore[assignment]

#: Queues that one task serves in turn, besides an urgent one. More would delay warm shutdown and max_tasks_per_child.
_TURNS = 3

#: Seconds by which a waiting queue precedes one of the next lower priority. A queue that waits longer than that is
#: next.
_AHEAD = 5.0

#: Octets of the shared memory, and its header: how many processes may dispatch, whether urgent mail is served, and the
#: length of the notes.
_SIZE = 1 << 16
_HEAD = struct.Struct("=I?I")

#: The octets of the file that are locked: for access to the memory; and for the first place.
_MUTEX, _FIRST = 0, 1


class Places:
    """The places of one worker. Create it before the worker's processes are forked."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        # Not the memory's file: when mmap ends it closes a descriptor of its file, which would end this process's
        # locks.
        self._file = os.memfd_create("places") if hasattr(os, "memfd_create") else _unnamed_file()
        self._lock = threading.RLock()
        #: Places held by this process, in several threads. The system does not distinguish them.
        self._held: set[int] = set()

    def forget(self) -> None:
        """Reset after a fork: the child holds no place, and no thread of it holds the lock."""
        self._lock = threading.RLock()
        self._held = set()

    @property
    def allowed(self) -> int:
        """How many processes may dispatch; 0 while this is unknown."""
        return int(_HEAD.unpack_from(self._memory)[0])

    @property
    def serves_urgent(self) -> bool:
        """Whether the worker consumes the queue of urgent mail."""
        return bool(_HEAD.unpack_from(self._memory)[1])

    def allow(self, number: int, *, serves_urgent: bool = False) -> None:
        """Let ``number`` processes dispatch from now on. Running dispatchers complete their slice.

        ``serves_urgent`` says whether the worker consumes the queue of urgent mail.
        """
        with self._alone():
            _HEAD.pack_into(self._memory, 0, number, serves_urgent, _HEAD.unpack_from(self._memory)[2])

    def take(self, queue: str) -> int | None:
        """Take a place for a wake-up of this queue. If there is none, note that the queue waits and return None."""
        with self._alone():
            waiting = self._waiting()
            place = next((one for one in range(_FIRST, _FIRST + self.allowed) if self._is_taken_now(one)), None)
            if place is None:
                # When there is no room to note more queues, one more process dispatches.
                return None if self._keep({queue: time.monotonic()} | waiting) else _MUTEX
            waiting.pop(queue, None)
            self._keep(waiting)
            return place

    def next(self, served: Collection[str]) -> str | None:
        """Return the next queue for the holder of a place, after ``served``, and remove its note; None to leave."""
        is_last = len(served) >= _TURNS
        with self._alone():
            waiting = self._waiting()
            others = [one for one in waiting.keys() - set(served) if not is_last or Priority.HIGH in priorities_of(one)]
            queue = min(others, key=lambda one: waiting[one] + _behind(one), default=None)
            if queue is not None:
                del waiting[queue]
                self._keep(waiting)
            return queue

    def leave(self, place: int) -> list[str]:
        """Leave a place. Return the waiting queues, urgent ones first, whose wake-ups the caller must publish."""
        with self._alone():
            if place != _MUTEX:
                self._held.remove(place)
                _unlock(self._file, place)
            waiting = self._waiting()
            self._keep({})
            return sorted(waiting, key=lambda one: waiting[one] + _behind(one))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            if fcntl is not None:
                fcntl.lockf(self._file, fcntl.LOCK_EX, 1, _MUTEX)
            try:
                yield
            finally:
                _unlock(self._file, _MUTEX)

    def _is_taken_now(self, place: int) -> bool:
        if place in self._held:
            return False
        if fcntl is not None:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError:  # EACCES or EAGAIN, depending on the system: another process has it
                return False
        self._held.add(place)
        return True

    def _waiting(self) -> dict[str, float]:
        """Return the noted queues, and since when by ``time.monotonic``.

        That clock is the same for all processes of a host.
        """
        length = _HEAD.unpack_from(self._memory)[2]
        notes: dict[str, float] = json.loads(self._memory[_HEAD.size : _HEAD.size + length] or b"{}")
        return notes

    def _keep(self, waiting: Mapping[str, float]) -> bool:
        """Note exactly these queues. Return False when there is no room for them."""
        notes = json.dumps(waiting).encode() if waiting else b""
        if _HEAD.size + len(notes) > _SIZE:
            return False
        # In this order, a process that is killed meanwhile leaves no notes, but never unreadable ones.
        _HEAD.pack_into(self._memory, 0, self.allowed, self.serves_urgent, 0)
        self._memory[_HEAD.size : _HEAD.size + len(notes)] = notes
        _HEAD.pack_into(self._memory, 0, self.allowed, self.serves_urgent, len(notes))
        return True


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _unlock(file: int, octet: int) -> None:
    if fcntl is not None:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, octet)


def _behind(queue: str) -> float:
    """Return the seconds by which a queue's priority delays it. A queue chosen by a caller counts as normal."""
    priorities = priorities_of(queue) or (Priority.NORMAL,)
    return _AHEAD * (Priority.HIGH not in priorities) + _AHEAD * (priorities == (Priority.BULK,))


# -- in a worker ----------------------------------------------------------------------------------------------------

#: The places of this worker; None in a process that is not a worker.
_places: Places | None = None


def dispatch(queue: str, send: Callable[[str], Mapping[str, int]]) -> dict[str, int]:
    """Call ``send`` for this queue, and for others that wait, if there is a place.

    Return how many mails ended with which status; empty without a place. There is no limit if the worker has not set
    one, as in a process that is not a worker.
    """
    places = _places
    if places is None or not places.allowed:
        return dict(send(queue))
    place = places.take(queue)
    if place is None:
        return {}
    found: Counter[str] = Counter()
    served: list[str] = []
    turn: str | None = queue
    try:
        while turn is not None:
            served.append(turn)
            found.update(send(turn))
            turn = places.next(served)
        return dict(found)
    finally:
        wakeups.wake(places.leave(place))


def serves_urgent() -> bool:
    """Return whether this worker serves the queue of urgent mail. If so, its other dispatchers also send urgent mail.

    Another worker leaves urgent mail to those that serve it, because they may be reserved for it.
    """
    return _places is not None and _places.serves_urgent


def allowed(processes: int, served: Collection[str], *, default: str) -> int:
    """Return how many of a worker's processes may dispatch.

    ``processes`` is the number of its processes, ``served`` are the queues that it consumes, and ``default`` is the
    queue of tasks without another. The sweep's queue counts as a mail queue, because a sweep takes only a moment.
    """
    of_mail_alone = {*map(queue_of, Priority), conf.get("SWEEP_QUEUE")} - {"", default}
    return processes if served and set(served) <= of_mail_alone else max(1, processes // 2)


@signals.worker_init.connect(weak=False)
def _begin(**kwargs: Any) -> None:
    global _places  # of this worker, before its processes are forked
    _places = Places()


def _forget() -> None:
    if _places is not None:
        _places.forget()


after_fork_in_child(_forget)


@signals.task_received.connect(weak=False)
def _note(sender: Any, request: Any, **kwargs: Any) -> None:
    """Update the limit before each wake-up, because a worker's processes and queues may change while it runs."""
    if _places is not None and request.name == names.DISPATCH:
        app = sender.app
        served, default = app.amqp.queues.consume_from, app.conf.task_default_queue
        _places.allow(
            allowed(sender.pool.num_processes, served, default=default),
            serves_urgent=(queue_of(Priority.HIGH) or default) in served,
        )
