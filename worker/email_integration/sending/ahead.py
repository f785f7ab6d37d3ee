"""Let one mail try a new session first when a server has refused mail over sessions that carried mail before.

The old session may have reached a limit, so a new one is enough. Or the server accepts no more mail for a while: then
each new session is one more mail that it refuses, and many servers count these too.
"""

from __future__ import annotations

import threading

from email_integration.forks import after_fork_in_child
from email_integration.smtp import Relay


class Lead:
    """A mail that tries a relay before the other mails of this process."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.has_ended = self.went_well = False

    def is_over(self) -> bool:
        return self.has_ended


class Ahead:
    """Lets one mail at a time try each relay first, while the others wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way: dict[Relay, Lead] = {}
        after_fork_in_child(self._begin_anew)

    def go(self, relay: Relay) -> Lead | None:
        """Return a lead for the relay, which the caller must ``end``; or wait for the current lead.

        Return None when the other lead succeeded, or did not end within ``relay.timeout`` seconds: then no lead is
        needed.
        """
        with self._changed:
            while (other := self._under_way.get(relay)) is not None:
                if not self._changed.wait_for(other.is_over, relay.timeout) or other.went_well:
                    return None
            lead = self._under_way[relay] = Lead(relay)
            return lead

    def end(self, lead: Lead, *, well: bool) -> None:
        """End the lead.

        If it went ``well`` the others continue, else one of them leads. A lead that has ended is ignored.
        """
        with self._changed:
            if not lead.has_ended:
                lead.has_ended, lead.went_well = True, well
                del self._under_way[lead.relay]
                self._changed.notify_all()

    def _begin_anew(self) -> None:
        """Reset in a forked child: the leads belong to the parent, and another of its threads may hold the lock."""
        self._changed = threading.Condition()
        self._under_way.clear()
