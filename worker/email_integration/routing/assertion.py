"""Assertions: JWTs signed with a private key, sent to a token endpoint in place of a secret (RFC 7523)."""

from __future__ import annotations

import time
import uuid
from typing import Any

from email_integration.models.private_key import PrivateKey
from email_integration.secrecy import with_secrets

OF_CLIENT = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
AS_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

#: Lifetime of an assertion, in seconds.
_LIFE = 300


@with_secrets
def of_client(key: PrivateKey, *, client_id: str, endpoint: str) -> str:
    """Return an assertion that authenticates the client (§2.2), with its certificate named as Microsoft requires.

    ``endpoint`` is the URL of the token endpoint.
    """
    claims = {"iss": client_id, "sub": client_id, "aud": endpoint}
    return _signed(key, claims, algorithm="PS256", headers={"x5t#S256": key.thumbprint})


@with_secrets
def for_mailbox(key: PrivateKey, *, client_id: str, mailbox: str, scope: str, endpoint: str) -> str:
    """Return an assertion that is a grant for a service account to act for ``mailbox`` (§2.1).

    Google requires the ``scope`` in it. ``endpoint`` is the URL of the token endpoint.
    """
    claims = {"iss": key.issuer or client_id, "sub": mailbox, "aud": endpoint}
    return _signed(
        key,
        {**claims, "scope": scope} if scope else claims,
        algorithm="RS256",
        headers={"kid": key.key_id} if key.key_id else {},
    )


def _signed(key: PrivateKey, claims: dict[str, Any], *, algorithm: str, headers: dict[str, str]) -> str:
    import jwt  # imported only for a private key

    now = int(time.time())
    dated = {**claims, "iat": now, "exp": now + _LIFE, "jti": str(uuid.uuid4())}
    return jwt.encode(dated, key.key, algorithm=algorithm, headers=headers)
