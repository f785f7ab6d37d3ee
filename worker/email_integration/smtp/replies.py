"""What a server answers (RFC 5321 §4.2, RFC 3463), and where in the dialogue."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from enum import StrEnum

#: Characters of a reply that are kept: what people read, and what is recognised, stands in the first of them.
LONGEST_TEXT = 2000

#: What has no place in a text: no database column takes a NUL, no terminal should obey a server.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TOO_MANY = re.compile(r"\btoo many (rcpts?|recipients?)\b", re.I)
#: Recipients are counted by time or by account as well, which has nothing to do with a transaction.
_OF_THE_ACCOUNT = re.compile(
    r"\b(per|this|an?|each|every|last) (second|minute|hour|day|month)\b|\b(hourly|daily|monthly)\b|\bth(is|e) sender\b",
    re.I,
)
#: Some servers put a '#' before it, or a colon behind it.
_ENHANCED = re.compile(r"#?([245]\.\d{1,3}\.\d{1,3})[:;,]?(?:\s|$)")


class Phase(StrEnum):
    """How far the dialogue had come."""

    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"
    FINAL_DOT = "final_dot"

    @property
    def before_mail(self) -> bool:
        """Whether the relay itself, rather than this mail, is being talked about."""
        return self in _BEFORE_MAIL


_BEFORE_MAIL = frozenset({Phase.CONNECT, Phase.GREETING, Phase.EHLO, Phase.STARTTLS, Phase.AUTH})


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One reply: the code, the enhanced status code when there is one, and the server's text (may hold addresses)."""

    code: int
    enhanced: str = ""
    text: str = field(default="", repr=False)
    #: Whether it answers an OAuth token that was shown.
    to_token: bool = False

    @staticmethod
    def parse(code: int, raw: bytes | str) -> Reply:
        """Make a reply of what ``smtplib`` returns: ``LONGEST_TEXT`` characters of it, lines after the first among
        them, and no control characters.
        """
        return _parsed(code, raw if isinstance(raw, str) else raw.decode("utf-8", "replace"))

    @property
    def positive(self) -> bool:
        """Done; 3yz, which asks for more, is not."""
        return 200 <= self.code < 300

    @property
    def permanent(self) -> bool:
        return 500 <= self.code < 600

    @property
    def is_out_of_turn(self) -> bool:
        """Bad sequence of commands: the server was not where the client took it to be."""
        return self.code == 503

    @property
    def says_too_many_recipients(self) -> bool:
        """Said of a recipient: the transaction has as many as it may have, and others may get the mail in another one
        (RFC 5321 §4.5.3.1.10, RFC 3463 §3.6).
        """
        if self.code < 400 or _OF_THE_ACCOUNT.search(self.text):
            return False
        if self.enhanced:
            return self.enhanced.endswith(".5.3")
        return self.code in (450, 451, 452, 552) and _TOO_MANY.search(self.text) is not None

    @property
    def may_mean_too_many_recipients(self) -> bool:
        """The same, or the code for it without a word of why."""
        return self.says_too_many_recipients or (self.code == 452 and not self.enhanced)

    @property
    def short(self) -> str:
        """The numbers alone, safe to show anywhere: '550 5.1.1'."""
        return f"{self.code} {self.enhanced}".strip()


#: What a server says to MAIL, RCPT and DATA is mostly the same for each mail.
@functools.lru_cache(maxsize=64)
def _parsed(code: int, text: str) -> Reply:
    text = text[:LONGEST_TEXT]
    if not text.isprintable():
        text = _CONTROL.sub("\ufffd", text)
    found = _ENHANCED.match(text)
    return Reply(code=code, enhanced=found[1] if found else "", text=text)
