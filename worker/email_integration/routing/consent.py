"""The consent of a mailbox's owner: the page that asks for it, and the data that identifies the answer.

This is the authorization code grant (RFC 6749 §4.1) with a state, PKCE (RFC 7636) and the requirements of RFC 9700 for
both. ``email_integration.routing.token_endpoint`` exchanges the code for a refresh token.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from email_integration import web
from email_integration.models import SMTPConfig
from email_integration.secrecy import with_secrets

#: Maximum time in seconds from the request to the answer, in which the owner logs in and reads.
PATIENCE = 600.0

_GOOGLE = "oauth2.googleapis.com"
_MICROSOFT = "/oauth2/v2.0/"


@dataclass(frozen=True, kw_only=True)
class Question:
    """The request to the owner: scope, URL ('' for an unknown one), and the parameters of one provider (``more``)."""

    endpoint: str
    scope: str
    more: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """The host of the provider's page."""
        return urlsplit(self.endpoint).hostname or ""


def question_of(config: SMTPConfig) -> Question:
    """Return the request to the owner of the mailbox, from ``config`` and the known values of two providers."""
    scope, endpoint, more = config.oauth_scope, "", {}
    parts = urlsplit(config.oauth_endpoint)
    if parts.hostname == _GOOGLE:
        endpoint, scope = "https://accounts.google.com/o/oauth2/v2/auth", scope or "https://mail.google.com/"
        # Without 'prompt' a client that the owner has allowed before gets no refresh token.
        more = {"access_type": "offline", "prompt": "consent", "login_hint": config.username}
    elif parts.path.endswith(f"{_MICROSOFT}token"):
        endpoint, scope = f"{config.oauth_endpoint.removesuffix('token')}authorize", scope or _SMTP_OF_MICROSOFT
        scope = scope if _OFFLINE in scope.split() else f"{scope} {_OFFLINE}"
        more = {"login_hint": config.username}
    endpoint = config.oauth_authorization_endpoint or endpoint
    return Question(endpoint=endpoint if web.is_url(endpoint) else "", scope=scope, more=more)


_SMTP_OF_MICROSOFT = "https://outlook.office.com/SMTP.Send"
#: Without this scope Microsoft gives no refresh token.
_OFFLINE = "offline_access"


@dataclass(frozen=True, kw_only=True)
class PendingConsent:
    """A requested consent that is not given yet, kept in the session, with its configuration and that one's version."""

    config: str
    version: str
    state: str
    verifier: str = field(repr=False)
    at: float

    @classmethod
    @with_secrets
    def begin(cls, config: SMTPConfig) -> PendingConsent:
        """Return a new consent for ``config``, with random values that cannot be guessed."""
        return cls(
            config=str(config.pk),
            version=config.version,
            state=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(64),
            at=time.time(),
        )

    @property
    def is_over(self) -> bool:
        """Whether it is older than ``PATIENCE`` seconds."""
        return not 0 <= time.time() - self.at <= PATIENCE


@with_secrets
def address(question: Question, pending: PendingConsent, *, client_id: str, redirect_uri: str) -> str:
    """Return the URL of the provider's consent page (RFC 6749 §4.1.1); the answer goes to ``redirect_uri``."""
    asked = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        **({"scope": question.scope} if question.scope else {}),
        "state": pending.state,
        "code_challenge": _challenge(pending.verifier),
        "code_challenge_method": "S256",
        **question.more,
    }
    parts = urlsplit(question.endpoint)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *asked.items()])
    return urlunsplit(parts._replace(query=query, fragment=""))


def _challenge(verifier: str) -> str:
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def is_issuer(issuer: str, question: Question) -> bool:
    """Return whether an answer that names its issuer (RFC 9207) comes from the provider that was asked.

    Only scheme and host are compared, because the path of the provider's issuer name is not known here.
    """
    return web.is_url(issuer) and urlsplit(issuer)[:2] == urlsplit(question.endpoint)[:2]
