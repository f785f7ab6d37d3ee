"""Decide whether a limit that deferred several mails concerns their recipients, or all mail."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import replace

from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred, Outcome
from email_integration.smtp import Relay

#: A limit concerns all mail if it deferred this many mails in a row without a common recipient.
_LIMITED_IN_A_ROW = 3


class LimitedInARow:
    """Sees the outcomes of a process in turn. A limit concerns all mail after several in a row have reached it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._relay: Relay | None = None
        self._limited: list[frozenset[str]] = []

    def see(self, relay: Relay | None, recipients: Collection[str], outcome: Outcome) -> Outcome:
        """Return the outcome of the next mail, which was sent to ``recipients`` by ``relay``.

        ``for_everybody`` is set in it when the limit concerns all mail.
        """
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
