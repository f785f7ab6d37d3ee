"""A mail as it is sent to a relay: with its sender, and with content that is read piece by piece."""

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
    """The mail to send, and its recipients.

    ``from_at`` is the position in the content, in octets, where a From header is missing; None when it is not missing.
    Then ``from_header`` is that header, and '' means the relay's. ``sender`` is the envelope sender; '' means the
    address of the From header, and '<>' means none. ``put_off`` are the recipients that a server has deferred before.
    """

    from_header: str = field(repr=False)
    from_at: int | None
    sender: str = field(default="", repr=False)
    recipients: tuple[str, ...] = field(repr=False)
    put_off: tuple[str, ...] = field(default=(), repr=False)
    content: Content

    @property
    def names_sender(self) -> bool:
        """Whether the mail has a fixed sender, possibly since an earlier attempt."""
        return self.from_at is None or bool(self.from_header)

    def has_sender_of(self, relay: Relay, phase: Phase) -> bool:
        """Return whether the address that a server judges as sender in ``phase`` comes from a relay.

        It is the envelope sender up to DATA, and the From header's address after that. It may come from an earlier
        attempt.
        """
        if self.from_at is None or phase in (Phase.CONTENT, Phase.FINAL_DOT):
            return self.from_at is not None
        try:
            theirs = envelope_address(one_line(self.from_header) if self.from_header else relay.from_email)
        except InvalidMail:
            return True  # then no mail fails because of it
        return self.sender in ("", theirs)

    def from_relay(self, relay: Relay) -> tuple[str, str]:
        """Return the From header and the envelope sender to use with ``relay``. Raises ``InvalidMail``."""
        if self.names_sender:
            return self.from_header, self.sender or envelope_address(one_line(self.from_header))
        return from_header_of(relay.from_email), self.sender or envelope_address(relay.from_email)


class PreparedMessage:
    """A mail prepared for a relay. As a context manager it opens the content.

    Entering raises ``InvalidMail`` for an invalid sender, and ``ContentUnavailable``: a mail that cannot be read is not
    offered to a server.
    """

    def __init__(self, mail: OutgoingMail, relay: Relay, recipients: tuple[str, ...]) -> None:
        """Prepare ``mail``. ``recipients`` are those of its recipients whose turn it is."""
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
        if self._first is None:  # otherwise it is already prepared
            self._first = next(self._blocks, b"")
        return self

    def __exit__(self, *error: object) -> None:
        self._blocks.close()

    @property
    def blocks(self) -> Iterator[bytes]:
        """The content, which can be read once."""
        return itertools.chain((self._first or b"",), self._blocks)
