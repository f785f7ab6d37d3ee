"""From nothing to a session that may say MAIL: connect, secure, log in."""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import Iterator

from . import auth, tls
from .dialogue import Connection
from .errors import CannotConnect, NotOffered, Refused, TLSFailed
from .relay import Relay, Tokens
from .replies import Phase, Reply


def open_connection(relay: Relay) -> Connection:
    """Connect, secure, authenticate.

    Raises ``NoToken``, ``CannotConnect``, ``TLSFailed``, ``NotOffered``, ``Refused`` or ``ConnectionLost``; the
    connection is closed then.
    """
    smtp = unconnected(relay)
    for _ in steps(smtp, relay):
        pass
    return smtp


def unconnected(relay: Relay) -> Connection:
    """What ``steps`` begins with."""
    said = auth.secrets(relay.username, relay.password)
    return Connection(timeout=relay.timeout, local_hostname=_local_hostname(), secrets=said)


def steps(smtp: Connection, relay: Relay) -> Iterator[Phase]:
    """Do what ``open_connection`` does step by step, and give out the phase of each step once it is done."""
    # Before the server is called: it should not have to wait for somebody else.
    token = relay.tokens.current() if relay.tokens is not None else ""
    try:
        _connect(smtp, relay)
        yield Phase.CONNECT
        _ehlo(smtp)
        yield Phase.EHLO
        if relay.use_tls:
            _starttls(smtp, relay)
            yield Phase.STARTTLS
            _ehlo(smtp)
            yield Phase.EHLO
        if relay.username:
            _authenticate(smtp, relay, token)
            yield Phase.AUTH
    except BaseException:
        smtp.close()
        raise


def _connect(smtp: Connection, relay: Relay) -> None:
    context = tls.client_context(relay, Phase.CONNECT) if relay.use_ssl else None
    with smtp.during(Phase.CONNECT):
        try:
            smtp.dial(relay.host, relay.port, context)
        except ssl.SSLError as error:
            raise TLSFailed(Phase.CONNECT, tls.words(error)) from error
        except TimeoutError as error:
            raise CannotConnect(Phase.CONNECT, f"no answer within {smtp.timeout:g} s") from error
        except OSError as error:
            raise CannotConnect(Phase.CONNECT, error.strerror or type(error).__name__) from error
        except (ValueError, OverflowError) as error:
            raise CannotConnect(Phase.CONNECT, "the host or the port cannot be right") from error
    with smtp.during(Phase.GREETING):
        reply = smtp.hear()
    if reply.code != 220:
        raise Refused(Phase.GREETING, "", reply)


def _ehlo(smtp: Connection) -> None:
    with smtp.during(Phase.EHLO):
        reply = Reply.parse(*smtp.ehlo())
        if reply.permanent:  # a server that knows no EHLO (RFC 5321 §3.2)
            reply = Reply.parse(*smtp.helo())
    if not reply.positive:
        raise Refused(Phase.EHLO, "", reply)


def _starttls(smtp: Connection, relay: Relay) -> None:
    if not smtp.has_extn("starttls"):
        # Never go on in the clear: the offer may have been stripped on the way (RFC 3207 §6).
        raise NotOffered(Phase.STARTTLS, "the server does not offer STARTTLS")
    context = tls.client_context(relay, Phase.STARTTLS)
    with smtp.during(Phase.STARTTLS):
        reply = Reply.parse(*smtp.docmd("STARTTLS"))
        if reply.code != 220:
            # Whatever it says, nothing is encrypted.
            raise Refused(Phase.STARTTLS, "", reply)
        try:
            smtp.secure(context, relay.host)
        except ssl.SSLError as error:
            raise TLSFailed(Phase.STARTTLS, tls.words(error)) from error


def _authenticate(smtp: Connection, relay: Relay, token: str) -> None:
    mechanism = mechanism_for(smtp, relay)
    if mechanism is None:
        known = "by an OAuth token" if relay.tokens is not None else "that is known here"
        raise NotOffered(Phase.AUTH, f"the server offers no way to log in {known}")
    if relay.tokens is not None:
        _show_token(smtp, relay, mechanism, relay.tokens, token)
        return
    with smtp.during(Phase.AUTH):
        reply = Reply.parse(*auth.authenticate(smtp, mechanism, relay.username, relay.password))
    if reply.code != 235:
        raise Refused(Phase.AUTH, "", reply)


def _show_token(smtp: Connection, relay: Relay, mechanism: str, tokens: Tokens, token: str) -> None:
    """Log in by ``token``; if it is refused, once more by another: it may have been revoked before its time."""
    reply = _reply_to_token(smtp, relay, mechanism, token)
    if reply.code == 535:
        another = tokens.another(token)
        if another is not None:
            reply = _reply_to_token(smtp, relay, mechanism, another)
    if reply.code != 235:
        raise Refused(Phase.AUTH, "", reply)


def _reply_to_token(smtp: Connection, relay: Relay, mechanism: str, token: str) -> Reply:
    with smtp.during(Phase.AUTH):
        return auth.authenticate_by_token(smtp, mechanism, relay.username, token, host=relay.host, port=relay.port)


def mechanism_for(smtp: Connection, relay: Relay) -> str | None:
    """The SASL mechanism to log in with, None when the server offers none that is known here."""
    offered = smtp.esmtp_features.get("auth", "")
    return auth.choose(offered, encrypted=bool(smtp.tls_version), by_token=relay.tokens is not None)


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
