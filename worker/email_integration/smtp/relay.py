"""Where to send (relay) and what to send to whom (envelope)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Relay:
    """The server we hand mail to.

    ``timeout`` is in seconds and covers connecting and every command up to DATA. ``from_email`` is the sender of
    mail that names none. Two relays are equal when every setting is, which is what a session is reused by.
    """

    name: str
    host: str
    port: int = 587
    username: str = ""
    password: str = field(default="", repr=False)
    use_tls: bool = True
    use_ssl: bool = False
    from_email: str = ""
    timeout: float = 10.0

    def __str__(self) -> str:
        return f"{self.name} ({self.host}:{self.port})"


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """Sender and recipients as MAIL and RCPT carry them (RFC 5321 §2.3.1)."""

    sender: str = field(repr=False)
    recipients: tuple[str, ...] = field(repr=False)
