"""OAuth 2.0 with real workers: many processes and one token, and its secrets nowhere but sealed in their rows."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from config.local.certificates import Certificates
from config.local.processes import wait_until
from config.local.smtp_server import Fault, SMTPServer
from email_integration.models import Delivery, Grant, SMTPConfig
from email_integration.tasks import send_email
from tests.acceptance.test_password_nowhere import admin_pages, everything_said_to_valkey, everything_stored
from tests.private_keys import certificate, key, pem, pem_of
from tests.stack import PATIENT, Stack
from tests.token_endpoint import CLIENT, REFRESH, SCOPE, SECRET, TokenEndpoint

MAILS = 60

#: All that is secret here begins so, in the clear and in what is said to the server.
FORMS = ("zY7-", base64.b64encode(b"zY7-access-token").decode()[:20])


@pytest.mark.extra
@pytest.mark.timeout(240)
def test_many_processes_share_one_token_and_its_secrets_are_nowhere(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], certificates: Certificates
) -> None:
    """Eight processes that log in again and again: one token at first, one more when it is revoked in mid-queue."""
    with TokenEndpoint(certificates) as endpoint, everything_said_to_valkey() as said:
        endpoint.rotates = True
        server = smtp_server(check_token=endpoint.is_good)
        SMTPConfig.objects.create(
            name="Primary",
            host="localhost",
            port=server.port,
            username="user",
            authentication="oauth",
            oauth_grant="refresh_token",
            oauth_endpoint=endpoint.url,
            oauth_client_id=CLIENT,
            oauth_client_secret=SECRET,
            oauth_refresh_token=REFRESH,
            oauth_scope=SCOPE,
            from_email="noreply@example.com",
            is_active=True,
        )
        server.inject(Fault(verb="DOT", delay=0.1))
        env = {**PATIENT, "SESSION_MAX_TRANSACTIONS": "2", "GROUP_SIZE": "1", "LOG_LEVEL": "DEBUG"}
        running = stack(concurrency=8, env=env)
        for number in range(MAILS):
            send_email.delay(str(number), "B", to=["kim@example.com"])
        wait_until(lambda: len(server.messages) > MAILS / 3, seconds=90, what="the first third")
        assert len(endpoint.requests) == 1
        endpoint.revoke()
        wait_until(lambda: not _unfinished(), seconds=90, what="the rest")
        assert Counter(message.subject for message in server.messages) == Counter(map(str, range(MAILS)))
        assert server.failed_auths > 0
        assert len(endpoint.requests) == 2
        endpoint.certificate = certificate(key())
        config = SMTPConfig.objects.get()
        config.oauth_grant = Grant.CLIENT_CREDENTIALS
        config.oauth_private_key = pem(key()) + pem_of(endpoint.certificate)
        config.save()
        send_email.delay("signed for", "B", to=["kim@example.com"])
        wait_until(lambda: not _unfinished(), seconds=60, what="one more")
        assert "client_assertion" in endpoint.requests[-1]
        logs = running.logs()
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root", "root@example.com", "x"))
    where = {
        "the database": everything_stored(),
        "dumpdata": running.run("dumpdata").stdout,
        "Valkey": "\n".join(said),
        "the logs": logs,
        **dict(admin_pages(client)),
    }
    assert len(where) > 10
    assert "DEBUG" in logs
    forms = (*FORMS, *pem(key()).splitlines()[1:-1], endpoint.requests[-1]["client_assertion"])
    assert [name for name, text in where.items() if any(form in text for form in forms)] == []


def _unfinished() -> bool:
    return Delivery.objects.exclude(status="accepted").exists()
