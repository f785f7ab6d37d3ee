"""Database queries of a crew's threads before they open a session, which the dispatcher executes for them.

The dispatcher already has an open connection. Without it, each thread would open and close a connection for one query.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

from django.db import DatabaseError, InterfaceError

from email_integration.routing import breaker, quirks
from email_integration.smtp import Relay

#: Seconds for which a thread waits. The dispatcher may be recording, or waiting for the database itself.
_ANSWER_WITHIN = 0.25


class Questions:
    """Asks in the threads of a crew whether circuit breakers are closed, and answers in the dispatcher's thread.

    No answer is older than its question.
    """

    def __init__(self, asked: Callable[[], object]) -> None:
        """Create the object. ``asked`` is called when a question needs an answer."""
        self._asked = asked
        self._open: SimpleQueue[tuple[Relay, Future[bool]]] = SimpleQueue()

    @property
    def are_open(self) -> bool:
        """Whether a question needs an answer."""
        return not self._open.empty()

    def breaker_is_closed(self, relay: Relay) -> bool:
        """Return whether the circuit breaker of ``relay`` is closed. If not, the caller must find the reason itself.

        False also means that there was no answer within 0.25 seconds.
        """
        answer: Future[bool] = Future()
        self._open.put((relay, answer))
        self._asked()
        with contextlib.suppress(TimeoutError):
            return answer.result(_ANSWER_WITHIN)
        return False

    def answer(self) -> None:
        """Answer all open questions."""
        asked = []
        while self.are_open:
            asked.append(self._open.get())
        closed = {relay: _is_closed(relay) for relay in {relay for relay, _ in asked}}
        for relay, answer in asked:
            answer.set_result(closed[relay])


def _is_closed(relay: Relay) -> bool:
    try:
        if breaker.is_open(relay):
            return False
        quirks.memory.recall(relay)  # loads the server's quirks before the session is opened
    except (DatabaseError, InterfaceError):
        return False
    return True
