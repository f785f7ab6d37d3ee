"""The places of dispatchers: at most half of a worker's processes dispatch, but always one.

All of them may where the worker serves mail alone. Thus a flood of mail leaves processes to a worker's other tasks.

A wake-up that finds no place is neither lost nor published again and again: it is noted that its queue waits, once for
each queue, and the process is free at once. A process that holds a place serves what waits, the urgent first, when its
own slice is over, and publishes a wake-up for each of the others when it leaves. So what is urgent waits for one slice.

That nothing is missed rests on one lock, under which both happen as one: to find no place and note the queue; to leave
a place and take all notes along. Say a dispatcher of Q has looked for the last time, then mail is committed, and its
wake-up is run before that dispatcher has left its place, the only one. Then Q is noted before it leaves, and it
publishes the wake-up anew. If the wake-up is run after that, it finds a place. To ``queue.wakeups`` a note is a wake-up
that is outstanding.

Places are POSIX locks of octets in a file without a name. The system takes them from a process that dies, and a forked
process has none. Notes are in memory that is shared before the fork. What is noted while all that hold a place are
killed is published by the next process that leaves one; until then the sweep finds the mail, as it does for each
wake-up whose process is killed.
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

#: Queues that one task serves in turn, an urgent one apart; more would hold up warm shutdown and max_tasks_per_child.
_TURNS = 3

#: Seconds by which a queue that waits goes before one of the next priority. What waits for longer than that is next.
_AHEAD = 5.0

#: Octets of the shared memory, and what it begins with: how many may dispatch, whether urgent mail is served, and the
#: length of the notes.
_SIZE = 1 << 16
_HEAD = struct.Struct("=I?I")

#: Which octet of the file is locked: by who reads or writes the memory; by the holder of the first place.
_MUTEX, _FIRST = 0, 1


class Places:
    """The places of one worker; to be made before its processes are forked."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        # Not the memory's own: mmap closes a descriptor of its file at its end, which would end this process's locks.
        self._file = os.memfd_create("places") if hasattr(os, "memfd_create") else _unnamed_file()
        self._lock = threading.RLock()
        #: By this process, in several threads. To the system they are one.
        self._held: set[int] = set()

    def forget(self) -> None:
        """Be a forked process: it holds no place, and no other thread of it holds the lock."""
        self._lock = threading.RLock()
        self._held = set()

    @property
    def allowed(self) -> int:
        """How many may dispatch; 0 while that is not known."""
        return int(_HEAD.unpack_from(self._memory)[0])

    @property
    def serves_urgent(self) -> bool:
        """Whether the worker takes messages from the queue of urgent mail."""
        return bool(_HEAD.unpack_from(self._memory)[1])

    def allow(self, number: int, *, serves_urgent: bool = False) -> None:
        """Have so many dispatch from now on; what dispatches already is left to its slice."""
        with self._alone():
            _HEAD.pack_into(self._memory, 0, number, serves_urgent, _HEAD.unpack_from(self._memory)[2])

    def take(self, queue: str) -> int | None:
        """Take a place for a wake-up of this queue; None when there is none, and it is noted that the queue waits."""
        with self._alone():
            waiting = self._waiting()
            place = next((one for one in range(_FIRST, _FIRST + self.allowed) if self._is_taken_now(one)), None)
            if place is None:
                # One too many dispatches where more queues wait than there is room for.
                return None if self._keep({queue: time.monotonic()} | waiting) else _MUTEX
            waiting.pop(queue, None)
            self._keep(waiting)
            return place

    def next(self, served: Collection[str]) -> str | None:
        """The queue that the holder of a place serves next, after these; it is then no longer noted. None to leave."""
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
        """Leave a place; return the queues that wait, the urgent first, for which a wake-up is to be published."""
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
            except OSError:  # EACCES or EAGAIN, by the system: another process has it
                return False
        self._held.add(place)
        return True

    def _waiting(self) -> dict[str, float]:
        """The queues that are noted, and since when by ``time.monotonic``, which is one for all processes of a host."""
        length = _HEAD.unpack_from(self._memory)[2]
        notes: dict[str, float] = json.loads(self._memory[_HEAD.size : _HEAD.size + length] or b"{}")
        return notes

    def _keep(self, waiting: Mapping[str, float]) -> bool:
        """Note these queues and no others; False when there is no room for them."""
        notes = json.dumps(waiting).encode() if waiting else b""
        if _HEAD.size + len(notes) > _SIZE:
            return False
        # In this order: a process that is killed meanwhile leaves no notes, and none that cannot be read.
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
    """Seconds by which the priorities of a queue have it wait behind others; a caller's own is as the usual one."""
    priorities = priorities_of(queue) or (Priority.NORMAL,)
    return _AHEAD * (Priority.HIGH not in priorities) + _AHEAD * (priorities == (Priority.BULK,))


# -- in a worker ----------------------------------------------------------------------------------------------------

#: Those of this worker; None in a process that is none.
_places: Places | None = None


def dispatch(queue: str, send: Callable[[str], Mapping[str, int]]) -> dict[str, int]:
    """``send`` what is due in this queue, and in others that wait, if there is a place for it.

    Returns how many mails ended with which status; nothing where there was no place. Without the rule where the worker
    has said nothing of it, as in a process that is none.
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
    """Whether this worker serves the queue of urgent mail, so that its dispatchers of other queues may take it along.

    A worker that does not leaves it to those that do: they may be there so that it is sent by them alone.
    """
    return _places is not None and _places.serves_urgent


def allowed(processes: int, served: Collection[str], *, default: str) -> int:
    """How many of a worker's processes may dispatch.

    ``served`` are the queues that it takes messages from, ``default`` is that of tasks for which none is named. A sweep
    takes a moment, so that its queue is as those of mail.
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
    """Before each wake-up: both the processes of a worker and its queues may change while it runs."""
    if _places is not None and request.name == names.DISPATCH:
        app = sender.app
        served, default = app.amqp.queues.consume_from, app.conf.task_default_queue
        _places.allow(
            allowed(sender.pool.num_processes, served, default=default),
            serves_urgent=(queue_of(Priority.HIGH) or default) in served,
        )
