"""What the threads of a crew ask of the database before they open a session, which the dispatcher asks for them.

It has a connection open already. One of their own for each of them would be made, and closed, for one question.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

from django.db import DatabaseError, InterfaceError

from email_integration.routing import breaker, quirks
from email_integration.smtp import Relay

#: Seconds for which a thread waits: the dispatcher may be recording, or wait for the database itself.
_ANSWER_WITHIN = 0.25


class Questions:
    """Whether circuit breakers are closed, asked in the threads of a crew and answered in that of the dispatcher.

    No answer is older than its question.
    """

    def __init__(self, asked: Callable[[], object]) -> None:
        """``asked`` is called when there is one to be answered."""
        self._asked = asked
        self._open: SimpleQueue[tuple[Relay, Future[bool]]] = SimpleQueue()

    @property
    def are_open(self) -> bool:
        """Whether one is to be answered."""
        return not self._open.empty()

    def breaker_is_closed(self, relay: Relay) -> bool:
        """Whether the circuit breaker of ``relay`` was found closed. If not, who asks has to find out why by itself."""
        answer: Future[bool] = Future()
        self._open.put((relay, answer))
        self._asked()
        with contextlib.suppress(TimeoutError):
            return answer.result(_ANSWER_WITHIN)
        return False

    def answer(self) -> None:
        """Answer all that are open."""
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
        quirks.memory.recall(relay)  # so that it is known when the session is opened
    except (DatabaseError, InterfaceError):
        return False
    return True
