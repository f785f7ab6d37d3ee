"""Fixtures: a token endpoint, a mail server that checks its tokens, and a configuration that uses both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from config.local.certificates import Certificates
from email_integration.models import SMTPConfig
from email_integration.smtpd import SMTPServer
from tests.relays import config_for
from tests.token_endpoint import CLIENT, SCOPE, SECRET, TokenEndpoint

from .asking import Configure, Serve


@pytest.fixture(autouse=True)
def _patient(settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "RETRY_FIRST": 60.0,
        "RETRY_MAX": 900.0,
        "BREAKER_PROBE_FIRST": 60.0,
        "BREAKER_PROBE_MAX": 900.0,
    }


@pytest.fixture
def endpoint(certificates: Certificates) -> Iterator[TokenEndpoint]:
    with TokenEndpoint(certificates) as running:
        yield running


@pytest.fixture
def server(smtp_server: Serve, endpoint: TokenEndpoint) -> SMTPServer:
    return smtp_server(check_token=endpoint.is_good)


@pytest.fixture
def configure(server: SMTPServer, endpoint: TokenEndpoint) -> Configure:
    def configured(**changes: Any) -> SMTPConfig:
        return config_for(
            server,
            **{
                "authentication": "oauth",
                "oauth_endpoint": endpoint.url,
                "oauth_client_id": CLIENT,
                "oauth_client_secret": SECRET,
                "oauth_scope": SCOPE,
                **changes,
            },
        )

    return configured
