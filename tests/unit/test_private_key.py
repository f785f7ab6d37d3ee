"""Accepted forms of a private key, and the errors for everything else."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.exceptions import ValidationError

from email_integration.models import private_key
from tests.private_keys import certificate, key, pem, pem_of, service_account
from tests.token_endpoint import ACCOUNT

ENDPOINT = "https://login.example.com/token"
SECRET = "zY7~s3cret"


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("key_first", [True, False])
def test_a_key_and_its_certificate_in_any_order_of_a_chain(key_first: bool, ends: str) -> None:
    ours = certificate(key())
    parts = [pem(key()), pem_of(certificate(key("other"))), pem_of(ours)]
    entered = "".join(parts if key_first else reversed(parts)).replace("\n", ends)
    found = private_key.read(entered, certified=True)
    assert found.key.public_key() == key().public_key()
    assert found.ends_on == ours.not_valid_after_utc.date()
    assert len(found.thumbprint) == 43  # of SHA-256, without padding


def test_the_file_of_a_service_account_says_who_asks_whom() -> None:
    found = private_key.read(service_account(key(), ENDPOINT), certified=False)
    assert (found.issuer, found.endpoint, found.key_id) == (ACCOUNT, ENDPOINT, "0123456789abcdef")
    assert found.key.public_key() == key().public_key()


def certified(private: str, *, days: float = 90) -> str:
    """Return the key with a certificate of ours."""
    return private + pem_of(certificate(key(), days=days))


UNUSABLE: dict[str, tuple[Callable[[], str], str]] = {
    "no key": (lambda: SECRET, "Enter a private key"),
    "a broken key": (
        lambda: certified(f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"),
        "Enter a private key",
    ),
    "broken JSON": (lambda: "{" + SECRET, "Enter a private key"),
    "other JSON": (
        lambda: json.dumps({"web": {"client_id": "1", "client_secret": SECRET}}),
        "not the key file of a service account",
    ),
    "an endpoint that nothing may be sent to": (
        lambda: service_account(key(), "http://example.com"),
        "not the key file of a service account",
    ),
    "a passphrase": (lambda: certified(pem(key(), passphrase=SECRET)), "protected by a passphrase"),
    "no RSA": (lambda: certified(pem(ec.generate_private_key(ec.SECP256R1()))), "at least 2048 bits"),
    "a short key": (lambda: certified(pem(key("short", 1024))), "at least 2048 bits"),
    "no certificate": (lambda: pem(key()), "The certificate is missing"),
    "a service account": (lambda: service_account(key(), ENDPOINT), "The certificate is missing"),
    "another's certificate": (lambda: certified(pem(key("other"))), "does not belong to the certificate"),
    "an ended certificate": (lambda: certified(pem(key()), days=-1), "The certificate has expired"),
}


@pytest.mark.parametrize("wrong", UNUSABLE)
def test_what_cannot_be_used_is_refused_in_words_that_hold_nothing_of_it(wrong: str) -> None:
    entered, words = UNUSABLE[wrong]
    with pytest.raises(ValidationError) as caught:
        private_key.read(entered(), certified=True)
    assert words in caught.value.messages[0]
    assert SECRET not in caught.value.messages[0]
