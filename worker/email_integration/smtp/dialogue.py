"""The connection under the dialogue: it sends commands, reads replies, and limits the time of both."""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from email_integration.secrecy import with_secrets

from .concealing import Concealed
from .connecting import connect, tls_name
from .errors import ConnectionLost, SMTPFailure
from .replies import Phase, Reply
from .timeouts import patience

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

SILENT = "the server did not answer in time"
MALFORMED = "the server's reply is not valid SMTP"
LOST = "the connection was lost"

#: RFC 5321 §4.5.3.1.5 allows 512 octets, and servers send more.
_LONGEST_LINE = 8192
_MOST_LINES = 128
#: Octets of a reply's text that are kept: enough for every reply to EHLO, and for the part of a refusal that people
#: read.
_KEPT = 8192
#: Three digits; '-' means that another line follows, any other character that none does (RFC 5321 §4.2).
_REPLY_LINE = re.compile(rb"([2-5]\d\d)(-?)(.*)", re.S)
#: A reply of one line, the form of nearly all replies.
_ONE_LINE = re.compile(rb"([2-5]\d\d)(?!-)([^\n]{0,8000})\n")


class Malformed(smtplib.SMTPException):
    """The received octets are not a reply, or not a reply that is allowed at this point."""


class _During:
    """The context of ``Connection.during``: made once for each connection, because each mail enters it."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._connection.fail(error)


class Connection(smtplib.SMTP):
    """``smtplib``'s commands with our own reading and writing.

    A command and its reply have ``timeout`` seconds together, however slowly the octets arrive. In a group of commands
    each further reply has the same time again. Replies are limited in size, and surplus octets are kept and detected
    later. Each failure is an ``OSError`` inside, which ``during`` turns into ``ConnectionLost``.
    """

    def __init__(
        self,
        *,
        timeout: float,
        local_hostname: str,
        secrets: tuple[bytes, ...] = (),
        said: tuple[bytes, ...] = (),
    ) -> None:
        """Make a connection that hides secrets. ``timeout`` is in seconds.

        Replies are stored and read by people. Therefore ``secrets``, and ``said``, their forms in AUTH, are removed
        from them.
        """
        super().__init__(local_hostname=local_hostname, timeout=timeout)
        self._concealed = Concealed(secrets, said)
        self._phase = Phase.CONNECT
        self._patience = {phase: patience(phase, timeout) for phase in Phase}
        self._during = _During(self)
        # Whether the socket blocks; otherwise an operation that would block fails at once.
        self._waits = True
        self._received = bytearray()
        # The code of the reply that is being read; empty before its first line, None when the octets are not a reply.
        self._begun: bytes | None = b""
        self._due = 0.0
        #: How many octets of the last write were certainly sent; None when this is not known.
        self.gone: int | None = 0
        #: The server's first octets, unchanged; its last challenge in AUTH; and the mechanism of the accepted login.
        self.first_words = b""
        self.challenge = b""
        self.mechanism = ""

    def during(self, phase: Phase, *, timeout: float | None = None) -> _During:
        """Return a context for ``phase``: its timeouts apply, and errors are raised with it or with a later phase.

        ``timeout`` is in seconds; the default is the relay's. Any error inside closes the connection. Raises
        ``ConnectionLost`` in place of an ``OSError``.
        """
        self.comes_to(phase, timeout=timeout)
        return self._during

    def comes_to(self, phase: Phase, *, timeout: float | None = None) -> None:
        """Go on to another phase within the same ``during``. ``timeout`` is in seconds; the default is the relay's."""
        self._phase = phase
        self.timeout = self._patience[phase] if timeout is None else patience(phase, timeout)

    def fail(self, error: BaseException) -> None:
        """Close the connection, and raise ``ConnectionLost`` for an ``OSError`` that is not an ``SMTPFailure``."""
        self.close()
        if isinstance(error, SMTPFailure) or not isinstance(error, OSError):
            return
        if isinstance(error, TimeoutError):
            detail = SILENT
        elif isinstance(error, Malformed):
            detail = MALFORMED
        else:
            detail = LOST
        raise ConnectionLost(self._phase, detail) from error

    # -- connecting ---------------------------------------------------------------------------------------------

    def dial(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        """Connect within ``timeout`` seconds in total, with TLS from the start when there is a ``context``.

        Raises ``OSError``, of which ``ssl.SSLError`` is one kind, and ``ValueError`` or ``OverflowError`` for an
        impossible host or port. As soon as there is a connection, ``sock`` is set.
        """
        until = time.monotonic() + self.timeout
        self.sock = connect(host, port, self.timeout)
        # A large content and its final dot are sent in separate writes; with Nagle's algorithm the second one waits
        # (RFC 896).
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self._wrap(context, host, within=until - time.monotonic())
        self.start_clock()

    def wait_for_first_words(self) -> None:
        """Wait until the server sends something. It is stored, and can still be read as a reply. Raises ``OSError``."""
        self._receive()
        self.first_words = bytes(self._received)

    @with_secrets
    def conceal(self, *secrets: bytes, said: Iterable[bytes] = ()) -> None:
        """Remove these secrets, and ``said``, their forms in AUTH, from all further replies."""
        self._concealed.add(*secrets, said=said)

    @with_secrets
    def without_secrets(self, text: bytes) -> bytes:
        """Return a text of the server without the secrets that were sent in AUTH."""
        return self._concealed.hide(text, pieces=True)

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Start TLS on the connection, after the 220 to STARTTLS. Raises ``Malformed`` if octets followed the 220."""
        if self._received:
            # An attacker on the way could have sent them to be read as if they were encrypted.
            raise Malformed
        self._wrap(context, host, within=self.timeout)
        self.esmtp_features = {}  # sent in the clear, and to be discarded (RFC 3207 §4.2)

    def _wrap(self, context: ssl.SSLContext, host: str, *, within: float) -> None:
        if within <= 0:
            raise TimeoutError
        sock = self._live_socket
        sock.settimeout(within)
        self._waits = True
        self.sock = context.wrap_socket(sock, server_hostname=tls_name(host))

    @property
    def tls_version(self) -> str:
        """The TLS version, such as 'TLSv1.3', or '' for an unencrypted connection."""
        return (self.sock.version() or "") if isinstance(self.sock, ssl.SSLSocket) else ""

    # -- commands and replies -----------------------------------------------------------------------------------------

    def say(self, lines: Iterable[str]) -> None:
        """Send commands in one write. Raises the errors of ``octets`` and ``send``."""
        self.send(self.octets(lines))

    def octets(self, lines: Iterable[str]) -> bytes:
        """Return the commands in the form to send.

        Raises ``ValueError`` for a command with a line end, or with a character that cannot be encoded.
        """
        lines = [*lines, ""]
        said = "\r\n".join(lines)
        if not said.count("\r") == said.count("\n") == len(lines) - 1:
            raise ValueError("a command must not contain a line end")
        return said.encode(self.command_encoding)

    def send(self, s: ReadableBuffer | str) -> None:
        """Send, and start the clock for the reply. Raises ``OSError``, of which ``Malformed`` is one kind.

        Unlike in ``smtplib`` the connection stays open after an error: the server may have sent the reason.
        """
        if self._received:
            raise Malformed  # the server sent too much: it would be read as the reply to this command
        sock = self._live_socket
        self._due = time.monotonic() + self.timeout
        octets = s.encode(self.command_encoding) if isinstance(s, str) else s
        self.gone = 0
        if self._phase is Phase.AUTH:
            self._concealed.heard_by_server(bytes(octets))
        # Most commands fit into the socket's buffer at once, so the socket needs no timeout.
        if self._waits:
            self._wait(sock, 0.0)
        try:
            sent = sock.send(octets)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            sent = 0
        view = memoryview(octets)
        if sent < view.nbytes:
            self.gone = None
            self._wait(sock, max(0.001, self._due - time.monotonic()))
            sock.sendall(view.cast("B")[sent:])

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply with all its lines, and return its code and the first ``_KEPT`` octets of its text.

        Raises ``OSError``, of which ``Malformed`` is one kind.
        """
        self._begun = b""
        if not self._received:
            self._receive()
        only = _ONE_LINE.match(self._received)
        if only is None:
            said = self._lines_of_reply()
        else:
            self._begun, said = only.groups()
            said = said.strip()
            del self._received[: only.end()]
        self._due = time.monotonic() + self.timeout
        self.challenge = said if self._phase is Phase.AUTH and self._begun == b"334" else b""
        if self._concealed.is_empty:
            return int(self._begun), said[:_KEPT]
        # Positive replies are searched only for whole secrets: people do not read them, and there are many of them. The
        # exception is the reply to the final dot, which is kept.
        pieces = self._begun >= b"4" or self._phase in (Phase.AUTH, Phase.FINAL_DOT)
        return int(self._begun), self._concealed.hide(said, pieces=pieces, decoded=self._phase.before_mail)[:_KEPT]

    def _lines_of_reply(self) -> bytes:
        """Read all lines of a reply, return their text, and leave their code in ``_begun``. Raises ``OSError``."""
        more, said = True, b""
        for number in range(_MOST_LINES):
            found = _REPLY_LINE.fullmatch(self._line())
            # All lines of a reply have the same code (RFC 5321 §4.2.1).
            if found is None or (self._begun and found[1] != self._begun):
                if found is not None or not self._begun:
                    self._begun = None
                raise Malformed
            self._begun, hyphen, text = found.groups()
            said = said + b"\n" + text.strip() if number else text.strip()
            # More than is kept, so that no secret is cut in two before it is found.
            said = said[: _KEPT + _LONGEST_LINE]
            more = hyphen == b"-"
            if not more:
                break
        if more:
            raise Malformed
        return said

    def hear(self, *, within: float | None = None) -> Reply:
        """Read one reply, within ``within`` seconds from now if that is sooner. Raises the errors of ``getreply``."""
        if within is not None:
            self._due = min(self._due, time.monotonic() + within)
        return Reply.parse(*self.getreply())

    def hear_verdict(self) -> Reply:
        """Read the reply to a final dot.

        Only its code matters. Where the rest is lost, endless or not text, the three digits at the beginning are the
        reply, and the connection is closed. Raises the errors of ``hear`` when there are no such digits.
        """
        try:
            return self.hear()
        except OSError:
            started = _REPLY_LINE.match(self._received) if self._begun == b"" else None
            code = self._begun or (started and started[1])
            if not code:
                raise
            self.close()
            return Reply(code=int(code))

    def has_spoken(self) -> bool:
        """Return whether unread octets are there, or the end of the connection."""
        if self.sock is None or self._received:
            return True
        if self._receive_within(0) is None:
            return False
        self.start_clock()
        return True

    def _receive_within(self, seconds: float) -> bytes | None:
        """Read the octets that arrive within ``seconds``; 0 does not wait.

        Return empty bytes at the end of the connection, which the next read finds again, and None when nothing arrives.
        The socket itself limits the time: poll() is missing on Windows, and select() accepts no high descriptors.
        """
        sock = self._live_socket
        if seconds or self._waits:
            self._wait(sock, seconds)
        try:
            came = sock.recv(_LONGEST_LINE)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return None  # with TLS the octets may belong to the protocol itself, such as a ticket
        except OSError:
            return b""
        self._received += came
        return came

    def close(self) -> None:
        """Close the connection, and discard the octets that were not read."""
        self._received.clear()
        super().close()

    def _line(self) -> bytes:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > _LONGEST_LINE:
                raise Malformed
            self._receive()
        if end > _LONGEST_LINE:
            raise Malformed
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line.removesuffix(b"\r")

    def _receive(self) -> None:
        sock = self._live_socket
        left = self._due - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._wait(sock, left)
        came = sock.recv(_LONGEST_LINE)
        if not came:
            # Half a line is not a reply: '250' may have been the beginning of '250-'.
            raise Malformed if self._received else smtplib.SMTPServerDisconnected("closed")
        self._received += came

    def _wait(self, sock: socket.socket, seconds: float) -> None:
        """Set the socket's timeout to ``seconds``; 0 does not wait."""
        sock.settimeout(seconds)
        self._waits = seconds > 0

    def start_clock(self) -> None:
        """Give the next reply its full time, from now."""
        self._due = time.monotonic() + self.timeout

    @property
    def _live_socket(self) -> socket.socket:
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("closed")
        return self.sock
