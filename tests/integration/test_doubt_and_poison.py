"""The effects of a killed process on a mail that may have been sent, and on a mail that may have killed it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from email_integration.delivery import manual
from email_integration.models import Delivery, DeliveryAttempt, SMTPConfig
from email_integration.sending import dispatcher, sandbox
from email_integration.smtpd import Fault, SMTPServer
from tests.children import (
    Child,
    at,
    delivery_statuses,
    die,
    due_now,
    forget_journals,
    hooked,
    mails,
    recover,
    recover_by_lease,
    require_settled,
    send,
)
from tests.deliveries import RecordingTaskQueue, ago, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

Serve = Callable[..., SMTPServer]


@pytest.fixture(autouse=True)
def folder(journals: Path, task_queue: RecordingTaskQueue, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dispatcher._Pace, "claims", lambda self, sessions: 100)
    of(settings, SESSIONS=1, IN_DOUBT="hold")
    return journals


@pytest.fixture
def server(smtp_server: Serve) -> SMTPServer:
    server = smtp_server(security="plain", user=None)
    config_for(server)
    return server


def of(settings: Any, **changes: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **changes}


def outcomes(delivery_id: str) -> list[str]:
    attempts = DeliveryAttempt.objects.filter(delivery=delivery_id)
    return list(attempts.order_by("number").values_list("outcome", flat=True))


# -- doubt ----------------------------------------------------------------------------------------------------------


def test_doubt_pins_the_sender_and_the_bytes(server: SMTPServer, settings: Any) -> None:
    """Sent, and killed before the answer · in doubt · another sender is saved · the retry sends the same octets from
    the same sender through the same server.
    """
    of(settings, IN_DOUBT="resend")
    (one,) = mails(1)
    Child(send, hook=at("answered", die)).killed()
    config = SMTPConfig.objects.get()
    config.from_email = "Other <other@example.com>"
    config.save()
    recover()
    row = Delivery.objects.get()
    assert (row.from_header, row.smtp_config) == ("Hanna <noreply@example.com>", "Primary Mail Server")
    due_now()
    send()
    assert (delivery_statuses(one), outcomes(one)) == (["accepted"], ["in_doubt", "accepted"])
    first, second = server.messages
    assert (first.mail_from, first.content) == (second.mail_from, second.content)


def test_doubt_by_lease_pins_as_well(server: SMTPServer, folder: Path, settings: Any) -> None:
    """The same on another host, whose journal is gone: the values stored with the claim of the batch decide."""
    of(settings, IN_DOUBT="resend")
    (one,) = mails(1)
    Child(send, hook=at("answered", die)).killed()
    forget_journals(folder)
    config = SMTPConfig.objects.get()
    config.from_email = "Other <other@example.com>"
    config.save()
    recover_by_lease()
    due_now()
    send()
    assert delivery_statuses(one) == ["accepted"]
    first, second = server.messages
    assert (first.mail_from, first.content) == (second.mail_from, second.content)


# -- mail that kills ------------------------------------------------------------------------------------------------


def test_a_mail_that_kills_is_put_aside_and_its_batch_mates_are_sent(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 21 mails kills its process whenever it is prepared, next to others in three sessions · it is soon tried
    alone, and quarantined after QUARANTINE_AFTER kills · the others are sent.
    """
    of(settings, SESSIONS=3)
    good = mails(20)
    poison = submitted("killer@example.com", subject="killer").pk
    Delivery.objects.filter(pk=poison).update(next_at=ago(10.5))  # among the others
    plan = sandbox.plan_now

    def dying(recipients: Iterable[str]) -> sandbox.Plan:
        if "killer@example.com" in recipients:
            die()
        return plan(recipients)

    deaths = 0
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "plan_now", dying)
        while Child(send).ended():
            deaths += 1
            assert deaths < 10
            recover()
            require_settled()
    row = Delivery.objects.get(pk=poison)
    assert (row.status, row.cause, row.reason) == (
        "quarantined",
        "worker_lost",
        "the worker was lost at every attempt",
    )
    assert deaths == 2 + 3
    # Two of the kills happened next to other mails, which may be in doubt.
    assert Counter(delivery_statuses(*good))["in_doubt"] <= 2 * (3 - 1)
    for pk in good:
        manual.release(pk)
    send()
    assert delivery_statuses(*good) == ["accepted"] * 20
    assert {one.subject for one in server.messages} == {str(number) for number in range(20)}


def test_a_mail_that_kills_whenever_it_is_tried_alone(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no other mail · it kills QUARANTINE_AFTER times and is quarantined."""
    (one,) = mails(1)
    deaths = 0
    while Child(send, hook=at("before it is read", die)).ended():
        deaths += 1
        recover()
    assert (delivery_statuses(one), deaths) == (["quarantined"], 3)


def test_mails_that_die_beside_the_one_that_kills_are_not_put_aside(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four mails arrive one by one, so each is its own batch, in four sessions of one process · one kills the process
    again and again · only that one is quarantined.
    """
    of(settings, SESSIONS=4, QUARANTINE_AFTER=1)
    monkeypatch.setattr(dispatcher._Pace, "claims", lambda self, sessions: 1)
    good = mails(3)
    poison = submitted("killer@example.com", subject="killer").pk

    def dying(name: str, *ids: str) -> None:
        if name == "in hand" and poison in ids:
            die()
        elif name == "in hand":
            time.sleep(0.05)  # so they are in progress together; the test does not fail if they are not

    for _ in range(8):
        child = Child(send, hook=dying)
        if child.ended() == 0:
            break
        recover()
    assert delivery_statuses(poison) == ["quarantined"]
    # A mail whose final dot is sent while the process dies is in doubt.
    assert set(delivery_statuses(*good)) <= {"accepted", "in_doubt"}


def test_a_suspect_is_alone_in_its_process(server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two mails that were given back twice arrive with six others, in three sessions · no mail is begun next to either
    of them.
    """
    of(settings, SESSIONS=3)
    monkeypatch.setattr(dispatcher._Pace, "claims", lambda self, sessions: 1)
    ids = mails(8)
    suspects = {ids[2], ids[5]}
    Delivery.objects.filter(pk__in=suspects).update(returned=2)
    lock, in_hand, beside = threading.Lock(), set(), []

    def hook(name: str, *given: str) -> None:
        if name == "in hand":
            with lock:
                in_hand.update(given)
                beside.extend(pk for pk in in_hand - {*given} if suspects & (in_hand | {*given}))
            if suspects & {*given}:
                time.sleep(0.1)  # enough time for another mail to begin
        elif name == "answer noted":
            with lock:
                in_hand.difference_update(given)

    with hooked(hook):
        send()
    assert delivery_statuses(*ids) == ["accepted"] * 8
    assert beside == []


def test_waiting_for_a_reply_never_counts(server: SMTPServer) -> None:
    """Killed while the process waits for the greeting, or for the reply to MAIL, more often than QUARANTINE_AFTER ·
    this is not counted against the mail.
    """
    (one,) = mails(1)
    for point in ("before a session", "before MAIL") * 4:
        Child(send, hook=at(point, die)).killed()
        recover()
        assert Delivery.objects.get().returned == 0
    send()
    assert delivery_statuses(one) == ["accepted"]


def test_an_attempt_that_comes_to_an_end_resets_the_count(server: SMTPServer) -> None:
    """Killed twice · then the server defers it · the count begins again."""
    (one,) = mails(1)
    for _ in range(2):
        Child(send, hook=at("before it is read", die)).killed()
        recover()
    assert Delivery.objects.get().returned
    server.inject(Fault(verb="DOT", reply="451 4.3.0 Try again later", times=1))
    send()
    assert (delivery_statuses(one), Delivery.objects.get().returned) == (["deferred"], 0)
