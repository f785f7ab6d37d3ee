"""An authorization server made of a library, so that its decisions do not depend on our reading of the RFCs."""

from __future__ import annotations

import json
import logging
import secrets
from typing import Any

from authlib.oauth2 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.authorization_grants import (
    CLIENT,
    REFRESH,
    S256,
    SCOPE,
    SECRET,
    AuthorizationCode,
    ByCertificate,
    Client,
    ClientCredentials,
    Code,
    RefreshToken,
    ServiceAccount,
)

logging.getLogger("authlib").setLevel(logging.INFO)  # at lower levels it logs the tokens

Response = tuple[int, dict[str, str], bytes]


class Asked(OAuth2Request):
    """One request, with its form or its query."""

    def __init__(self, method: str, url: str, form: dict[str, str]) -> None:
        super().__init__(method, url)
        self.payload = BasicOAuth2Payload(form)

    @property
    def form(self) -> dict[str, str]:
        return self.payload.data


class Server(AuthorizationServer):
    """Knows ``CLIENT``, and with a ``public_key`` the service account ``ACCOUNT``. Its tokens last ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(scopes_supported=[SCOPE])
        self.seconds = seconds
        self.rotates = False
        self.gives_refresh = True
        self.secret = SECRET
        self.redirect_uris: set[str] = set()
        self.refresh_tokens = {REFRESH}
        self.replaced: set[str] = set()
        self.reused: list[str] = []
        self.codes: dict[str, Code] = {}
        self.given: list[str] = []
        self.certificate: x509.Certificate | None = None
        self.public_key: RSAPublicKey | None = None
        self.mailbox = "user"
        self.ahead = 0.0
        self._good: set[str] = set()
        self._shown: set[str] = set()
        for grant in (ClientCredentials, RefreshToken, ServiceAccount):
            self.register_grant(grant)
        self.register_grant(AuthorizationCode, [S256()])
        self.register_client_auth_method(ByCertificate.CLIENT_AUTH_METHOD, ByCertificate(self))
        token = BearerTokenGenerator(_made("access"), _made("refresh"), lambda *_: self.seconds)
        self.register_token_generator("default", token)

    @property
    def url(self) -> str:
        """The URL of the token endpoint."""
        raise NotImplementedError

    def is_good(self, token: str) -> bool:
        """Return whether a token was issued and not revoked."""
        return token in self._good

    def revoke(self) -> None:
        """Revoke all tokens issued so far."""
        self._good.clear()

    def is_new(self, claims: dict[str, Any]) -> bool:
        """Return whether an assertion is new and has a unique id (RFC 7523 §3)."""
        jti = claims.get("jti")
        is_new = jti is not None and jti not in self._shown
        self._shown.add(jti)
        return is_new

    def by_clock(self, claims: dict[str, Any]) -> dict[str, Any]:
        """Return the claims as seen by a clock that is ``ahead`` of ours."""
        return {**claims, **{name: claims[name] - self.ahead for name in ("iat", "exp") if name in claims}}

    def query_client(self, client_id: str) -> Client | None:
        return Client(self, CLIENT) if client_id == CLIENT else None

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        self._good.add(token["access_token"])
        self.given.append(token["access_token"])
        if "refresh_token" in token:
            self.refresh_tokens.add(token["refresh_token"])

    def create_oauth2_request(self, request: Asked) -> Asked:
        return request

    def handle_response(self, status: int, body: Any, headers: list[tuple[str, str]]) -> Response:
        return status, dict(headers), json.dumps(body).encode() if body else b""

    def send_signal(self, name: str, *args: object, **more: object) -> None:
        """Send no signal."""


def _made(kind: str) -> Any:
    return lambda **_: f"zY7~{kind}-token-{secrets.token_hex(8)}"
