"""What is urgent goes before a flood that came first, also where one worker serves all queues."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.core.mail import EmailMessage

from config.local.processes import wait_until
from config.local.smtp_server import Fault, SMTPServer
from email_integration import conf, submit_many
from email_integration.models import Delivery
from email_integration.tasks import send_email
from tests.acceptance.conftest import Activate
from tests.stack import PATIENT, Stack

BULK = 50_000

#: Seconds that the server takes for each.
DELAY = 0.02

#: Urgent mails, one after the other.
URGENT = 5


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_urgent_mail_waits_for_no_more_than_a_slice_of_a_flood(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate, concurrency: int
) -> None:
    """Fewer mails of the flood go before it than the server can take in a second; on a busy machine those take longer.

    At most half of the processes have them in hand, but always one.
    """
    server = smtp_server(security="plain", user=None, faults=[Fault(verb="DOT", delay=DELAY)])
    activate(server)
    flood = (EmailMessage("bulk", "Text", to=[f"u{number}@example.com"]) for number in range(BULK))
    assert len(submit_many(flood)) == BULK
    stack(beat=False, concurrency=concurrency, env=PATIENT)
    wait_until(lambda: len(server.messages) > 100, what="the flood")
    waited = []
    for number in range(URGENT):
        before, subject = len(server.messages), f"urgent {number}"
        send_email.delay(subject, "Text", to=["kim@example.com"], priority="high")
        place = wait_until(lambda subject=subject: _place(server, subject), what="the urgent mail")
        waited.append(place - before - 1)
    print(f"of the flood left before each urgent mail: {waited}")
    assert max(waited) < max(1, concurrency // 2) * conf.get("SESSIONS") / DELAY
    assert Delivery.objects.filter(lane="bulk", status="queued").count() > BULK / 2


def _place(server: SMTPServer, subject: str) -> int:
    """At which place, from 1, the server has taken it; 0 for not yet."""
    subjects = [message.subject for message in server.messages]
    return subjects.index(subject) + 1 if subject in subjects else 0
