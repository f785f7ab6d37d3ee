"""The server to send to (relay), and the sender and recipients of a mail (envelope)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class TokenSource(Protocol):
    """The source of the access tokens of one account (OAuth 2.0). Both methods raise ``NoToken``."""

    def current(self) -> str:
        """Return the token to log in with."""

    def another(self, refused: str = "") -> str | None:
        """Return a token other than ``refused``, a new one unless another process has fetched it; or None."""


@dataclass(frozen=True, kw_only=True)
class Relay:
    """The server that mail is sent to.

    ``timeout`` is in seconds, for connecting and for every command up to DATA with its reply. ``from_email`` is the
    sender of mail without one. ``ca_certificates`` is PEM: the only authorities to trust for this relay; '' for the
    system's. ``ehlo_name`` is the name of this machine in EHLO; '' for the automatic one. Two relays are equal when
    every setting is equal, and only an equal relay reuses a session. ``version`` is any text that distinguishes relays
    with otherwise equal settings. With ``tokens`` the login uses OAuth tokens instead of a password; tokens change, so
    they are not compared. ``account`` is a digest of the settings that the tokens are fetched with; '' without tokens.
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
    account: str = field(default="", repr=False)

    def __hash__(self) -> int:
        # A hash of only a few settings: it is computed often, and relays that share these settings are compared anyway.
        return hash((self.name, self.host, self.port, self.version))

    def __str__(self) -> str:
        return f"{self.name} ({self.host}:{self.port})"

    @property
    def logs_in(self) -> bool:
        """Whether the login data is complete; a user name without a password is not, as in Django's backend."""
        return bool(self.username and (self.password or self.tokens is not None))


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """Sender and recipients as in MAIL and RCPT (RFC 5321 §2.3.1)."""

    sender: str = field(repr=False)
    recipients: tuple[str, ...] = field(repr=False)

    @property
    def needs_smtputf8(self) -> bool:
        """Whether an address is beyond ASCII, which only a server with SMTPUTF8 accepts (RFC 6531)."""
        return not "".join((self.sender, *self.recipients)).isascii()


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The facts of a mail for MAIL, RCPT and DATA.

    ``size`` is the number of octets of its content (RFC 1870), and ``eight_bit`` is whether one of them is beyond ASCII
    (RFC 6152).
    """

    envelope: Envelope
    size: int
    eight_bit: bool
