"""An authorization endpoint of OAuth 2.0 (RFC 6749 §4.1): a page with two buttons, and nobody to log in as."""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from html import escape
from urllib.parse import urlencode

Response = tuple[int, dict[str, str], bytes]

#: What a client has to say to be shown the page.
_ASKED = {"response_type": "code", "code_challenge_method": "S256"}


class AuthorizationEndpoint:
    """Asks the owner of a mailbox on behalf of ``client``, and leads back to those of ``redirect_uris`` alone.

    ``asked`` are the questions that came; ``adds`` goes into each answer. A code is good once.
    """

    def __init__(self, client: str) -> None:
        self.client = client
        self.redirect_uris: set[str] = set()
        self.asked: list[dict[str, str]] = []
        self.adds: dict[str, str] = {}
        self._codes: dict[str, tuple[str, str]] = {}

    def answer(self, method: str, form: dict[str, str]) -> Response:
        """The page, or, for whoever has pressed one of its buttons, the way back."""
        if form.get("client_id") != self.client or form.get("redirect_uri") not in self.redirect_uris:
            return _page("<p>Unknown client or redirect URI</p>", 400)  # RFC 6749 §4.1.2.1: it leads nowhere then
        if {name: form.get(name) for name in _ASKED} != _ASKED or len(form.get("code_challenge", "")) != 43:
            return self._back(form, error="invalid_request")
        if method == "POST":
            return self._back(form, **self._decided(form))
        self.asked.append(form)
        hidden = "".join(
            f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in form.items()
        )
        buttons = "".join(f'<button name="decision" value="{each}">{each}</button>' for each in ("Allow", "Deny"))
        return _page(f'<form method="post">{hidden}{buttons}</form>')

    def is_good(self, form: dict[str, str]) -> bool:
        """Whether a request for a token has a code that was given and not used, for the same URI, and its verifier."""
        challenge = urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        shown = (form.get("redirect_uri"), challenge.decode().rstrip("="))
        return self._codes.pop(form.get("code", ""), None) == shown

    def _decided(self, form: dict[str, str]) -> dict[str, str]:
        if form.get("decision") != "Allow":
            return {"error": "access_denied", "error_description": "zY7-said by anybody"}
        code = f"zY7-code-{secrets.token_hex(8)}"
        self._codes[code] = (form["redirect_uri"], form["code_challenge"])
        return {"code": code}

    def _back(self, form: dict[str, str], **answer: str) -> Response:
        query = urlencode({**answer, "state": form.get("state", ""), **self.adds})
        return 302, {"Location": f"{form['redirect_uri']}?{query}"}, b""


def _page(body: str, status: int = 200) -> Response:
    html = f'<!doctype html><html lang="en"><title>Consent</title><link rel="icon" href="data:,">{body}</html>'
    return status, {"Content-Type": "text/html; charset=utf-8"}, html.encode()
