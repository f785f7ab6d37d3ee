"""The replies of a server (RFC 5321 §4.2, RFC 3463), and the phases of the dialogue."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from enum import StrEnum

#: Maximum length of a reply's text, in characters. People, and the recognition of causes, need no more.
LONGEST_TEXT = 2000

#: Characters that are removed from a text: no database column accepts a NUL, and no terminal should obey a server.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TOO_MANY = re.compile(r"\btoo many (rcpts?|recipients?)\b", re.I)
#: Limits of recipients per time or per account have nothing to do with a transaction.
_OF_THE_ACCOUNT = re.compile(
    r"\b(per|this|an?|each|every|last) (second|minute|hour|day|month)\b|\b(hourly|daily|monthly)\b|\bth(is|e) sender\b",
    re.I,
)
#: Some servers put a '#' before it, or a colon after it.
_ENHANCED = re.compile(r"#?([245]\.\d{1,3}\.\d{1,3})[:;,]?(?:\s|$)")


class Phase(StrEnum):
    """A phase of the dialogue."""

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
        """Whether the phase concerns the relay itself rather than a mail."""
        return self in _BEFORE_MAIL


_BEFORE_MAIL = frozenset({Phase.CONNECT, Phase.GREETING, Phase.EHLO, Phase.STARTTLS, Phase.AUTH})


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One reply: the code, the enhanced status code if there is one, and the server's text (may contain addresses)."""

    code: int
    enhanced: str = ""
    text: str = field(default="", repr=False)
    #: Whether it refuses an OAuth token.
    to_token: bool = False

    @staticmethod
    def parse(code: int, raw: bytes | str) -> Reply:
        """Return the reply for a result of ``smtplib``.

        Its text has at most ``LONGEST_TEXT`` characters, includes the lines after the first, and has no control
        characters.
        """
        return _parsed(code, raw if isinstance(raw, str) else raw.decode("utf-8", "replace"))

    @property
    def positive(self) -> bool:
        """Whether the command succeeded. 3yz, which asks for more, is not a success."""
        return 200 <= self.code < 300

    @property
    def permanent(self) -> bool:
        return 500 <= self.code < 600

    @property
    def is_out_of_turn(self) -> bool:
        """Whether it is 'bad sequence of commands': the server's state was not the one that the client assumed."""
        return self.code == 503

    @property
    def says_too_many_recipients(self) -> bool:
        """Whether the transaction has the maximum number of recipients, so others may get the mail in another one.

        For a reply to RCPT (RFC 5321 §4.5.3.1.10, RFC 3463 §3.6).
        """
        if self.code < 400 or _OF_THE_ACCOUNT.search(self.text):
            return False
        if self.enhanced:
            return self.enhanced.endswith(".5.3")
        return self.code in (450, 451, 452, 552) and _TOO_MANY.search(self.text) is not None

    @property
    def may_mean_too_many_recipients(self) -> bool:
        """Whether it is such a reply, or the code for it without a reason."""
        return self.says_too_many_recipients or (self.code == 452 and not self.enhanced)

    @property
    def short(self) -> str:
        """The numbers only, such as '550 5.1.1', which are safe to show everywhere."""
        return f"{self.code} {self.enhanced}".strip()


#: A server's replies to MAIL, RCPT and DATA are mostly the same for each mail.
@functools.lru_cache(maxsize=64)
def _parsed(code: int, text: str) -> Reply:
    text = text[:LONGEST_TEXT]
    if not text.isprintable():
        text = _CONTROL.sub("\ufffd", text)
    found = _ENHANCED.match(text)
    return Reply(code=code, enhanced=found[1] if found else "", text=text)
