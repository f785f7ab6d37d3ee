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

#: Seconds for which a server is not asked for more sessions than it has let us have, or had us do with.
_ALLOWED_FOR = 60.0

#: The same where it did not answer at all: it may just be starting.
_ALLOWED_UNSAID_FOR = 1.0

#: Seconds after the longest idle time until somebody looks.
_TIDY_AFTER = 0.1


@dataclass(kw_only=True, slots=True)
class Limits:
    """How long a session lives: ``idle`` and ``age`` in seconds; ``tries`` is how often opening one is tried.

    Opening is tried again only when the network, not the server's word, was in the way. ``size`` is how many sessions
    with one relay may be open in this process, those lent included; a relay's own ``max_connections`` may be fewer.

    They are made anew twice a mail, which takes several times as long where they are frozen.
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
    """Those with one relay: the ``idle`` ones, and how many are ``lent``: used, being opened or being closed.

    Its server has let us have ``allowed``, or we do with so many, until ``allowed_until`` by ``time.monotonic()``.
    """

    __slots__ = ("allowed", "allowed_until", "idle", "lent")

    def __init__(self) -> None:
        self.idle: list[Session] = []
        self.lent = self.allowed = 0
        self.allowed_until = 0.0

    def most(self, relay: Relay, limits: Limits) -> int:
        """How many there may be."""
        most = limits.size
        if relay.max_connections is not None and relay.max_connections < most:
            most = relay.max_connections
        if self.allowed < most and time.monotonic() < self.allowed_until:
            return self.allowed
        return most


class Pool:
    """Lends sessions; ``limits`` and ``observer`` are asked for whenever they matter; ``memory`` knows the servers.
    Threads may share it.

    All state is ``_sessions`` and ``_awaited``, by relay, and ``_tidying``, the timer that looks for what has been idle
    for too long. It is changed under the ``_lock`` of ``_changed``, while connecting and closing happen outside it.
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
        # How many wait for one that is lent.
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

        It comes back when it is idle at the end of the block, stays lent when its next transaction has been begun ahead
        (see ``still_lent``), and is closed otherwise. ``before_opening`` is called
        before a new one is opened, and can prevent it by raising; ``heard`` after each answer of the server meanwhile.
        Raises what that and ``Session.open`` raise, and
        ``PoolBusy`` when for ``relay.timeout`` seconds all that may be open were lent.
        """
        return _Loan(
            functools.partial(self._borrow, relay, fresh=fresh, before_opening=before_opening, heard=heard),
            self._take_back,
        )

    def still_lent(self, session: Session) -> _Loan:
        """Give the context anew of a session on which the next transaction was begun ahead: it has stayed lent."""
        return _Loan(lambda: session, self._take_back)

    def has_expired(self, session: Session) -> bool:
        """Whether the session is too old, too long unused, or has carried enough, by our limit or by its server's."""
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
        """Whether a session with it is waited for by others than those that have one."""
        return self._awaited[relay] > 0

    def reduce(self, relay: Relay) -> None:
        """Do with half as many sessions for a while, at least one: the server limits how much mail it takes.

        All that are open come to such a limit at once, and what it refuses then may count as well.
        """
        with self._lock:
            ours = self._sessions[relay]
            ours.allowed = max(1, ours.most(relay, self._limits()) // 2)
            ours.allowed_until = time.monotonic() + _ALLOWED_FOR

    def discard(self, relay: Relay) -> None:
        """Say QUIT on the idle sessions with ``relay``."""
        self._leave(lambda session: session.relay == relay)

    def close(self) -> None:
        """Say QUIT on every idle session."""
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
        """Whether a session could not be opened beside others that are open: the server lets us have no more, and one
        of them is waited for. That is remembered for a while.
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
        """Keep a session that was lent, or end it; unless its next transaction was begun, see ``still_lent``."""
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
        """Count one more as lent, as soon as there may be one more; take an idle session as ``_take`` does."""
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
        """Those with it, if there may be one more. Holds the lock."""
        ours = self._sessions[relay]
        return ours if ours.lent < ours.most(relay, limits) else None

    def _release(self, relay: Relay, session: Session | None = None) -> None:
        """Count one less as lent, and keep ``session`` if there is one."""
        with self._lock:
            ours = self._sessions[relay]
            ours.lent = max(0, ours.lent - 1)  # in a child that was forked meanwhile nothing counts as lent
            if session is not None:
                ours.idle.append(session)
                self._tidy_later()
            elif not (ours.lent or ours.idle or ours.allowed):
                del self._sessions[relay]  # it may be one that was replaced
            self._report_size()
            self._changed.notify_all()

    def most(self, relay: Relay) -> int:
        """How many sessions with it may be open, by our limits and by what its server has let us have lately."""
        with self._lock:
            return self._sessions[relay].most(relay, self._limits())

    def _report_size(self) -> None:
        """Tell the observer how many sessions there are. Holds the lock."""
        idle = lent = 0
        for ours in self._sessions.values():
            idle += len(ours.idle)
            lent += ours.lent
        self._observer().holds(idle=idle, lent=lent)

    def _take(self, relay: Relay, limits: Limits, *, only_a_surplus: bool) -> Session | None:
        """Take an idle session, the one used last, out of the pool; or only if there are too many. Holds the lock."""
        ours = self._sessions[relay]
        if not ours.idle or (only_a_surplus and len(ours.idle) + ours.lent <= ours.most(relay, limits)):
            return None
        return ours.idle.pop()

    def _leave(self, unwanted: Callable[[Session], bool]) -> None:
        """Say QUIT on all idle sessions of a kind; they count as lent until they are closed.

        In all it takes no longer than one of them may take: their server may be the one that died.
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
        """Look again when what is idle now has been so for too long: no mail may come to do it. Holds the lock."""
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
            # Not again after silence for the whole timeout: it would hold up a worker twice as long.
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
        """Runs in the child of a fork: the sessions are the parent's, and so may be whoever holds the lock.

        Closing them closes this process's descriptors alone and says nothing to the server.
        """
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._tidying = None  # a fork takes no thread along
        for ours in self._sessions.values():
            for session in ours.idle:
                session.close()
        self._sessions.clear()
        self._awaited.clear()
