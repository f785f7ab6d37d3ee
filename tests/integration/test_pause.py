"""Pause and resume: mail is accepted, waits, and is sent afterwards."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction
from django.utils import timezone

from config.local.processes import wait_until
from email_integration.models import Delivery, SendingPause, SMTPConfig, Status
from email_integration.outcomes.causes import Cause
from email_integration.queue.submission import submit
from email_integration.routing import Nowhere, active_relay
from email_integration.sending import points
from email_integration.smtp import Relay
from email_integration.smtpd import SMTPServer
from tests.deliveries import attempt
from tests.integration.validating import activate
from tests.stack import Stack

pytestmark = pytest.mark.django_db(transaction=True)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def mail() -> Delivery:
    return submit(EmailMessage("Subject", "Body", "a@example.com", ["b@example.com"]))


def test_a_pause_holds_in_every_process_at_once_and_resuming_ends_it() -> None:
    """A pause makes a new generation, like a change of the configuration."""
    SMTPConfig.objects.create(name="Main", host="h", from_email="a@example.com", is_active=True)
    assert isinstance(active_relay(), Relay)

    assert "Sending is paused" in run("pause_email", "--reason", "moving house")
    assert active_relay() == Nowhere(cause=Cause.PAUSED, reason="sending is paused: moving house")

    assert "Sending is resumed" in run("resume_email")
    assert isinstance(active_relay(), Relay)


def test_what_was_deferred_by_a_pause_is_due_when_it_ends(
    smtp_server: Callable[..., SMTPServer], settings: Any
) -> None:
    """Its own waiting time does not matter."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RETRY_FIRST": 3600.0, "RETRY_MAX": 3600.0}
    server = smtp_server()
    activate(server)
    run("pause_email", "--reason", "moving house")
    delivery = mail()

    attempt(delivery.pk)

    delivery.refresh_from_db()
    assert (delivery.status, delivery.reason) == (Status.DEFERRED, "sending is paused: moving house")
    assert not server.sessions
    assert "due now: 1." in run("resume_email")
    attempt(delivery.pk)
    delivery.refresh_from_db()
    assert delivery.status == Status.ACCEPTED
    assert len(server.messages) == 1


def test_a_pause_that_ends_before_the_mail_is_recorded_as_waiting_wakes_it_too(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that ended the pause could not see that the mail waits."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RETRY_FIRST": 3600.0, "RETRY_MAX": 3600.0}
    SMTPConfig.objects.create(name="Main", host="h", from_email="a@example.com", is_active=True)
    SendingPause.begin()
    delivery = mail()

    def just_after_the_pause(point: str, *ids: str) -> None:
        if point == "before the record":
            SendingPause.end()

    monkeypatch.setattr(points, "hook", just_after_the_pause)
    attempt(delivery.pk)

    delivery.refresh_from_db()
    # It is tried again at once, with a server that does not exist. Its own waiting time would be an hour.
    assert delivery.attempts == 2 or delivery.due_at <= timezone.now()


def test_what_waited_leaves_within_a_sweep(stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer]) -> None:
    """With a real worker and a real beat, and a backoff of an hour."""
    stack(env={"RETRY_FIRST": "3600", "RETRY_MAX": "3600"})
    server = smtp_server()
    activate(server)
    SendingPause.begin()
    deliveries = [mail() for _ in range(5)]

    def deferred() -> bool:
        return Delivery.objects.filter(status=Status.DEFERRED, waits_for_relay=True).count() == len(deliveries)

    wait_until(deferred, what="the deliveries deferred")
    assert not server.messages

    SendingPause.end()

    wait_until(lambda: len(server.messages) == len(deliveries), what="the mails")


def test_a_second_pause_says_since_when() -> None:
    """It also keeps the first pause's reason."""
    run("pause_email", "--reason", "first")

    output = run("pause_email", "--reason", "second")

    assert "already paused, since " in output
    assert "(first)" in output
    assert SendingPause.objects.get().reason == "first"


def test_resuming_what_is_not_paused_is_said() -> None:
    """It is not an error."""
    assert "Sending was not paused" in run("resume_email")


def test_email_paused_holds_whatever_the_database_says(settings: Any) -> None:
    """For a restored backup, the variable is set before the first process starts."""
    SMTPConfig.objects.create(name="Main", host="h", from_email="a@example.com", is_active=True)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "EMAIL_PAUSED": True}

    assert active_relay() == Nowhere(cause=Cause.PAUSED, reason="sending is paused: EMAIL_PAUSED is set")
    assert "EMAIL_PAUSED is set too" in run("pause_email")
    with pytest.raises(CommandError, match="EMAIL_PAUSED is set, so no mail is sent"):
        run("resume_email")
    assert not SendingPause.objects.exists()


def test_after_email_paused_resuming_wakes_what_waits(settings: Any) -> None:
    """No row has changed, so nothing else would wake it."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "EMAIL_PAUSED": True, "RETRY_FIRST": 3600.0}
    delivery = mail()
    attempt(delivery.pk)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "EMAIL_PAUSED": False}

    assert "Sending was not paused. Deliveries that waited and are due now: 1." in run("resume_email")


def test_a_pause_that_is_rolled_back_is_none() -> None:
    """It is rolled back like any write."""
    SMTPConfig.objects.create(name="Main", host="h", from_email="a@example.com", is_active=True)

    with transaction.atomic():
        SendingPause.begin()
        transaction.set_rollback(True)

    assert isinstance(active_relay(), Relay)


def test_there_is_one_pause_at_most() -> None:
    """The database enforces this."""
    SendingPause.begin()

    with pytest.raises(DatabaseError):
        SendingPause.objects.create(pk=2)
