"""Opening a session: connect, secure, log in. Afterwards the session is ready for MAIL."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

from email_integration.secrecy import with_secrets

from . import auth, naming, tls
from .connecting import bare
from .dialogue import Connection
from .errors import CannotConnect, ConnectionLost, NotOffered, Refused, TLSFailed
from .relay import Relay
from .replies import Phase, Reply


@with_secrets
def open_connection(relay: Relay, *, heard: Callable[[], object] | None = None) -> Connection:
    """Connect, secure and authenticate. ``heard`` is called after each step that the server has answered.

    Raises ``NoToken``, ``CannotConnect``, ``TLSFailed``, ``NotOffered``, ``Refused`` or ``ConnectionLost``; the
    connection is then closed.
    """
    smtp = unconnected(relay)
    for _ in steps(smtp, relay):
        if heard is not None:
            heard()
    return smtp


@with_secrets
def unconnected(relay: Relay) -> Connection:
    """Return a connection for ``relay`` that is not connected yet, for ``steps``."""
    return Connection(
        timeout=relay.timeout,
        local_hostname=naming.NAMELESS,
        secrets=auth.secrets(relay.password),
        said=auth.said(relay.username, relay.password),
    )


def steps(smtp: Connection, relay: Relay, *, connect_within: float | None = None) -> Iterator[Phase]:
    """Do the steps of ``open_connection``, and yield the phase of each step after it.

    Connecting has ``connect_within`` seconds, by default the relay's timeout. Raises the errors of ``open_connection``.
    """
    # Before connecting: the server should not wait for other services, such as a token endpoint or a resolver.
    token = relay.tokens.current() if relay.tokens is not None else ""
    if token:  # a server may return a token that it received on an earlier connection
        smtp.conceal(
            token.encode(), said=auth.said_of_token(relay.username, token, host=bare(relay.host), port=relay.port)
        )
    naming.host_name()
    try:
        _connect(smtp, relay, connect_within)
        yield Phase.CONNECT
        _be_greeted(smtp)
        yield Phase.GREETING
        unknown = _ehlo(smtp)
        yield Phase.EHLO
        if relay.use_tls:
            _starttls(smtp, relay, unknown)
            yield Phase.STARTTLS
            unknown = _ehlo(smtp)
            yield Phase.EHLO
        if relay.logs_in:
            _authenticate(smtp, relay, token, unknown)
            yield Phase.AUTH
    except ConnectionLost as lost:
        smtp.close()
        cause = lost.__cause__
        if isinstance(cause, ssl.SSLError) and tls.is_alert(cause):
            # TLS 1.3 reports a failed handshake only when something is read (RFC 8446 §4.4.2.4).
            raise TLSFailed(lost.phase, tls.words(cause)) from cause
        raise
    except BaseException:
        smtp.close()
        raise


def _connect(smtp: Connection, relay: Relay, within: float | None) -> None:
    context = tls.client_context(relay, Phase.CONNECT) if relay.use_ssl else None
    with smtp.during(Phase.CONNECT, timeout=within):
        try:
            smtp.dial(relay.host, relay.port, context)
        except ssl.SSLError as error:
            raise TLSFailed(Phase.CONNECT, tls.words(error)) from error
        except OSError as error:
            if smtp.sock is not None:
                raise  # there was a connection, and it was lost
            if isinstance(error, TimeoutError):
                raise CannotConnect(Phase.CONNECT, f"the server did not answer within {smtp.timeout:g} s") from error
            raise CannotConnect(Phase.CONNECT, error.strerror or type(error).__name__) from error
        except (ValueError, OverflowError) as error:
            raise CannotConnect(Phase.CONNECT, "the host or the port is not valid") from error
    if smtp.sock is not None:
        smtp.local_hostname = naming.name_for(smtp.sock, wanted=relay.ehlo_name)


def _be_greeted(smtp: Connection) -> None:
    with smtp.during(Phase.GREETING):
        smtp.start_clock()
        smtp.wait_for_first_words()
        reply = smtp.hear()
    if reply.code != 220:
        raise Refused(Phase.GREETING, "", reply)


def _ehlo(smtp: Connection) -> Reply | None:
    """Send EHLO, or HELO if EHLO is refused.

    Return the refusal of EHLO when HELO was accepted instead, which offers no extensions; otherwise None. Raises
    ``Refused``.
    """
    refused = None
    with smtp.during(Phase.EHLO):
        reply = Reply.parse(*smtp.ehlo())
        if reply.permanent:  # a server that does not know EHLO (RFC 5321 §3.2), or refuses the name
            refused, reply = reply, Reply.parse(*smtp.helo())
    if reply.positive:
        return refused
    # If HELO is only an unknown command, the refusal of EHLO says more.
    raise Refused(Phase.EHLO, "", refused if refused is not None and reply.code in _UNKNOWN_COMMAND else reply)


#: Replies to a command that is unknown, or not allowed now.
_UNKNOWN_COMMAND = frozenset({500, 502, 503})


def _not_offered(phase: Phase, detail: str, unknown: Reply | None) -> NotOffered | Refused:
    """Return the error for a missing extension. A server that has refused EHLO for another reason could offer none."""
    if unknown is not None and unknown.code not in _UNKNOWN_COMMAND:
        return Refused(Phase.EHLO, "", unknown)
    return NotOffered(phase, detail)


def _starttls(smtp: Connection, relay: Relay, unknown: Reply | None) -> None:
    if not smtp.has_extn("starttls"):
        # Never continue in the clear: an attacker may have removed the offer (RFC 3207 §6).
        raise _not_offered(Phase.STARTTLS, "the server does not offer STARTTLS", unknown)
    context = tls.client_context(relay, Phase.STARTTLS)
    with smtp.during(Phase.STARTTLS):
        reply = Reply.parse(*smtp.docmd("STARTTLS"))
        if reply.code != 220:
            # Whatever the reply is, nothing is encrypted.
            raise Refused(Phase.STARTTLS, "", reply)
        try:
            smtp.secure(context, relay.host)
        except ssl.SSLError as error:
            raise TLSFailed(Phase.STARTTLS, tls.words(error)) from error


def _authenticate(smtp: Connection, relay: Relay, token: str, unknown: Reply | None) -> None:
    """Log in by the first mechanism that the server accepts. ``auth.another_may_do`` decides which are tried."""
    offered = smtp.esmtp_features.get("auth", "")
    known = auth.mechanisms(offered, encrypted=bool(smtp.tls_version), by_token=relay.tokens is not None)
    if not known:
        secret = "an OAuth token" if relay.tokens is not None else "a password"
        raise _not_offered(Phase.AUTH, f"the server offers no known login mechanism for {secret}", unknown)
    tokens, refusals = relay.tokens, list[Reply]()
    for mechanism in known:
        try:
            reply = _log_in(smtp, relay, mechanism, token)
            if reply.code == 535 and tokens is not None:
                # The token may have been revoked before its expiry. Try another one once, whatever the result.
                another, tokens = tokens.another(token), None
                if another is not None:
                    token = another
                    reply = _log_in(smtp, relay, mechanism, token)
        except ConnectionLost as lost:
            if not refusals:
                raise
            # The server probably closed the connection because of the refusals.
            raise Refused(Phase.AUTH, "", auth.most_informative(refusals)) from lost
        if auth.is_in(reply):
            smtp.mechanism = mechanism
            return
        refusals.append(reply)
        if not auth.another_may_do(mechanism, reply):
            break
    raise Refused(Phase.AUTH, "", auth.most_informative(refusals))


def _log_in(smtp: Connection, relay: Relay, mechanism: str, token: str) -> Reply:
    with smtp.during(Phase.AUTH):
        if relay.tokens is None:
            return auth.authenticate(smtp, mechanism, relay.username, relay.password)
        host = bare(relay.host)
        return auth.authenticate_by_token(smtp, mechanism, relay.username, token, host=host, port=relay.port)
