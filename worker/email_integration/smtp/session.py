"""One connection to a relay, from greeting to QUIT, with every verb said separately.

A transaction is four calls: ``begin`` (MAIL, RCPT, DATA), ``write`` (the content), ``finish`` (the final dot and its
reply). Up to the final dot the server has taken nothing: whoever loses the right to send it calls ``close``.
"""

from __future__ import annotations

import contextlib
import functools
import re
import select
import smtplib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import auth
from .errors import CannotConnect, ConnectionLost, NotOffered, Refused, SMTPFailure, TLSFailed
from .relay import Envelope, Relay
from .replies import Phase, Reply

#: How long, in seconds, a server may take to answer QUIT before the connection is simply closed.
_QUIT_TIMEOUT = 2.0


@dataclass(frozen=True, kw_only=True)
class Started:
    """What ``Session.begin`` came to: who may get the content, and who was refused with what."""

    accepted: tuple[str, ...] = field(repr=False)
    refused: dict[str, Reply] = field(repr=False)


class Session:
    """An SMTP session; made by ``Session.open``."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.opened_at = time.monotonic()
        self.used_at = self.opened_at
        self.transactions = 0
        self._in_transaction = False
        self._smtp: smtplib.SMTP = (
            smtplib.SMTP_SSL(
                timeout=relay.timeout, local_hostname=_local_hostname(), context=ssl.create_default_context()
            )
            if relay.use_ssl
            else smtplib.SMTP(timeout=relay.timeout, local_hostname=_local_hostname())
        )

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "idle" if self.is_idle else "busy"
        return f"<Session {self.relay.host}:{self.relay.port} {state} transactions={self.transactions}>"

    @classmethod
    def open(cls, relay: Relay) -> Session:
        """Connect, secure, authenticate.

        Raises ``CannotConnect``, ``TLSFailed``, ``NotOffered``, ``Refused`` or ``ConnectionLost``; the connection is
        closed then. Certificates are verified against the system's authorities (or SSL_CERT_FILE's).
        """
        session = cls(relay)
        try:
            session._connect()
            session._ehlo()
            if relay.use_tls:
                session._starttls()
                session._ehlo()
            if relay.username:
                session._authenticate()
        except SMTPFailure:
            session.close()
            raise
        session.used_at = time.monotonic()
        return session

    # -- opening ------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        relay = self.relay
        # smtplib takes the name that the certificate must show from here when it secures the connection.
        self._smtp._host = relay.host  # type: ignore[attr-defined]  # not in typeshed; set by SMTP.__init__ only
        try:
            code, text = self._smtp.connect(relay.host, relay.port)
        except ssl.SSLError as error:
            raise TLSFailed(Phase.CONNECT, _tls_words(error)) from error
        except smtplib.SMTPServerDisconnected as error:
            raise ConnectionLost(Phase.GREETING, "the server closed the connection without a greeting") from error
        except TimeoutError as error:
            raise CannotConnect(Phase.CONNECT, f"no answer within {relay.timeout:g} s") from error
        except (OSError, UnicodeError) as error:
            raise CannotConnect(Phase.CONNECT, getattr(error, "strerror", None) or type(error).__name__) from error
        if code != 220:
            raise Refused(Phase.GREETING, "", Reply.parse(code, text))
        # Content and final dot go out in separate writes; with Nagle's algorithm the second one waits (RFC 896).
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _ehlo(self) -> None:
        with self._during(Phase.EHLO):
            reply = Reply.parse(*self._smtp.ehlo())
            if not reply.positive:
                reply = Reply.parse(*self._smtp.helo())
        if not reply.positive:
            raise Refused(Phase.EHLO, "", reply)

    def _starttls(self) -> None:
        if not self._smtp.has_extn("starttls"):
            # Never go on in the clear: the offer may have been stripped on the way (RFC 3207 §6).
            raise NotOffered(Phase.STARTTLS, "the server does not offer STARTTLS")
        with self._during(Phase.STARTTLS):
            try:
                reply = Reply.parse(*self._smtp.starttls(context=ssl.create_default_context()))
            except ssl.SSLError as error:
                raise TLSFailed(Phase.STARTTLS, _tls_words(error)) from error
        if not reply.positive:
            raise Refused(Phase.STARTTLS, "", reply)

    def _authenticate(self) -> None:
        mechanism = auth.choose(self._smtp.esmtp_features.get("auth", ""), encrypted=self.is_encrypted)
        if mechanism is None:
            raise NotOffered(Phase.AUTH, "the server offers no way to log in that is known here")
        with self._during(Phase.AUTH):
            reply = auth.authenticate(self._smtp, mechanism, self.relay.username, self.relay.password)
        if reply.code != 235:
            raise Refused(Phase.AUTH, "", reply)

    # -- one transaction ----------------------------------------------------------------------------------------

    def begin(self, envelope: Envelope, *, size: int, eight_bit: bool) -> Started:
        """Say MAIL, RCPT for each recipient and, when at least one was taken, DATA.

        ``size`` is the content's length in octets (RFC 1870), ``eight_bit`` whether it holds octets beyond ASCII
        (RFC 6152). Raises ``Refused`` for MAIL and DATA, ``ConnectionLost`` for all; a refused recipient is no
        exception but part of what is returned.
        """
        self._in_transaction = True
        options = []
        if self._smtp.has_extn("size"):
            options.append(f"SIZE={size}")
        if eight_bit and self._smtp.has_extn("8bitmime"):
            options.append("BODY=8BITMIME")
        reply = self._command(Phase.MAIL, " ".join([f"MAIL FROM:<{envelope.sender}>", *options]))
        if not reply.positive:
            self._reset()
            raise Refused(Phase.MAIL, "", reply)
        accepted: list[str] = []
        refused: dict[str, Reply] = {}
        for recipient in envelope.recipients:
            reply = self._command(Phase.RCPT, f"RCPT TO:<{recipient}>")
            if reply.code == 421:
                self.close()
                raise Refused(Phase.RCPT, "", reply)
            if reply.positive:
                accepted.append(recipient)
            else:
                refused[recipient] = reply
        if accepted:
            reply = self._command(Phase.DATA, "DATA")
            if reply.code != 354:
                self._reset()
                raise Refused(Phase.DATA, "", reply)
        else:
            self._reset()
        return Started(accepted=tuple(accepted), refused=refused)

    def write(self, content: bytes) -> None:
        """Send the content, dot-stuffed (RFC 5321 §4.5.2), without the final dot. Lines must end in CRLF."""
        with self._during(Phase.CONTENT):
            self._smtp.send(_stuff(content))

    def finish(self, *, timeout: float) -> Reply:
        """Send the final dot and return its reply, waiting for it up to ``timeout`` seconds.

        Raises ``ConnectionLost`` in phase ``FINAL_DOT``: then the server may or may not have the mail (RFC 1047).
        """
        with self._during(Phase.FINAL_DOT):
            self._socket.settimeout(timeout)
            self._smtp.send(b".\r\n")
            reply = Reply.parse(*self._smtp.getreply())
            if reply.code < 200:
                raise smtplib.SMTPServerDisconnected("malformed reply")
            self._socket.settimeout(self.relay.timeout)
        self.transactions += 1
        self._ended()
        if reply.code == 421:
            self.close()
        return reply

    def _command(self, phase: Phase, line: str) -> Reply:
        with self._during(phase):
            reply = Reply.parse(*self._smtp.docmd(line))
            if reply.code < 200:
                raise smtplib.SMTPServerDisconnected("malformed reply")
        return reply

    def _reset(self) -> None:
        """Leave the transaction so that the session can carry another; a session that cannot is closed."""
        try:
            reply = self._command(Phase.MAIL, "RSET")
        except SMTPFailure:
            return
        if reply.positive:
            self._ended()
        else:
            self.close()

    def _ended(self) -> None:
        self._in_transaction = False
        self.used_at = time.monotonic()

    @property
    def _socket(self) -> socket.socket:
        if self._smtp.sock is None:
            raise smtplib.SMTPServerDisconnected("closed")
        return self._smtp.sock

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        return self._smtp.sock is None

    @property
    def is_idle(self) -> bool:
        """Open and between transactions: it can carry another mail."""
        return not self.is_closed and not self._in_transaction

    @property
    def is_encrypted(self) -> bool:
        return isinstance(self._smtp.sock, ssl.SSLSocket)

    @property
    def was_hung_up(self) -> bool:
        """Whether the server said or closed something between transactions, where it has no reason to."""
        if self.is_closed:
            return True
        watch = select.poll()
        watch.register(self._socket, select.POLLIN)
        return bool(watch.poll(0))

    def quit(self) -> None:
        """End the session politely; never raises."""
        if not self.is_closed:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                self._socket.settimeout(_QUIT_TIMEOUT)
                self._smtp.docmd("QUIT")
        self.close()

    def close(self) -> None:
        """Close the connection without a word; what was not acknowledged is not sent."""
        self._smtp.close()

    @contextlib.contextmanager
    def _during(self, phase: Phase) -> Iterator[None]:
        """Tell a lost or silent connection by the phase it happened in; the session is closed then."""
        try:
            yield
        except SMTPFailure:
            self.close()
            raise
        except TimeoutError as error:
            self.close()
            raise ConnectionLost(phase, "the server did not answer in time") from error
        except (smtplib.SMTPException, OSError) as error:
            self.close()
            timed_out = isinstance(error.__context__, TimeoutError)
            detail = "the server did not answer in time" if timed_out else "the connection was lost"
            raise ConnectionLost(phase, detail) from error


@functools.cache
def _local_hostname() -> str:
    """The name for EHLO: the host's full name, or its address as a literal (RFC 5321 §4.1.4).

    Found once per process: a slow resolver would otherwise delay every session.
    """
    name = socket.getfqdn()
    if "." in name and name.isascii():
        return name
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        address = "127.0.0.1"
    return f"[{address}]"


def _stuff(content: bytes) -> bytes:
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    return re.sub(rb"(?m)^\.", b"..", content)


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message}"
    return f"TLS failed: {error.reason or type(error).__name__}"
