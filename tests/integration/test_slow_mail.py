"""Slow mail is not dead: while it makes progress, it keeps its lease, is sent once, and is not blamed for a lost
worker.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db.models import F

from config.local.processes import wait_until
from email_integration.ledger import batches
from email_integration.models import Delivery, DeliveryAttempt, DeliveryBatch
from email_integration.sending import in_hand, recovery
from email_integration.smtp.dialogue import Connection
from email_integration.smtpd import SMTPServer
from tests.children import delivery_statuses, require_settled, send
from tests.deliveries import Clock, RecordingTaskQueue, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)


class Time(Clock):
    """The time of this process and, through its stored leases, of the database. Other processes sweep whenever it
    advances.
    """

    def passes(self, seconds: float) -> None:
        self.ahead += seconds
        earlier = F("lease_until") - dt.timedelta(seconds=seconds)
        DeliveryBatch.objects.update(lease_until=earlier)
        DeliveryBatch.objects.exclude(suspected_at=None).update(
            suspected_at=F("suspected_at") - dt.timedelta(seconds=seconds)
        )
        recovery.recover_leases()


@pytest.fixture
def clock(journals: Path, task_queue: RecordingTaskQueue, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Time:
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "SESSIONS": 1,
        "LEASE": 150.0,
        "REPLY_TIMEOUT": 120.0,
        "IN_DOUBT": "hold",
    }
    clock = Time()
    monkeypatch.setattr(in_hand, "time", clock)
    monkeypatch.setattr(batches, "time", clock)
    return clock


@pytest.fixture
def server(smtp_server: Callable[..., SMTPServer]) -> SMTPServer:
    server = smtp_server(security="plain", user=None, pipelining=False)
    config_for(server)
    return server


def require_sent_once(server: SMTPServer, clock: Time) -> None:
    assert clock.ahead > 2 * 150.0
    require_settled()
    assert (delivery_statuses(), len(server.messages)) == (["accepted"], 1)
    assert (DeliveryAttempt.objects.count(), Delivery.objects.get().returned) == (1, 0)


@pytest.mark.parametrize("seconds", [19, 119])
def test_twenty_slow_recipients(server: SMTPServer, clock: Time, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reply, those before the login included, takes 19 seconds or almost two minutes, with a lease of two and a
    half minutes · others look for expired leases all the time · sent once.
    """
    hear = Connection.hear

    def slow(self: Connection, **how: Any) -> Any:
        reply = hear(self, **how)
        clock.passes(seconds)
        return reply

    submitted(*(f"kim{number}@example.com" for number in range(20)))
    monkeypatch.setattr(Connection, "hear", slow)
    send()
    require_sent_once(server, clock)
    assert len(server.messages[0].rcpt_tos) == 20


def test_a_large_mail_on_a_slow_line(server: SMTPServer, clock: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 KiB take 19 seconds, and the mail has two megabytes · others look for expired leases all the
    time · sent once.
    """
    say = Connection.send

    def slow(self: Connection, octets: Any) -> None:
        say(self, octets)
        if len(octets) > 1000:
            clock.passes(19 * len(octets) / 65536)

    submitted(body="a line of text\n" * 140_000)
    monkeypatch.setattr(Connection, "send", slow)
    send()
    require_sent_once(server, clock)


def test_many_mails_that_take_long_each(server: SMTPServer, clock: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten mails of a batch, with 40 seconds for each reply to a dot: the lease is renewed for waiting mails too."""
    finish = Connection.hear_verdict
    before = iter(range(10))

    def slow(self: Connection) -> Any:
        reply = finish(self)
        recorded = next(before)  # long ago, by the simulated clock
        wait_until(lambda: DeliveryAttempt.objects.count() == recorded, what="the earlier mails recorded")
        clock.passes(40)
        return reply

    ids = [submitted(f"kim{number}@example.com").pk for number in range(10)]
    monkeypatch.setattr(Connection, "hear_verdict", slow)
    send()
    require_settled()
    assert delivery_statuses(*ids) == ["accepted"] * 10
    assert len(server.messages) == 10
    assert DeliveryAttempt.objects.count() == 10
