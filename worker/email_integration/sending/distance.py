"""Estimate whether the server is far away or slow, which makes more sessions at once useful."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

#: Sessions at once while the server answers quickly. More sessions are no faster then.
NEAR = 4

#: A server is far away, or slow, if each of this many mails in a row takes more than this many seconds.
_FAR = 0.02
_IN_A_ROW = 20

#: Seconds after which mails in progress count, if none of them has ended.
_STALLED = 0.2


class Distance:
    """The minimum duration of mails, from MAIL to the reply to the final dot. Threads may share the object."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen, self._least = 0, float("inf")
        self._is_far = False

    def see(self, seconds: float) -> None:
        """Add the duration of an accepted mail, in seconds. A busy machine may slow down many mails, but not all."""
        with self._lock:
            self._seen += 1
            self._least = min(self._least, seconds)
            if self._seen >= _IN_A_ROW:
                self._conclude(self._least > _FAR)

    def see_under_way(self, begun: Iterable[float | None]) -> None:
        """Add the start times of the mails that occupy all sessions, by ``time.monotonic()``; None before MAIL."""
        latest = max((time.monotonic() if at is None else at for at in begun), default=float("inf"))
        if time.monotonic() - latest > _STALLED:
            with self._lock:
                self._conclude(True)

    def _conclude(self, is_far: bool) -> None:
        self._is_far = is_far
        self._seen, self._least = 0, float("inf")

    def sessions(self, most: int) -> int:
        """Return how many sessions are useful, at most ``most``."""
        return most if self._is_far else min(most, NEAR)
