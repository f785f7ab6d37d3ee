"""Urgent mail overtakes an earlier flood, also where one worker serves all queues."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.core.mail import EmailMessage

from config.local.processes import wait_until
from email_integration import submit_many
from email_integration.models import Delivery
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests.acceptance.conftest import Activate
from tests.stack import PATIENT, Stack

pytestmark = pytest.mark.extra

#: Seconds that the server takes for each mail.
DELAY = 0.05

#: Mails that the urgent ones overtake.
BULK = 50_000

#: Urgent mails, one after the other.
URGENT = 5


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_urgent_mail_waits_for_no_more_than_a_slice_of_a_flood(
    stack: Callable[..., Stack],
    smtp_server: Callable[..., SMTPServer],
    activate: Activate,
    concurrency: int,
) -> None:
    """A fifth of the flood takes ten times as long as an urgent mail needs, and more than a fifth is still queued."""
    server = smtp_server(security="plain", user=None, faults=[Fault(verb="DOT", delay=DELAY)])
    activate(server)
    flood = (EmailMessage("bulk", "Text", to=[f"u{number}@example.com"]) for number in range(BULK))
    assert len(submit_many(flood)) == BULK
    stack(beat=False, concurrency=concurrency, env=PATIENT)
    wait_until(lambda: len(server.messages) > 100, what="the first hundred bulk mails")
    waited = []
    for number in range(URGENT):
        assert Delivery.objects.filter(priority="bulk", status="queued").count() > BULK / 5
        subject = f"urgent {number}"
        send_email.delay(subject, "Text", to=["kim@example.com"], priority="high")
        before = len(server.messages)
        place = wait_until(lambda subject=subject: _place(server, subject), what="the urgent mail")
        waited.append(place - before - 1)
    print(f"of the flood left before each urgent mail: {waited}")
    assert max(waited) < BULK / 5


def _place(server: SMTPServer, subject: str) -> int:
    """Return the position, from 1, of the mail with this subject at the server; 0 if it has not arrived."""
    subjects = [message.subject for message in server.messages]
    return subjects.index(subject) + 1 if subject in subjects else 0
