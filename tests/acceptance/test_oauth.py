"""OAuth 2.0 with real workers: many processes share one token, and its secrets exist only sealed in their rows."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from config.local.certificates import Certificates
from config.local.processes import wait_until
from config.local.workers import OF_MAIL
from email_integration.models import Delivery, Grant, OAuthToken, SMTPConfig
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests.acceptance.test_password_nowhere import admin_pages, everything_said_to_valkey, everything_stored
from tests.private_keys import certificate, key, pem, pem_of
from tests.stack import PATIENT, Stack
from tests.token_endpoint import CLIENT, REFRESH, SCOPE, SECRET, TokenEndpoint

MAILS = 80

#: In the form that the environment uses.
LOGS_IN_OFTEN = {**PATIENT, "SESSION_MAX_TRANSACTIONS": "2"}

#: All secrets here begin with this, in the clear and in the form sent to the server.
FORMS = ("zY7~", base64.b64encode(b"zY7~access-token").decode()[:20])


@pytest.mark.extra
def test_many_processes_share_one_token_and_its_secrets_are_nowhere(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], certificates: Certificates
) -> None:
    """Eight processes log in repeatedly: they fetch one token, and one more when it is revoked while mail is queued."""
    with TokenEndpoint(certificates) as endpoint, everything_said_to_valkey() as said:
        endpoint.rotates = True
        server = smtp_server(check_token=endpoint.is_good)
        configure(server, endpoint, oauth_grant="refresh_token", oauth_refresh_token=REFRESH)
        server.inject(Fault(verb="DOT", delay=0.1))
        running = stack(concurrency=8, queues=OF_MAIL, env={**LOGS_IN_OFTEN, "LOG_LEVEL": "DEBUG"})
        submit()
        wait_until(lambda: len(server.messages) > MAILS / 3, what="the first third")
        assert len(endpoint.requests) == 1
        endpoint.revoke()
        wait_until(lambda: not _waits(), what="the remaining mails finished")
        assert once_each(server)
        assert server.failed_auths > 0
        assert len(endpoint.requests) == 2
        endpoint.certificate = certificate(key())
        config = SMTPConfig.objects.get()
        config.oauth_grant = Grant.CLIENT_CREDENTIALS
        config.oauth_private_key = pem(key()) + pem_of(endpoint.certificate)
        config.save()
        send_email.delay("signed for", "B", to=["kim@example.com"])
        wait_until(lambda: not _waits(), what="another mail finished")
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


@pytest.mark.extra
def test_a_token_that_ends_while_its_endpoint_is_down_costs_time_and_no_mail(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], certificates: Certificates
) -> None:
    """Tokens last three seconds, the queue takes eight.

    The second token is fetched ahead, the third cannot be fetched, and mail waits.
    """
    with TokenEndpoint(certificates, seconds=3.0) as endpoint:
        server = smtp_server(check_token=endpoint.is_good)
        configure(server, endpoint)
        server.inject(Fault(verb="DOT", delay=0.2))
        stack(concurrency=2, env={**LOGS_IN_OFTEN, "SESSIONS": "1"})
        submit()
        wait_until(lambda: len(endpoint.requests) > 1, what="the second token")
        endpoint.instead = lambda: (503, {"Content-Type": "text/html"}, b"<p>Down")
        wait_until(lambda: Delivery.objects.filter(status="deferred").exists(), what="a waiting mail")
        assert OAuthToken.objects.exclude(error="").exists()
        endpoint.instead = None
        wait_until(lambda: not _waits(), what="the remaining mails finished")
        assert once_each(server)
        assert server.failed_auths == 0


def configure(server: SMTPServer, endpoint: TokenEndpoint, **values: str) -> None:
    given = {"oauth_grant": "client_credentials", **values}
    SMTPConfig.objects.create(
        name="Primary",
        host="localhost",
        port=server.port,
        username="user",
        authentication="oauth",
        oauth_endpoint=endpoint.url,
        oauth_client_id=CLIENT,
        oauth_client_secret=SECRET,
        oauth_scope=SCOPE,
        from_email="noreply@example.com",
        is_active=True,
        **given,
    )


def submit() -> None:
    for number in range(MAILS):
        send_email.delay(str(number), "B", to=["kim@example.com"])


def once_each(server: SMTPServer) -> bool:
    return Counter(message.subject for message in server.messages) == Counter(map(str, range(MAILS)))


def _waits() -> bool:
    return Delivery.objects.exclude(status="accepted").exists()
