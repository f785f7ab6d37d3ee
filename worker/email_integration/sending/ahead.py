"""Going ahead of the others to a server that has refused mail over sessions which it took mail over before.

Such a session may be at an end of its own, and a new one is all it takes. Or the server takes no more mail for a while:
then each new session is one more mail that it refuses, and many servers count these too.
"""

from __future__ import annotations

import threading

from email_integration.forks import after_fork_in_child
from email_integration.smtp import Relay


class Lead:
    """One that goes to a server ahead of the others of this process."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.has_ended = self.went_well = False

    def is_over(self) -> bool:
        return self.has_ended


class Ahead:
    """Lets one at a time go ahead to each relay; the others wait for that one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way: dict[Relay, Lead] = {}
        after_fork_in_child(self._begin_anew)

    def go(self, relay: Relay) -> Lead | None:
        """Go ahead to a relay, and ``end`` the lead; or wait for who does.

        None when that one went well, or for ``relay.timeout`` seconds came to no end: there is no going ahead then.
        """
        with self._changed:
            while (other := self._under_way.get(relay)) is not None:
                if not self._changed.wait_for(other.is_over, relay.timeout) or other.went_well:
                    return None
            lead = self._under_way[relay] = Lead(relay)
            return lead

    def end(self, lead: Lead, *, well: bool) -> None:
        """Let the others go on if it went ``well``, else one of them go ahead. Does nothing to what has ended."""
        with self._changed:
            if not lead.has_ended:
                lead.has_ended, lead.went_well = True, well
                del self._under_way[lead.relay]
                self._changed.notify_all()

    def _begin_anew(self) -> None:
        """Runs in the child of a fork: who was under way is the parent's, and so may be the holder of the lock."""
        self._changed = threading.Condition()
        self._under_way.clear()
