"""What a server does otherwise than it says: found out in the dialogue, remembered for the sessions after it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from .relay import Relay


class Pipelining(StrEnum):
    """How many commands may be under way to a server that offers PIPELINING (RFC 2920)."""

    #: Those of a transaction in groups, the first one along with the final dot before.
    FULL = "full"
    #: Those of a transaction in groups, and nothing along with a final dot.
    GROUPS = "groups"
    #: One.
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Quirks:
    """What is known of a server. ``mails`` is how many one session carries, ``recipients`` how many a transaction has
    at most; None for as many as there are.
    """

    pipelining: Pipelining = Pipelining.FULL
    mails: int | None = None
    recipients: int | None = None


class Memory:
    """Where quirks are kept between sessions. This one knows nothing and forgets all but what is suspected.

    What only seems so is tried by the next session: it is learned if that begins a transaction, and else it was
    something else. A suspicion is this process's alone; threads may share it.
    """

    def __init__(self) -> None:
        self._suspected: dict[Relay, dict[str, Any]] = {}
        # After how many mails a session with it came to a limit last.
        self._ended_after: dict[Relay, int] = {}
        self._lock = threading.Lock()

    def recall(self, relay: Relay) -> Quirks:
        """What is known of ``relay``. Never raises."""
        return Quirks()

    def learn(self, relay: Relay, **changes: Any) -> None:
        """``relay`` was found to be so; of whatever else is known nothing changes. Never raises."""

    def suspect(self, relay: Relay, **changes: Any) -> None:
        """Have the next session try whether these of its quirks are otherwise."""
        with self._lock:
            self._suspected[relay] = {**self._suspected.get(relay, {}), **changes}

    def ended_after(self, relay: Relay, mails: int) -> bool:
        """A session came to a limit after so many mails; whether the one before did after as many."""
        with self._lock:
            before, self._ended_after[relay] = self._ended_after.get(relay), mails
        return before == mails

    def suspicion(self, relay: Relay) -> Mapping[str, Any]:
        """What the session that is being opened is to try, which is handed out once; empty for nothing."""
        with self._lock:
            return self._suspected.pop(relay, {})


class Acquaintance:
    """What one session goes by: what is known of its server, and what it tries."""

    def __init__(self, relay: Relay, memory: Memory) -> None:
        self._relay = relay
        self._memory = memory
        self._known = memory.recall(relay)
        self._tried = dict(memory.suspicion(relay))
        #: What to go by now.
        self.quirks = replace(self._known, **self._tried)

    def learn(self, **changes: Any) -> None:
        """The server has shown it; said once."""
        known = replace(self._known, **changes)
        if known != self._known:
            self._known = known
            self.quirks = replace(known, **self._tried)
            self._memory.learn(self._relay, **changes)

    def suspect(self, **changes: Any) -> None:
        """It may be so: the next session tries."""
        if replace(self.quirks, **changes) != self.quirks:
            self._memory.suspect(self._relay, **changes)

    def ended_after(self, mails: int) -> None:
        """A session came to a limit after so many mails: its own if the one before did too, else one of another kind,
        such as of mails by time.
        """
        if self._memory.ended_after(self._relay, mails):
            self.learn(mails=mails)

    def forget_tried(self) -> None:
        """What this session tries has not helped."""
        self._tried, self.quirks = {}, self._known

    def confirm(self) -> None:
        """What this session tries has worked."""
        if self._tried:
            tried, self._tried = self._tried, {}
            self.learn(**tried)
            self.quirks = self._known
