"""The connection under the dialogue: what is said, what is heard, and how long that may take."""

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
MALFORMED = "the server's answer is not SMTP"
LOST = "the connection was lost"

#: RFC 5321 §4.5.3.1.5 says 512 octets, and servers say more.
_LONGEST_LINE = 8192
_MOST_LINES = 128
#: Octets of a reply's text that are kept: all that EHLO can have to say, and no more than people read of a refusal.
_KEPT = 8192
#: Three digits; '-' says that another line follows, and anything else that none does (RFC 5321 §4.2).
_REPLY_LINE = re.compile(rb"([2-5]\d\d)(-?)(.*)", re.S)
#: A reply of one line, which is what nearly all are.
_ONE_LINE = re.compile(rb"([2-5]\d\d)(?!-)([^\n]{0,8000})\n")


class Malformed(smtplib.SMTPException):
    """What came is no reply, or none that can come here."""


class _During:
    """The context of ``Connection.during``: one for each connection, because it is entered for each mail."""

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
    """``smtplib``'s commands over our own reading and writing.

    A command and its reply have ``timeout`` seconds together, however slowly the octets come; in a group of commands
    each further reply has as long again. Replies are bounded, and what comes beyond them is kept where it is noticed.
    Each way to fail is an ``OSError`` inside, which ``during`` turns into ``ConnectionLost``.
    """

    def __init__(
        self,
        *,
        timeout: float,
        local_hostname: str,
        secrets: tuple[bytes, ...] = (),
        said: tuple[bytes, ...] = (),
    ) -> None:
        """``secrets``, and what AUTH has ``said`` or will say of them, must not come back in a reply: it is kept, and
        read by people.
        """
        super().__init__(local_hostname=local_hostname, timeout=timeout)
        self._concealed = Concealed(secrets, said)
        self._phase = Phase.CONNECT
        self._patience = {phase: patience(phase, timeout) for phase in Phase}
        self._during = _During(self)
        # Whether the socket waits; otherwise it fails at once where it would have to.
        self._waits = True
        self._received = bytearray()
        # The code of the reply that is being read; empty before its first line, None when it is none.
        self._begun: bytes | None = b""
        self._due = 0.0
        #: How many octets of what was sent last are gone for sure; None when that is not known.
        self.gone: int | None = 0
        #: What the server said first, as it came, what it has just asked in AUTH, and the mechanism that let us in.
        self.first_words = b""
        self.challenge = b""
        self.mechanism = ""

    def during(self, phase: Phase, *, timeout: float | None = None) -> _During:
        """Wait inside as long as ``phase`` allows (``timeout`` seconds instead of the relay's), and fail in its name,
        or in that of the phase that it has come to by then.

        Whatever goes wrong in here closes the connection.
        """
        self.comes_to(phase, timeout=timeout)
        return self._during

    def comes_to(self, phase: Phase, *, timeout: float | None = None) -> None:
        """Go on to another phase, within the same ``during``."""
        self._phase = phase
        self.timeout = self._patience[phase] if timeout is None else patience(phase, timeout)

    def fail(self, error: BaseException) -> None:
        """Close the connection, and raise ``ConnectionLost`` for what went wrong with it; for nothing else."""
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
        """Connect, with TLS from the start when there is a ``context``, in ``timeout`` seconds in all.

        Raises ``OSError``, ``ssl.SSLError`` among them, and ``ValueError`` or ``OverflowError`` for what cannot be a
        host or a port. Once there is a connection, ``sock`` is set.
        """
        until = time.monotonic() + self.timeout
        self.sock = connect(host, port, self.timeout)
        # A large content and its final dot go out in separate writes; with Nagle's algorithm the second one waits (RFC
        # 896).
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self._wrap(context, host, within=until - time.monotonic())
        self.start_clock()

    def wait_for_first_words(self) -> None:
        """Wait until the server says something, which is kept and stays to be heard. Raises ``OSError``."""
        self._receive()
        self.first_words = bytes(self._received)

    @with_secrets
    def conceal(self, *secrets: bytes, said: Iterable[bytes] = ()) -> None:
        """Let no reply give these back either, nor what AUTH will have ``said`` of them."""
        self._concealed.add(*secrets, said=said)

    @with_secrets
    def without_secrets(self, text: bytes) -> bytes:
        """What a server has said, less what it was told in AUTH."""
        return self._concealed.hide(text, pieces=True)

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Put TLS over the connection, after the 220 to STARTTLS."""
        if self._received:
            # Somebody on the way wants to be heard as if it had come encrypted.
            raise Malformed
        self._wrap(context, host, within=self.timeout)
        self.esmtp_features = {}  # said in the clear, and to be forgotten (RFC 3207 §4.2)

    def _wrap(self, context: ssl.SSLContext, host: str, *, within: float) -> None:
        if within <= 0:
            raise TimeoutError
        sock = self._live_socket
        sock.settimeout(within)
        self._waits = True
        self.sock = context.wrap_socket(sock, server_hostname=tls_name(host))

    @property
    def tls_version(self) -> str:
        """'TLSv1.3', or '' where nothing is encrypted."""
        return (self.sock.version() or "") if isinstance(self.sock, ssl.SSLSocket) else ""

    # -- talking ------------------------------------------------------------------------------------------------

    def say(self, lines: Iterable[str]) -> None:
        """Send commands in one write. Raises what ``octets`` raises."""
        self.send(self.octets(lines))

    def octets(self, lines: Iterable[str]) -> bytes:
        """Commands as they are sent. Raises ``ValueError`` for one with a line end, or a character that cannot be."""
        lines = [*lines, ""]
        said = "\r\n".join(lines)
        if not said.count("\r") == said.count("\n") == len(lines) - 1:
            raise ValueError("a command cannot have a line end in it")
        return said.encode(self.command_encoding)

    def send(self, s: ReadableBuffer | str) -> None:
        """Send, and start the clock for the reply. Unlike ``smtplib``'s it leaves the connection open when it fails:
        the server may have said why.
        """
        if self._received:
            raise Malformed  # the server is ahead of us: what it said would be taken for the reply to this
        sock = self._live_socket
        self._due = time.monotonic() + self.timeout
        octets = s.encode(self.command_encoding) if isinstance(s, str) else s
        self.gone = 0
        if self._phase is Phase.AUTH:
            self._concealed.heard_by_server(bytes(octets))
        # Most of what is said finds room at once: then the socket need not be told how long to wait.
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
        """Read one reply, all its lines, of which the first ``_KEPT`` octets are kept.

        Raises ``OSError``, ``Malformed`` among them.
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
        # What is done is looked through for the whole alone: people do not read it, and there is much of it. Only the
        # receipt for a mail is kept.
        pieces = self._begun >= b"4" or self._phase in (Phase.AUTH, Phase.FINAL_DOT)
        return int(self._begun), self._concealed.hide(said, pieces=pieces, decoded=self._phase.before_mail)[:_KEPT]

    def _lines_of_reply(self) -> bytes:
        """Read all lines of a reply: give their text, and leave their code in ``_begun``."""
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
            # More than is kept: a secret is not to be cut in two before it is found.
            said = said[: _KEPT + _LONGEST_LINE]
            more = hyphen == b"-"
            if not more:
                break
        if more:
            raise Malformed
        return said

    def hear(self, *, within: float | None = None) -> Reply:
        """Read one reply; ``within`` so many seconds from now if that is sooner. Raises what ``getreply`` raises."""
        if within is not None:
            self._due = min(self._due, time.monotonic() + within)
        return Reply.parse(*self.getreply())

    def hear_verdict(self) -> Reply:
        """Read the reply to a final dot. Its code is what counts: where the rest of it is lost, endless or no text, the
        three digits at its beginning are the reply, and the connection is closed. Raises what ``hear`` raises for what
        does not begin so.
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
        """Whether anything is there that was not read yet, the connection's end included."""
        if self.sock is None or self._received:
            return True
        if self._receive_within(0) is None:
            return False
        self.start_clock()
        return True

    def _receive_within(self, seconds: float) -> bytes | None:
        """Read what is there within so many seconds; 0 does not wait.

        Return empty bytes at the end of the connection, which the next read finds again, and None for nothing. The
        socket itself keeps the time: poll() is missing on Windows, and select() takes no high descriptors.
        """
        sock = self._live_socket
        if seconds or self._waits:
            self._wait(sock, seconds)
        try:
            came = sock.recv(_LONGEST_LINE)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return None  # under TLS octets may have come that are not for us, such as a ticket
        except OSError:
            return b""
        self._received += came
        return came

    def close(self) -> None:
        """Close the connection, and forget what came over it."""
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
            # Half a line is no reply: '250' may have been the beginning of '250-'.
            raise Malformed if self._received else smtplib.SMTPServerDisconnected("closed")
        self._received += came

    def _wait(self, sock: socket.socket, seconds: float) -> None:
        """Have our socket wait for so long; 0 does not wait."""
        sock.settimeout(seconds)
        self._waits = seconds > 0

    def start_clock(self) -> None:
        """Give what is waited for next the whole of its time."""
        self._due = time.monotonic() + self.timeout

    @property
    def _live_socket(self) -> socket.socket:
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("closed")
        return self.sock
