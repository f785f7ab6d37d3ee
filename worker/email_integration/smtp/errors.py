"""The errors of the dialogue, one class per kind.

``SMTPFailure`` is a ``smtplib.SMTPException``, so code written for Django's own backend catches it too.

``SMTPFailure``
    ``Refused``          the server answered with 4yz or 5yz
    ``PoolBusy``         no session became free in time; nothing was sent to the server
    ``NoToken``          there is no token to log in with; nothing was sent to the server
    ``CannotConnect``    no connection, or none in time
    ``TLSFailed``        the TLS connection could not be set up
    ``NotOffered``       the server lacks a feature that this relay's settings ask for
    ``ConnectionLost``   the connection ended, or fell silent, in the middle
    ``OutOfStep``        the same, where a group of commands was not answered one by one; says nothing about the mail
"""

from __future__ import annotations

import smtplib
from dataclasses import dataclass, field

from .replies import Phase, Reply


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The observations of a server before its failure."""

    #: Its first octets, unchanged; they may not be SMTP.
    first_words: bytes = field(default=b"", repr=False)
    #: The name that was sent in EHLO.
    ehlo_name: str = ""
    #: The lines of its reply to EHLO, such as 'AUTH PLAIN LOGIN'.
    capabilities: tuple[str, ...] = ()


class SMTPFailure(smtplib.SMTPException):
    """The SMTP dialogue failed."""

    #: Set by a connection test, for its advice.
    seen = Seen()

    def __init__(self, phase: Phase, detail: str = "", reply: Reply | None = None) -> None:
        super().__init__(phase, detail, reply)
        self.phase = phase
        self.detail = detail
        self.reply = reply
        #: The replies to the recipients before the failure, in order.
        self.answered: dict[str, Reply] = {}

    @property
    def is_silence(self) -> bool:
        """Whether the timeout passed before there was an answer."""
        return isinstance(self.__cause__, TimeoutError)

    @property
    def code(self) -> int | None:
        """The server's reply code, if the cause is a reply."""
        return self.reply.code if self.reply else None

    def __str__(self) -> str:
        said = self.reply.short if self.reply else self.detail or type(self).__doc__
        return f"{self.phase}: {said}"


class Refused(SMTPFailure):
    """The server refused."""


class PoolBusy(SMTPFailure):
    """All sessions with the server are in use."""


class NoToken(SMTPFailure):
    """There is no OAuth token to log in with."""


class CannotConnect(SMTPFailure):
    """No connection to the server could be opened."""


class TLSFailed(SMTPFailure):
    """The TLS connection could not be set up."""


class NotOffered(SMTPFailure):
    """The server does not offer a feature that the settings require."""


class ConnectionLost(SMTPFailure):
    """The connection was lost."""


class OutOfStep(ConnectionLost):
    """The server did not answer a group of commands one by one."""
