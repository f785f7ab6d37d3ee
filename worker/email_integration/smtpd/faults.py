"""The faults of the server: errors that it makes on demand."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable
from typing import Literal

Verb = Literal["CONNECT", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "CONTENT", "DOT", "RSET", "NOOP", "QUIT"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """An error that the server makes at a verb.

    ``CONNECT`` is the greeting, ``CONTENT`` the moment after the first line of the content, before the final dot, and
    ``DOT`` the reply to the final dot. The first fault that matches a command applies. It acts in this order: wait,
    hang, reply, drop.

    A message is accepted at ``DOT`` unless a fault there refuses it (a ``reply`` of 4yz or 5yz), drops the connection
    or hangs. With ``drop_after_accept`` and ``hang_after_accept`` the server has the message, and the client gets no
    reply. Raises ``ValueError`` for impossible combinations.
    """

    verb: Verb
    #: The reply instead of the usual one, such as ``"450 4.2.0 Mailbox busy"``; write further lines after ``\n``
    #: without the code. After a 421, and after any reply to ``CONNECT`` or ``CONTENT``, the connection is closed.
    reply: str | None = None
    #: Close the connection, after the reply if there is one.
    drop: bool = False
    drop_after_accept: bool = False
    #: Send nothing more, and leave the connection open.
    hang: bool = False
    hang_after_accept: bool = False
    #: Seconds to wait first.
    delay: float = 0
    #: Wait until this is set, for as long as the test needs.
    until: threading.Event | None = None
    #: How many times the fault applies; None means always.
    times: int | None = None
    #: Apply only to commands that contain this text, in any case. At ``DATA``, ``CONTENT`` and ``DOT`` it is searched
    #: for in the envelope, and at ``DOT`` in the content too.
    match: str = ""

    def __post_init__(self) -> None:
        if self.times is not None and self.times < 1:
            raise ValueError(f"times must be at least 1, or None for always, not {self.times!r}.")
        if self.verb != "DOT" and (self.drop_after_accept or self.hang_after_accept):
            raise ValueError(f"drop_after_accept and hang_after_accept need the verb DOT, not {self.verb}.")


class Faults:
    """The faults that have not happened yet. Any thread may add and take them."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._left = [(fault, fault.times) for fault in faults]
        self._lock = threading.Lock()

    def add(self, *faults: Fault) -> None:
        """Add faults after the existing ones."""
        with self._lock:
            self._left += [(fault, fault.times) for fault in faults]

    def clear(self) -> None:
        """Remove all faults."""
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
