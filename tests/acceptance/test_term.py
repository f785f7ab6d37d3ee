"""The promise of docs/deployment.md about TERM: a worker finishes the mails that it has claimed, and no others."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable

from django.db import transaction

from config.local.processes import PATIENCE, wait_until
from email_integration.models import Delivery
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests.acceptance.conftest import Activate
from tests.stack import PATIENT, Stack

#: Ten slices of what two processes send.
MAILS = 200


def test_what_is_claimed_is_finished_on_term_and_the_rest_is_left(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    """No mail is in doubt or left in progress, and the next worker sends the rest."""
    server = smtp_server(security="plain", user=None, faults=[Fault(verb="DOT", delay=0.2)])
    activate(server)
    running = stack(env=PATIENT)
    with transaction.atomic():
        for number in range(MAILS):
            send_email.delay(f"Mail {number}", "Text", to=["kim@example.com"], in_doubt="hold")
    wait_until(lambda: server.messages, what="the first mail")

    running.worker.send_signal(signal.SIGTERM)
    assert running.worker.wait(seconds=PATIENCE) == 0

    statuses = Counter(Delivery.objects.values_list("status", flat=True))
    assert statuses == {"accepted": len(server.messages), "queued": MAILS - len(server.messages)}
    assert statuses["queued"] > MAILS / 2
    assert not Delivery.objects.exclude(batch="").exists()
    assert {session.verbs[-1] for session in server.sessions} == {"QUIT"}
    server.clear_faults()
    running.start_worker()
    wait_until(lambda: Delivery.objects.filter(status="accepted").count() == MAILS, what="all mails accepted")
    assert {*Counter(message.subject for message in server.messages).values()} == {1}
