"""The settings and the records of the server, for the server itself and for each of its connections."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from .faults import Fault, Faults
from .listener import LOOPBACK
from .records import Message, SessionRecord

Security = Literal["starttls", "tls", "plain"]

PASSWORD_MECHANISMS = frozenset({"LOGIN", "PLAIN"})
TOKEN_MECHANISMS = frozenset({"OAUTHBEARER", "XOAUTH2"})


class OpenConnection(Protocol):
    """The methods of a connection that the server uses."""

    def dismiss(self) -> None: ...

    def abort(self) -> None: ...


class ServerState:
    """The settings, the faults and the records of an ``SMTPServer``.

    ``messages``, ``sessions``, ``auths`` and ``failed_auths`` are the records of all its starts. ``user``, ``password``
    and the faults can be changed while it runs.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        security: Security = "starttls",
        tls_context: ssl.SSLContext | None = None,
        user: str | None = "user",
        password: str | None = "password",  # noqa: S107  # protects nothing
        any_auth: bool = False,
        check_token: Callable[[str], bool] | None = None,
        mechanisms: Iterable[str] = (*PASSWORD_MECHANISMS, *TOKEN_MECHANISMS),
        faults: Iterable[Fault] | Faults = (),
        size_limit: int = 32 * 1024 * 1024,
        smtputf8: bool = True,
        pipelining: bool = True,
        on_message: Callable[[Message], None] | None = None,
    ) -> None:
        """Describe a server; ``start()`` starts it.

        Raises ``ValueError`` when ``tls_context`` is needed and missing.

        Args:
            port: on loopback; 0 for a free one, which the first start chooses.
            security: STARTTLS required, TLS from the first byte, or none.
            tls_context: needed unless ``security`` is ``plain``.
            user: the user who must log in; None for a server without AUTH.
            password: the user's password.
            any_auth: accept any credentials, or none.
            check_token: returns whether an OAuth token of the user is valid; password logins are then not offered.
            mechanisms: the mechanisms to offer, as far as the other arguments allow them.
            faults: the faults from the start; ``Faults`` can be shared by servers.
            size_limit: maximum size of a message in bytes.
            smtputf8: whether the extension is offered.
            pipelining: whether it is offered; commands in groups are understood in any case.
            on_message: called for each accepted message, in the server's thread.
        """
        if security != "plain" and tls_context is None:
            raise ValueError(f"security {security!r} needs a tls_context")
        self.port = port
        self.security: Security = security
        self.tls_context = tls_context
        self.user = user
        self.password = password
        self.any_auth = any_auth
        self.check_token = check_token
        self._mechanisms = frozenset(mechanisms)
        self.size_limit = size_limit
        self.smtputf8 = smtputf8
        self.pipelining = pipelining
        self.on_message = on_message
        self.messages: list[Message] = []
        self.sessions: list[SessionRecord] = []
        self.auths = 0
        self.failed_auths = 0
        self.faults = faults if isinstance(faults, Faults) else Faults(faults)
        self.connections: set[OpenConnection] = set()

    @property
    def host(self) -> str:
        """The address it listens on; the certificates contain it."""
        return LOOPBACK

    @property
    def requires_auth(self) -> bool:
        """Whether MAIL is refused before a login."""
        return self.user is not None and not self.any_auth

    @property
    def mechanisms(self) -> frozenset[str]:
        """The offered mechanisms: none without a user, and only those for tokens if there is a ``check_token``."""
        if self.check_token is not None:
            return self._mechanisms & TOKEN_MECHANISMS
        return self._mechanisms & PASSWORD_MECHANISMS if self.user is not None or self.any_auth else frozenset()

    # Faults

    def inject(self, *faults: Fault) -> None:
        """Add these faults after the existing ones."""
        self.faults.add(*faults)

    def clear_faults(self) -> None:
        """Work without faults from now on."""
        self.faults.clear()

    # Records

    @property
    def transactions(self) -> int:
        """The number of MAIL commands in all sessions."""
        return sum(session.transactions for session in self.sessions)

    def received(self, recipient: str) -> list[Message]:
        """Return the accepted messages for this recipient."""
        return [message for message in list(self.messages) if recipient in message.rcpt_tos]

    def accept(self, message: Message) -> None:
        """Store a message."""
        self.messages.append(message)
        if self.on_message is not None:
            self.on_message(message)

    def opened(self, connection: OpenConnection) -> SessionRecord:
        """Begin the record of a session."""
        self.connections.add(connection)
        record = SessionRecord(number=len(self.sessions) + 1)
        self.sessions.append(record)
        return record

    def closed(self, connection: OpenConnection) -> None:
        """Remove a connection from the open ones."""
        self.connections.discard(connection)
