"""Create a certificate authority and a server certificate for this machine."""

from __future__ import annotations

import dataclasses
import ssl
from pathlib import Path

import trustme


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificates:
    """The paths of the files. A process trusts the authority by ``SSL_CERT_FILE`` in its environment."""

    authority: Path
    certificate: Path
    key: Path

    @property
    def env(self) -> dict[str, str]:
        """Return the environment of a process that trusts only these certificates."""
        return {"SSL_CERT_FILE": str(self.authority)}

    def server_context(self) -> ssl.SSLContext:
        """Return a TLS context for a server."""
        return server_context(self.certificate, self.key)


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a TLS context for a server with this certificate chain and private key."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


def make_certificates(folder: Path, *, names: tuple[str, ...] = ("localhost", "127.0.0.1")) -> Certificates:
    """Create an authority and a certificate for ``names``, and write them to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(
        authority=folder / "authority.pem", certificate=folder / "server.pem", key=folder / "server.key"
    )
    authority = trustme.CA()
    server = authority.issue_cert(*names)
    authority.cert_pem.write_to_path(str(made.authority))
    made.certificate.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    made.key.touch(mode=0o600)
    server.private_key_pem.write_to_path(str(made.key))
    return made
