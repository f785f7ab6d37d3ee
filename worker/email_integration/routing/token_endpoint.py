"""Asking a token endpoint for an access token (RFC 6749), and putting into words what it answers otherwise.

Three parameters and a secret in one POST: a library would bring no less than this asks for.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from email_integration import web
from email_integration.models.oauth import Grant
from email_integration.smtp import NoToken, Phase

#: Seconds that an endpoint has for its answer.
PATIENCE = 10.0

#: Octets of the longest answer; tokens have some thousands.
_LONGEST_ANSWER = 64 * 1024

#: Seconds that a token lives whose endpoint does not say how long (RFC 6749 §5.1 wants it to).
_LIFE = 600.0
_LONGEST_LIFE = 7 * 24 * 3600.0

#: What can be shown as a bearer token (RFC 6750 §2.1); anything else would break out of its place.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
_WORD = re.compile(r"[a-z_]{1,40}")
#: Microsoft's number of what is wrong.
_NUMBER = re.compile(r"\bAADSTS\d{4,8}\b")


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a token is asked for with."""

    endpoint: str
    grant: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str
    refresh_token: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Granted:
    """A token, and for how many seconds it is good. ``refresh_token`` takes the place of the one before, if not ''."""

    access_token: str = field(repr=False)
    seconds: float
    refresh_token: str = field(default="", repr=False)


def fetch(account: Account) -> Granted:
    """Ask for a token. Raises ``NoToken``, whose words hold nothing that is secret, within ``PATIENCE`` seconds."""
    form = {"grant_type": account.grant}
    if account.scope:
        form["scope"] = account.scope
    if account.grant == Grant.REFRESH_TOKEN:
        if not account.refresh_token:
            raise NoToken(Phase.AUTH, "there is no refresh token yet: ask the owner of the mailbox for consent")
        form["refresh_token"] = account.refresh_token
    return _ask(account, form)


def redeem(account: Account, *, code: str, verifier: str, redirect_uri: str) -> Granted:
    """Ask for tokens with the code of a consent (RFC 6749 §4.1.3, RFC 7636 §4.5). Raises as ``fetch`` does."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
    }
    return _ask(account, form, {**_ERRORS, "invalid_grant": "the code has ended, or is not for this redirect URI"})


def _ask(account: Account, form: dict[str, str], errors: dict[str, str] | None = None) -> Granted:
    form["client_id"] = account.client_id
    if account.client_secret:
        form["client_secret"] = account.client_secret
    host = urlsplit(account.endpoint).hostname or ""
    try:
        answer = web.post(
            account.endpoint,
            urlencode(form).encode(),
            content_type="application/x-www-form-urlencoded",
            seconds=PATIENCE,
            most=_LONGEST_ANSWER,
        )
    except ValueError:
        raise _no_token("must be an https URL, or one of this machine") from None
    except web.Unanswered as error:
        raise _no_token(f"{host} does not answer ({_UNANSWERED.get(str(error), str(error))})") from None
    return _granted(answer, host, errors or _ERRORS)


_UNANSWERED = {
    "SSLCertVerificationError": "its certificate is not trusted",
    "TimeoutError": "no answer in time",
    "gaierror": "there is no such host",
    "ConnectionRefusedError": "the connection was refused",
}


def _granted(answer: web.Answer, host: str, errors: dict[str, str]) -> Granted:
    if 300 <= answer.status < 400:
        raise _no_token(f"{host} redirects elsewhere, which is not followed: correct its URL")
    try:
        said = json.loads(answer.body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise _no_token(f"{host} answered {answer.status} with something other than JSON: correct its URL")
    if answer.status != 200 or "error" in said:
        raise _no_token(f"{host} refused: {_error(said, answer.status, errors)}")
    token, kind = said.get("access_token"), said.get("token_type", "Bearer")
    if not (isinstance(token, str) and _TOKEN.fullmatch(token) and str(kind).lower() == "bearer"):
        raise _no_token(f"{host} answered with no bearer token")
    refresh = said.get("refresh_token")
    return Granted(
        access_token=token,
        seconds=_seconds(said.get("expires_in")),
        refresh_token=refresh if isinstance(refresh, str) else "",
    )


def _seconds(given: Any) -> float:
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        return _LIFE
    return min(seconds, _LONGEST_LIFE) if seconds > 0 else _LIFE


#: RFC 6749 §5.2.
_ERRORS = {
    "invalid_client": "it does not know the client id, or the client secret is wrong or has ended",
    "invalid_grant": "the refresh token has ended, or was withdrawn",
    "invalid_scope": "it does not know the scope",
    "unauthorized_client": "this client may not ask for tokens in this way",
    "unsupported_grant_type": "it gives no tokens in this way",
    "invalid_request": "it does not understand the request; the tenant or the scope may be wrong",
}


def _error(said: dict[str, Any], status: int, errors: dict[str, str]) -> str:
    """Why, by the endpoint's words that are known; its sentences name whatever it likes."""
    code = said.get("error")
    code = code if isinstance(code, str) and _WORD.fullmatch(code) else str(status)
    number = _NUMBER.search(str(said.get("error_description", ""))[:2000])
    shown = f"{code}, {number[0]}" if number else code
    return f"{errors[code]} ({shown})" if code in errors else shown


def _no_token(words: str) -> NoToken:
    return NoToken(Phase.AUTH, f"the token endpoint {words}"[:250])
