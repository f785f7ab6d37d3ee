"""A real token endpoint of OAuth 2.0 (RFC 6749) that can be told to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from config.local.certificates import Certificates
from config.local.processes import PATIENCE
from tests.authorization_endpoint import AuthorizationEndpoint
from tests.authorization_grants import ACCOUNT, CLIENT, REFRESH, SCOPE, SECRET
from tests.authorization_server import Asked, Response, Server

__all__ = ["ACCOUNT", "CLIENT", "REFRESH", "SCOPE", "SECRET", "Response", "TokenEndpoint", "error", "said"]


class _Quiet(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        """Print nothing, because tests read the output."""


class TokenEndpoint(Server):
    """Issues tokens to ``CLIENT`` that last ``seconds``. ``requests`` are the received forms.

    While ``instead`` is not None, it answers instead. With ``rotates`` each use of a refresh token replaces it; if a
    replaced token is used again, all tokens are revoked, and ``reused`` names it. ``is_good`` is for the mail server.
    ``authorization`` asks the owner of the mailbox. With ``gives_refresh`` False the consent yields no refresh token.

    With a ``certificate``, only this authenticates ``CLIENT``. With a ``public_key``, the endpoint knows the service
    account ``ACCOUNT``, which may access ``mailbox``. Its clock is ``ahead`` seconds ahead of ours.
    """

    def __init__(self, certificates: Certificates | None = None, *, seconds: float = 3600.0) -> None:
        super().__init__(seconds)
        self.authorization = AuthorizationEndpoint(self)
        self.requests: list[dict[str, str]] = []
        self.instead: Callable[[], Response] | None = None
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
        """The authorization endpoint's URL, which browsers see as another site than the token endpoint's."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}/authorize"

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        sent = environ["wsgi.input"].read(length).decode()
        form = {name: values[0] for name, values in parse_qs(sent or environ["QUERY_STRING"]).items()}
        if environ["PATH_INFO"] == "/authorize":
            status, headers, body = self.authorization.answer(environ["REQUEST_METHOD"], form)
        else:
            self.requests.append(form)
            answer = self.instead or partial(
                self.create_token_response, Asked(environ["REQUEST_METHOD"], self.url, form)
            )
            status, headers, body = answer()
        start(f"{status} .", [*headers.items(), ("Content-Length", str(len(body)))])
        return [body]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)


class _Threaded(WSGIServer):
    """A server with a thread for each request, so that one that hangs does not delay the others."""

    def process_request(self, request: Any, client_address: Any) -> None:
        threading.Thread(target=self._serve, args=(request, client_address), daemon=True).start()

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client has closed the connection
        finally:
            self.shutdown_request(request)


def said(answer: object, status: int = 200) -> Response:
    """Return an answer in JSON."""
    return status, {"Content-Type": "application/json"}, json.dumps(answer).encode()


def error(code: str, status: int = 400, words: str = f"AADSTS7000215: {SECRET} of {CLIENT} is wrong") -> Response:
    """Return an error whose description reveals secrets that must not be shown (RFC 6749 §5.2)."""
    return said({"error": code, "error_description": words}, status)
