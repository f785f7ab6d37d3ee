"""Requests to a token endpoint for an access token (RFC 6749), and descriptions of its errors.

One POST with three parameters and a proof: a library would save nothing.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.core.exceptions import ValidationError
from django.utils import translation

from email_integration import references, web
from email_integration.exceptions import SecretUnavailable
from email_integration.models import private_key
from email_integration.models.oauth import Grant
from email_integration.models.private_key import PrivateKey
from email_integration.secrecy import with_secrets
from email_integration.smtp import NoToken, Phase
from email_integration.smtp.concealing import Concealed

from . import assertion

#: Timeout for the answer of an endpoint, in seconds.
PATIENCE = 10.0

#: Maximum size of an answer in octets; tokens have some thousands.
_LONGEST_ANSWER = 64 * 1024

#: Lifetime in seconds of a token whose endpoint gives none (RFC 6749 §5.1 recommends to give it).
_LIFE = 600.0
_LONGEST_LIFE = 7 * 24 * 3600.0

#: The form of a bearer token (RFC 6750 §2.1); other characters could end the field that it is sent in.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
_WORD = re.compile(r"[a-z_]{1,40}")
#: Microsoft's error number.
_NUMBER = re.compile(r"\bAADSTS\d{4,8}\b")


@dataclass(frozen=True, kw_only=True)
class Account:
    """The data of a token request; each of its three secrets may be a reference."""

    endpoint: str
    grant: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str
    refresh_token: str = field(repr=False)
    private_key: str = field(repr=False)
    mailbox: str


@dataclass(frozen=True, kw_only=True)
class Granted:
    """A token and its lifetime in seconds.

    ``refresh_token`` replaces the previous one unless it is ''. ``certificate_ends`` is the last day of the certificate
    of the request.
    """

    access_token: str = field(repr=False)
    seconds: float
    refresh_token: str = field(default="", repr=False)
    certificate_ends: dt.date | None = None


class NoAccessToken(NoToken):
    """The endpoint has answered, without a usable token."""

    #: The new refresh token, which replaces the one that was sent even in this case.
    refresh_token = ""


class TokenRefused(NoAccessToken):
    """The endpoint refuses the request."""


@with_secrets
def fetch(account: Account, *, patience: float | None = None) -> Granted:
    """Request a token; if it is refused and a secret has changed where it is stored, request it once more.

    Raises ``NoToken``, whose text contains no secret. Each request takes at most ``patience`` seconds, by default
    ``PATIENCE``.
    """
    asking = resolved(account)
    try:
        return _fetch(asking, patience)
    except TokenRefused as refused:
        renewed = [references.renew(getattr(account, name), refused=getattr(asking, name)) for name in _SECRETS]
        if refused.refresh_token or not any(renewed):
            raise
    return _fetch(resolved(account), patience)


@with_secrets
def redeem(account: Account, *, code: str, verifier: str, redirect_uri: str) -> Granted:
    """Request tokens with the code of a consent (RFC 6749 §4.1.3, RFC 7636 §4.5). Raises ``NoToken``."""
    asking = resolved(replace(account, refresh_token=""))  # a lost refresh token may be the reason for the consent
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
        **_client(asking),
    }
    errors = {**_ERRORS, "invalid_grant": "the code has expired, or is not for this redirect URI"}
    return _ask(asking, form, errors)


_SECRETS = ("client_secret", "refresh_token", "private_key")


def resolved(account: Account) -> Account:
    """Return ``account`` with the secrets in place of references. Raises ``NoToken``."""
    found = {}
    for name in _SECRETS:
        try:
            found[name] = references.resolve(getattr(account, name))
        except SecretUnavailable as error:
            with translation.override(None):  # for logs and rows, which are not in a reader's language
                words = f"the {name.replace('_', ' ')} cannot be read: {str(error).rstrip('.')}"
            raise NoToken(Phase.AUTH, words[:250]) from None
    return replace(account, **found)


def _fetch(account: Account, patience: float | None) -> Granted:
    form = {"grant_type": account.grant}
    if account.scope:
        form["scope"] = account.scope
    if account.grant == Grant.REFRESH_TOKEN:
        if not account.refresh_token:
            raise NoToken(Phase.AUTH, "there is no refresh token yet: ask the owner of the mailbox for consent")
        form["refresh_token"] = account.refresh_token
    if not account.private_key:
        return _ask(account, {**form, **_client(account)}, _ERRORS, patience)
    key = _key_of(account)
    place = {"client_id": account.client_id, "endpoint": account.endpoint}
    if account.grant == Grant.JWT_BEARER:
        signed = assertion.for_mailbox(key, mailbox=account.mailbox, scope=account.scope, **place)
        form = {"grant_type": assertion.AS_GRANT, "assertion": signed}
    else:
        form |= {"client_assertion_type": assertion.OF_CLIENT, "client_assertion": assertion.of_client(key, **place)}
        form["client_id"] = account.client_id
    return replace(_ask(account, form, _ERRORS_OF_KEYS, patience), certificate_ends=key.ends_on)


def _client(account: Account) -> dict[str, str]:
    secret = {"client_secret": account.client_secret} if account.client_secret else {}
    return {"client_id": account.client_id, **secret}


def _key_of(account: Account) -> PrivateKey:
    try:
        return private_key.read(account.private_key, certified=account.grant != Grant.JWT_BEARER)
    except ValidationError as error:
        with translation.override(None):  # likewise
            raise TokenRefused(Phase.AUTH, f"the private key cannot be used: {error.messages[0].rstrip('.')}") from None


def _ask(account: Account, form: dict[str, str], errors: dict[str, str], patience: float | None = None) -> Granted:
    host = urlsplit(account.endpoint).hostname or ""
    try:
        answer = web.post(
            account.endpoint,
            urlencode(form).encode(),
            content_type="application/x-www-form-urlencoded",
            seconds=PATIENCE if patience is None else patience,
            most=_LONGEST_ANSWER,
        )
    except ValueError:
        raise _no_token("must be an https URL, or a URL of this machine") from None
    except web.Unanswered as error:
        raise _no_token(f"{host} could not be reached ({_UNANSWERED.get(str(error), str(error))})") from None
    return _granted(answer, host, errors, Concealed(form[name].encode() for name in _SHOWN if name in form))


#: The secret parameters of a request.
_SHOWN = ("client_secret", "refresh_token", "assertion", "client_assertion", "code", "code_verifier")

_UNANSWERED = {
    "SSLCertVerificationError": "its certificate is not trusted",
    "TimeoutError": "no answer in time",
    "gaierror": "there is no such host",
    "ConnectionRefusedError": "the connection was refused",
}


def _granted(answer: web.Response, host: str, errors: dict[str, str], asked_with: Concealed) -> Granted:
    if 300 <= answer.status < 400:
        raise _no_token(f"{host} answered with a redirect, which is not followed: correct its URL")
    try:
        said = json.loads(answer.body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise _no_token(f"{host} answered {answer.status} without JSON: correct its URL")
    refresh = said.get("refresh_token")
    refresh = refresh if isinstance(refresh, str) else ""
    try:
        token = _access_token(said, answer.status, host, errors, asked_with)
    except NoAccessToken as none:
        none.refresh_token = refresh
        raise
    return Granted(access_token=token, seconds=_seconds(said.get("expires_in")), refresh_token=refresh)


def _access_token(said: dict[str, Any], status: int, host: str, errors: dict[str, str], asked_with: Concealed) -> str:
    if status != 200 or "error" in said:
        raise _no_token(f"{host} refused the request: {_error(said, status, errors, asked_with)}", TokenRefused)
    token, kind = said.get("access_token"), said.get("token_type", "Bearer")
    if not (isinstance(token, str) and _TOKEN.fullmatch(token) and str(kind).lower() == "bearer"):
        raise _no_token(f"{host} answered without a bearer token", NoAccessToken)
    return token


def _seconds(given: Any) -> float:
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        return _LIFE
    return min(seconds, _LONGEST_LIFE) if seconds > 0 else _LIFE


#: RFC 6749 §5.2.
_ERRORS = {
    "invalid_client": "it does not know the client id, or the client secret is wrong or has expired",
    "invalid_grant": "the refresh token has expired or was revoked",
    "invalid_scope": "it does not know the scope",
    "unauthorized_client": "this client is not allowed to use this grant",
    "unsupported_grant_type": "it does not support this grant",
    "invalid_request": "it does not understand the request; the tenant or the scope may be wrong",
}


#: The same errors for a signed proof (RFC 7523 §3).
_ERRORS_OF_KEYS = {
    **_ERRORS,
    "invalid_client": "it does not know the client id, or the certificate is not registered with it or has expired",
    "invalid_grant": "it does not know the key or the mailbox, or the key was revoked",
    "unauthorized_client": "the service account is not authorized for this scope",
    "clock": "it considers the signed request too old or too new: the clock of this machine may be wrong",
}
#: The texts of Microsoft, Google and servers with common libraries for the last of these.
_OF_CLOCKS = re.compile(
    r"AADSTS700024\b|\b(iat|exp|nbf)\b|time ?(frame|range)"
    r"|\b(token|assertion|JWT) (is|has|was) expired\b|\bissued in the future\b|\bnot yet valid\b",
    re.IGNORECASE,
)


def _error(said: dict[str, Any], status: int, errors: dict[str, str], asked_with: Concealed) -> str:
    """Return the reason by the endpoint's known error codes; its free text may contain anything."""
    code = str(said.get("error"))
    if not _WORD.fullmatch(code) or asked_with.is_in(code.encode()):
        code = str(status)
    sentence = str(said.get("error_description", ""))[:2000]
    number = _NUMBER.search(sentence)
    shown = f"{code}, {number[0]}" if number else code
    words = (errors.get("clock") if _OF_CLOCKS.search(sentence) else None) or errors.get(code)
    return f"{words} ({shown})" if words else shown


def _no_token(words: str, kind: type[NoToken] = NoToken) -> NoToken:
    return kind(Phase.AUTH, f"the token endpoint {words}"[:250])
