"""How far away, or how slow, the server is: more sessions at a time are of use then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

#: Sessions at a time while a server answers at once: more of them bring nothing then.
NEAR = 4

#: Seconds that a mail takes at least, of so many in a row, at a server that is far away, or slow.
_FAR = 0.02
_IN_A_ROW = 20

#: Seconds after which those that are under way tell, if none of them has ended.
_STALLED = 0.2


class Distance:
    """How long mails take at least, from MAIL to the reply to the final dot. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen, self._least = 0, float("inf")
        self._is_far = False

    def see(self, seconds: float) -> None:
        """Take in how long one took that was accepted. A busy machine may make many of them slow, but not all."""
        with self._lock:
            self._seen += 1
            self._least = min(self._least, seconds)
            if self._seen >= _IN_A_ROW:
                self._conclude(self._least > _FAR)

    def see_under_way(self, begun: Iterable[float | None]) -> None:
        """Take in when those were begun that take up all sessions, by ``time.monotonic()``; None before that."""
        latest = max((time.monotonic() if at is None else at for at in begun), default=float("inf"))
        if time.monotonic() - latest > _STALLED:
            with self._lock:
                self._conclude(True)

    def _conclude(self, is_far: bool) -> None:
        self._is_far = is_far
        self._seen, self._least = 0, float("inf")

    def sessions(self, most: int) -> int:
        """How many sessions are of use, ``most`` at the most."""
        return most if self._is_far else min(most, NEAR)
