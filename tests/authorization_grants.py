"""The rules for a library's authorization server: the clients, and the grants by which they get tokens."""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import Any

from authlib.oauth2 import OAuth2Request
from authlib.oauth2.rfc6749 import (
    AuthorizationCodeMixin,
    ClientMixin,
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
    TokenMixin,
    grants,
)
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion, JWTBearerGrant
from authlib.oauth2.rfc7636 import CodeChallenge
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

CLIENT = "mailer"
SECRET = "zY7~client-secret-q2X"
REFRESH = "zY7~refresh-token-q2X"
SCOPE = "smtp"
ACCOUNT = "mailer@project.iam.example.com"

#: The authentication of ``CLIENT``: by its secret, or by its certificate once it has one.
_BY = ["client_secret_post", "private_key_jwt"]


@dataclass(frozen=True)
class Client(ClientMixin):
    """``CLIENT``, or ``ACCOUNT``, which may only use signed assertions."""

    server: Any
    client_id: str

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or SCOPE  # RFC 6749 §3.3

    def get_default_redirect_uri(self) -> None:
        """None: each request must name its own."""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self.server.redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(client_secret.encode(), self.server.secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == _BY[self.server.certificate is not None]

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        if grant_type == "refresh_token" and not self.server.gives_refresh:
            return False
        return (grant_type == JWTBearerGrant.GRANT_TYPE) == (self.client_id == ACCOUNT)


# -- the authorization code grant, with PKCE --------------------------------------------------------------------------


@dataclass(frozen=True)
class Code(AuthorizationCodeMixin):
    code: str
    redirect_uri: str
    scope: str
    code_challenge: str
    code_challenge_method: str | None

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


class S256(CodeChallenge):
    SUPPORTED_CODE_CHALLENGE_METHOD = ["S256"]

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        """Require PKCE of each client (RFC 9700 §2.1.1); the library requires it only of those without a secret."""
        if not grant.request.payload.data.get("code_challenge"):
            raise InvalidRequestError("Missing 'code_challenge'")
        super().validate_code_challenge(grant, redirect_uri)


class AuthorizationCode(grants.AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = _BY

    def generate_authorization_code(self) -> str:
        return f"zY7~code-{secrets.token_urlsafe(16)}"

    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        asked = request.payload.data
        pkce = asked["code_challenge"], asked.get("code_challenge_method")
        self.server.codes[code] = Code(code, request.payload.redirect_uri, request.scope, *pkce)

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        return self.server.codes.get(code)

    def delete_authorization_code(self, authorization_code: Code) -> None:
        del self.server.codes[authorization_code.code]

    def authenticate_user(self, authorization_code: Code) -> str:
        return self.server.mailbox


# -- the other grants -------------------------------------------------------------------------------------------------


class ClientCredentials(grants.ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = _BY


@dataclass(frozen=True)
class _Refresh(TokenMixin):
    token: str

    def check_client(self, client: Client) -> bool:
        return client.client_id == CLIENT

    def get_scope(self) -> str:
        return SCOPE


class RefreshToken(grants.RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = _BY

    @property
    def INCLUDE_NEW_REFRESH_TOKEN(self) -> bool:
        return self.server.rotates

    def authenticate_refresh_token(self, refresh_token: str) -> _Refresh | None:
        if refresh_token in self.server.replaced:  # either client may be the thief (RFC 9700 §4.14.2)
            self.server.reused.append(refresh_token)
            self.server.refresh_tokens.clear()
        return _Refresh(refresh_token) if refresh_token in self.server.refresh_tokens else None

    def authenticate_user(self, refresh_token: _Refresh) -> str:
        return self.server.mailbox

    def revoke_old_credential(self, refresh_token: _Refresh) -> None:
        if self.server.rotates:
            self.server.refresh_tokens.discard(refresh_token.token)
            self.server.replaced.add(refresh_token.token)


# -- signed assertions (RFC 7523) -------------------------------------------------------------------------------------


class ByCertificate(JWTBearerClientAssertion):
    """Microsoft's client authentication, by PS256 and the thumbprint of the certificate.

    The library accepts PS256 only if it is configured.
    """

    CLIENT_AUTH_METHOD = "private_key_jwt"

    def __init__(self, server: Any) -> None:
        super().__init__()
        self._server = server

    def get_audiences(self) -> list[str]:
        return [self._server.url]

    def extract_assertion(self, assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
        headers, claims = super().extract_assertion(assertion)
        ours = self._server.certificate
        if ours is None or headers.get("x5t#S256") != _thumbprint(ours):
            raise InvalidClientError(description="Unknown certificate")
        return headers, claims

    def resolve_client_public_key(self, client: Client) -> RSAKey:
        assert self._server.certificate is not None
        return RSAKey.import_key(self._server.certificate.public_key())

    def process_assertion_claims(self, assertion: str, resolve_key: RSAKey) -> dict[str, Any]:
        try:
            claims = jwt.decode(assertion, resolve_key, algorithms=["PS256"]).claims
        except JoseError as error:
            raise InvalidClientError(description=error.description) from error
        self.verify_claims(self._server.by_clock(claims))
        return claims

    def validate_jti(self, claims: dict[str, Any], jti: str) -> bool:
        return self._server.is_new(claims)


def _thumbprint(certificate: x509.Certificate) -> str:
    return urlsafe_b64encode(certificate.fingerprint(SHA256())).rstrip(b"=").decode()


class ServiceAccount(JWTBearerGrant):
    """Google's service account: the assertion contains the time of signing and the mailbox."""

    CLAIMS_OPTIONS = {**JWTBearerGrant.CLAIMS_OPTIONS, "iat": {"essential": True}, "sub": {"essential": True}}

    def get_audiences(self) -> list[str]:
        return [self.server.url]

    def resolve_issuer_client(self, issuer: str) -> Client | None:
        return Client(self.server, ACCOUNT) if issuer == ACCOUNT and self.server.public_key else None

    def resolve_client_public_key(self, client: Client) -> RSAKey:
        return RSAKey.import_key(self.server.public_key, {"alg": "RS256"})

    def verify_claims(self, claims: dict[str, Any]) -> None:
        super().verify_claims(self.server.by_clock(claims))
        if not self.server.is_new(claims):
            raise InvalidGrantError(description="JWT ID is used before.")
        self.server.validate_requested_scope(claims.get("scope"))

    def authenticate_user(self, subject: str) -> str | None:
        return subject if subject == self.server.mailbox else None

    def has_granted_permission(self, client: Client, user: str) -> bool:
        return True
