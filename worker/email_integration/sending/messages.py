"""A mail as it goes to a relay: with its sender, and with its content read a piece at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from email_integration.addresses import NULL_SENDER, envelope_address
from email_integration.exceptions import InvalidMail
from email_integration.message.content import Content
from email_integration.message.rendering import from_header_of, from_line, one_line
from email_integration.smtp import Envelope, Opening, Phase, Relay


@dataclass(frozen=True, kw_only=True)
class OutgoingMail:
    """What is to be sent to whom.

    ``from_at`` says where in the content a From header is missing, if one is; it is ``from_header`` then, '' the
    relay's own. ``sender`` is the envelope's; '' means the address of the From header, '<>' is none. ``put_off`` are
    the recipients that a server has put off before.
    """

    from_header: str = field(repr=False)
    from_at: int | None
    sender: str = field(default="", repr=False)
    recipients: tuple[str, ...] = field(repr=False)
    put_off: tuple[str, ...] = field(default=(), repr=False)
    content: Content

    @property
    def names_sender(self) -> bool:
        """Whether it has a sender of its own, be it since an earlier attempt."""
        return self.from_at is None or bool(self.from_header)

    def has_sender_of(self, relay: Relay, phase: Phase) -> bool:
        """Whether what a server takes for its sender in ``phase`` is a relay's: the envelope's up to DATA, the From
        header's after that. It may be that of an earlier attempt.
        """
        if self.from_at is None or phase in (Phase.CONTENT, Phase.FINAL_DOT):
            return self.from_at is not None
        try:
            theirs = envelope_address(one_line(self.from_header) if self.from_header else relay.from_email)
        except InvalidMail:
            return True  # no mail is burnt for it
        return self.sender in ("", theirs)

    def from_relay(self, relay: Relay) -> tuple[str, str]:
        """The From header and the envelope's sender with which it goes to ``relay``. Raises ``InvalidMail``."""
        if self.names_sender:
            return self.from_header, self.sender or envelope_address(one_line(self.from_header))
        return from_header_of(relay.from_email), self.sender or envelope_address(relay.from_email)


class PreparedMessage:
    """A mail made ready for a relay; the context in which its content is read.

    Entering raises ``InvalidMail`` for a sender that is none, and ``ContentUnavailable``: no server needs to be told
    of a mail that cannot be read.
    """

    def __init__(self, mail: OutgoingMail, relay: Relay, recipients: tuple[str, ...]) -> None:
        """``recipients`` are those of the mail's whose turn it is."""
        self.from_header, self.sender = mail.from_relay(relay)
        content = mail.content
        if mail.from_at is not None:
            content = content.with_line(from_line(self.from_header), mail.from_at)
        envelope_sender = "" if self.sender == NULL_SENDER else self.sender
        self.opening = Opening(
            envelope=Envelope(sender=envelope_sender, recipients=recipients),
            size=content.size,
            eight_bit=content.eight_bit,
        )
        self._blocks = content.blocks()
        self._first: bytes | None = None

    def __enter__(self) -> Self:
        if self._first is None:  # else it was made ready before
            self._first = next(self._blocks, b"")
        return self

    def __exit__(self, *error: object) -> None:
        self._blocks.close()

    @property
    def blocks(self) -> Iterator[bytes]:
        """The content, once."""
        return itertools.chain((self._first or b"",), self._blocks)
