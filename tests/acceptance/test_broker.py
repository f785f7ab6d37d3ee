"""A broker that is stopped, frozen or emptied costs time but loses no mail."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import group
from django.db import transaction

from config.local.processes import wait_until
from config.local.valkey import Valkey
from email_integration.models import Delivery
from email_integration.smtpd import SMTPServer
from email_integration.tasks import send_email
from email_integration.tasks.wake_ups import CeleryTaskQueue
from tests import services
from tests.rabbitmq import RabbitMQ
from tests.relays import soon
from tests.stack import Stack

Broker = Valkey | RabbitMQ

pytestmark = [pytest.mark.extra, pytest.mark.usefixtures("app")]


@pytest.fixture
def broker() -> Iterator[Broker]:
    """The running workers' broker, not emptied before the test. It is started again afterwards."""
    yield services.broker
    services.broker.thaw()
    services.broker.start()


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The duration in seconds of each of our attempts to reach the broker."""
    took: list[float] = []
    publish = CeleryTaskQueue._publish_now

    def publishing(ours: CeleryTaskQueue, messages: Any) -> None:
        started = time.monotonic()
        try:
            publish(ours, messages)
        finally:
            took.append(time.monotonic() - started)

    monkeypatch.setattr(CeleryTaskQueue, "_publish_now", publishing)
    return took


def send(subject: str) -> None:
    send_email.delay(subject, "Text", to=["kim@example.com"])


def send_fifty() -> None:
    with transaction.atomic():
        for number in range(50):
            send(f"batch {number}")


def send_group() -> None:
    group(send_email.si(f"group {number}", "Text", to=["kim@example.com"]) for number in range(5)).apply_async()


def dispatchers(app: Stack) -> int:
    """Return how many wake-ups have been received and are still running."""
    logged = re.findall(r"Task email_integration\.tasks\.dispatch\[\S+ (received|succeeded|raised)", app.logs())
    return logged.count("received") - (len(logged) - logged.count("received"))


@pytest.mark.parametrize("fault", ["stop", "freeze"])
def test_without_a_broker_submitting_waits_for_it_once_at_most_and_the_mails_leave_later(
    app: Stack, server: SMTPServer, broker: Broker, tries: list[float], settings: Any, fault: str
) -> None:
    """Submit fifty mails in one transaction, a group, and single mails, with and without an open connection.

    Each try waits for BROKER_TIMEOUT. The time of everything else depends on the machine, so the test counts tries.
    """
    send("before")
    wait_until(lambda: len(server.messages) == 1, what="a mail")
    # A dispatcher that is still running would send what it finds, with or without the broker.
    wait_until(lambda: dispatchers(app) == 0, what="the end of the dispatcher")
    # Far below the 2 seconds of config/services.py, which would apply otherwise.
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "BROKER_TIMEOUT": 0.25}
    getattr(broker, fault)()
    for submit, mails in ((send_fifty, 50), (send_group, 5), (lambda: send("alone"), 1), (lambda: send("again"), 1)):
        tries.clear()
        with soon():  # nothing else waits for the broker either
            submit()
        print(f"broker {fault}, {mails} mails: {', '.join(f'{seconds:.2f} s' for seconds in tries) or 'not tried'}")
        # Where the open connection turns out to be closed, the first try fails at once; a second try shows a dead
        # broker.
        assert len(tries) <= (2 if fault == "stop" else 1)
        assert sum(tries) < 1.9
    assert Delivery.objects.filter(status="accepted").count() == 1
    broker.thaw()
    broker.start()
    back = time.monotonic()
    wait_until(lambda: len(server.messages) == 58, what="58 mails")
    print(f"all mails {time.monotonic() - back:.1f} s after the broker was back")
    wait_until(lambda: Delivery.objects.filter(status="accepted").count() == 58, what="58 mails accepted")
    assert len({message.message_id for message in server.messages}) == 58
    send("after")
    wait_until(lambda: len(server.messages) == 59, what="the last mail")


def test_a_broker_that_forgets_everything_loses_nothing(server: SMTPServer, broker: Broker) -> None:
    """The messages are gone, but later mails wake a dispatcher, and all mails arrive."""
    for number in range(40):
        send(f"mail {number}")
        if number % 10 == 5:
            broker.flush()
    wait_until(lambda: len(server.messages) == 40, what="40 mails")
    assert len({message.subject for message in server.messages}) == 40
