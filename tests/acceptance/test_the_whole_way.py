"""From ``send_email.delay()`` to a real SMTP server, through a real worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from config.local.processes import wait_until
from config.local.smtp_server import SMTPServer
from email_integration.exceptions import DeliveryFailed
from email_integration.models import Delivery, SMTPConfig
from email_integration.tasks import send_email
from tests.stack import Stack

Start = Callable[..., Stack]
Serve = Callable[..., SMTPServer]


def activate(server: SMTPServer, name: str = "Primary Mail Server") -> SMTPConfig:
    return SMTPConfig.objects.create(
        name=name,
        host="localhost",
        port=server.port,
        username="user" if server.requires_auth else "",
        password="password" if server.requires_auth else "",
        use_tls=server.security == "starttls",
        use_ssl=server.security == "ssl",
        from_email="Hanna <noreply@example.com>",
        is_active=True,
    )


def test_a_mail_goes_the_whole_way(stack: Start, smtp_server: Serve) -> None:
    """The result is a small dictionary, the sender the configuration's, the content untouched."""
    server = smtp_server()
    activate(server)
    stack()
    result = send_email.delay("Grüße", "Ein Brief.", to=["kim@example.com"], cc=["lee@example.com"])
    found = result.get(timeout=20)
    delivery = Delivery.objects.get(pk=result.id)
    assert found == {
        "id": result.id,
        "status": "accepted",
        "message_id": delivery.message_id,
        "smtp_config": "Primary Mail Server",
        "code": 250,
        "reason": "accepted by the server",
    }
    (message,) = server.messages
    assert message.subject == "Grüße"
    assert message.rcpt_tos == ("kim@example.com", "lee@example.com")
    assert message.mail_from == "noreply@example.com"
    assert message.parsed["From"] == "Hanna <noreply@example.com>"


def test_a_refused_mail_fails_with_code_and_reason(stack: Start, smtp_server: Serve) -> None:
    from config.local.smtp_server import Fault

    server = smtp_server(faults=[Fault(verb="RCPT", reply="550 5.1.1 <kim@example.com> unknown")])
    activate(server)
    stack()
    result = send_email.delay("S", "B", to=["kim@example.com"])
    with pytest.raises(DeliveryFailed) as caught:
        result.get(timeout=20)
    assert caught.value.code == 550
    assert "example.com" not in str(caught.value)
    wait_until(lambda: Delivery.objects.get(pk=result.id).status == "failed", seconds=5, what="failed")
