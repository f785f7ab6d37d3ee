"""Helpers shared by the OAuth tests: sending mail with a token, and the fields of OAuth configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from email_integration import routing
from email_integration.models import Delivery, Grant, OAuthToken, SMTPConfig
from email_integration.smtp import Relay
from email_integration.smtpd import SMTPServer
from tests.deliveries import ago, attempt, submitted
from tests.private_keys import certificate, key, pem, pem_of, service_account
from tests.token_endpoint import ACCOUNT, TokenEndpoint

Serve = Callable[..., SMTPServer]
Configure = Callable[..., SMTPConfig]

#: Prefix of every secret in these tests. It must never be displayed or logged.
NEVER_SHOWN = "zY7~"


def relay() -> Relay:
    """Return the active relay."""
    found = routing.active_relay()
    assert isinstance(found, Relay)
    return found


def tokens() -> Any:
    """Return the tokens of the active relay, as another process sees them."""
    routing.forget()
    return relay().tokens


def send(many: int = 1) -> list[Delivery]:
    """Submit and attempt this many mails, and return them."""
    deliveries = [submitted(subject=str(number)) for number in range(many)]
    for one in deliveries:
        attempt(one.pk)
    return list(Delivery.objects.filter(pk__in=[one.pk for one in deliveries]))


def nearly_over() -> None:
    """Let most of the token's lifetime of one hour pass."""
    OAuthToken.objects.update(fetched_at=ago(3500), expires_at=ago(-100))


def all_accepted(deliveries: list[Delivery]) -> bool:
    return {one.status for one in deliveries} == {"accepted"}


def oauth_fields(config: SMTPConfig, **changes: Any) -> dict[str, Any]:
    """Return the OAuth fields that a browser sends in addition to ``form_of``."""
    names = ("authentication", "oauth_grant", "oauth_endpoint", "oauth_client_id", "oauth_scope")
    return {**{name: getattr(config, name) for name in names}, "oauth_client_secret": "", **changes}


def by_certificate(endpoint: TokenEndpoint, **changes: Any) -> dict[str, Any]:
    """Return the fields of a configuration that authenticates by certificate, and register it at the endpoint."""
    endpoint.certificate = certificate(key())
    return {"oauth_client_secret": "", "oauth_private_key": pem(key()) + pem_of(endpoint.certificate), **changes}


def by_service_account(endpoint: TokenEndpoint, **changes: Any) -> dict[str, Any]:
    endpoint.public_key = key().public_key()
    file = service_account(key(), endpoint.url)
    return {
        "oauth_grant": Grant.JWT_BEARER,
        "oauth_client_id": ACCOUNT,
        "oauth_client_secret": "",
        "oauth_private_key": file,
        **changes,
    }


PROVEN = pytest.mark.parametrize("proven", [by_certificate, by_service_account], ids=["certificate", "service account"])
Proven = Callable[..., dict[str, Any]]
