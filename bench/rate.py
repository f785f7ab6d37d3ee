"""The rate limit of a server, and its behaviour beyond the limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

#: The reply to a MAIL beyond the rate; '' means that the server delays mails instead. The first is Postfix's text. The
#: server closes the connection after the second (RFC 5321 section 3.8).
BEYOND: Mapping[str, bytes] = {
    "450": b"450 4.7.1 Error: too much mail from 127.0.0.1",
    "421": b"421 4.7.0 Rate limit exceeded, try again later, closing connection",
    "slow": b"",
}


class Rate:
    """A number of mails in each second of the clock, over all sessions; spread evenly if none is refused."""

    def __init__(
        self,
        per_second: int,
        beyond: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._per_second = per_second
        self._refusal = BEYOND[beyond]
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._second, self._taken = 0, 0
        self._next = 0.0

    def refusal(self) -> bytes:
        """Return the reply that refuses a MAIL now, or b'' if it is accepted."""
        if not self._refusal:
            return b""
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                self._second, self._taken = second, 0
            if self._taken >= self._per_second:
                return self._refusal
            self._taken += 1
            return b""

    def wait(self) -> None:
        """Wait until a mail with complete content may be accepted.

        Returns immediately if mails beyond the rate are refused.
        """
        if self._refusal:
            return
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + 1 / self._per_second
        self._sleep(turn - now)
