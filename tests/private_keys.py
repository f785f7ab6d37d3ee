"""Private keys, their certificates, and the key file of a Google service account."""

from __future__ import annotations

import datetime as dt
import functools
import json

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from django.utils import timezone

from tests.token_endpoint import ACCOUNT


@functools.cache
def key(name: str = "app", bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return the key of that name. It is created once, because that is slow."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def pem(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, *, passphrase: str = "") -> str:
    """Return the key in openssl's PEM format."""
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


def certificate(private: rsa.RSAPrivateKey, *, days: float = 90) -> x509.Certificate:
    """Return a certificate that expires in ``days`` days."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mailer")])
    now = timezone.now()
    return (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=400))
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(private, SHA256())
    )


def pem_of(one: x509.Certificate) -> str:
    """Return the certificate in PEM format."""
    return one.public_bytes(Encoding.PEM).decode()


def service_account(private: rsa.RSAPrivateKey, endpoint: str) -> str:
    """Return the JSON file of a service account's key."""
    return json.dumps(
        {
            "type": "service_account",
            "private_key_id": "0123456789abcdef",
            "private_key": pem(private),
            "client_email": ACCOUNT,
            "client_id": "1234567890",
            "token_uri": endpoint,
        }
    )
