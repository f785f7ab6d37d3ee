"""Test a relay, from connecting to a test mail, and say what was seen at each stage."""

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
    """What a stage was about."""

    TOKEN = "token"  # noqa: S105  # a word
    CONNECT = "connect"
    TLS = "tls"
    EHLO = "ehlo"
    AUTH = "auth"
    SEND = "send"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Who the server says it is, who vouches for it, and until when."""

    subject: str
    issuer: str
    expires: dt.datetime


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the dialogue. ``seconds`` is None for TLS from the start, whose time is part of connecting."""

    kind: Kind
    ok: bool
    seconds: float | None
    #: What was seen: host and port, TLS version, SASL mechanism, the server's reply; may hold an address.
    detail: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class ConnectionTestMail:
    """A mail to be sent on the tried session; content as bytes with CRLF, its From header included."""

    envelope: Envelope
    content: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a connection test saw. ``failure`` is None when all went well; ``seconds`` is the time of it all."""

    relay: Relay
    stages: tuple[Stage, ...]
    seconds: float
    tls_version: str = ""
    certificate: Certificate | None = None
    #: That which let us in.
    mechanism: str = ""
    capabilities: tuple[str, ...] = ()
    #: The name by which we introduced ourselves.
    ehlo_name: str = ""
    failure: SMTPFailure | None = None

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def connected(self) -> bool:
        """Whether the session was opened, whatever became of a mail on it."""
        return self.ok or (self.failure is not None and not self.failure.phase.before_mail)

    @property
    def summary(self) -> str:
        """One line that holds no address and nothing of what the server said but numbers."""
        if self.failure is not None:
            return str(self.failure)
        return ", ".join(filter(None, (self.tls_version or "not encrypted", self.mechanism)))


@with_secrets
def run_connection_test(relay: Relay, mail: ConnectionTestMail | None = None) -> Report:
    """Open a session with ``relay``, send ``mail`` on it if there is one, and end it.

    A relay that is logged in to by tokens is tried with one that is fetched for it first, in a time of its own.
    Never raises for what the server or the network does: that is the report's ``failure``. Gives up after
    ``relay.timeout`` seconds in all, name resolution included, however the server stalls; sending ``mail`` has as long
    again. A mail whose final dot was not answered may have been taken (RFC 1047).
    """
    test = _ConnectionTest(relay, mail)
    if not test.has_token():
        return test.report()
    # A thread of its own: neither a resolver nor a server that sends a byte now and then minds a socket's timeout.
    thread = threading.Thread(target=test.run, name="smtp-connection-test", daemon=True)
    thread.start()
    if test.opened.wait(relay.timeout) and mail is not None:
        test.done.wait(relay.timeout)
    report = test.report()
    if report.ok:
        thread.join(_POLITENESS)
    return report


#: How long, in seconds, a server may keep the caller waiting with its answer to QUIT.
_POLITENESS = 0.5


class _ConnectionTest:
    """What the testing thread writes and its caller reads, both under the lock, until it is finished."""

    def __init__(self, relay: Relay, mail: ConnectionTestMail | None) -> None:
        #: Set when the session is open or could not be opened; when all is over.
        self.opened, self.done = threading.Event(), threading.Event()
        #: With more patience than the caller has, so that it is always the caller who gives up.
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
        """Fetch the token, if one is needed; in the caller's thread, whose database may be asked."""
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
        """Do it; never raises what an SMTP dialogue can raise."""
        try:
            self._open()
            if self._mail is not None:
                self._begin(Kind.SEND)
                self.opened.set()
                self._passed(self._send(self._mail))
            self._end(None)
        except SMTPFailure as failure:
            self._end(failure)
        except Exception as error:  # whatever it is, it is shown, and not taken for a server that does not answer
            self._end(SMTPFailure(_PHASES[self._kind], f"unexpected {type(error).__name__}"))
        finally:
            self.opened.set()
            self.done.set()
            Session(self._relay, self._smtp).quit()

    def report(self) -> Report:
        """What there is to say now; whatever is still going on is ended."""
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
        # Each address of the host has its share of the time that there really is.
        for phase in steps(self._smtp, self._relay, connect_within=self._given.timeout):
            if phase is Phase.CONNECT:
                continue  # it is called connected once the server has greeted
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
                self._begin(Kind.TLS)  # EHLO is said once more, encrypted: that is the one to show
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
        # One by one: what a server makes of several commands at once is found out when mail is sent.
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
            with contextlib.suppress(OSError):  # it may be closed by now
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
        detail = f"no answer within {self._given.timeout:g} s"
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
    """The first of these parts that a name has, as ``getpeercert`` gives it."""
    parts = {kind: str(value) for group in name for kind, value in group}
    return next((parts[kind] for kind in kinds if kind in parts), "")
