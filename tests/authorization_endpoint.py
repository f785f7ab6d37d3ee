"""An authorization endpoint of OAuth 2.0 (RFC 6749 §4.1): a page with two buttons, and no login."""

from __future__ import annotations

from html import escape

from authlib.common.urls import add_params_to_uri
from authlib.oauth2 import OAuth2Error

from tests.authorization_server import Asked, Response, Server


class AuthorizationEndpoint:
    """Asks the owner of a mailbox for consent, and redirects only to one of ``redirect_uris``.

    ``asked`` are the received requests. ``adds`` is added to each response. A code is valid once.
    """

    def __init__(self, server: Server) -> None:
        self.redirect_uris = server.redirect_uris
        self.asked: list[dict[str, str]] = []
        self.adds: dict[str, str] = {}
        self._server = server

    def answer(self, method: str, form: dict[str, str]) -> Response:
        """Return the page or, after one of its buttons was pressed, the redirect."""
        request = Asked(method, self._server.url, form)
        owner = self._server.mailbox if form.get("decision") == "Allow" else None
        try:
            grant = self._server.get_consent_grant(request, owner)
        except OAuth2Error as error:
            return self._back(self._server.handle_error_response(request, error))
        if method == "POST":
            return self._back(self._server.create_authorization_response(request, owner, grant=grant))
        self.asked.append(form)
        hidden = "".join(
            f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in form.items()
        )
        buttons = "".join(f'<button name="decision" value="{each}">{each}</button>' for each in ("Allow", "Deny"))
        return _page(f'<form method="post">{hidden}{buttons}</form>')

    def _back(self, answer: Response) -> Response:
        status, headers, body = answer
        if "Location" in headers:
            headers = {**headers, "Location": add_params_to_uri(headers["Location"], self.adds.items())}
        return status, headers, body


def _page(body: str) -> Response:
    html = f'<!doctype html><html lang="en"><title>Consent</title><link rel="icon" href="data:,">{body}</html>'
    return 200, {"Content-Type": "text/html; charset=utf-8"}, html.encode()
