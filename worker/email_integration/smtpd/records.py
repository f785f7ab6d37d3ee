"""The records of the server: messages and sessions."""

from __future__ import annotations

import dataclasses
import email
import email.message
import email.policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """A message that the server has accepted."""

    #: ``<>`` for the null reverse-path (RFC 5321 §4.5.5).
    mail_from: str
    rcpt_tos: tuple[str, ...]
    content: bytes = dataclasses.field(repr=False)
    #: The number of its session, counted from 1.
    session: int
    #: Seconds since the epoch.
    received_at: float

    @property
    def parsed(self) -> email.message.EmailMessage:
        """The content as a message object."""
        return email.message_from_bytes(self.content, policy=email.policy.default)

    @property
    def subject(self) -> str:
        """The subject, decoded."""
        return str(self.parsed["Subject"] or "")

    @property
    def message_id(self) -> str:
        """The Message-ID with its angle brackets."""
        return str(self.parsed["Message-ID"] or "").strip()


@dataclasses.dataclass(kw_only=True)
class SessionRecord:
    """The record of one session, from its greeting to its end."""

    number: int
    #: The commands in order, in upper case; ``CONTENT`` for the content with its final dot.
    verbs: list[str] = dataclasses.field(default_factory=list)
    #: The user who logged in.
    user: str | None = None
    tls: bool = False
    is_open: bool = True

    @property
    def transactions(self) -> int:
        """The number of MAIL commands in this session."""
        return self.verbs.count("MAIL")
