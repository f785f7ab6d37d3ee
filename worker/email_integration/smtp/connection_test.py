"""Test a relay, from connecting to a test mail, and report the result of each stage."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from email_integration.secrecy import with_secrets

from .dialogue import Connection
from .errors import CannotConnect, ConnectionLost, NoToken, Refused, Seen, SMTPFailure
from .opening import steps, unconnected
from .relay import Envelope, Opening, Relay
from .replies import Phase
from .session import Session


class Kind(StrEnum):
    """The kind of a stage."""

    TOKEN = "token"  # noqa: S105  # a word
    CONNECT = "connect"
    TLS = "tls"
    EHLO = "ehlo"
    AUTH = "auth"
    SEND = "send"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The server's certificate: subject, issuer and expiry."""

    subject: str
    issuer: str
    expires: dt.datetime


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the dialogue. ``seconds`` is None for TLS from the start, whose time is part of connecting."""

    kind: Kind
    ok: bool
    seconds: float | None
    #: The result: host and port, TLS version, SASL mechanism, the server's reply; may contain an address.
    detail: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class ConnectionTestMail:
    """A mail to send in the tested session; content as bytes with CRLF, including the From header."""

    envelope: Envelope
    content: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a connection test. ``failure`` is None for success; ``seconds`` is the total time."""

    relay: Relay
    stages: tuple[Stage, ...]
    seconds: float
    tls_version: str = ""
    certificate: Certificate | None = None
    #: The mechanism of the accepted login.
    mechanism: str = ""
    capabilities: tuple[str, ...] = ()
    #: The name that was sent in EHLO.
    ehlo_name: str = ""
    failure: SMTPFailure | None = None

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def connected(self) -> bool:
        """Whether the session was opened, whatever the outcome of a mail in it."""
        return self.ok or (self.failure is not None and not self.failure.phase.before_mail)

    @property
    def summary(self) -> str:
        """One line without addresses; of the server's replies it contains only numbers."""
        if self.failure is not None:
            return str(self.failure)
        return ", ".join(filter(None, (self.tls_version or "not encrypted", self.mechanism)))


@with_secrets
def run_connection_test(relay: Relay, mail: ConnectionTestMail | None = None) -> Report:
    """Open a session with ``relay``, send ``mail`` in it if given, end the session, and return a report.

    For a relay with OAuth, a token is fetched first; this has a separate time limit. Never raises for errors of the
    server or the network: the report's ``failure`` holds them. The test gives up after ``relay.timeout`` seconds in
    total, name resolution included, however the server delays; sending ``mail`` has the same time again. A mail whose
    final dot was not answered may have been accepted (RFC 1047).
    """
    test = _ConnectionTest(relay, mail)
    if not test.has_token():
        return test.report()
    # In a separate thread: a socket's timeout limits neither a resolver nor a server that sends a byte now and then.
    thread = threading.Thread(target=test.run, name="smtp-connection-test", daemon=True)
    thread.start()
    if test.opened.wait(relay.timeout) and mail is not None:
        test.done.wait(relay.timeout)
    report = test.report()
    if report.ok:
        thread.join(_POLITENESS)
    return report


#: Maximum time, in seconds, that the caller waits for the server's answer to QUIT.
_POLITENESS = 0.5


class _ConnectionTest:
    """The state of a running test, which its thread writes and its caller reads, both under the lock."""

    def __init__(self, relay: Relay, mail: ConnectionTestMail | None) -> None:
        #: Set when the session is open or could not be opened; set when the test is over.
        self.opened, self.done = threading.Event(), threading.Event()
        #: The thread's timeout is longer than the caller's, so the caller always gives up first.
        self._relay = replace(relay, timeout=2 * relay.timeout + 1)
        self._given = relay
        self._mail = mail
        self._smtp = unconnected(self._relay)
        self._lock = threading.Lock()
        self._started = self._stage_began = time.monotonic()
        self._kind = Kind.CONNECT
        self._stages: list[Stage] = []
        self._seen: dict[str, Any] = {}
        self._failure: SMTPFailure | None = None
        self._ended: float | None = None

    @with_secrets
    def has_token(self) -> bool:
        """Fetch the token, if one is needed, in the caller's thread, which may use the database."""
        tokens = self._relay.tokens
        if tokens is None:
            return True
        self._begin(Kind.TOKEN)
        try:
            self._relay = replace(self._relay, tokens=_InHand(tokens.another() or tokens.current()))
        except NoToken as failure:
            self._end(failure)
            return False
        self._passed("")
        self._begin(Kind.CONNECT)
        return True

    @with_secrets
    def run(self) -> None:
        """Run the test; never raises an error of the SMTP dialogue."""
        try:
            self._open()
            if self._mail is not None:
                self._begin(Kind.SEND)
                self.opened.set()
                self._passed(self._send(self._mail))
            self._end(None)
        except SMTPFailure as failure:
            self._end(failure)
        except Exception as error:  # any error is shown, so it does not look like a server without an answer
            self._end(SMTPFailure(_PHASES[self._kind], f"unexpected {type(error).__name__}"))
        finally:
            self.opened.set()
            self.done.set()
            Session(self._relay, self._smtp).quit()

    def report(self) -> Report:
        """Return the report now; end the test if it is still running."""
        self._end(self._out_of_time())
        if self._failure is not None:
            self._interrupt()
        with self._lock:
            seconds = (self._ended or time.monotonic()) - self._started
            return Report(
                relay=self._given, stages=tuple(self._stages), seconds=seconds, failure=self._failure, **self._seen
            )

    # -- the dialogue, in the thread ----------------------------------------------------------------------------

    def _open(self) -> None:
        secured_before_ehlo = not self._relay.use_tls
        # The addresses of the host share the caller's time, not the thread's longer time.
        for phase in steps(self._smtp, self._relay, connect_within=self._given.timeout):
            if phase is Phase.CONNECT:
                continue  # the stage is passed when the server has sent its greeting
            if phase is Phase.GREETING:
                self._passed(f"{self._relay.host}:{self._relay.port}")
                if self._relay.use_ssl:
                    self._begin(Kind.TLS)
                    self._secured(timed=False)
                self._begin(Kind.EHLO)
            elif phase is Phase.STARTTLS:
                self._secured(timed=True)
                self._begin(Kind.EHLO)
                secured_before_ehlo = True
            elif phase is Phase.EHLO and not secured_before_ehlo:
                self._begin(Kind.TLS)  # EHLO is sent again, encrypted, and that reply is shown
            elif phase is Phase.EHLO:
                self._see(capabilities=_capabilities(self._smtp), ehlo_name=self._smtp.local_hostname)
                self._passed("")
                if self._relay.logs_in:
                    self._begin(Kind.AUTH)
            else:
                self._see(mechanism=self._smtp.mechanism)
                self._passed(self._smtp.mechanism)

    def _secured(self, *, timed: bool) -> None:
        sock = self._smtp.sock
        if isinstance(sock, ssl.SSLSocket):
            version = sock.version() or ""
            self._see(tls_version=version, certificate=_certificate(sock))
            self._passed(version, timed=timed)

    def _send(self, mail: ConnectionTestMail) -> str:
        # Without pipelining: sending mail finds out how a server handles several commands at once.
        session = Session(replace(self._relay, pipelining=False), self._smtp)
        started = session.begin(
            Opening(envelope=mail.envelope, size=len(mail.content), eight_bit=not mail.content.isascii())
        )
        for reply in started.refused.values():
            session.close()
            raise Refused(Phase.RCPT, "", reply)
        session.write(mail.content)
        reply = session.finish(timeout=self._relay.timeout)
        if not reply.positive:
            raise Refused(Phase.FINAL_DOT, "", reply)
        return f"{reply.code} {reply.text}"

    def _interrupt(self) -> None:
        sock = self._smtp.sock
        if sock is not None:
            with contextlib.suppress(OSError):  # it may be closed already
                sock.shutdown(socket.SHUT_RDWR)

    # -- notes --------------------------------------------------------------------------------------------------

    def _begin(self, kind: Kind) -> None:
        with self._lock:
            self._kind, self._stage_began = kind, time.monotonic()

    def _see(self, **seen: Any) -> None:
        with self._lock:
            if self._ended is None:
                self._seen.update(seen)

    def _passed(self, detail: str, *, timed: bool = True) -> None:
        with self._lock:
            if self._ended is None:
                seconds = time.monotonic() - self._stage_began if timed else None
                self._stages.append(Stage(kind=self._kind, ok=True, seconds=seconds, detail=detail))

    def _end(self, failure: SMTPFailure | None) -> None:
        with self._lock:
            if self._ended is not None:
                return
            self._ended = time.monotonic()
            self._failure = failure
            if failure is not None:
                failure.seen = Seen(
                    first_words=self._smtp.without_secrets(self._smtp.first_words),
                    ehlo_name=self._smtp.local_hostname,
                    capabilities=self._seen.get("capabilities", ()),
                )
                said = f"{failure.reply.code} {failure.reply.text}" if failure.reply else failure.detail
                seconds = self._ended - self._stage_began
                self._stages.append(Stage(kind=self._kind, ok=False, seconds=seconds, detail=said))

    def _out_of_time(self) -> SMTPFailure:
        detail = f"the server did not answer within {self._given.timeout:g} s"
        kind: type[SMTPFailure] = ConnectionLost
        phase, sock = _PHASES[self._kind], self._smtp.sock
        if self._kind is Kind.CONNECT and sock is None:
            kind = CannotConnect
        elif self._kind is Kind.CONNECT:
            encrypts = self._given.use_ssl and not isinstance(sock, ssl.SSLSocket)
            phase = Phase.CONNECT if encrypts else Phase.GREETING
        failure = kind(phase, detail)
        failure.__cause__ = TimeoutError()
        return failure


class _InHand:
    """The token that was fetched for a test."""

    def __init__(self, token: str) -> None:
        self._token = token

    def current(self) -> str:
        return self._token

    def another(self, refused: str = "") -> str | None:
        return None


_PHASES = {
    Kind.TOKEN: Phase.AUTH,
    Kind.CONNECT: Phase.CONNECT,
    Kind.TLS: Phase.STARTTLS,
    Kind.EHLO: Phase.EHLO,
    Kind.AUTH: Phase.AUTH,
    Kind.SEND: Phase.FINAL_DOT,
}


def _capabilities(smtp: Connection) -> tuple[str, ...]:
    offers = [" ".join([name.upper(), *value.split()]) for name, value in smtp.esmtp_features.items()]
    return tuple(smtp.without_secrets(offer.encode()).decode("utf-8", "replace") for offer in offers)


def _certificate(sock: ssl.SSLSocket) -> Certificate | None:
    found = sock.getpeercert()
    if not found:
        return None
    names: Any = found.get("subjectAltName", ())
    return Certificate(
        subject=_name(found.get("subject", ()), "commonName") or ", ".join(value for _, value in names[:3]),
        issuer=_name(found.get("issuer", ()), "commonName", "organizationName"),
        expires=dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(found["notAfter"])), tz=dt.UTC),
    )


def _name(name: Iterable[Any], *kinds: str) -> str:
    """Return the first of these parts that a name has, in the form of ``getpeercert``."""
    parts = {kind: str(value) for group in name for kind, value in group}
    return next((parts[kind] for kind in kinds if kind in parts), "")
