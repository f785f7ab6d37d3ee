"""The interface between SMTP sessions and their metrics."""

from __future__ import annotations

from .relay import Relay


class SessionObserver:
    """An observer that does nothing. Methods must not raise or take long: mail is being sent. Times are in seconds."""

    def opened(self, relay: Relay, seconds: float, *, succeeded: bool) -> None:
        """Called after a session was opened or could not be opened; ``seconds`` includes all tries."""

    def transacted(self, relay: Relay, seconds: float) -> None:
        """Called after a transaction; ``seconds`` is the time from MAIL to the reply to the final dot."""

    def holds(self, *, idle: int, lent: int) -> None:
        """Called with the number of sessions in the pool; sessions that are being opened or closed count as lent."""
