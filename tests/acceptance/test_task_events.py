"""Celery's task events for each mail, sent only while a worker sends task events: counted at the broker."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.core.mail import EmailMessage

from config.local.processes import PATIENCE, wait_until
from email_integration import submit_many
from email_integration.models import Delivery
from email_integration.smtpd import SMTPServer
from email_integration.tasks import names, send_email
from tests.acceptance.conftest import environment
from tests.stack import Stack

#: Mails of a bulk.
BULK = 30


@contextmanager
def heard() -> Iterator[list[dict[str, Any]]]:
    """Record all events from now on, without asking any worker to send events."""
    events: list[dict[str, Any]] = []
    listening = threading.Event()
    with current_app.connection_for_read() as connection:
        receiver = current_app.events.Receiver(connection, handlers={"*": events.append})
        receiver.on_consume_ready = lambda *_, **__: listening.set()
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": False})
        thread.start()
        try:
            assert listening.wait(PATIENCE)
            yield events
        finally:
            receiver.should_stop = True
            thread.join()


def send(subject: str) -> list[str]:
    """Send one single mail and a bulk; return their ids once all are accepted."""
    one = str(send_email.delay(subject, "Text", to=["kim@example.com"]).id)
    ids = [one, *submit_many(EmailMessage(subject, "Text", to=[f"kim{number}@example.com"]) for number in range(BULK))]
    wait_until(
        lambda: Delivery.objects.filter(pk__in=ids, status="accepted").count() == len(ids), what="all mails accepted"
    )
    return ids


def send_and_go_on(subject: str) -> list[str]:
    """Send as ``send()`` does, then wait until the worker has sent one further mail.

    The worker has a single process, so it has then finished with the mails before.
    """
    ids = send(subject)
    one_more = send_email.delay("one more", "Text", to=["kim@example.com"]).id
    wait_until(lambda: Delivery.objects.get(pk=one_more).status == "accepted", what="one more mail accepted")
    return ids


def of(events: list[dict[str, Any]], ids: list[str]) -> Counter[str]:
    """Return the number of events of each type for these mails."""
    return Counter(event["type"] for event in events if event.get("uuid") in ids)


def complete() -> Counter[str]:
    return Counter({"task-received": 1 + BULK, "task-started": 1 + BULK, "task-succeeded": 1 + BULK})


def require_complete(events: list[dict[str, Any]], ids: list[str]) -> None:
    """Wait for the events of these mails, and check that they equal those that Celery would send."""
    wait_until(lambda: of(events, ids)["task-succeeded"] == len(ids), what="the events of all mails")
    assert of(events, ids) == complete()
    mine = [event for event in events if event.get("uuid") in ids]
    assert {event["name"] for event in mine if event["type"] == "task-received"} == {names.SEND_EMAIL}
    assert {event["args"] for event in mine if event["type"] == "task-received"} == {"()"}
    assert all(event["runtime"] > 0 for event in mine if event["type"] == "task-succeeded")
    assert all(event["hostname"].startswith("worker") and event["pid"] for event in mine)
    assert "example.com" not in repr(mine)


def test_events_are_sent_from_when_they_are_switched_on_until_they_are_off(
    stack: Callable[..., Stack], server: SMTPServer, tmp_path: Path
) -> None:
    """Before and after, no event of a mail is in the broker, although others listen. The order of events proves it."""
    stack(beat=False, concurrency=1, env=environment(tmp_path / "notes"))
    with heard() as events:
        before = send_and_go_on("before")
        current_app.control.enable_events(reply=True, timeout=PATIENCE, limit=1)
        require_complete(events, send_and_go_on("during"))
        current_app.control.disable_events(reply=True, timeout=PATIENCE, limit=1)
        after = send_and_go_on("after")
        current_app.control.enable_events(reply=True, timeout=PATIENCE, limit=1)
        require_complete(events, send("again"))
    assert of(events, before) == of(events, after) == Counter()


def test_a_worker_that_sends_events_from_its_start_sends_those_of_mails(
    stack: Callable[..., Stack], server: SMTPServer, tmp_path: Path
) -> None:
    """With ``-E``, or with the equivalent setting."""
    with heard() as events:
        stack(beat=False, env={**environment(tmp_path / "notes"), "ACCEPTANCE_EVENTS": "1"})
        require_complete(events, send("from the start"))


pytestmark = [pytest.mark.extra, pytest.mark.django_db(transaction=True)]
