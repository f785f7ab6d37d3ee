"""A real SMTP server on loopback that keeps what it gets, and fails in the ways it is told to.

The tests run it in a thread, as ``SMTPServer``; the demo and the playground run it as a process:

    python -m config.local.smtp_server --port 2525 --maildir var/mail --plain --catch-all-any-auth
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import email
import email.message
import email.policy
import hmac
import logging
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from config.local.certificates import server_context
from config.local.processes import LOOPBACK, free_port

Security = Literal["starttls", "tls", "plain"]
Verb = Literal["CONNECT", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "CONTENT", "DOT", "RSET", "NOOP", "QUIT"]

# aiosmtpd warns, at each login, of an attribute that it sets itself.
logging.getLogger("mail.log").setLevel(logging.ERROR)

COMMANDS = ("EHLO", "HELO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong, at which verb, how often.

    ``CONNECT`` stands for the greeting, ``CONTENT`` for the moment after the first line of the content, with the final
    dot not yet seen, and ``DOT`` for the reply to the final dot. The first fault that matches a command applies, and
    does what it says in this order: wait, hang, reply, drop.

    A message is accepted at ``DOT`` unless a fault there refuses it (a ``reply`` of 4yz or 5yz), drops the connection
    or hangs; with ``drop_after_accept`` and ``hang_after_accept`` the server has it and the client is never told.
    """

    verb: Verb
    #: The reply instead of the usual one, such as ``"450 4.2.0 Mailbox busy"``, further lines after ``\n``
    #: without the code. After a 421, and any reply to ``CONNECT`` or ``CONTENT``, the connection is closed.
    reply: str | None = None
    #: Close the connection, after the reply if there is one.
    drop: bool = False
    drop_after_accept: bool = False
    #: Say nothing more, and leave the connection open.
    hang: bool = False
    hang_after_accept: bool = False
    #: Seconds to wait first.
    delay: float = 0
    #: How many times; None is for ever.
    times: int | None = None
    #: Only for commands, or for ``DOT`` and ``CONTENT`` messages, with this text in them.
    match: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """A message the server has accepted."""

    mail_from: str
    rcpt_tos: tuple[str, ...]
    content: bytes = dataclasses.field(repr=False)
    #: The number of the session it came through, counted from 1.
    session: int
    #: Seconds since the epoch.
    received_at: float

    @property
    def parsed(self) -> email.message.EmailMessage:
        """The content as a message object."""
        return email.message_from_bytes(self.content, policy=email.policy.default)

    @property
    def subject(self) -> str:
        """The subject, decoded."""
        return str(self.parsed["Subject"] or "")

    @property
    def message_id(self) -> str:
        """The Message-ID with its angle brackets."""
        return str(self.parsed["Message-ID"] or "").strip()


@dataclasses.dataclass(kw_only=True)
class SessionRecord:
    """What happened between one greeting and its end."""

    number: int
    #: The commands as they came, in upper case; ``CONTENT`` for the content with its final dot.
    verbs: list[str] = dataclasses.field(default_factory=list)
    #: Who logged in.
    user: str | None = None
    tls: bool = False
    is_open: bool = True

    @property
    def transactions(self) -> int:
        """How many MAIL commands it has carried."""
        return self.verbs.count("MAIL")


class SMTPServer:
    """An SMTP server in a thread of its own.

    ``messages``, ``sessions``, ``auths`` and ``failed_auths`` tell what it saw, over all its starts. ``user``,
    ``password`` and the faults can be changed while it runs. It stays on its port when started again.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        security: Security = "starttls",
        tls_context: ssl.SSLContext | None = None,
        user: str | None = "user",
        password: str | None = "password",  # noqa: S107  # guards nothing
        any_auth: bool = False,
        maildir: Path | None = None,
        faults: Iterable[Fault] = (),
        size_limit: int = 32 * 1024 * 1024,
        smtputf8: bool = True,
        on_message: Callable[[Message], None] | None = None,
    ) -> None:
        """Describe a server; ``start()`` starts it.

        Args:
            port: on loopback; a free one is chosen when left out.
            security: STARTTLS required, TLS from the first byte, or none.
            tls_context: needed unless ``security`` is ``plain``.
            user: who must log in; None for a server without AUTH.
            password: the user's password.
            any_auth: let everybody in, with any credentials or none.
            maildir: where each accepted message is written to besides.
            faults: what goes wrong from the start.
            size_limit: bytes a message may have.
            smtputf8: whether the extension is offered.
            on_message: called for each accepted message, in the server's thread.
        """
        if security != "plain" and tls_context is None:
            raise ValueError(f"security {security!r} needs a tls_context")
        self.port = free_port() if port is None else port
        self.security: Security = security
        self.tls_context = tls_context
        self.user = user
        self.password = password
        self.any_auth = any_auth
        self.maildir = maildir
        self.size_limit = size_limit
        self.smtputf8 = smtputf8
        self.on_message = on_message
        self.messages: list[Message] = []
        self.sessions: list[SessionRecord] = []
        self.auths = 0
        self.failed_auths = 0
        self._faults: list[list[Any]] = []
        self._faults_lock = threading.Lock()
        self._open: set[_Connection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listener: asyncio.Server | None = None
        self.inject(*faults)

    @property
    def host(self) -> str:
        """Where it listens; the certificates name it."""
        return LOOPBACK

    @property
    def requires_auth(self) -> bool:
        """Whether MAIL is refused before a login."""
        return self.user is not None and not self.any_auth

    @property
    def is_running(self) -> bool:
        """Whether it listens."""
        return self._thread is not None

    # What goes wrong

    def inject(self, *faults: Fault) -> None:
        """Let these faults happen from now on, after those that are there already."""
        with self._faults_lock:
            self._faults.extend([fault, fault.times] for fault in faults)

    def clear_faults(self) -> None:
        """Work properly from now on."""
        with self._faults_lock:
            self._faults.clear()

    def next_fault(self, verb: str, text: str) -> Fault | None:
        """Take the first fault for this command, and count it."""
        with self._faults_lock:
            for entry in self._faults:
                fault, left = entry
                if fault.verb == verb and left != 0 and fault.match.lower() in text.lower():
                    if left is not None:
                        entry[1] = left - 1
                    return fault  # type: ignore[no-any-return]  # an entry is a pair that can be changed
        return None

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
        if self.maildir is not None:
            write_to_maildir(self.maildir, message)
        self.messages.append(message)
        if self.on_message is not None:
            self.on_message(message)

    # Starting and stopping

    def start(self) -> None:
        """Listen; raises OSError when the port is taken."""
        if self._thread is not None:
            raise RuntimeError("the server runs already")
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(_ignore_broken_connections)
        started: threading.Event = threading.Event()
        errors: list[BaseException] = []

        def run() -> None:
            asyncio.set_event_loop(loop)
            try:
                self._listener = loop.run_until_complete(
                    loop.create_server(
                        lambda: _Connection(self, loop),
                        host=LOOPBACK,
                        port=self.port,
                        ssl=self.tls_context if self.security == "tls" else None,
                    )
                )
            except BaseException as error:  # handed to the caller of start()
                errors.append(error)
            finally:
                loop.call_soon(started.set)
                if errors:
                    started.set()
            try:
                if not errors:
                    loop.run_forever()
            finally:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()
                asyncio.set_event_loop(None)

        thread = threading.Thread(target=run, name=f"smtp-server-{self.port}", daemon=True)
        thread.start()
        started.wait()
        if errors:
            thread.join()
            raise errors[0]
        self._loop, self._thread = loop, thread

    def stop(self) -> None:
        """Go away at once, as a crash does: open connections break without a word."""
        self._stop(self._break_connections)

    def stop_politely(self) -> None:
        """Go away as RFC 5321 section 3.8 wants it: refuse new connections, say 421 to the open ones, close them."""
        self._stop(self._dismiss_connections)

    def drop_connections(self) -> None:
        """Break all open connections and go on listening, as a firewall that forgot them does."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._break_connections(), self._loop).result(10)

    def _stop(self, end_connections: Callable[[], Awaitable[None]]) -> None:
        if self._loop is None or self._thread is None:
            return

        async def stop() -> None:
            if self._listener is not None:
                self._listener.close()
            await end_connections()
            if self._listener is not None:
                await self._listener.wait_closed()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop = self._thread = self._listener = None

    async def _dismiss_connections(self) -> None:
        for connection in list(self._open):
            connection.dismiss()
        await self._connections_gone(seconds=0.3)
        await self._break_connections()

    async def _break_connections(self) -> None:
        for connection in list(self._open):
            connection.abort()
        await self._connections_gone(seconds=2)

    async def _connections_gone(self, *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            await asyncio.sleep(0.005)

    def opened(self, connection: _Connection) -> SessionRecord:
        """Begin the record of a session."""
        self._open.add(connection)
        record = SessionRecord(number=len(self.sessions) + 1)
        self.sessions.append(record)
        return record

    def closed(self, connection: _Connection) -> None:
        """End it."""
        self._open.discard(connection)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Connection(SMTP):
    """One connection: aiosmtpd's protocol with the server's faults before each command."""

    def __init__(self, server: SMTPServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        # One protocol object is one connection.
        self.record = server.opened(self)
        super().__init__(
            _Acceptor(server),
            loop=loop,
            hostname="localhost",
            ident="ESMTP",
            data_size_limit=server.size_limit,
            enable_SMTPUTF8=server.smtputf8,
            tls_context=server.tls_context if server.security == "starttls" else None,
            require_starttls=server.security == "starttls",
            auth_require_tls=server.security == "starttls",
            authenticator=self._check_login,
            auth_exclude_mechanism=() if server.user is not None or server.any_auth else ("LOGIN", "PLAIN"),
        )
        # Not as an argument: aiosmtpd warns of AUTH without STARTTLS, which TLS from the first byte is to it.
        self._auth_required = server.requires_auth
        for verb in COMMANDS:
            self._smtp_methods[verb] = partial(self._obey, verb, self._smtp_methods[verb])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Called once more when STARTTLS has put TLS over the connection.
        self.record.tls = self._server.security == "tls" or self._tls_protocol is not None
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.record.is_open = False
        self._server.closed(self)
        super().connection_lost(error)

    def dismiss(self) -> None:
        """Say 421 and close."""
        if self.transport is not None and not self.transport.is_closing():
            if isinstance(self.transport, asyncio.WriteTransport):
                self.transport.write(b"421 4.3.2 localhost Service shutting down\r\n")
            self.transport.close()

    def abort(self) -> None:
        """Close without a word."""
        # The raw transport too: one under TLS outlives its wrapper while a handshake is under way.
        for transport in (self.transport, self._original_transport):
            if isinstance(transport, asyncio.WriteTransport):
                # One under TLS that is closed already has nothing to abort, and says so thus before Python 3.11.3.
                with contextlib.suppress(AttributeError):
                    transport.abort()

    async def break_off(self) -> None:
        """Close without a word, and end this session's task."""
        self.abort()
        await forever()

    async def misbehave(self, fault: Fault) -> str | None:
        """Do what the fault says; give the reply that is left to send, if any."""
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.hang or fault.hang_after_accept:
            self._reset_timeout(24 * 3600)
            await forever()
        if fault.drop_after_accept or (fault.drop and fault.reply is None):
            await self.break_off()
        if fault.reply is None:
            return None
        code, text = fault.reply[:3], fault.reply[4:]
        *lines, last = text.split("\n")
        reply = "".join(f"{code}-{line}\r\n" for line in lines) + f"{code} {last}"
        if fault.drop or fault.verb in ("CONNECT", "CONTENT") or code == "421":
            await self.push(reply)
            if self.transport is not None:
                self.transport.close()
            await forever()
        return reply

    async def _handle_client(self) -> None:
        fault = self._server.next_fault("CONNECT", "")
        if fault is not None:
            await self.misbehave(fault)
        await super()._handle_client()

    async def _obey(self, verb: str, method: Callable[[str | None], Awaitable[None]], arg: str | None) -> None:
        self.record.verbs.append(verb)
        fault = self._server.next_fault(verb, arg or "")
        if fault is not None:
            reply = await self.misbehave(fault)
            if reply is not None:
                await self.push(reply)
                return
        if verb == "DATA":
            await self._break_into_content()
        await method(arg)

    async def _break_into_content(self) -> None:
        recipients = self.envelope.rcpt_tos if self.envelope is not None else []
        fault = self._server.next_fault("CONTENT", " ".join(recipients)) if recipients else None
        if fault is None:
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        await self._reader.readuntil(b"\r\n")
        await self.misbehave(fault)
        await self.break_off()

    def _check_login(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, login: LoginPassword
    ) -> AuthResult:
        user, password = login.login.decode(), login.password.decode()
        expected = (self._server.user or "", self._server.password or "")
        if not self._server.any_auth and not all(
            hmac.compare_digest(given.encode(), wanted.encode())
            for given, wanted in zip((user, password), expected, strict=True)
        ):
            self._server.failed_auths += 1
            # handled=False lets aiosmtpd give its usual 535.
            return AuthResult(success=False, handled=False)
        self._server.auths += 1
        self.record.user = user
        return AuthResult(success=True, auth_data=login)


class _Acceptor:
    """aiosmtpd's hooks: what to do with a complete message."""

    def __init__(self, server: SMTPServer) -> None:
        self._server = server

    async def handle_DATA(self, connection: _Connection, session: Session, envelope: Envelope) -> str:
        connection.record.verbs.append("CONTENT")
        content = envelope.original_content or b""
        message = Message(
            mail_from=envelope.mail_from or "",
            rcpt_tos=tuple(envelope.rcpt_tos),
            content=content,
            session=connection.record.number,
            received_at=time.time(),
        )
        fault = self._server.next_fault("DOT", " ".join(envelope.rcpt_tos) + "\n" + content.decode("latin-1"))
        refused = fault is not None and (
            fault.drop or fault.hang or (fault.reply is not None and not fault.reply.startswith("2"))
        )
        if not refused:
            self._server.accept(message)
        reply = None if fault is None else await connection.misbehave(fault)
        return reply or f"250 2.0.0 OK queued as {len(self._server.messages)}"


async def forever() -> None:
    """Wait until the connection's end cancels this."""
    await asyncio.get_running_loop().create_future()


def _ignore_broken_connections(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)


def write_to_maildir(maildir: Path, message: Message) -> Path:
    """Write a message to ``new/``, whole or not at all, with its envelope in front as delivery agents do it."""
    for folder in ("tmp", "new", "cur"):
        (maildir / folder).mkdir(parents=True, exist_ok=True)
    name = f"{time.time_ns()}.{os.getpid()}_{threading.get_ident()}.localhost"
    envelope = [f"Return-Path: <{message.mail_from}>", *(f"Delivered-To: {to}" for to in message.rcpt_tos)]
    draft = maildir / "tmp" / name
    draft.write_bytes("".join(f"{line}\r\n" for line in envelope).encode() + message.content)
    return draft.rename(maildir / "new" / name)


def read_maildir(maildir: Path) -> list[email.message.EmailMessage]:
    """Read all messages, the oldest first, their envelopes as Return-Path and Delivered-To."""
    files = [path for folder in ("new", "cur") for path in (maildir / folder).glob("*")]
    return [
        email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        for path in sorted(files, key=lambda path: path.name)
    ]


def print_message(message: Message) -> None:
    """Print one line about a message."""
    print(f"mail for {', '.join(message.rcpt_tos)}: {message.subject}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run a server until SIGTERM or Ctrl-C, and then leave politely."""
    parser = argparse.ArgumentParser(prog="python -m config.local.smtp_server", description=main.__doc__)
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument("--maildir", type=Path, required=True, help="where accepted messages are written to")
    parser.add_argument("--certificate", type=Path, help="PEM file; needed unless --plain")
    parser.add_argument("--key", type=Path, help="PEM file; needed unless --plain")
    parser.add_argument("--user", help="who must log in")
    parser.add_argument("--password-from-env", metavar="NAME", help="environment variable with the password")
    parser.add_argument("--pace", type=float, default=0, metavar="SECONDS", help="how long it takes over each message")
    parser.add_argument("--catch-all-any-auth", action="store_true", help="accept any credentials or none")
    security = parser.add_mutually_exclusive_group()
    security.add_argument("--ssl", action="store_const", dest="security", const="tls", help="TLS from the first byte")
    security.add_argument("--plain", action="store_const", dest="security", const="plain", help="no TLS")
    parser.set_defaults(security="starttls")
    options = parser.parse_args(arguments)
    if options.security != "plain" and not (options.certificate and options.key):
        parser.error("--certificate and --key are needed unless --plain")
    if options.password_from_env and options.password_from_env not in os.environ:
        parser.error(f"--password-from-env: {options.password_from_env} is not set")

    server = SMTPServer(
        port=options.port,
        security=options.security,
        tls_context=None if options.security == "plain" else server_context(options.certificate, options.key),
        user=options.user,
        password=os.environ[options.password_from_env] if options.password_from_env else None,
        any_auth=options.catch_all_any_auth,
        maildir=options.maildir,
        faults=[Fault(verb="DOT", delay=options.pace)] if options.pace else (),
        on_message=print_message,
    )
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    server.start()
    print(f"SMTP server ready on {server.host}:{server.port}", flush=True)
    done.wait()
    server.stop_politely()
    return 0


if __name__ == "__main__":
    sys.exit(main())
