"""The open sessions of one process, reused while they are young, alive and for the same relay."""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import tenacity

from email_integration.forks import after_fork_in_child

from .errors import CannotConnect, ConnectionLost, PoolBusy, SMTPFailure
from .observer import SessionObserver
from .quirks import Memory
from .relay import Relay
from .replies import Phase
from .session import QUIT_TIMEOUT, Session

#: Seconds for which a server is not asked for more sessions than it allowed, or than the pool reduced itself to.
_ALLOWED_FOR = 60.0

#: The same, in seconds, where the server did not answer: it may just be starting.
_ALLOWED_UNSAID_FOR = 1.0

#: Seconds between the longest idle time and the check for idle sessions.
_TIDY_AFTER = 0.1


@dataclass(kw_only=True, slots=True)
class Limits:
    """The limits of sessions: ``idle`` and ``age`` in seconds; ``tries`` is how many times opening one is tried.

    Opening is tried again only when the network failed, not when the server refused. ``size`` is the maximum number of
    sessions with one relay in this process, lent ones included; a relay's own ``max_connections`` may be lower.

    The class is not frozen: it is made twice for each mail, and making a frozen one takes several times as long.
    """

    idle: float
    age: float
    transactions: int
    tries: int
    size: int = 10


class _Loan:
    """The context of ``Pool.session``."""

    __slots__ = ("_borrow", "_give_back", "_session")

    def __init__(self, borrow: Callable[[], Session], give_back: Callable[[Session], None]) -> None:
        self._borrow = borrow
        self._give_back = give_back

    def __enter__(self) -> Session:
        self._session = self._borrow()
        return self._session

    def __exit__(self, *error: object) -> None:
        self._give_back(self._session)


class _Sessions:
    """The sessions with one relay: the ``idle`` ones, and the number ``lent``: in use, being opened or being closed.

    Until ``allowed_until`` by ``time.monotonic()``, at most ``allowed`` sessions are open, because the server allows no
    more or the pool has reduced them.
    """

    __slots__ = ("allowed", "allowed_until", "idle", "lent")

    def __init__(self) -> None:
        self.idle: list[Session] = []
        self.lent = self.allowed = 0
        self.allowed_until = 0.0

    def most(self, relay: Relay, limits: Limits) -> int:
        """Return the maximum number of sessions."""
        most = limits.size
        if relay.max_connections is not None and relay.max_connections < most:
            most = relay.max_connections
        if self.allowed < most and time.monotonic() < self.allowed_until:
            return self.allowed
        return most


class Pool:
    """A pool that lends sessions. Threads may share it.

    ``limits`` and ``observer`` are called each time they are needed; ``memory`` knows the servers. All state is
    ``_sessions`` and ``_awaited``, by relay, and ``_tidying``, the timer that closes sessions that have been idle for
    too long. The state is changed under the ``_lock`` of ``_changed``; connecting and closing happen outside it.
    """

    def __init__(
        self,
        limits: Callable[[], Limits],
        observer: Callable[[], SessionObserver] = SessionObserver,
        memory: Memory | None = None,
    ) -> None:
        self._limits = limits
        self._observer = observer
        self._memory = memory or Memory()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._sessions: defaultdict[Relay, _Sessions] = defaultdict(_Sessions)
        # How many threads wait for a lent session.
        self._awaited: Counter[Relay] = Counter()
        self._tidying: threading.Timer | None = None
        forget = weakref.WeakMethod(self._forget_inherited)
        after_fork_in_child(lambda: (method := forget()) and method())

    def __repr__(self) -> str:
        with self._lock:
            return f"<Pool idle={sum(len(ours.idle) for ours in self._sessions.values())}>"

    def session(
        self,
        relay: Relay,
        *,
        fresh: bool = False,
        before_opening: Callable[[], object] | None = None,
        heard: Callable[[], object] | None = None,
    ) -> _Loan:
        """Lend a session for ``relay``: an idle one that still looks alive, else (or when ``fresh``) a new one.

        At the end of the block, an idle session returns to the pool. A session with its next transaction begun ahead
        stays lent (see ``still_lent``). Any other session is closed. ``before_opening`` is called before a new session
        is opened, and can prevent this by raising. ``heard`` is called after each answer of the server meanwhile.
        Raises the errors of ``before_opening`` and ``Session.open``, and ``PoolBusy`` when all allowed sessions were
        lent for ``relay.timeout`` seconds.
        """
        return _Loan(
            functools.partial(self._borrow, relay, fresh=fresh, before_opening=before_opening, heard=heard),
            self._take_back,
        )

    def still_lent(self, session: Session) -> _Loan:
        """Return a new context for a session with its next transaction begun ahead: the session has stayed lent."""
        return _Loan(lambda: session, self._take_back)

    def has_expired(self, session: Session) -> bool:
        """Return whether the session is too old, too long idle, or has sent enough, by our or the server's limits."""
        return self._has_expired(session, self._limits())

    def _has_expired(self, session: Session, limits: Limits) -> bool:
        now, mails = time.monotonic(), session.server.quirks.mails
        return (
            session.transactions >= limits.transactions
            or bool(mails and session.transactions >= mails)
            or now - session.opened_at > limits.age
            or now - session.used_at > limits.idle
        )

    def is_awaited(self, relay: Relay) -> bool:
        """Return whether a thread waits for a session with ``relay``."""
        return self._awaited[relay] > 0

    def reduce(self, relay: Relay) -> None:
        """Halve the number of sessions for a while, to at least one: the server limits how much mail it accepts.

        All open sessions reach such a limit at once, and the mail that is refused then may count as well.
        """
        with self._lock:
            ours = self._sessions[relay]
            ours.allowed = max(1, ours.most(relay, self._limits()) // 2)
            ours.allowed_until = time.monotonic() + _ALLOWED_FOR

    def discard(self, relay: Relay) -> None:
        """Send QUIT on the idle sessions with ``relay``."""
        self._leave(lambda session: session.relay == relay)

    def close(self) -> None:
        """Send QUIT on every idle session."""
        with self._lock:
            if self._tidying is not None:
                self._tidying.cancel()
                self._tidying = None
        self._leave(lambda session: True)

    # -- lending ------------------------------------------------------------------------------------------------

    def _borrow(
        self,
        relay: Relay,
        *,
        fresh: bool,
        before_opening: Callable[[], object] | None,
        heard: Callable[[], object] | None,
    ) -> Session:
        limits = self._limits()
        self._leave(lambda session: self._has_expired(session, limits))
        while True:
            idle = self._reserve(relay, limits, only_a_surplus=fresh)
            try:
                while idle is not None:
                    if not (fresh or idle.was_hung_up):
                        return idle
                    idle.quit()
                    with self._lock:
                        idle = self._take(relay, limits, only_a_surplus=fresh)
                if before_opening is not None:
                    before_opening()
                return self._open(relay, heard)
            except BaseException as error:
                self._release(relay)
                if not (isinstance(error, SMTPFailure) and self._is_one_too_many(relay, error)):
                    raise

    def _is_one_too_many(self, relay: Relay, failure: SMTPFailure) -> bool:
        """Return whether a session could not be opened because the server allows no more beside the open ones.

        The caller then waits for one of these. The number of sessions is remembered for a while.
        """
        if failure.reply is not None and failure.reply.permanent:
            return False
        with self._lock:
            ours = self._sessions[relay]
            others = ours.lent + len(ours.idle)
            if others:
                period = _ALLOWED_FOR if failure.reply is not None else _ALLOWED_UNSAID_FOR
                ours.allowed, ours.allowed_until = others, time.monotonic() + period
        return others > 0

    def _take_back(self, session: Session) -> None:
        """Keep a session that was lent, or end it; except when its next transaction was begun, see ``still_lent``."""
        if session.has_said_ahead:
            return
        kept = None
        try:
            if not session.is_idle:
                session.close()
            elif self.has_expired(session):
                session.quit()
            else:
                kept = session
        finally:
            self._release(session.relay, kept)

    def _reserve(self, relay: Relay, limits: Limits, *, only_a_surplus: bool) -> Session | None:
        """Count one more session as lent, as soon as one more is allowed; take an idle session as ``_take`` does.

        Raises ``PoolBusy`` after ``relay.timeout`` seconds.
        """
        with self._lock:
            ours = self._with_room(relay, limits)
            if ours is None:
                self._awaited[relay] += 1
                try:
                    ours = self._changed.wait_for(lambda: self._with_room(relay, self._limits()), relay.timeout)
                finally:
                    self._awaited[relay] -= 1
            if ours is None:
                raise PoolBusy(Phase.CONNECT, f"no session became free within {relay.timeout:g} s")
            ours.lent += 1
            idle = self._take(relay, limits, only_a_surplus=only_a_surplus) if ours.idle else None
            self._report_size()
            return idle

    def _with_room(self, relay: Relay, limits: Limits) -> _Sessions | None:
        """Return the sessions with ``relay`` if one more is allowed. The caller holds the lock."""
        ours = self._sessions[relay]
        return ours if ours.lent < ours.most(relay, limits) else None

    def _release(self, relay: Relay, session: Session | None = None) -> None:
        """Count one session less as lent, and keep ``session`` if it is given."""
        with self._lock:
            ours = self._sessions[relay]
            ours.lent = max(0, ours.lent - 1)  # in a child that was forked meanwhile no session counts as lent
            if session is not None:
                ours.idle.append(session)
                self._tidy_later()
            elif not (ours.lent or ours.idle or ours.allowed):
                del self._sessions[relay]  # the relay may have been replaced
            self._report_size()
            self._changed.notify_all()

    def most(self, relay: Relay) -> int:
        """Return how many sessions with ``relay`` may be open, by our limits and by its server's recent ones."""
        with self._lock:
            return self._sessions[relay].most(relay, self._limits())

    def _report_size(self) -> None:
        """Report the number of sessions to the observer. The caller holds the lock."""
        idle = lent = 0
        for ours in self._sessions.values():
            idle += len(ours.idle)
            lent += ours.lent
        self._observer().holds(idle=idle, lent=lent)

    def _take(self, relay: Relay, limits: Limits, *, only_a_surplus: bool) -> Session | None:
        """Take the idle session that was used last out of the pool, or None.

        With ``only_a_surplus``, take one only if there are too many sessions. The caller holds the lock.
        """
        ours = self._sessions[relay]
        if not ours.idle or (only_a_surplus and len(ours.idle) + ours.lent <= ours.most(relay, limits)):
            return None
        return ours.idle.pop()

    def _leave(self, unwanted: Callable[[Session], bool]) -> None:
        """Send QUIT on all ``unwanted`` idle sessions; they count as lent until they are closed.

        The total time is limited to the time of one QUIT: their server may be down.
        """
        with self._lock:
            left = [session for ours in self._sessions.values() for session in ours.idle if unwanted(session)]
            if not left:
                return
            for session in left:
                ours = self._sessions[session.relay]
                ours.idle.remove(session)
                ours.lent += 1
        deadline = time.monotonic() + QUIT_TIMEOUT
        try:
            for session in left:
                session.quit(timeout=deadline - time.monotonic())
        finally:
            for session in left:
                session.close()
                self._release(session.relay)

    def _tidy_later(self) -> None:
        """Start the timer that closes idle sessions, because no mail may arrive to do it. The caller holds the lock."""
        if self._tidying is None:
            self._tidying = threading.Timer(self._limits().idle + _TIDY_AFTER, self._tidy)
            self._tidying.daemon = True
            self._tidying.start()

    def _tidy(self) -> None:
        with self._lock:
            self._tidying = None
        self._leave(self.has_expired)
        with self._lock:
            if any(ours.idle for ours in self._sessions.values()):
                self._tidy_later()

    def _open(self, relay: Relay, heard: Callable[[], object] | None) -> Session:
        opening = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((CannotConnect, ConnectionLost)),
            # No retry after silence for the whole timeout: it would delay a worker twice as long.
            stop=tenacity.stop_after_attempt(self._limits().tries) | tenacity.stop_after_delay(relay.timeout),
            wait=tenacity.wait_random(0.05, 0.3),
            reraise=True,
        )
        observer, began = self._observer(), time.monotonic()
        try:
            session: Session = opening(Session.open, relay, observer, self._memory, heard=heard)
        except BaseException:
            observer.opened(relay, time.monotonic() - began, succeeded=False)
            raise
        observer.opened(relay, time.monotonic() - began, succeeded=True)
        return session

    def _forget_inherited(self) -> None:
        """Forget all sessions in the child of a fork: they are the parent's, and a parent's thread may hold the lock.

        Closing them closes only this process's descriptors and sends nothing to the server.
        """
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._tidying = None  # a fork copies no other threads
        for ours in self._sessions.values():
            for session in ours.idle:
                session.close()
        self._sessions.clear()
        self._awaited.clear()
