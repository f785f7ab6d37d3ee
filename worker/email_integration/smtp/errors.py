"""What can go wrong in the dialogue, one class per kind.

``SMTPFailure`` is a ``smtplib.SMTPException``, so that code written for Django's own backend catches it too.

``SMTPFailure``
    ``Refused``          the server answered with 4yz or 5yz
    ``PoolBusy``         no session became free in time; nothing was asked of the server
    ``NoToken``          there is no token to log in with; nothing was asked of the server
    ``CannotConnect``    no connection, or none in time
    ``TLSFailed``        the connection could not be made secure
    ``NotOffered``       the server lacks something this relay's settings ask for
    ``ConnectionLost``   the connection ended, or fell silent, in the middle
    ``OutOfStep``        the same, where a group of commands was not answered one by one; says nothing of the mail
"""

from __future__ import annotations

import smtplib
from dataclasses import dataclass, field

from .replies import Phase, Reply


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of a server before it failed."""

    #: What it said first, as it came; may not be SMTP.
    first_words: bytes = field(default=b"", repr=False)
    #: The name by which we introduced ourselves.
    ehlo_name: str = ""
    #: The lines of its reply to EHLO, such as 'AUTH PLAIN LOGIN'.
    capabilities: tuple[str, ...] = ()


class SMTPFailure(smtplib.SMTPException):
    """The SMTP dialogue failed."""

    #: What a connection test adds, for its advice.
    seen = Seen()

    def __init__(self, phase: Phase, detail: str = "", reply: Reply | None = None) -> None:
        super().__init__(phase, detail, reply)
        self.phase = phase
        self.detail = detail
        self.reply = reply
        #: What was said of each recipient before, in their order.
        self.answered: dict[str, Reply] = {}

    @property
    def is_silence(self) -> bool:
        """Whether the time was over before there was an answer."""
        return isinstance(self.__cause__, TimeoutError)

    @property
    def code(self) -> int | None:
        """The server's reply code, if a reply decided it."""
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
    """No connection to the server."""


class TLSFailed(SMTPFailure):
    """The connection could not be made secure."""


class NotOffered(SMTPFailure):
    """The server does not offer what the settings ask for."""


class ConnectionLost(SMTPFailure):
    """The connection was lost."""


class OutOfStep(ConnectionLost):
    """The server did not answer what was said to it at once one by one."""
