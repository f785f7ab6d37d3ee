"""The open sessions of one process, reused while they are young, alive and for the same relay."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import tenacity

from email_integration.forks import after_fork_in_child

from .errors import CannotConnect, ConnectionLost, PoolBusy, SMTPFailure
from .quirks import Memory
from .relay import Relay
from .replies import Phase
from .session import QUIT_TIMEOUT, Session
from .watch import Watch

#: Seconds for which a server is not asked for more sessions than it has let us have, or had us do with.
_ALLOWED_FOR = 60.0

#: The same where it did not answer at all: it may just be starting.
_ALLOWED_UNSAID_FOR = 1.0

#: Seconds after the longest idle time until somebody looks.
_TIDY_AFTER = 0.1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a session lives: ``idle`` and ``age`` in seconds; ``tries`` is how often opening one is tried.

    Opening is tried again only when the network, not the server's word, was in the way. ``size`` is how many sessions
    with one relay may be open in this process, those lent included; a relay's own ``max_connections`` may be fewer.
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


class Pool:
    """Lends sessions; ``limits`` is asked whenever they matter, and so is whom to tell; ``memory`` knows the servers.
    Threads may share it.

    All state is ``_idle``, the sessions that are not used, ``_lent``, how many are used, being opened or being closed,
    and ``_allowed``, how many there may be, all by relay; and ``_tidying``, the timer that looks for what has been idle
    for too long. It is changed under the ``_lock`` of ``_changed``, while connecting and closing happen outside it.
    """

    def __init__(
        self, limits: Callable[[], Limits], watch: Callable[[], Watch] = Watch, memory: Memory | None = None
    ) -> None:
        self._limits = limits
        self._watch = watch
        self._memory = memory or Memory()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._idle: dict[Relay, list[Session]] = {}
        self._lent: dict[Relay, int] = {}
        # How many its server has let us have, or we do with, and until when that holds, by 'time.monotonic'.
        self._allowed: dict[Relay, tuple[int, float]] = {}
        self._tidying: threading.Timer | None = None
        forget = weakref.WeakMethod(self._forget_inherited)
        after_fork_in_child(lambda: (method := forget()) and method())

    def __repr__(self) -> str:
        with self._lock:
            return f"<Pool idle={sum(len(sessions) for sessions in self._idle.values())}>"

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
        limits = self._limits()
        return _Loan(
            lambda: self._borrow(relay, limits, fresh=fresh, before_opening=before_opening, heard=heard),
            lambda session: self._take_back(session, limits),
        )

    def still_lent(self, session: Session) -> _Loan:
        """Give the context anew of a session on which the next transaction was begun ahead: it has stayed lent."""
        limits = self._limits()
        return _Loan(lambda: session, lambda session: self._take_back(session, limits))

    def has_expired(self, session: Session) -> bool:
        """Whether the session is too old, too long unused, or has carried enough, by our limit or by its server's."""
        return self._has_expired(session, self._limits())

    def _has_expired(self, session: Session, limits: Limits) -> bool:
        now = time.monotonic()
        return (
            session.transactions >= min(limits.transactions, session.quirks.mails or limits.transactions)
            or now - session.opened_at > limits.age
            or now - session.used_at > limits.idle
        )

    def reduce(self, relay: Relay) -> None:
        """Do with half as many sessions for a while, at least one: the server limits how much mail it takes.

        All that are open come to such a limit at once, and what it refuses then may count as well.
        """
        with self._lock:
            self._allowed[relay] = max(1, self.most(relay) // 2), time.monotonic() + _ALLOWED_FOR

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
        limits: Limits,
        *,
        fresh: bool,
        before_opening: Callable[[], object] | None,
        heard: Callable[[], object] | None,
    ) -> Session:
        if self._idle:
            self._leave(lambda session: self._has_expired(session, limits))
        while True:
            self._reserve(relay, limits)
            try:
                while (idle := self._take(relay, limits, only_a_surplus=fresh)) is not None:
                    if not (fresh or idle.was_hung_up):
                        return idle
                    idle.quit()
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
            others = self._lent.get(relay, 0) + len(self._idle.get(relay, ()))
            if others:
                period = _ALLOWED_FOR if failure.reply is not None else _ALLOWED_UNSAID_FOR
                self._allowed[relay] = others, time.monotonic() + period
        return others > 0

    def _take_back(self, session: Session, limits: Limits) -> None:
        """Keep a session that was lent, or end it; unless its next transaction was begun, see ``still_lent``."""
        if session.has_said_ahead:
            return
        kept = None
        try:
            if not session.is_idle:
                session.close()
            elif self._has_expired(session, limits):
                session.quit()
            else:
                kept = session
        finally:
            self._release(session.relay, kept)

    def _reserve(self, relay: Relay, limits: Limits) -> None:
        """Count one more as lent, as soon as there may be one more."""
        with self._lock:
            lent = self._lent.get(relay, 0)
            if lent >= self._most(relay, limits) and not self._changed.wait_for(
                lambda: self._lent.get(relay, 0) < self.most(relay), relay.timeout
            ):
                raise PoolBusy(Phase.CONNECT, f"no session became free within {relay.timeout:g} s")
            self._lent[relay] = self._lent.get(relay, 0) + 1
            self._tell()

    def _release(self, relay: Relay, session: Session | None = None) -> None:
        """Count one less as lent, and keep ``session`` if there is one."""
        with self._lock:
            # In a child that was forked meanwhile nothing counts as lent.
            lent = self._lent[relay] = max(0, self._lent.get(relay, 0) - 1)
            if session is not None:
                self._idle.setdefault(relay, []).append(session)
                self._tidy_later()
            if not lent:
                del self._lent[relay]
            self._tell()
            self._changed.notify_all()

    def most(self, relay: Relay) -> int:
        """How many sessions with it may be open, by our limits and by what its server has let us have lately."""
        return self._most(relay, self._limits())

    def _most(self, relay: Relay, limits: Limits) -> int:
        most = limits.size
        if relay.max_connections is not None:
            most = min(most, relay.max_connections)
        allowed, until = self._allowed.get(relay, (most, 0.0))
        return min(most, allowed) if time.monotonic() < until else most

    def _tell(self) -> None:
        """Say how many there are. Holds the lock."""
        self._watch().holds(idle=sum(map(len, self._idle.values())), lent=sum(self._lent.values()))

    def _take(self, relay: Relay, limits: Limits, *, only_a_surplus: bool) -> Session | None:
        """Take an idle session, the one used last, out of the pool; or only if there are too many now."""
        with self._lock:
            waiting = self._idle.get(relay)
            if not waiting:
                return None
            if only_a_surplus and len(waiting) + self._lent.get(relay, 0) <= self._most(relay, limits):
                return None
            return waiting.pop()

    def _leave(self, unwanted: Callable[[Session], bool]) -> None:
        """Say QUIT on all idle sessions of a kind; they count as lent until they are closed.

        In all it takes no longer than one of them may take: their server may be the one that died.
        """
        with self._lock:
            left = [session for waiting in self._idle.values() for session in waiting if unwanted(session)]
            if not left:
                return
            kept = {relay: [one for one in waiting if one not in left] for relay, waiting in self._idle.items()}
            self._idle = {relay: waiting for relay, waiting in kept.items() if waiting}
            for session in left:
                self._lent[session.relay] = self._lent.get(session.relay, 0) + 1
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
            if self._idle:
                self._tidy_later()

    def _open(self, relay: Relay, heard: Callable[[], object] | None) -> Session:
        opening = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((CannotConnect, ConnectionLost)),
            # Not again after silence for the whole timeout: it would hold up a worker twice as long.
            stop=tenacity.stop_after_attempt(self._limits().tries) | tenacity.stop_after_delay(relay.timeout),
            wait=tenacity.wait_random(0.05, 0.3),
            reraise=True,
        )
        watch, began = self._watch(), time.monotonic()
        try:
            session: Session = opening(Session.open, relay, watch, self._memory, heard=heard)
        except BaseException:
            watch.opened(relay, time.monotonic() - began, succeeded=False)
            raise
        watch.opened(relay, time.monotonic() - began, succeeded=True)
        return session

    def _forget_inherited(self) -> None:
        """Runs in the child of a fork: the sessions are the parent's, and so may be whoever holds the lock.

        Closing them closes this process's descriptors alone and says nothing to the server.
        """
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._tidying = None  # a fork takes no thread along
        self._lent.clear()
        self._allowed.clear()
        for waiting in self._idle.values():
            for session in waiting:
                session.close()
        self._idle.clear()
