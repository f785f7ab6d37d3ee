"""Deviations of servers from their announcements, found in the dialogue and remembered for later sessions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from .relay import Relay


class Pipelining(StrEnum):
    """How many commands may be sent before their replies to a server that offers PIPELINING (RFC 2920)."""

    #: The commands of a transaction in groups; the first group together with the final dot before it.
    FULL = "full"
    #: The commands of a transaction in groups, and nothing together with a final dot.
    GROUPS = "groups"
    #: One.
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Quirks:
    """The known deviations of a server.

    ``mails`` is the maximum number of mails in one session, ``recipients`` the maximum number of recipients in one
    transaction; None means no limit.
    """

    pipelining: Pipelining = Pipelining.FULL
    mails: int | None = None
    recipients: int | None = None


class Memory:
    """The storage of quirks between sessions. This base class stores none, except suspicions.

    A suspicion is tried by the next session. If that session begins a transaction, the suspicion is confirmed and
    learned; otherwise the cause was something else. Suspicions are known only to this process. Threads may share a
    memory.
    """

    def __init__(self) -> None:
        self._suspected: dict[Relay, dict[str, Any]] = {}
        # The number of mails after which the last session with the relay reached a limit.
        self._ended_after: dict[Relay, int] = {}
        self._lock = threading.Lock()

    def recall(self, relay: Relay) -> Quirks:
        """Return the known quirks of ``relay``. Never raises."""
        return Quirks()

    def learn(self, relay: Relay, **changes: Any) -> None:
        """Store these ``changes`` to the quirks of ``relay``; its other quirks stay. Never raises."""

    def suspect(self, relay: Relay, **changes: Any) -> None:
        """Make the next session try these changes to the quirks."""
        with self._lock:
            self._suspected[relay] = {**self._suspected.get(relay, {}), **changes}

    def ended_after(self, relay: Relay, mails: int) -> bool:
        """Note that a session reached a limit after this many mails; return whether the one before it did so too."""
        with self._lock:
            before, self._ended_after[relay] = self._ended_after.get(relay), mails
        return before == mails

    def suspicion(self, relay: Relay) -> Mapping[str, Any]:
        """Return the changes that the session now being opened must try, and clear them; empty for none."""
        with self._lock:
            return self._suspected.pop(relay, {})


class Acquaintance:
    """The quirks of one session: those known of its server, and those that the session tries."""

    def __init__(self, relay: Relay, memory: Memory) -> None:
        self._relay = relay
        self._memory = memory
        self._known = memory.recall(relay)
        self._tried = dict(memory.suspicion(relay))
        #: The quirks that apply now.
        self.quirks = replace(self._known, **self._tried)

    def learn(self, **changes: Any) -> None:
        """Store quirks that the server has shown, if they are new."""
        known = replace(self._known, **changes)
        if known != self._known:
            self._known = known
            self.quirks = replace(known, **self._tried)
            self._memory.learn(self._relay, **changes)

    def suspect(self, **changes: Any) -> None:
        """Make the next session try quirks that the server may have."""
        if replace(self.quirks, **changes) != self.quirks:
            self._memory.suspect(self._relay, **changes)

    def ended_after(self, mails: int) -> None:
        """Note that a session reached a limit after this many mails.

        If the session before reached the same limit, it is a limit of sessions. Otherwise it is a limit of another
        kind, such as mails in a period of time.
        """
        if self._memory.ended_after(self._relay, mails):
            self.learn(mails=mails)

    def forget_tried(self) -> None:
        """Drop the quirks that this session tries: they have not helped."""
        self._tried, self.quirks = {}, self._known

    def confirm(self) -> None:
        """Learn the quirks that this session tries: they have worked."""
        if self._tried:
            tried, self._tried = self._tried, {}
            self.learn(**tried)
            self.quirks = self._known
