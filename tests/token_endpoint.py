"""A token endpoint of OAuth 2.0 (RFC 6749) that is real, and fails as it is told to."""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from config.local.certificates import Certificates
from tests.authorization_endpoint import AuthorizationEndpoint, Response

CLIENT = "mailer"
SECRET = "zY7-client-secret-q2X"
REFRESH = "zY7-refresh-token-q2X"
SCOPE = "smtp"
ACCOUNT = "mailer@project.iam.example.com"

OF_CLIENT = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
AS_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class _Quiet(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nothing: tests read what is printed."""


class TokenEndpoint:
    """Gives tokens to ``CLIENT``, for as long as ``seconds`` says; ``requests`` are the forms that came.

    ``instead`` answers in its place while it is not None; ``rotates`` puts another refresh token in the place of each
    that is used. ``is_good`` is for the mail server. ``authorization`` asks the owner of the mailbox; with
    ``gives_refresh`` False what comes of it is no refresh token.

    With a ``certificate`` it knows ``CLIENT`` by that alone, by ``public_key`` the service account ``ACCOUNT``, which
    may ask for ``mailbox``; its clock is ``ahead`` of ours by so many seconds.
    """

    def __init__(self, certificates: Certificates | None = None, *, seconds: float = 3600.0) -> None:
        self.seconds = seconds
        self.rotates = False
        self.gives_refresh = True
        self.authorization = AuthorizationEndpoint(CLIENT)
        self.requests: list[dict[str, str]] = []
        self.instead: Callable[[], Response] | None = None
        self.secret = SECRET
        self.refresh_tokens = {REFRESH}
        self.given: list[str] = []
        self.certificate: x509.Certificate | None = None
        self.public_key: RSAPublicKey | None = None
        self.mailbox = "user"
        self.ahead = 0.0
        self._shown: set[str] = set()
        self._good: set[str] = set()
        self._server = make_server("127.0.0.1", 0, self._answer, _Threaded, _Quiet)
        self._scheme = "http"
        if certificates is not None:
            self._scheme = "https"
            self._server.socket = certificates.server_context().wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://localhost:{self._server.server_port}/token"

    @property
    def authorization_url(self) -> str:
        """Of another site than the token endpoint's, as browsers see it."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}/authorize"

    def is_good(self, token: str) -> bool:
        """Whether a token was given and not revoked since."""
        return token in self._good

    def revoke(self) -> None:
        """No token that was given so far is good any more."""
        self._good.clear()

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        sent = environ["wsgi.input"].read(length).decode()
        form = {name: values[0] for name, values in parse_qs(sent or environ["QUERY_STRING"]).items()}
        if environ["PATH_INFO"] == "/authorize":
            status, headers, body = self.authorization.answer(environ["REQUEST_METHOD"], form)
        else:
            self.requests.append(form)
            status, headers, body = self.instead() if self.instead is not None else self._token(form)
        start(f"{status} .", [*headers.items(), ("Content-Length", str(len(body)))])
        return [body]

    def _token(self, form: dict[str, str]) -> Response:
        try:
            scope = self._proven(form)
        except _Refused as refused:
            return error(*refused.args)
        if scope != SCOPE:
            return error("invalid_scope")
        given: dict[str, object] = {"token_type": "Bearer", "expires_in": self.seconds}
        if form.get("grant_type") == "refresh_token":
            if form.get("refresh_token") not in self.refresh_tokens:
                return error("invalid_grant")
            if self.rotates:
                given["refresh_token"] = f"{REFRESH}-{secrets.token_hex(8)}"
                self.refresh_tokens = {str(given["refresh_token"])}
        elif form.get("grant_type") == "authorization_code":
            if not self.authorization.is_good(form):
                return error("invalid_grant")
            if self.gives_refresh:
                given["refresh_token"] = f"{REFRESH}-{secrets.token_hex(8)}"
                self.refresh_tokens.add(str(given["refresh_token"]))
        elif form.get("grant_type") not in ("client_credentials", AS_GRANT):
            return error("unsupported_grant_type")
        token = f"zY7-access-token-{secrets.token_hex(8)}"
        self._good.add(token)
        self.given.append(token)
        return said({**given, "access_token": token})

    def _proven(self, form: dict[str, str]) -> str:
        """The scope that is asked for, by somebody who is known by a secret or a signature."""
        if form.get("grant_type") == AS_GRANT:
            claims = self._signed(form["assertion"], self.public_key, "RS256", "invalid_grant")
            if "client_secret" in form or claims["iss"] != ACCOUNT or claims["sub"] != self.mailbox:
                raise _Refused("invalid_grant")
            return claims.get("scope", SCOPE)
        if self.certificate is None:
            if (form.get("client_id"), form.get("client_secret")) != (CLIENT, self.secret):
                raise _Refused("invalid_client", 401)
        else:
            if form.get("client_assertion_type") != OF_CLIENT or "client_secret" in form:
                raise _Refused("invalid_client", 401)
            shown = form["client_assertion"]
            thumbprint = base64.urlsafe_b64encode(self.certificate.fingerprint(SHA256())).rstrip(b"=").decode()
            if jwt.get_unverified_header(shown).get("x5t#S256") != thumbprint:
                raise _Refused("invalid_client", 401)
            claims = self._signed(shown, self.certificate.public_key(), "PS256", "invalid_client")
            if not claims["iss"] == claims["sub"] == form.get("client_id") == CLIENT:
                raise _Refused("invalid_client", 401)
        return form.get("scope", SCOPE)

    def _signed(self, token: str, key: Any, algorithm: str, code: str) -> dict[str, Any]:
        """What was signed, for this endpoint, not long ago, and shown for the first time (RFC 7523 §3)."""
        try:
            wanted = ["iss", "sub", "aud", "iat", "exp", "jti"]
            unchecked = {"require": wanted, "verify_exp": False, "verify_iat": False}
            claims = jwt.decode(token, key, algorithms=[algorithm], audience=self.url, options=unchecked)
        except (jwt.InvalidTokenError, TypeError):
            raise _Refused(code) from None
        now = time.time() + self.ahead
        if not claims["iat"] - 5 <= now < claims["exp"] <= claims["iat"] + 3600:
            raise _Refused(code, 400, "zY7-words: check your iat and exp values in the JWT claim.")
        if claims["jti"] in self._shown:
            raise _Refused(code)
        self._shown.add(claims["jti"])
        return dict(claims)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Refused(Exception):
    """Its arguments are those of ``error``."""


class _Threaded(WSGIServer):
    """One that hangs does not hold up the others."""

    def process_request(self, request: Any, client_address: Any) -> None:
        threading.Thread(target=self._serve, args=(request, client_address), daemon=True).start()

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client has gone
        finally:
            self.shutdown_request(request)


def said(answer: object, status: int = 200) -> Response:
    """An answer in JSON."""
    return status, {"Content-Type": "application/json"}, json.dumps(answer).encode()


def error(code: str, status: int = 400, words: str = f"AADSTS7000215: {SECRET} of {CLIENT} is wrong") -> Response:
    """A refusal, with a sentence that gives away what it should not (RFC 6749 §5.2)."""
    return said({"error": code, "error_description": words}, status)
