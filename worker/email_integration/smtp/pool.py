"""The open sessions of one process, reused while they are young, alive and for the same relay."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import tenacity

from .errors import CannotConnect, ConnectionLost
from .relay import Relay
from .session import Session


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a session lives: ``idle`` and ``age`` in seconds; ``tries`` is how often opening one is tried.

    Opening is tried again only when the network, not the server's word, was in the way.
    """

    idle: float
    age: float
    transactions: int
    tries: int


class Pool:
    """Lends sessions; ``limits`` is asked whenever they matter.

    All state is ``_idle``, the sessions nobody uses, by relay; it is changed under the lock, while connecting and
    closing happen outside it.
    """

    def __init__(self, limits: Callable[[], Limits]) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._idle: dict[Relay, list[Session]] = defaultdict(list)
        forget = weakref.WeakMethod(self._forget_inherited)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def __repr__(self) -> str:
        with self._lock:
            return f"<Pool idle={sum(len(sessions) for sessions in self._idle.values())}>"

    @contextlib.contextmanager
    def session(self, relay: Relay, *, fresh: bool = False) -> Iterator[Session]:
        """Lend a session for ``relay``: an idle one that still looks alive, else (or when ``fresh``) a new one.

        It comes back when it is idle at the end of the block, and is closed otherwise. Raises what
        ``Session.open`` raises.
        """
        session = (None if fresh else self._take(relay)) or self._open(relay)
        try:
            yield session
        finally:
            if session.is_idle and not self.has_expired(session):
                with self._lock:
                    self._idle[relay].append(session)
            elif session.is_idle:
                session.quit()
            else:
                session.close()

    def has_expired(self, session: Session) -> bool:
        """Whether the session is too old, too long unused, or has carried enough."""
        now, limits = time.monotonic(), self._limits()
        return (
            session.transactions >= limits.transactions
            or now - session.opened_at > limits.age
            or now - session.used_at > limits.idle
        )

    def close(self) -> None:
        """Say QUIT on every idle session."""
        with self._lock:
            sessions = [session for waiting in self._idle.values() for session in waiting]
            self._idle.clear()
        for session in sessions:
            session.quit()

    def _take(self, relay: Relay) -> Session | None:
        found, expired = None, []
        with self._lock:
            for owner in list(self._idle):
                kept = []
                for session in self._idle.pop(owner):
                    if session.was_hung_up or self.has_expired(session):
                        expired.append(session)
                    else:
                        kept.append(session)
                if kept:
                    self._idle[owner] = kept
            if waiting := self._idle.get(relay):
                found = waiting.pop()
        for session in expired:
            session.quit()
        return found

    def _open(self, relay: Relay) -> Session:
        opening = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((CannotConnect, ConnectionLost)),
            # Not again after silence for the whole timeout: it would hold up a worker twice as long.
            stop=tenacity.stop_after_attempt(self._limits().tries) | tenacity.stop_after_delay(relay.timeout),
            wait=tenacity.wait_random(0.05, 0.3),
            reraise=True,
        )
        return opening(Session.open, relay)

    def _forget_inherited(self) -> None:
        """Runs in the child of a fork: the sessions are the parent's, and so may be whoever holds the lock.

        Closing them closes this process's descriptors alone and says nothing to the server.
        """
        self._lock = threading.Lock()
        for waiting in self._idle.values():
            for session in waiting:
                session.close()
        self._idle.clear()
