"""One connection to a relay, from greeting to QUIT, with every verb said separately.

A transaction is four calls: ``begin`` (MAIL, RCPT, DATA), ``write`` (the content), ``finish`` (the final dot and its
reply). Up to the final dot the server has taken nothing: whoever loses the right to send it calls ``close``.
"""

from __future__ import annotations

import contextlib
import re
import select
import smtplib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from .dialogue import Malformed, during, parse
from .errors import ConnectionLost, Refused, SMTPFailure
from .opening import open_connection
from .relay import Envelope, Relay
from .replies import Phase, Reply

#: How long, in seconds, a server may take to answer QUIT before the connection is simply closed.
_QUIT_TIMEOUT = 2.0

#: Octets of content sent under one timeout: a socket's timeout is for all that one call sends.
_CHUNK = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Started:
    """What ``Session.begin`` came to: who may get the content, and who was refused with what."""

    accepted: tuple[str, ...] = field(repr=False)
    refused: dict[str, Reply] = field(repr=False)


class Session:
    """An SMTP session; made by ``Session.open``."""

    def __init__(self, relay: Relay, connection: smtplib.SMTP) -> None:
        self.relay = relay
        self.opened_at = self.used_at = time.monotonic()
        #: How many MAIL commands it has carried.
        self.transactions = 0
        self._in_transaction = False
        self._smtp = connection

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "idle" if self.is_idle else "busy"
        return f"<Session {self.relay.host}:{self.relay.port} {state} transactions={self.transactions}>"

    @classmethod
    def open(cls, relay: Relay) -> Session:
        """Connect, secure, authenticate. Raises what ``open_connection`` raises."""
        return cls(relay, open_connection(relay))

    # -- one transaction ----------------------------------------------------------------------------------------

    def begin(self, envelope: Envelope, *, size: int, eight_bit: bool) -> Started:
        """Say MAIL, RCPT for each recipient and, when at least one was taken, DATA.

        ``size`` is the content's length in octets (RFC 1870), ``eight_bit`` whether it holds octets beyond ASCII
        (RFC 6152). Raises ``Refused`` for MAIL and DATA, ``ConnectionLost`` for all; a refused recipient is no
        exception but part of what is returned.
        """
        self._in_transaction = True
        self.transactions += 1
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
            if reply.code == 421:  # the server is closing the connection (RFC 5321 §3.8)
                self.close()
                raise Refused(Phase.RCPT, "", reply)
            if reply.positive:
                accepted.append(recipient)
            else:
                refused[recipient] = reply
        if accepted:
            reply = self._command(Phase.DATA, "DATA", go_on=True)
            if reply.code != 354:
                self._reset()
                raise Refused(Phase.DATA, "", reply)
        else:
            self._reset()
        return Started(accepted=tuple(accepted), refused=refused)

    def write(self, content: bytes) -> None:
        """Send the content, dot-stuffed (RFC 5321 §4.5.2), without the final dot.

        Bare CR and LF become CRLF (§2.3.8): a server that takes them for line ends might see a final dot among them.
        Raises ``ConnectionLost``, and ``Refused`` when the server did not wait for the end to say no.
        """
        stuffed = memoryview(_stuff(content))
        try:
            with during(Phase.CONTENT):
                for start in range(0, len(stuffed), _CHUNK):
                    self._socket.sendall(stuffed[start : start + _CHUNK])
        except ConnectionLost:
            self._heed_early_reply()
            self.close()
            raise

    def finish(self, *, timeout: float) -> Reply:
        """Send the final dot and return its reply, waiting for it up to ``timeout`` seconds.

        Raises ``ConnectionLost`` in phase ``FINAL_DOT``: then the server may or may not have the mail (RFC 1047). In
        phase ``CONTENT``, like ``Refused``, it says that the dot was not sent.
        """
        self._heed_early_reply()
        with self._during(Phase.FINAL_DOT):
            self._socket.settimeout(timeout)
            self._socket.sendall(b".\r\n")
            reply = parse(*self._smtp.getreply())
            if 300 <= reply.code < 400:  # says nothing about the mail
                raise Malformed
            self._socket.settimeout(self.relay.timeout)
        self._ended()
        if reply.code == 421:
            self.close()
        return reply

    def _heed_early_reply(self) -> None:
        """Raise, and close, if the server spoke or hung up before it was asked: it has not taken the mail."""
        if not self.was_hung_up:
            return
        with self._during(Phase.CONTENT):
            reply = parse(*self._smtp.getreply())
            self.close()
            if reply.code < 400:
                raise Malformed
        raise Refused(Phase.CONTENT, "", reply)

    def _command(self, phase: Phase, line: str, *, go_on: bool = False) -> Reply:
        """Say ``line``. 2yz is what says yes, 354 where ``go_on``; the other one is out of step with the commands."""
        with self._during(phase):
            reply = parse(*self._smtp.docmd(line))
            if reply.code < 400 and go_on != (reply.code == 354):
                raise Malformed
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
        """Whether the server said or closed something where it has no reason to: nothing was asked."""
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
        """Close the session for whatever goes wrong in here."""
        try:
            with during(phase):
                yield
        except SMTPFailure:
            self.close()
            raise


def _stuff(content: bytes) -> bytes:
    if not content.count(b"\r") == content.count(b"\n") == content.count(b"\r\n"):
        content = re.sub(rb"\r\n?|\n", b"\r\n", content)
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    return re.sub(rb"(?m)^\.", b"..", content)
