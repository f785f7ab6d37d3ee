"""The content of a private key's field: PEM with the certificate, or the JSON file of a Google service account."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from email_integration.secrecy import with_secrets
from email_integration.web import is_url

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as Text

#: Minimum length of a key in bits: no provider accepts shorter ones.
_SHORTEST = 2048

_KEY = re.compile(r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.+?-----END \1PRIVATE KEY-----", re.DOTALL)

_NO_KEY = _("Enter a private key in PEM format, from -----BEGIN to -----END, or the JSON file of a service account.")
_ENCRYPTED = _("The key is protected by a passphrase: remove the passphrase first (openssl pkey -in key.pem).")
_NOT_RSA = _("The key must be an RSA key of at least 2048 bits.")
_OTHER_JSON = _("This is JSON, but not the key file of a service account.")
_NO_CERTIFICATE = _("The certificate is missing: enter key and certificate one after the other, both in PEM format.")
_OTHER_CERTIFICATE = _("The key does not belong to the certificate.")
_ENDED = _("The certificate has expired.")
_NO_SIGNER = _("PyJWT, which signs with a private key, is not installed: pip install 'celery-mail-dispatch[oauth]'.")


@dataclass(frozen=True, kw_only=True)
class PrivateKey:
    """An RSA key with its known data; '' or None for unknown data.

    ``thumbprint`` and ``ends_on`` are its certificate's (RFC 7515 §4.1.8). ``key_id``, ``issuer`` (the account's
    address) and ``endpoint`` are those of a service account's file.
    """

    key: RSAPrivateKey = field(repr=False)
    thumbprint: str = ""
    ends_on: dt.date | None = None
    key_id: str = ""
    issuer: str = ""
    endpoint: str = ""


@with_secrets
def read(text: str, *, certified: bool) -> PrivateKey:
    """Parse the entered text; with ``certified`` it must contain the certificate, which must not have expired.

    Raises ``ValidationError``, whose text contains nothing of the input.
    """
    if find_spec("jwt") is None:
        raise _refusal(_NO_SIGNER)
    found = _from_json(text) if text.lstrip().startswith("{") else PrivateKey(key=_key_in(text))
    if not certified:
        return found
    certificate = _certificate_of(found.key, text)
    if certificate.not_valid_after_utc <= dt.datetime.now(dt.UTC):
        raise _refusal(_ENDED)
    thumbprint = base64.urlsafe_b64encode(certificate.fingerprint(SHA256())).rstrip(b"=").decode()
    return replace(found, thumbprint=thumbprint, ends_on=certificate.not_valid_after_utc.date())


def _from_json(text: str) -> PrivateKey:
    try:
        given: Any = json.loads(text)
    except ValueError:
        raise _refusal(_NO_KEY) from None
    names = ("private_key", "private_key_id", "client_email", "token_uri")
    pem, key_id, issuer, endpoint = (str(given.get(name, "")) for name in names)
    if not (pem and 0 < len(issuer) <= 255 and len(endpoint) <= 500 and is_url(endpoint)):
        raise _refusal(_OTHER_JSON)
    return PrivateKey(key=_key_in(pem), key_id=key_id, issuer=issuer, endpoint=endpoint)


def _key_in(text: str) -> RSAPrivateKey:
    found = _KEY.search(text)
    try:
        key = load_pem_private_key(found[0].encode(), password=None) if found else None
    except TypeError:  # it needs a passphrase
        raise _refusal(_ENCRYPTED) from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if key is None:
        raise _refusal(_NO_KEY)
    if not isinstance(key, RSAPrivateKey) or key.key_size < _SHORTEST:
        raise _refusal(_NOT_RSA)
    return key


def _certificate_of(key: RSAPrivateKey, text: str) -> x509.Certificate:
    """Return the certificate of ``key``, at any position of a chain."""
    try:
        chain = x509.load_pem_x509_certificates(text.encode())
        fitting = [one for one in chain if one.public_key() == key.public_key()]
    except (ValueError, UnsupportedAlgorithm):
        raise _refusal(_NO_CERTIFICATE) from None
    if not fitting:
        raise _refusal(_OTHER_CERTIFICATE)
    return max(fitting, key=lambda one: one.not_valid_after_utc)


def _refusal(words: Text) -> ValidationError:
    return ValidationError(words, code="private_key")
