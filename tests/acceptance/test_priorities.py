"""Priorities: an urgent mail does not wait behind a large bulk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.core.mail import EmailMessage

from config.local.processes import wait_until
from email_integration.models import Delivery
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests.acceptance.conftest import Activate
from tests.mail_settings import make_backend
from tests.stack import Stack

BULK = 2000


@pytest.mark.django_db(transaction=True)
def test_a_high_mail_leaves_before_thousands_of_bulk_that_came_first(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    """There is a worker for each priority, and a server that is slow to take each mail.

    The wait is counted in bulk mails, because these also take longer on a busy machine.
    """
    server = smtp_server(security="plain", user=None, faults=[Fault(verb="DOT", delay=0.1)])
    activate(server)
    current = stack(beat=False)
    current.worker.end()
    current.start_worker(queues=("mail.bulk",))
    current.start_worker(queues=("mail.high",))
    bulk = [EmailMessage("bulk", "Text", to=[f"u{number}@example.com"]) for number in range(BULK)]
    assert make_backend(priority="bulk").send_messages(bulk) == BULK
    wait_until(lambda: server.messages, what="the first bulk mails")

    before = len(server.messages)
    send_email.delay("urgent", "Text", to=["kim@example.com"], priority="high")
    wait_until(lambda: "urgent" in [message.subject for message in server.messages], what="the urgent mail")

    place = [message.subject for message in server.messages].index("urgent") - before
    print(f"{place} of the bulk left between the call and the urgent mail")
    # On a quiet machine about five: two processes, a tenth of a second for each mail.
    assert place < BULK / 20
    assert Delivery.objects.filter(priority="bulk", status="queued").count() > BULK / 2
