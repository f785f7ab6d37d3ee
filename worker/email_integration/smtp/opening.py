"""From nothing to a session that may say MAIL: connect, secure, log in."""

from __future__ import annotations

import functools
import smtplib
import socket
import ssl
from collections.abc import Iterator

from . import auth
from .dialogue import during, parse
from .errors import CannotConnect, NotOffered, Refused, TLSFailed
from .relay import Relay
from .replies import Phase


def open_connection(relay: Relay) -> smtplib.SMTP:
    """Connect, secure, authenticate.

    Raises ``CannotConnect``, ``TLSFailed``, ``NotOffered``, ``Refused`` or ``ConnectionLost``; the connection is
    closed then. Certificates are verified against the system's authorities (or SSL_CERT_FILE's).
    """
    smtp = unconnected(relay)
    for _ in steps(smtp, relay):
        pass
    return smtp


def unconnected(relay: Relay) -> smtplib.SMTP:
    """What ``steps`` begins with."""
    if not relay.use_ssl:
        return smtplib.SMTP(timeout=relay.timeout, local_hostname=_local_hostname())
    return smtplib.SMTP_SSL(
        timeout=relay.timeout, local_hostname=_local_hostname(), context=ssl.create_default_context()
    )


def steps(smtp: smtplib.SMTP, relay: Relay) -> Iterator[Phase]:
    """Do what ``open_connection`` does step by step, and give out the phase of each step once it is done."""
    try:
        _connect(smtp, relay)
        yield Phase.CONNECT
        _ehlo(smtp)
        yield Phase.EHLO
        if relay.use_tls:
            _starttls(smtp)
            yield Phase.STARTTLS
            _ehlo(smtp)
            yield Phase.EHLO
        if relay.username:
            _authenticate(smtp, relay)
            yield Phase.AUTH
    except BaseException:
        smtp.close()
        raise


def _connect(smtp: smtplib.SMTP, relay: Relay) -> None:
    # smtplib takes the name that the certificate must show from here when it secures the connection.
    smtp._host = relay.host  # type: ignore[attr-defined]  # not in typeshed; set by SMTP.__init__ only
    try:
        with during(Phase.GREETING):
            try:
                reply = parse(*smtp.connect(relay.host, relay.port))
            except smtplib.SMTPException:
                raise
            except ssl.SSLError as error:
                raise TLSFailed(Phase.CONNECT, _tls_words(error)) from error
            except TimeoutError as error:
                raise CannotConnect(Phase.CONNECT, f"no answer within {relay.timeout:g} s") from error
            except OSError as error:
                raise CannotConnect(Phase.CONNECT, error.strerror or type(error).__name__) from error
    except (UnicodeError, OverflowError) as error:
        raise CannotConnect(Phase.CONNECT, "the host or the port cannot be right") from error
    if reply.code != 220:
        raise Refused(Phase.GREETING, "", reply)
    if smtp.sock is not None:
        # Content and final dot go out in separate writes; with Nagle's algorithm the second one waits (RFC 896).
        smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _ehlo(smtp: smtplib.SMTP) -> None:
    with during(Phase.EHLO):
        reply = parse(*smtp.ehlo())
        if reply.permanent:  # a server that knows no EHLO (RFC 5321 §3.2)
            reply = parse(*smtp.helo())
    if not reply.positive:
        raise Refused(Phase.EHLO, "", reply)


def _starttls(smtp: smtplib.SMTP) -> None:
    if not smtp.has_extn("starttls"):
        # Never go on in the clear: the offer may have been stripped on the way (RFC 3207 §6).
        raise NotOffered(Phase.STARTTLS, "the server does not offer STARTTLS")
    with during(Phase.STARTTLS):
        try:
            smtp.starttls(context=ssl.create_default_context())
        except ssl.SSLError as error:
            raise TLSFailed(Phase.STARTTLS, _tls_words(error)) from error
        except smtplib.SMTPResponseException as error:
            # Whatever it says, it is not 220, and nothing is encrypted.
            raise Refused(Phase.STARTTLS, "", parse(error.smtp_code, error.smtp_error)) from None


def _authenticate(smtp: smtplib.SMTP, relay: Relay) -> None:
    mechanism = mechanism_for(smtp)
    if mechanism is None:
        raise NotOffered(Phase.AUTH, "the server offers no way to log in that is known here")
    with during(Phase.AUTH):
        code, text = auth.authenticate(smtp, mechanism, relay.username, relay.password)
        reply = parse(code, text)
    if reply.code != 235:
        raise Refused(Phase.AUTH, "", reply)


def mechanism_for(smtp: smtplib.SMTP) -> str | None:
    """The SASL mechanism to log in with, None when the server offers none that is known here."""
    encrypted = isinstance(smtp.sock, ssl.SSLSocket)
    return auth.choose(smtp.esmtp_features.get("auth", ""), encrypted=encrypted)


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


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message}"
    return f"TLS failed: {error.reason or type(error).__name__}"
