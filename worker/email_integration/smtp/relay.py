"""Where to send (relay) and what to send to whom (envelope)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class TokenSource(Protocol):
    """Where the access tokens of one account come from (OAuth 2.0). Both methods raise ``NoToken``."""

    def current(self) -> str:
        """The token to log in with."""

    def another(self, refused: str = "") -> str | None:
        """One that is not ``refused``, fetched anew unless somebody else has done so; None when there can be none."""


@dataclass(frozen=True, kw_only=True)
class Relay:
    """The server we hand mail to.

    ``timeout`` is in seconds, for connecting and for every command up to DATA with its reply. ``from_email`` is the
    sender of mail that names none. ``ca_certificates`` is PEM: the only authorities to trust for this relay; '' for the
    system's. ``ehlo_name`` is what this machine calls itself in EHLO; '' for a name of its own. Two relays are equal
    when every setting is, which is what a session is reused by; ``version`` is any word that tells apart what is
    otherwise equal. With ``tokens`` one logs in by them instead of a password; they come and go, so that they make no
    other relay.
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
    ca_certificates: str = field(default="", repr=False)
    ehlo_name: str = ""
    pipelining: bool = True
    max_recipients: int | None = None
    max_connections: int | None = None
    version: str = ""
    tokens: TokenSource | None = field(default=None, repr=False, compare=False)

    def __hash__(self) -> int:
        # Of a few settings: it is asked for often, and those that share these are compared anyway.
        return hash((self.name, self.host, self.port, self.version))

    def __str__(self) -> str:
        return f"{self.name} ({self.host}:{self.port})"

    @property
    def logs_in(self) -> bool:
        """Whether there is enough to log in with: a user name without a password is not, as for Django's backend."""
        return bool(self.username and (self.password or self.tokens is not None))


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """Sender and recipients as MAIL and RCPT carry them (RFC 5321 §2.3.1)."""

    sender: str = field(repr=False)
    recipients: tuple[str, ...] = field(repr=False)

    @property
    def needs_smtputf8(self) -> bool:
        """Whether an address is beyond ASCII, which only a server with SMTPUTF8 takes (RFC 6531)."""
        return not "".join((self.sender, *self.recipients)).isascii()


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What MAIL, RCPT and DATA say of a mail: its envelope, how many octets its content has (RFC 1870), and whether one
    of them is beyond ASCII (RFC 6152).
    """

    envelope: Envelope
    size: int
    eight_bit: bool
