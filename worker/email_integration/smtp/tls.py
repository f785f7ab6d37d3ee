"""What makes a connection secure: the one place where TLS is configured, for STARTTLS and implicit TLS alike."""

from __future__ import annotations

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


def words(error: ssl.SSLError) -> str:
    """Say what failed, without an address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message}"
    return f"TLS failed: {error.reason or type(error).__name__}"
