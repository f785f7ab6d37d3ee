"""The signals: the application gets each one once, after the event is committed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
from django.db import OperationalError, transaction

from email_integration import signals
from email_integration.delivery import manual
from email_integration.ledger import batches, recording, rows, transitions
from email_integration.ledger.batches import Batch
from email_integration.ledger.task_queue import install
from email_integration.models import Delivery, Status
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred, InDoubt
from email_integration.smtp import Relay
from email_integration.smtpd import Fault, SMTPServer
from tests import claims
from tests.deliveries import RecordingTaskQueue, ago, attempt, in_threads, pretend, statuses, submitted
from tests.relays import config_for

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

KIM, LEE = "kim@example.com", "lee@example.com"
RELAY = Relay(name="Primary", host="mail.example.com")
NAMES = ("delivery_accepted", "delivery_failed", "delivery_expired", "delivery_in_doubt", "recipient_refused")


class Heard:
    """The sent signals: the name, the delivery's status at that moment, and the recipient, if any."""

    def __init__(self) -> None:
        self.all: list[tuple[str, ...]] = []
        #: Whether the committed row had the same values, and no transaction was open.
        self.was_true: list[bool] = []
        self._receivers: list[tuple[Any, Any]] = []

    def connect(self) -> None:
        for name in NAMES:
            signal = getattr(signals, name)

            def receive(sender: Any, delivery: Delivery, signal: Any, name: str = name, **given: Any) -> None:
                assert sender is Delivery
                recipient = given.pop("recipient", None)
                assert not given
                assert (recipient is not None) == (name == "recipient_refused")
                more = (recipient["address"], str(recipient["code"])) if recipient else ()
                self.all.append((name, str(delivery.status), *more))
                stored = in_threads(lambda: Delivery.objects.get(pk=delivery.pk).status)
                is_open = transaction.get_connection(rows.database()).in_atomic_block
                self.was_true.append(stored == [delivery.status] and not is_open)

            signal.connect(receive, sender=Delivery)
            self._receivers.append((signal, receive))

    def disconnect(self) -> None:
        for signal, receive in self._receivers:
            signal.disconnect(receive, sender=Delivery)


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


@pytest.fixture
def heard() -> Iterator[Heard]:
    listening = Heard()
    listening.connect()
    yield listening
    listening.disconnect()
    assert all(listening.was_true)


def claimed(*to: str) -> Batch:
    return claims.claimed(submitted(*to or (KIM,)))


def test_an_acceptance_is_signalled_once_however_often_it_is_tried(smtp_server: Serve, heard: Heard) -> None:
    config_for(smtp_server())
    delivery = submitted()
    for _ in range(3):
        attempt(delivery.pk)
    assert heard.all == [("delivery_accepted", "accepted")]


def test_a_refused_recipient_is_signalled_with_the_reply(smtp_server: Serve, heard: Heard) -> None:
    config_for(smtp_server(faults=[Fault(verb="RCPT", reply="550 5.1.1 No such user", match="lee@")]))
    recipients: list[Any] = []

    def receive(recipient: Any, **given: Any) -> None:
        recipients.append(recipient)

    signals.recipient_refused.connect(receive)
    try:
        attempt(submitted(KIM, LEE).pk)
    finally:
        signals.recipient_refused.disconnect(receive)
    assert heard.all == [("recipient_refused", "accepted", LEE, "550"), ("delivery_accepted", "accepted")]
    (recipient,) = recipients
    assert (recipient["address"], recipient["code"]) == (LEE, 550)
    assert "No such user" in recipient["reply"]
    assert recipient["reason"] == "the server says the mailbox does not exist (550 5.1.1)"


def test_a_failure_is_signalled_with_everybody_who_was_refused(smtp_server: Serve, heard: Heard) -> None:
    config_for(smtp_server(faults=[Fault(verb="DOT", reply="554 5.7.1 Spam")]))
    attempt(submitted(KIM, LEE).pk)
    assert heard.all == [
        ("recipient_refused", "failed", KIM, "554"),
        ("recipient_refused", "failed", LEE, "554"),
        ("delivery_failed", "failed"),
    ]


def test_deferred_mail_sends_no_signal(smtp_server: Serve, heard: Heard) -> None:
    config_for(smtp_server(faults=[Fault(verb="RCPT", reply="450 4.2.0 Later", times=1)]))
    delivery = submitted()
    attempt(delivery.pk)
    assert heard.all == []
    pretend(delivery, due_at=ago(1))
    attempt(delivery.pk)
    assert heard.all == [("delivery_accepted", "accepted")]


@pytest.mark.parametrize(("policy", "status"), [("resend", "deferred"), ("hold", "in_doubt")])
def test_a_doubt_is_signalled_with_what_becomes_of_it(settings: Any, heard: Heard, policy: str, status: str) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "IN_DOUBT": policy}
    assert claims.record(claimed(), InDoubt(cause=Cause.IN_DOUBT, reason="lost"))
    claims.lose(claimed())
    assert heard.all == [("delivery_in_doubt", status)] * 2


def test_ends_without_an_attempt_are_signalled(heard: Heard) -> None:
    transitions.end(submitted(), Status.EXPIRED, Cause.EXPIRED)
    transitions.end(submitted(), Status.QUARANTINED, Cause.WORKER_LOST)
    transitions.set_aside(submitted(), "its row is damaged")
    manual.discard(pretend(submitted(), status="in_doubt").pk)
    manual.cancel(submitted().pk)  # no signal: the caller knows
    assert [one[:2] for one in heard.all if one[0] != "recipient_refused"] == [
        ("delivery_expired", "expired"),
        ("delivery_failed", "quarantined"),
        ("delivery_failed", "quarantined"),
        ("delivery_failed", "failed"),
    ]


def test_an_acceptance_that_is_learnt_of_late_is_signalled_then(heard: Heard) -> None:
    slow = claimed()
    [delivery] = slow.deliveries
    claims.lose(slow)
    transitions.end(Delivery.objects.get(), Status.EXPIRED, Cause.EXPIRED)
    assert claims.record(slow)
    assert statuses(delivery) == {KIM: "accepted"}
    assert [one[0] for one in heard.all] == ["delivery_in_doubt", "delivery_expired", "delivery_accepted"]
    assert not recording.accept_late(claims.ended(Delivery.objects.get()))
    assert len(heard.all) == 3


def test_an_overtaken_worker_sends_no_signal(heard: Heard) -> None:
    slow = claimed()
    batches.release(slow.id)
    assert claims.record(claims.claimed(*slow.deliveries), Deferred(cause=Cause.PUT_OFF, reason="later"))
    assert not claims.record(slow, InDoubt(cause=Cause.IN_DOUBT, reason="lost"))
    assert heard.all == []


def test_what_is_rolled_back_is_not_signalled(heard: Heard) -> None:
    class Outage(RecordingTaskQueue):
        def result_rows(self, deliveries: Collection[Delivery]) -> None:
            raise OperationalError("gone")

    batch = claimed()
    install(Outage())
    with pytest.raises(OperationalError):
        claims.record(batch)
    install(RecordingTaskQueue())
    with transaction.atomic():
        decided = submitted()
        transitions.end(decided, Status.EXPIRED, Cause.EXPIRED)
        transaction.set_rollback(True)
    assert heard.all == []
    assert claims.record(batch)
    assert heard.all == [("delivery_accepted", "accepted")]


def test_a_receiver_that_raises_changes_nothing_and_is_logged(
    smtp_server: Serve, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    server = smtp_server()
    config_for(server)

    def fail(**given: Any) -> None:
        raise ValueError("a receiver's own fault")

    signals.delivery_accepted.connect(fail, sender=Delivery)
    try:
        with caplog.at_level(logging.ERROR):
            result = attempt(submitted().pk)
    finally:
        signals.delivery_accepted.disconnect(fail, sender=Delivery)
    assert isinstance(result, Delivery)
    assert Delivery.objects.get().status == "accepted"
    assert heard.all == [("delivery_accepted", "accepted")]
    assert "a receiver's own fault" in caplog.text
    attempt(result.pk)
    assert len(server.messages) == 1
