"""Lanes at work: what is urgent does not wait behind what is many."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from django.core.mail import EmailMessage, get_connection

from config.local.processes import wait_until
from config.local.smtp_server import Fault, SMTPServer
from email_integration.models import Delivery
from email_integration.tasks import send_email
from tests.acceptance.conftest import Activate
from tests.stack import Stack

QUEUED = "email_integration.backends.queued.EmailBackend"
BULK = 2000


@pytest.mark.django_db(transaction=True)
def test_a_high_mail_leaves_within_a_second_behind_thousands_of_bulk(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    """With a worker for each, and a server that takes its time for every mail."""
    server = smtp_server(security="plain", user=None, faults=[Fault(verb="DOT", delay=0.1)])
    activate(server)
    current = stack(beat=False, env={"RING_AFTER": "600"})
    current.worker.end()
    current.start_worker(queues=("mail.bulk",))
    current.start_worker(queues=("mail.high",))
    bulk = [EmailMessage("bulk", "Text", to=[f"u{number}@example.com"]) for number in range(BULK)]
    assert get_connection(QUEUED, priority="bulk").send_messages(bulk) == BULK
    wait_until(lambda: server.messages, what="the first of the bulk")

    called = time.monotonic()
    send_email.delay("urgent", "Text", to=["kim@example.com"], priority="high")
    wait_until(lambda: any(message.subject == "urgent" for message in server.messages), what="the urgent mail")
    took = time.monotonic() - called

    assert took < 1
    assert Delivery.objects.filter(lane="bulk", status="queued").count() > BULK / 2
