"""Try a relay out, from connecting to a test mail, and say what was seen at each step."""

from __future__ import annotations

import datetime as dt
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum

from .errors import CannotConnect, ConnectionLost, Refused, SMTPFailure
from .relay import Envelope, Relay
from .replies import Phase
from .session import Session


class Kind(StrEnum):
    """What a step was about."""

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
class Step:
    """One step of the dialogue. ``seconds`` is None for what took no time of its own (TLS as part of connecting)."""

    kind: Kind
    ok: bool
    seconds: float | None = None
    #: What was seen, for a machine and a person alike: a TLS version, a SASL mechanism, the server's reply.
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class TestMail:
    """A mail to be sent on the tried session; content as bytes with CRLF, its From header included."""

    __test__ = False  # not for pytest

    envelope: Envelope
    content: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a probe saw. ``failure`` is None when all went well."""

    relay: Relay
    steps: tuple[Step, ...]
    seconds: float
    tls_version: str = ""
    certificate: Certificate | None = None
    mechanism: str = ""
    capabilities: tuple[str, ...] = ()
    failure: SMTPFailure | None = None

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def summary(self) -> str:
        """One line that holds no address and nothing the server said but numbers."""
        if self.failure is not None:
            return str(self.failure)
        return ", ".join(filter(None, (self.tls_version or "not encrypted", self.mechanism and "logged in")))


def probe(relay: Relay, mail: TestMail | None = None) -> Report:
    """Open a session with ``relay``, send ``mail`` on it if there is one, and end it.

    Never raises for what the server or the network does: that is ``failure``. Gives up after ``relay.timeout``
    seconds in all, name resolution included, however the server stalls; sending ``mail`` has as long again. A mail
    whose final dot was not answered may have been taken (RFC 1047).
    """
    trial = _Trial(relay, mail)
    # In a thread, because neither a resolver nor a server that sends one byte at a time minds a socket's timeout.
    thread = threading.Thread(target=trial.run, name="smtp-probe", daemon=True)
    thread.start()
    trial.opened.wait(relay.timeout)
    if trial.opened.is_set():
        trial.done.wait(relay.timeout if mail else _POLITENESS)
    return trial.report()


#: Seconds that QUIT may take before the report is given without it.
_POLITENESS = 0.5


class _Trial:
    """The state that the probing thread and its caller share: ``_lock`` guards every attribute set after the start."""

    def __init__(self, relay: Relay, mail: TestMail | None) -> None:
        self.relay = relay
        self.mail = mail
        #: Set when the session is open, or has failed to be.
        self.opened = threading.Event()
        self.done = threading.Event()
        self._lock = threading.Lock()
        self._started = self._mark = time.monotonic()
        self._doing = Kind.CONNECT
        self._steps: list[Step] = []
        self._failure: SMTPFailure | None = None
        self._finished = False
        self._seconds = 0.0
        self._session = Session(relay)
        self._tls_version = ""
        self._certificate: Certificate | None = None

    def run(self) -> None:
        """Do it; in the thread."""
        session = self._session
        try:
            self._open(session)
            self.opened.set()
            if self.mail is not None:
                self._step(Kind.SEND)
                self._passed(self._send(session, self.mail))
            with self._lock:
                self._finish()
        except SMTPFailure as failure:
            self._failed(failure)
        finally:
            self.opened.set()
            session.quit()
            self.done.set()

    def report(self) -> Report:
        """What there is to say now; ends what is still going on."""
        with self._lock:
            if not self._finished:
                self._fail(self._out_of_time())
                self._session.interrupt()
            return Report(
                relay=self.relay,
                steps=tuple(self._steps),
                seconds=self._seconds,
                tls_version=self._tls_version,
                certificate=self._certificate,
                mechanism=self._session.mechanism,
                capabilities=self._session.capabilities,
                failure=self._failure,
            )

    def _open(self, session: Session) -> None:
        for phase in session.opening():
            if phase is Phase.CONNECT:
                self._passed(f"{self.relay.host}:{self.relay.port}")
                if self.relay.use_ssl:
                    self._secured(session, timed=False)
                self._step(Kind.EHLO)
            elif phase is Phase.EHLO:
                if self.relay.use_tls and session.tls is None:
                    self._step(Kind.TLS)  # EHLO is said again afterwards; that is the one to show
                else:
                    self._passed(f"{len(session.capabilities)} capabilities")
                    self._step(Kind.AUTH)
            elif phase is Phase.STARTTLS:
                self._secured(session, timed=True)
                self._step(Kind.EHLO)
            elif phase is Phase.AUTH:
                self._passed(session.mechanism)

    def _secured(self, session: Session, *, timed: bool) -> None:
        if session.tls is None:
            return
        version = session.tls.version() or ""
        certificate = _certificate(session.tls)
        with self._lock:
            self._tls_version, self._certificate = version, certificate
        self._doing = Kind.TLS
        self._passed(version, timed=timed)

    def _send(self, session: Session, mail: TestMail) -> str:
        started = session.begin(mail.envelope, size=len(mail.content), eight_bit=not mail.content.isascii())
        for reply in started.refused.values():
            raise Refused(Phase.RCPT, "", reply)
        session.write(mail.content)
        reply = session.finish(timeout=self.relay.timeout)
        if not reply.positive:
            raise Refused(Phase.FINAL_DOT, "", reply)
        return reply.short

    # -- notes --------------------------------------------------------------------------------------------------

    def _step(self, kind: Kind) -> None:
        with self._lock:
            self._doing, self._mark = kind, time.monotonic()

    def _passed(self, detail: str, *, timed: bool = True) -> None:
        with self._lock:
            self._note(ok=True, detail=detail, timed=timed)

    def _failed(self, failure: SMTPFailure) -> None:
        with self._lock:
            self._fail(failure)

    def _fail(self, failure: SMTPFailure) -> None:
        if self._finished:
            return
        self._failure = failure
        said = f"{failure.reply.code} {failure.reply.text}" if failure.reply else failure.detail
        self._note(ok=False, detail=said)
        self._finish()

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._seconds = time.monotonic() - self._started

    def _note(self, *, ok: bool, detail: str, timed: bool = True) -> None:
        if self._finished:
            return  # the caller has been told already
        seconds = time.monotonic() - self._mark if timed else None
        self._steps.append(Step(kind=self._doing, ok=ok, seconds=seconds, detail=detail))

    def _out_of_time(self) -> SMTPFailure:
        detail = f"no answer within {self.relay.timeout:g} s"
        if self._doing is Kind.CONNECT:
            return CannotConnect(Phase.CONNECT, detail)
        return ConnectionLost(_PHASES[self._doing], detail)


_PHASES = {
    Kind.TLS: Phase.STARTTLS,
    Kind.EHLO: Phase.EHLO,
    Kind.AUTH: Phase.AUTH,
    Kind.SEND: Phase.FINAL_DOT,
}


def _certificate(connection: ssl.SSLSocket) -> Certificate | None:
    found = connection.getpeercert()
    if not found:
        return None
    return Certificate(
        subject=_name(found.get("subject", ())) or _alternative(found),
        issuer=_name(found.get("issuer", ())),
        expires=dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(found["notAfter"])), tz=dt.UTC),
    )


