"""One connection: the dialogue, its faults and the login."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import re
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, get_args

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from .faults import Fault, Verb
from .records import Message
from .state import PASSWORD_MECHANISMS, TOKEN_MECHANISMS, ServerState

# aiosmtpd logs the dialogue, addresses included, and at each login warns about an attribute that it sets itself. A
# project that needs this log sets a level.
_log = logging.getLogger("mail.log")
if _log.level == logging.NOTSET:
    _log.setLevel(logging.ERROR)


class Connection(SMTP):
    """One connection: aiosmtpd's protocol with the server's faults before each command."""

    def __init__(self, server: ServerState, loop: asyncio.AbstractEventLoop) -> None:
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
            auth_exclude_mechanism=(PASSWORD_MECHANISMS | TOKEN_MECHANISMS) - server.mechanisms,
        )
        # Not as an argument: aiosmtpd warns about AUTH without STARTTLS, and does not recognise TLS from the first
        # byte.
        self._auth_required = server.requires_auth
        for verb in {"HELO", *get_args(Verb)} & set(self._smtp_methods):
            self._smtp_methods[verb] = partial(self._obey, verb, self._smtp_methods[verb])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Called again when STARTTLS has put TLS on the connection.
        self.record.tls = self._server.security == "tls" or self._tls_protocol is not None
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.record.is_open = False
        self._server.closed(self)
        super().connection_lost(error)

    def dismiss(self) -> None:
        """Send 421 and close."""
        if self.transport is not None and not self.transport.is_closing():
            if isinstance(self.transport, asyncio.WriteTransport):
                self.transport.write(b"421 4.3.2 localhost Service shutting down\r\n")
            self.transport.close()

    def abort(self) -> None:
        """Close without a reply."""
        # Abort the raw transport too: under TLS it outlives its wrapper during a handshake.
        for transport in (self.transport, self._original_transport):
            if isinstance(transport, asyncio.WriteTransport):
                # A transport under TLS that is closed already raises this before Python 3.11.3, because nothing is left
                # to abort.
                with contextlib.suppress(AttributeError):
                    transport.abort()

    async def break_off(self) -> None:
        """Close without a reply, and end this session's task."""
        self.abort()
        await forever()

    async def misbehave(self, fault: Fault) -> str | None:
        """Carry out the fault; return the reply that is left to send, or None."""
        if fault.delay:
            await asyncio.sleep(fault.delay)
        while fault.until is not None and not fault.until.is_set():
            await asyncio.sleep(0.005)
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
        fault = self._take_fault("CONNECT")
        if fault is not None:
            await self.misbehave(fault)
        await super()._handle_client()

    async def _obey(self, verb: str, method: Callable[[str | None], Awaitable[None]], arg: str | None) -> None:
        self.record.verbs.append(verb)
        fault = self._take_fault(verb, arg or "")
        if fault is not None:
            reply = await self.misbehave(fault)
            if reply is not None:
                await self.push(reply)
                return
        if verb == "DATA":
            await self._break_into_content()
        await method(arg)

    def _take_fault(self, verb: str, arg: str = "") -> Fault | None:
        """Take the fault for a command; None for RCPT and DATA out of order, which are refused in any case."""
        envelope = self.envelope or Envelope()
        if verb == "RCPT" and not envelope.mail_from:
            return None
        if verb in ("DATA", "CONTENT"):
            return self._server.faults.take(verb, in_words(envelope)) if envelope.rcpt_tos else None
        return self._server.faults.take("EHLO" if verb == "HELO" else verb, arg)

    async def _break_into_content(self) -> None:
        fault = self._take_fault("CONTENT")
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
            # With handled=False aiosmtpd sends its usual 535.
            return AuthResult(success=False, handled=False)
        self._server.auths += 1
        self.record.user = user
        return AuthResult(success=True, auth_data=login)

    async def auth_XOAUTH2(self, _: Any, args: list[str]) -> AuthResult:
        """Check a token in the form that Google and Microsoft introduced before the standard."""
        return await self._check_token(
            args, r"user=(?P<user>[^\x01]*)\x01auth=Bearer (?P<token>[^\x01]*)\x01\x01", "401"
        )

    async def auth_OAUTHBEARER(self, _: Any, args: list[str]) -> AuthResult:
        """Check a token as RFC 7628 describes."""
        pattern = r"n,a=(?P<user>[^,]*),\x01(?:[a-z]+=[^\x01]*\x01)*?auth=Bearer (?P<token>[^\x01]*)\x01\x01"
        return await self._check_token(args, pattern, "invalid_token")

    async def _check_token(self, args: list[str], pattern: str, status: str) -> AuthResult:
        response = b64decode(args[1]) if len(args) > 1 else await self.challenge_auth("")
        found = re.fullmatch(pattern, response.decode()) if isinstance(response, bytes) else None
        user = found["user"].replace("=2C", ",").replace("=3D", "=") if found else ""
        check = self._server.check_token
        if found and check is not None and user == self._server.user and check(found["token"]):
            self._server.auths += 1
            self.record.user = user
            return AuthResult(success=True, auth_data=LoginPassword(user.encode(), b""))
        self._server.failed_auths += 1
        # The client must answer this before it receives the 535.
        await self.challenge_auth(json.dumps({"status": status, "schemes": "bearer", "scope": "smtp"}))
        return AuthResult(success=False, handled=False)


class _Acceptor:
    """aiosmtpd's hooks: the extensions to offer, and the handling of a complete message."""

    def __init__(self, server: ServerState) -> None:
        self._server = server

    async def handle_EHLO(
        self, connection: Connection, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        offered = ["250-PIPELINING"] if self._server.pipelining else []
        return [*responses[:1], *offered, *responses[1:]]

    async def handle_DATA(self, connection: Connection, session: Session, envelope: Envelope) -> str:
        connection.record.verbs.append("CONTENT")
        content = envelope.original_content or b""
        message = Message(
            mail_from=envelope.mail_from or "",
            rcpt_tos=tuple(envelope.rcpt_tos),
            content=content,
            session=connection.record.number,
            received_at=time.time(),
        )
        text = f"{in_words(envelope)}\n{content.decode('utf-8', 'replace')}"
        fault = self._server.faults.take("DOT", text)
        refused = fault is not None and (
            fault.drop or fault.hang or (fault.reply is not None and not fault.reply.startswith("2"))
        )
        if not refused:
            self._server.accept(message)
        reply = None if fault is None else await connection.misbehave(fault)
        return reply or f"250 2.0.0 OK queued as {len(self._server.messages)}"


def in_words(envelope: Envelope) -> str:
    """Return the sender and the recipients as one text, for a fault to match."""
    return " ".join((envelope.mail_from or "", *envelope.rcpt_tos))


async def forever() -> None:
    """Wait until the connection's end cancels this."""
    await asyncio.get_running_loop().create_future()
