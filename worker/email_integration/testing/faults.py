"""What a ``FakeRelay`` does wrong, when it is told to."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Literal, get_args

#: Where something can go wrong: ``CONNECT`` is the greeting, ``DOT`` the reply to the final dot.
Verb = Literal["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "DOT"]

_REPLY = re.compile(r"[45]\d\d( [^\r\n]*)?")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One of: a negative ``reply``, a closed connection (``drop``), silence (``hang``).

    ``match`` is text, in any case, that the command must hold; at DATA and DOT, the envelope or the content. With
    ``taken`` the relay has the mail, although it does not say so. Raises ``ValueError`` and ``TypeError`` for what
    makes no sense.
    """

    verb: Verb
    what: Literal["reply", "drop", "hang"]
    reply: str = ""
    times: int | None = None
    match: str = ""
    taken: bool = False

    def __post_init__(self) -> None:
        if self.verb not in get_args(Verb):
            raise ValueError(f"verb must be one of {', '.join(get_args(Verb))}, not {self.verb!r}.")
        if self.what == "reply" and not _REPLY.fullmatch(self.reply):
            raise ValueError(
                f"reply must be like '550 5.1.1 No such user', with a code of 4yz or 5yz, not {self.reply!r}."
            )
        if self.times is not None and self.times < 1:
            raise ValueError(f"times must be at least 1, or None for always, not {self.times!r}.")
        if self.match and self.verb in ("CONNECT", "EHLO", "AUTH"):
            raise ValueError(f"{self.verb} knows nothing of a mail that could match {self.match!r}.")
        if self.taken and self.verb != "DOT":
            raise ValueError("A mail can be taken only at DOT.")


class Faults:
    """The faults still to come, for any thread to add to and take from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: list[tuple[Fault, int | None]] = []

    def add(self, fault: Fault) -> None:
        """Let this happen, after those that are there already."""
        with self._lock:
            self._left.append((fault, fault.times))

    def clear(self) -> None:
        """Let none happen any more."""
        with self._lock:
            self._left.clear()

    def take(self, verb: Verb, text: str) -> Fault | None:
        """Take the first fault that fits, and count it."""
        with self._lock:
            for number, (fault, left) in enumerate(self._left):
                if fault.verb == verb and fault.match.lower() in text.lower():
                    if left == 1:
                        del self._left[number]
                    elif left is not None:
                        self._left[number] = (fault, left - 1)
                    return fault
        return None
