"""Limits that a server has put several mails off for: are they its recipients', or everybody's?"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import replace

from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred, Outcome
from email_integration.smtp import Relay

#: Mails in a row, none of them to a recipient of the others, that a limit has put off: it is not their recipients'.
_LIMITED_IN_A_ROW = 3


class LimitedInARow:
    """Sees a process's outcomes in turn: that of a limit is for everybody where several in a row have come to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._relay: Relay | None = None
        self._limited: list[frozenset[str]] = []

    def see(self, relay: Relay | None, recipients: Collection[str], outcome: Outcome) -> Outcome:
        """The outcome of the next mail, which went to these recipients by ``relay``."""
        with self._lock:
            if not isinstance(outcome, Deferred) or outcome.cause is not Cause.LIMIT:
                self._limited.clear()
                return outcome
            if relay != self._relay:
                self._limited.clear()
                self._relay = relay
            named = frozenset(recipients)
            if not any(named & others for others in self._limited):
                self._limited.append(named)
            return replace(outcome, for_everybody=True) if len(self._limited) >= _LIMITED_IN_A_ROW else outcome
