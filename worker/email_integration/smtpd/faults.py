"""What goes wrong, when it is told to."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable
from typing import Literal

Verb = Literal["CONNECT", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "CONTENT", "DOT", "RSET", "NOOP", "QUIT"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong, at which verb, how often.

    ``CONNECT`` stands for the greeting, ``CONTENT`` for the moment after the first line of the content, with the final
    dot not yet seen, and ``DOT`` for the reply to the final dot. The first fault that matches a command applies, and
    does what it says in this order: wait, hang, reply, drop.

    A message is accepted at ``DOT`` unless a fault there refuses it (a ``reply`` of 4yz or 5yz), drops the connection
    or hangs; with ``drop_after_accept`` and ``hang_after_accept`` the server has it and the client is never told.
    Raises ``ValueError`` for what makes no sense.
    """

    verb: Verb
    #: The reply instead of the usual one, such as ``"450 4.2.0 Mailbox busy"``, further lines after ``\n``
    #: without the code. After a 421, and any reply to ``CONNECT`` or ``CONTENT``, the connection is closed.
    reply: str | None = None
    #: Close the connection, after the reply if there is one.
    drop: bool = False
    drop_after_accept: bool = False
    #: Say nothing more, and leave the connection open.
    hang: bool = False
    hang_after_accept: bool = False
    #: Seconds to wait first.
    delay: float = 0
    #: Wait until this is set, for as long as the test needs.
    until: threading.Event | None = None
    #: How many times; None is for ever.
    times: int | None = None
    #: Only for commands with this text in them, in any case; it is looked for in the envelope at ``DATA``, ``CONTENT``
    #: and ``DOT``, and at ``DOT`` in the content too.
    match: str = ""

    def __post_init__(self) -> None:
        if self.times is not None and self.times < 1:
            raise ValueError(f"times must be at least 1, or None for always, not {self.times!r}.")
        if self.verb != "DOT" and (self.drop_after_accept or self.hang_after_accept):
            raise ValueError(f"A mail can be taken only at DOT, not at {self.verb}.")


class Faults:
    """The faults still to come, for any thread to add to and take from."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._left = [(fault, fault.times) for fault in faults]
        self._lock = threading.Lock()

    def add(self, *faults: Fault) -> None:
        """Let these happen, after those that are there already."""
        with self._lock:
            self._left += [(fault, fault.times) for fault in faults]

    def clear(self) -> None:
        """Let none happen any more."""
        with self._lock:
            self._left.clear()

    def take(self, verb: str, text: str) -> Fault | None:
        """Take the first fault for this command, and count it."""
        with self._lock:
            for number, (fault, left) in enumerate(self._left):
                if fault.verb == verb and fault.match.lower() in text.lower():
                    if left == 1:
                        del self._left[number]
                    elif left is not None:
                        self._left[number] = (fault, left - 1)
                    return fault
        return None
