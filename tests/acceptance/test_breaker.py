"""A deep queue with a wrong password and real workers: few logins, no attempt burnt, and a quick recovery."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

import pytest
from django.db import transaction
from django.utils import timezone

from config.local.processes import wait_until
from config.local.workers import OF_MAIL
from email_integration.ledger import rows, task_queue
from email_integration.message import content
from email_integration.models import CircuitBreaker, Delivery, DeliveryAttempt, SMTPConfig, Status
from email_integration.smtpd import Fault, SMTPServer
from tests.deliveries import submitted
from tests.stack import Stack

pytestmark = pytest.mark.extra

Start = Callable[..., Stack]
Activate = Callable[..., SMTPConfig]

#: The times of production: the test counts how often the server is bothered meanwhile.
TIMES = {"RETRY_FIRST": "5", "RETRY_MAX": "900", "BREAKER_PROBE_FIRST": "5", "BREAKER_PROBE_MAX": "900"}
ENV = {**TIMES, "LEASE": "30", "REPLY_TIMEOUT": "20"}

#: Mails whose server refuses the password.
MAILS = 1000


def put_into_the_queue(count: int) -> None:
    """Insert copies of one mail, all due. One wake-up serves all of them."""
    with transaction.atomic():
        first = submitted("kim@example.com")
        columns = Delivery.objects.values().get(pk=first.pk) | {"next_at": timezone.now()}
        octets = b"".join(content.stored(first).blocks())
        copies = [Delivery(**{**columns, "id": f"mail-{number}"}) for number in range(1, count)]
        for copy in copies:
            content.store(copy, octets)  # sealed for this row
        Delivery.objects.bulk_create(copies, batch_size=500)
        task_queue.call_for_sweep(using=rows.database())


def test_a_wrong_password_makes_a_handful_of_logins_and_a_fixed_one_drains_the_queue(
    stack: Start, smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    server = smtp_server()
    config = activate(server, password="s3cret")
    running = stack(concurrency=4, queues=OF_MAIL, env=ENV)
    started = time.monotonic()
    put_into_the_queue(MAILS)

    def untried() -> int:
        return Delivery.objects.filter(status=Status.QUEUED).count()

    wait_until(lambda: not untried(), seconds=60 + MAILS / 10, what="all mails deferred")
    took = time.monotonic() - started
    # Wait for a probe, so that later logins are counted too.
    wait_until(lambda: CircuitBreaker.objects.get().failures >= 2, what="a failed probe")
    logins = server.failed_auths
    print(f"{MAILS} mails put off in {took:.1f} s with {logins} logins, {len(server.sessions)} connections")
    assert logins <= running.concurrency + 2 + took / 10
    assert set(Delivery.objects.values_list("status", "waits_for_relay")) == {("deferred", True)}
    assert Delivery.objects.filter(code=535).count() == MAILS
    # The breaker opens before the attempt is recorded.
    wait_until(lambda: DeliveryAttempt.objects.count() == server.failed_auths, what="a record of each login")

    # From here on, only the corrected configuration may wake the deliveries.
    later = timezone.now() + dt.timedelta(hours=1)
    CircuitBreaker.objects.update(probe_at=later)
    Delivery.objects.update(due_at=later, next_at=later)
    config.password = "password"
    fixed = time.monotonic()
    config.save()
    wait_until(lambda: server.messages, what="the first mail")
    first = time.monotonic() - fixed
    wait_until(lambda: len(server.messages) >= MAILS, seconds=60 + MAILS / 10, what="the last mail")
    last = time.monotonic() - fixed
    wait_until(lambda: Delivery.objects.filter(status=Status.ACCEPTED).count() == MAILS, what="all mails recorded")
    print(f"fixed: the first after {first:.1f} s, the last after {last:.1f} s ({MAILS / last:.0f} a second)")
    assert len(server.messages) == MAILS  # all are copies of one mail and have its Message-ID
    assert not CircuitBreaker.objects.exists()
    assert server.failed_auths <= logins + 1


def test_a_server_is_tried_when_its_probe_is_due_and_not_at_the_next_sweep(
    stack: Start, smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    """After the sweep at the start, no further sweep runs for the length of this test."""
    server = smtp_server(security="plain", user=None)
    activate(server)
    stack(queues=OF_MAIL, env={**TIMES, "SWEEP_INTERVAL": "900", "RETRY_FIRST": "1", "BREAKER_PROBE_FIRST": "1"})
    server.inject(Fault(verb="MAIL", reply="450 4.7.1 Too much mail", times=8))
    put_into_the_queue(50)
    wait_until(lambda: len(server.messages) == 50, what="all mails")
    wait_until(lambda: Delivery.objects.filter(status=Status.ACCEPTED).count() == 50, what="all mails recorded")


def test_a_server_that_was_away_is_found_when_it_is_back(
    stack: Start, smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    """The server's return is not announced: the sweep tries one mail, and its success wakes the rest."""
    server = smtp_server(security="plain", user=None)
    activate(server)
    server.stop()
    stack(env={"RETRY_MAX": "900", "BREAKER_PROBE_MAX": "900"})
    put_into_the_queue(50)
    wait_until(lambda: not Delivery.objects.filter(status=Status.QUEUED).exists(), what="all mails deferred")
    server.start()
    back = time.monotonic()
    wait_until(lambda: len(server.messages) == 50, what="all mails")
    print(f"all mails {time.monotonic() - back:.1f} s after the server was back")
    wait_until(lambda: Delivery.objects.filter(status=Status.ACCEPTED).count() == 50, what="all mails recorded")
