"""Lost answers of the database, and batches that are taken over from a process that is still alive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connections

from config.local.processes import PATIENCE
from email_integration.ledger import batches, claiming, recording
from email_integration.models import DeliveryAttempt, DeliveryBatch
from email_integration.sending import dispatcher, in_hand, points
from email_integration.smtpd import Fault, SMTPServer
from tests.children import (
    Child,
    at,
    delivery_statuses,
    die,
    due_now,
    mails,
    recover,
    recover_by_lease,
    require_settled,
    send,
    stop,
)
from tests.deliveries import Clock, RecordingTaskQueue, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

Serve = Callable[..., SMTPServer]


@pytest.fixture(autouse=True)
def _one_session(
    journals: Path, task_queue: RecordingTaskQueue, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setattr(dispatcher._Pace, "claims", lambda self, sessions: 100)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SESSIONS": 1, "IN_DOUBT": "hold"}
    yield
    points.hook = None


@pytest.fixture
def server(smtp_server: Serve) -> SMTPServer:
    server = smtp_server(security="plain", user=None)
    config_for(server)
    return server


def outcomes(delivery_id: str) -> list[str]:
    attempts = DeliveryAttempt.objects.filter(delivery=delivery_id)
    return list(attempts.order_by("number").values_list("outcome", flat=True))


# -- lost answers ---------------------------------------------------------------------------------------------------


def test_the_answer_to_the_commit_of_a_claim_is_lost(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim is committed · the connection breaks before the answer · the batch with that id is given back at once,
    and all mails are claimed again.
    """
    ids, claim, lost = mails(3), claiming.claim, []

    def losing(*given: Any, using: str, **more: Any) -> claiming.Claimed:
        claimed = claim(*given, using=using, **more)
        if not lost:
            lost.extend(claimed.deliveries)
            connections[using].close()
            raise OperationalError("server closed the connection unexpectedly")
        return claimed

    monkeypatch.setattr(claiming, "claim", losing)
    send()
    assert [one.pk for one in lost] == ids
    require_settled()
    assert delivery_statuses(*ids) == ["queued"] * 3
    send()
    assert delivery_statuses(*ids) == ["accepted"] * 3
    assert len(server.messages) == 3


@pytest.mark.parametrize("number", [1, 3])
def test_the_answer_to_the_commit_of_a_record_is_lost(
    server: SMTPServer, task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The record is committed · the connection breaks before the answer · the record is repeated and changes nothing:
    one attempt for each mail, and the continuation is published once.
    """
    ids, record, lost = mails(number), recording._record, []
    task_queue.followed.update(ids)

    def losing(*given: Any, **more: Any) -> Any:
        answer = record(*given, **more)
        if not lost and any(answer.made):
            lost.append(answer)
            connections["default"].close()
            raise OperationalError("server closed the connection unexpectedly")
        return answer

    monkeypatch.setattr(recording, "_record", losing)
    assert send() == {"accepted": number}
    assert lost
    assert delivery_statuses(*ids) == ["accepted"] * number
    assert [outcomes(pk) for pk in ids] == [["accepted"]] * number
    assert sorted(task_queue.continued) == sorted(ids)
    assert len(server.messages) == number
    require_settled()


def test_killed_after_the_answer_to_the_commit_of_a_record_was_lost(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is committed · the connection breaks before the answer · killed · recovery finds it recorded."""
    (one,) = mails(1)
    record = recording._record

    def losing(*given: Any, **more: Any) -> Any:
        record(*given, **more)
        die()

    with monkeypatch.context() as patch:
        patch.setattr(recording, "_record", losing)
        Child(send).killed()
    recover()
    require_settled()
    assert (delivery_statuses(one), outcomes(one)) == (["accepted"], ["accepted"])


# -- taken over from a living process -------------------------------------------------------------------------------


def test_the_lease_expires_while_the_owner_retries_its_record(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has accepted the mail · the record fails · the lease ends, and the mail is put in doubt · the database
    is back: the late 250 wins.
    """
    (one,) = mails(1)
    record, failed = recording._record, []

    def failing(*given: Any, **more: Any) -> Any:
        if not failed:
            failed.append(True)
            stop()
            raise OperationalError("the database is starting up")
        return record(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(recording, "_record", failing)
        child = Child(send)
    child.stopped()
    recover_by_lease()
    require_settled()
    assert delivery_statuses(one) == ["in_doubt"]
    child.go_on()
    assert child.ended() == 0
    assert (delivery_statuses(one), outcomes(one)) == (["accepted"], ["in_doubt", "accepted"])
    assert len(server.messages) == 1
    require_settled()


def test_an_answer_in_the_journal_wins_over_the_lease(server: SMTPServer) -> None:
    """The server has accepted the mail · killed · its batch is taken over by the lease: in doubt · its journal is
    found: accepted.
    """
    (one,) = mails(1)
    Child(send, hook=at("answer noted", die)).killed()
    recover_by_lease()
    assert delivery_statuses(one) == ["in_doubt"]
    recover()
    assert (delivery_statuses(one), outcomes(one)) == (["accepted"], ["in_doubt", "accepted"])
    require_settled()


@pytest.mark.parametrize(("point", "copies"), [("before the dot", 1), ("dot noted", 2)])
def test_stopped_past_its_lease_and_continued(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch, point: str, copies: int
) -> None:
    """SIGSTOP, before the lease is checked or between the check and the dot · the lease ends, in doubt, and another
    process sends the mail again · SIGCONT · there is a second dot only in the second case, and there is a record of
    doubt.
    """
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "IN_DOUBT": "resend"}
    (one,) = mails(1)
    clock = Clock()

    def pause() -> None:
        stop()
        clock.ahead += 1000  # the process is stopped for this long

    def act() -> None:
        in_hand.time = clock  # type: ignore[assignment]  # in the child alone
        send()

    child = Child(act, hook=at(point, pause))
    child.stopped()
    recover_by_lease()
    assert outcomes(one) == ["in_doubt"]
    send()
    assert (delivery_statuses(one), len(server.messages)) == (["accepted"], 1)
    child.go_on()
    assert child.ended() == 0
    assert len(server.messages) == copies
    assert (delivery_statuses(one), outcomes(one)) == (["accepted"], ["in_doubt", "accepted"])
    require_settled()


def test_a_late_answer_does_not_hide_the_dot_of_another(server: SMTPServer, settings: Any) -> None:
    """The server accepts a mail for one of two recipients · stopped, taken over, in doubt · another process sends it
    again and is stopped after its dot · the first records its 250 · the other is killed: it had sent a dot, and the
    mail is in doubt.
    """
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "IN_DOUBT": "resend"}
    server.inject(Fault(verb="RCPT", reply="450 4.2.0 Mailbox busy", match="lee@", times=1))
    one = submitted("kim@example.com", "lee@example.com").pk
    first = Child(send, hook=at("answer noted", stop))
    first.stopped()
    recover_by_lease()
    due_now()
    second = Child(send, hook=at("dot noted", stop))
    second.stopped()
    first.go_on()
    assert first.ended() == 0
    second.kill()
    recover()
    require_settled()
    assert outcomes(one).count("in_doubt") == 2


def test_a_batch_that_was_taken_over_is_not_gone_on_with(server: SMTPServer) -> None:
    """Three are claimed, the first is sent · all are taken over · its record learns of this · no dot for the rest."""
    ids = mails(3)
    taken = threading.Event()

    def hook(name: str, *given: str) -> None:
        if name == "before the record" and not taken.is_set():
            recover_by_lease()
        elif name == "recorded":
            taken.set()
        elif name == "before the content" and ids[1] in given:
            assert taken.wait(PATIENCE)

    points.hook = hook
    send()
    require_settled()
    assert DeliveryBatch.objects.count() == 0
    assert delivery_statuses(*ids)[0] == "accepted"
    assert delivery_statuses(*ids)[2] == "in_doubt"
    assert "2" not in {one.subject for one in server.messages}
    assert batches.expired() == []
