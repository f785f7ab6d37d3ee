"""The TLS settings: the only module that configures TLS, both for STARTTLS and for implicit TLS."""

from __future__ import annotations

import re
import ssl

from .errors import TLSFailed
from .relay import Relay
from .replies import Phase


def client_context(relay: Relay, phase: Phase) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer that verifies the server's certificate and name.

    It trusts only the relay's own authorities; if there are none, the system's (or SSL_CERT_FILE's). Raises
    ``TLSFailed`` in ``phase`` when the relay's own certificates cannot be loaded.
    """
    try:
        context = ssl.create_default_context(cadata=relay.ca_certificates or None)
    except (ssl.SSLError, TypeError, ValueError) as error:
        raise TLSFailed(phase, "the CA certificates of this configuration are not valid PEM") from error
    # The current defaults, set explicitly: another Python version or an openssl.cnf may have others.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    return context


#: For a port without TLS, or without TLS from the start.
IN_THE_CLEAR = "the server answers without encryption"
NO_VERSION = "the server and this machine support no common TLS version"
NO_CIPHER = "the server and this machine support no common encryption method"
NO_NAME = "the server does not know the host name of this configuration"
NO_CLIENT_CERTIFICATE = "the server requires a client certificate, or does not accept ours"
SERVER_FAULT = "the server ended the handshake because of an internal error"
BROKEN_OFF = "the server ended the handshake"

#: Texts for OpenSSL's error names; the first match is used. Alerts (RFC 8446 §6) are sent by the server.
_WORDS = (
    (
        IN_THE_CLEAR,
        re.compile(
            "WRONG_VERSION_NUMBER|UNKNOWN_PROTOCOL|HTTPS?_(PROXY_)?REQUEST|PACKET_LENGTH_TOO_LONG|BAD_RECORD_TYPE"
            "|RECORD_LAYER_FAILURE|NOT_SSL"
        ),
    ),
    (
        NO_VERSION,
        re.compile("UNSUPPORTED_(SSL_)?(PROTOCOL|VERSION)|PROTOCOL_VERSION|NO_PROTOCOLS|INAPPROPRIATE_FALLBACK"),
    ),
    (
        NO_CIPHER,
        re.compile(
            "HANDSHAKE_FAILURE|INSUFFICIENT_SECURITY|NO_SHARED|NO_CIPHER|KEY_TOO_SMALL|MD_TOO_WEAK|SIGNATURE_(TYPE|ALG)"
            "|UNSAFE_LEGACY|WRONG_CURVE|NO_SUITABLE"
        ),
    ),
    (NO_NAME, re.compile("UNRECOGNIZED_NAME")),
    (
        NO_CLIENT_CERTIFICATE,
        re.compile("ALERT_(.*CERTIFICATE.*|UNKNOWN_CA|ACCESS_DENIED)|CERTIFICATE_(REQUIRED|UNOBTAINABLE)"),
    ),
    (SERVER_FAULT, re.compile("INTERNAL_ERROR")),
    (BROKEN_OFF, re.compile("ALERT|UNEXPECTED_EOF|RENEGOTIATION")),
)


def is_alert(error: ssl.SSLError) -> bool:
    """Return whether the server has reported the error in a TLS alert."""
    return "ALERT" in (error.reason or "")


def words(error: ssl.SSLError) -> str:
    """Return a description of the error, without addresses and without OpenSSL's own names."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message}"
    reason = error.reason or ""
    said = next((words for words, pattern in _WORDS if pattern.search(reason)), "")
    return f"TLS failed: {said or reason.lower().replace('_', ' ') or 'the handshake did not complete'}"
