"""What the server is like and what it saw, for the server itself and for each of its connections."""

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
    """What the server does with a connection."""

    def dismiss(self) -> None: ...

    def abort(self) -> None: ...


class ServerState:
    """What an ``SMTPServer`` is like, what it was told to do wrong, and what it saw.

    ``messages``, ``sessions``, ``auths`` and ``failed_auths`` tell what it saw, over all its starts. ``user``,
    ``password`` and the faults can be changed while it runs.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        security: Security = "starttls",
        tls_context: ssl.SSLContext | None = None,
        user: str | None = "user",
        password: str | None = "password",  # noqa: S107  # guards nothing
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

        Args:
            port: on loopback; 0 for a free one, which the first start chooses.
            security: STARTTLS required, TLS from the first byte, or none.
            tls_context: needed unless ``security`` is ``plain``.
            user: who must log in; None for a server without AUTH.
            password: the user's password.
            any_auth: let everybody in, with any credentials or none.
            check_token: says whether an OAuth token of the user's is good; passwords are not asked for then.
            mechanisms: how one may log in; of these, those are offered that make sense.
            faults: what goes wrong from the start; ``Faults`` can be shared by servers.
            size_limit: bytes a message may have.
            smtputf8: whether the extension is offered.
            pipelining: whether it is offered; commands in groups are understood anyway.
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
        """Where it listens; the certificates name it."""
        return LOOPBACK

    @property
    def requires_auth(self) -> bool:
        """Whether MAIL is refused before a login."""
        return self.user is not None and not self.any_auth

    @property
    def mechanisms(self) -> frozenset[str]:
        """The ways to log in that are offered: none without a user, by token alone if there is a check of tokens."""
        if self.check_token is not None:
            return self._mechanisms & TOKEN_MECHANISMS
        return self._mechanisms & PASSWORD_MECHANISMS if self.user is not None or self.any_auth else frozenset()

    # What goes wrong

    def inject(self, *faults: Fault) -> None:
        """Let these faults happen from now on, after those that are there already."""
        self.faults.add(*faults)

    def clear_faults(self) -> None:
        """Work properly from now on."""
        self.faults.clear()

    # What was seen

    @property
    def transactions(self) -> int:
        """How many MAIL commands came, over all sessions."""
        return sum(session.transactions for session in self.sessions)

    def received(self, recipient: str) -> list[Message]:
        """Give the accepted messages for this recipient."""
        return [message for message in list(self.messages) if recipient in message.rcpt_tos]

    def accept(self, message: Message) -> None:
        """Keep a message."""
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
        """End it."""
        self.connections.discard(connection)
