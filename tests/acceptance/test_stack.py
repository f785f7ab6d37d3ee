"""A mail leaves: through a real broker, a real worker process and a real SMTP server."""

from __future__ import annotations

from collections.abc import Callable

from config.local.processes import wait_until
from config.local.smtp_server import SMTPServer
from email_integration.models import Delivery, DeliveryAttempt, SMTPConfig
from email_integration.tasks import send_email
from tests.stack import Stack


def activate(server: SMTPServer, name: str) -> SMTPConfig:
    return SMTPConfig.objects.create(
        name=name,
        host=server.host,
        port=server.port,
        username=server.user,
        password=server.password,
        from_email="sender@example.com",
        is_active=True,
    )


def test_a_mail_goes_through_a_worker_process_to_the_active_server(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer]
) -> None:
    first, second = smtp_server(), smtp_server()
    activate(first, "First")
    stack(beat=False)
    assert send_email.delay("One", "Text", to=["bob@example.com"]).get(timeout=20)["status"] == "accepted"
    activate(second, "Second")
    assert send_email.delay("Two", "Text", to=["bob@example.com"]).get(timeout=20)["status"] == "accepted"
    assert [message.subject for message in first.messages] == ["One"]
    assert [message.subject for message in second.messages] == ["Two"]


def test_two_hundred_mails_arrive_once_although_the_worker_is_killed_amid_them(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer]
) -> None:
    server = smtp_server()
    activate(server, "Primary")
    running = stack()
    for number in range(200):
        send_email.delay(f"Mail {number}", "Text", to=["bob@example.com"])
    wait_until(lambda: len(server.messages) >= 50, seconds=30, what="50 mails")
    running.kill_worker()
    running.start_worker()
    wait_until(lambda: Delivery.objects.filter(status="accepted").count() == 200, seconds=60, what="200 accepted mails")
    assert {message.subject for message in server.messages} == {f"Mail {number}" for number in range(200)}
    # Only a mail that was between its final dot and the record of the reply may have come twice: one a process.
    assert len(server.messages) <= 200 + running.concurrency
    assert len(set(DeliveryAttempt.objects.values_list("worker", flat=True))) == 2 * running.concurrency
