"""What makes a connection secure: the one place where TLS is configured, for STARTTLS and implicit TLS alike."""

from __future__ import annotations

import re
import ssl

from .errors import TLSFailed
from .relay import Relay
from .replies import Phase


def client_context(relay: Relay, phase: Phase) -> ssl.SSLContext:
    """TLS 1.2 or newer, with the server's certificate and name verified.

    Trusts the relay's own authorities and no others; where it has none, the system's (or SSL_CERT_FILE's). Raises
    ``TLSFailed`` in ``phase`` when the relay's own cannot be loaded.
    """
    try:
        context = ssl.create_default_context(cadata=relay.ca_certificates or None)
    except (ssl.SSLError, TypeError, ValueError) as error:
        raise TLSFailed(phase, "the CA certificates of this configuration cannot be read as PEM") from error
    # The defaults of today, said here so that they are not those of another Python or an openssl.cnf.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    return context


#: Said when there is no TLS on the port, or not from the start.
IN_THE_CLEAR = "the server answers in the clear"
NO_VERSION = "the server and this machine have no version of TLS in common"
NO_CIPHER = "the server and this machine have no way to encrypt in common"
NO_NAME = "the server does not know the name it was called by"
NO_CLIENT_CERTIFICATE = "the server wants a certificate from us, or does not accept ours"
SERVER_FAULT = "the server broke it off because of a fault of its own (internal error)"
BROKEN_OFF = "the server broke it off"

#: Words for what OpenSSL calls these, the first that fits. Alerts (RFC 8446 §6) are what the server has sent.
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
    """Whether the server has said by TLS itself what is wrong."""
    return "ALERT" in (error.reason or "")


def words(error: ssl.SSLError) -> str:
    """Say what failed, without an address and without OpenSSL's own names."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message}"
    reason = error.reason or ""
    said = next((words for words, pattern in _WORDS if pattern.search(reason)), "")
    return f"TLS failed: {said or reason.lower().replace('_', ' ') or 'the handshake came to no end'}"
