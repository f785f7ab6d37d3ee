"""Manual decisions about a delivery through the API: when each is possible, and its consequences."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import transaction
from django.utils import timezone

from email_integration import delivery as api
from email_integration.delivery import cancel, discard, release, resend, send_now
from email_integration.exceptions import ContentUnavailable
from email_integration.ledger import continuation, transitions
from email_integration.message import content
from email_integration.models import CircuitBreaker, Delivery, Status
from email_integration.outcomes import schedule
from email_integration.outcomes.causes import Cause
from email_integration.queue import retry_now
from email_integration.routing import active_relay, breaker
from email_integration.smtp import Relay
from email_integration.smtpd import Fault, SMTPServer
from tests.claims import claimed
from tests.deliveries import RecordingTaskQueue, ago, attempt, pretend, statuses, submitted

from .validating import activate

pytestmark = pytest.mark.django_db(transaction=True)
Decision = Callable[[str], bool]

NOTHING = {"content": b"", "content_seal": "", "content_file": "", "has_content": False}


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def stored(delivery: Delivery) -> Delivery:
    return Delivery.objects.get(pk=delivery.pk)


def row(delivery: Delivery) -> dict[str, Any]:
    return Delivery.objects.filter(pk=delivery.pk).values().get()


def in_doubt(*to: str, **changes: Any) -> Delivery:
    return pretend(submitted(*to, from_email="noreply@example.com"), status=Status.IN_DOUBT, next_at=None, **changes)


# -- the public functions -------------------------------------------------------------------------------------------


def test_the_package_offers_functions_whatever_of_it_was_imported_before() -> None:
    """``submit`` is the function and not the module with that name. No task queue is needed."""
    code = (
        "import django; django.setup()\n"
        "import email_integration.queue.submission\n"
        "from email_integration import delivery\n"
        "assert all(callable(getattr(delivery, name)) for name in delivery.__all__), delivery.__all__\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all((getattr(api, name).__doc__ or "").strip() for name in api.__all__)


@pytest.mark.parametrize("decision", [cancel, send_now, release, discard])
def test_what_does_not_exist_cannot_be_decided(decision: Decision) -> None:
    assert decision("unknown") is False


ALLOWED = {
    cancel: {Status.PREPARED, Status.QUEUED, Status.DEFERRED, Status.IN_DOUBT},
    send_now: {Status.QUEUED, Status.DEFERRED, Status.IN_DOUBT, Status.QUARANTINED},
    release: {Status.IN_DOUBT},
    discard: {Status.IN_DOUBT},
}


@pytest.mark.parametrize("decision", ALLOWED)
@pytest.mark.parametrize("status", [status for status in Status if status != Status.SENDING])
def test_each_decision_has_its_states(decision: Decision, status: Status) -> None:
    """In other states it returns False and changes nothing. A decision that is carried out increases the version by
    one.
    """
    delivery = pretend(submitted(), status=status)
    before = row(delivery)
    done = decision(delivery.pk)
    after = row(delivery)
    assert done == (status in ALLOWED[decision])
    assert after["version"] == before["version"] + done
    assert done or after == before


@pytest.mark.parametrize("decision", ALLOWED)
def test_what_is_being_sent_can_be_asked_to_be_cancelled_and_nothing_else(decision: Decision) -> None:
    delivery = submitted()
    claimed(delivery)
    before = row(delivery)
    assert decision(delivery.pk) == (decision is cancel)
    assert row(delivery) == {**before, "cancel_requested": decision is cancel}


# -- sending --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", [send_now, release])
def test_what_is_in_doubt_is_sent_again_with_the_same_bytes(
    decision: Decision, smtp_server: Callable[..., SMTPServer], task_queue: RecordingTaskQueue
) -> None:
    server = smtp_server()
    activate(server)
    doubtful = in_doubt(expires_at=ago(60))
    sent = content.read(doubtful)
    task_queue.woken.clear()

    assert decision(doubtful.pk)
    assert task_queue.woken == ["mail"]
    attempt(doubtful.pk)

    assert stored(doubtful).status == Status.ACCEPTED
    (message,) = server.messages
    assert message.content.replace(b"\r\n", b"\n").rstrip() == sent.replace(b"\r\n", b"\n").rstrip()


def test_a_mail_that_is_sent_now_waits_for_its_relay_like_all_others(smtp_server: Callable[..., SMTPServer]) -> None:
    """Sending now does not bypass the circuit breaker. Once the breaker is reset, the mail is sent."""
    server = smtp_server(faults=[Fault(verb="AUTH", reply="535 5.7.8 No", times=1)])
    activate(server)
    first, second = submitted(from_email="a@example.com"), submitted(from_email="a@example.com")
    attempt(first.pk)
    assert CircuitBreaker.objects.count() == 1
    pretend(second, status=Status.DEFERRED, due_at=timezone.now() + schedule.seconds(900))

    assert send_now(second.pk)
    attempt(second.pk)

    waiting = stored(second)
    assert (waiting.status, waiting.waits_for_relay, waiting.attempts) == (Status.DEFERRED, True, 0)
    assert "535" in waiting.reason
    relay = active_relay()
    assert isinstance(relay, Relay)
    retry_now.reset_breaker(relay)
    assert not breaker.is_open(relay)
    attempt(second.pk)
    assert stored(second).status == Status.ACCEPTED


def test_what_was_quarantined_is_tried_as_if_for_the_first_time() -> None:
    delivery = submitted("kim@example.com", "lee@example.com")
    withheld = {"address": "ann@example.com", "status": "failed", "cause": "withheld", "reply": "in other words"}
    refused = {**delivery.recipients[1], "status": "failed", "code": 550, "reply": "No", "cause": "refused"}
    aside = pretend(delivery, recipients=[delivery.recipients[0], refused, withheld], returned=3)
    transitions.end(aside, Status.QUARANTINED, Cause.WORKER_LOST)
    assert stored(delivery).cause == "worker_lost"
    assert send_now(delivery.pk)
    again = stored(delivery)
    stay = {"lee@example.com": "failed", "ann@example.com": "failed"}
    assert statuses(delivery) == {"kim@example.com": "pending", **stay}
    assert (again.status, again.returned, again.finished_at) == (Status.DEFERRED, 0, None)


def test_a_time_to_expire_that_has_passed_begins_anew() -> None:
    """Otherwise a mail that is sent now would expire at once."""
    delivery = in_doubt(expires_at=ago(1))
    assert release(delivery.pk)
    assert stored(delivery).expires_at > timezone.now()
    other = in_doubt()
    assert release(other.pk)
    assert stored(other).expires_at == other.expires_at


def test_a_decision_does_not_undo_a_faster_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision about a mail that has been cancelled in between changes nothing."""
    delivery = in_doubt()
    changes = transitions.send_now

    def cancelled_first(*arguments: Any, **how: Any) -> bool:
        assert cancel(delivery.pk)
        return changes(*arguments, **how)

    monkeypatch.setattr(transitions, "send_now", cancelled_first)
    assert not release(delivery.pk)
    assert stored(delivery).status == Status.CANCELLED


# -- mail that cannot be sent ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", [send_now, release, resend])
def test_what_is_kept_no_longer_cannot_be_sent_again_and_says_so(decision: Callable[[str], object]) -> None:
    delivery = in_doubt(**NOTHING)
    before = row(delivery)
    with pytest.raises(ContentUnavailable, match="no longer kept"):
        decision(delivery.pk)
    assert row(delivery) == before
    assert Delivery.objects.count() == 1


@pytest.mark.parametrize("decision", [send_now, release, resend])
def test_a_decision_about_a_mail_that_no_key_opens_is_refused(decision: Callable[[str], object], settings: Any) -> None:
    delivery = in_doubt()
    key = Fernet.generate_key().decode()
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [key]}
    with pytest.raises(ContentUnavailable, match="SMTP_PASSWORD_KEYS"):
        decision(delivery.pk)
    assert stored(delivery).status == Status.IN_DOUBT


@pytest.mark.parametrize("damaged", [None, {}, ["kim@example.com"], [{"address": 1, "status": "pending"}]])
def test_of_a_damaged_row_nothing_is_sent_and_it_can_still_be_ended(damaged: Any) -> None:
    damaged = "nonsense" if damaged is None else damaged
    one, other = in_doubt(recipients=damaged), in_doubt(recipients=damaged)
    for decision in (send_now, release, resend):
        with pytest.raises(ContentUnavailable, match="recipients"):
            decision(one.pk)
    assert cancel(one.pk)
    assert discard(other.pk)
    assert (stored(one).status, stored(other).status) == (Status.CANCELLED, Status.FAILED)


# -- ending ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", [cancel, discard])
def test_what_follows_an_end_is_continued(decision: Decision, task_queue: RecordingTaskQueue) -> None:
    """A requested sweep does this, not the caller of the decision."""
    delivery = in_doubt()
    task_queue.followed.add(delivery.pk)
    task_queue.woken.clear()
    assert decision(delivery.pk)
    after = stored(delivery)
    assert (task_queue.sweeps, after.is_settled, after.next_at) == (1, False, None)
    assert [one.pk for one in continuation.take_due(10)] == [delivery.pk]


def test_what_was_partly_accepted_is_accepted_when_its_doubtful_rest_is_discarded() -> None:
    delivery = in_doubt("kim@example.com", "lee@example.com")
    pretend(delivery, recipients=[{**delivery.recipients[0], "status": "accepted"}, delivery.recipients[1]])
    assert discard(delivery.pk)
    assert stored(delivery).status == Status.ACCEPTED
    assert statuses(delivery) == {"kim@example.com": "accepted", "lee@example.com": "failed"}


# -- a copy ---------------------------------------------------------------------------------------------------------


def test_a_copy_is_a_mail_of_its_own_for_the_same_recipients(
    settings: Any, smtp_server: Callable[..., SMTPServer], task_queue: RecordingTaskQueue
) -> None:
    """The original is unchanged, and the copy, which is accepted too, takes nothing from it."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "CONTENT_RETENTION_DAYS": 1}
    server = smtp_server()
    activate(server)
    delivery = submitted("kim@example.com", "lee@example.com", idempotency_key="once")
    attempt(delivery.pk)
    first = row(delivery)
    task_queue.woken.clear()

    copy = resend(delivery.pk)
    assert task_queue.woken == ["mail"]
    attempt(copy.pk)

    assert row(delivery) == first
    assert copy.pk != delivery.pk
    assert copy.idempotency_key is None
    assert stored(copy).status == Status.ACCEPTED
    one, two = server.messages
    assert one.content == two.content
    assert set(one.rcpt_tos) == set(two.rcpt_tos) == {"kim@example.com", "lee@example.com"}


def test_a_copy_that_is_rolled_back_is_none(task_queue: RecordingTaskQueue) -> None:
    delivery = in_doubt()
    with transaction.atomic():
        resend(delivery.pk)
        transaction.set_rollback(True)
    assert Delivery.objects.get().pk == delivery.pk


def test_there_is_no_copy_of_what_does_not_exist() -> None:
    with pytest.raises(Delivery.DoesNotExist):
        resend("unknown")
