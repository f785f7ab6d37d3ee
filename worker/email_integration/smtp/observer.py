"""The interface between SMTP sessions and what measures them."""

from __future__ import annotations

from .relay import Relay


class SessionObserver:
    """Does nothing. No method may raise, or take long: mail is under way. Times are seconds."""

    def opened(self, relay: Relay, seconds: float, *, succeeded: bool) -> None:
        """A session was opened, or could not be, with all its tries."""

    def transacted(self, relay: Relay, seconds: float) -> None:
        """A transaction has come from MAIL to the reply after the final dot."""

    def holds(self, *, idle: int, lent: int) -> None:
        """So many sessions are in the pool now; those being opened or closed count as lent."""
