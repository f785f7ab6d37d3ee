"""``send_email`` called in every way that Celery offers, and the contents of its results."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import current_app
from celery.result import AsyncResult
from django.db import transaction
from django.utils import timezone

from config.local.processes import PATIENCE, wait_until
from config.local.workers import OF_MAIL
from email_integration.exceptions import DeliveryDeferred, DeliveryFailed, InvalidMail
from email_integration.models import Delivery, RevokedTask, SMTPConfig
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from email_integration.timezones import aware
from tests import services
from tests.acceptance.tasks import note, note_error, send_from_within
from tests.acceptance.test_secrecy import recorded_events
from tests.broker import messages
from tests.stack import Stack

Notes = Callable[[str], list[Any]]
TO = {"to": ["kim@example.com"]}

at_worker = pytest.mark.usefixtures("app")


def accepted(delivery_id: str) -> dict[str, Any]:
    """Return the expected result of an accepted mail."""
    delivery = Delivery.objects.get(pk=delivery_id)
    return {
        "id": delivery_id,
        "status": "accepted",
        "message_id": delivery.message_id,
        "smtp_config": "Primary Mail Server",
        "code": 250,
        "reason": "accepted by the server",
    }


def count(server: SMTPServer, subject: str) -> int:
    return sum(message.subject == subject for message in server.messages)


@at_worker
def test_the_result_is_a_small_dictionary_without_an_address(server: SMTPServer) -> None:
    result = send_email.delay("Grüße", "Ein Brief.", to=["kim@example.com"], cc=["lee@example.com"])
    assert result.get(timeout=PATIENCE) == accepted(result.id)
    assert AsyncResult(result.id).state == "SUCCESS"
    (message,) = server.messages
    assert message.subject == "Grüße"
    assert message.rcpt_tos == ("kim@example.com", "lee@example.com")
    assert message.mail_from == "noreply@example.com"


@at_worker
def test_a_process_that_does_not_know_the_app_sends_by_name(server: SMTPServer, notes: Notes, tag: str) -> None:
    """With ``send_task`` the mail travels through the broker; everything else is the same."""
    server.inject(Fault(verb="RCPT", reply="550 5.1.1 unknown", match="unknown@"))
    program = """
import sys
from celery import Celery, signature
app = Celery(broker=sys.argv[1])
next_step = signature("tests.acceptance.tasks.note", kwargs={"tag": sys.argv[2]}, app=app)
error = signature("tests.acceptance.tasks.note_error", kwargs={"tag": sys.argv[2] + "-error"}, app=app)
for number, to in enumerate(["kim@example.com", "unknown@example.com", "not an address"]):
    options = {"task_id": f"{sys.argv[2]}-{number}", "link": next_step, "link_error": error}
    app.send_task("email_integration.tasks.send_email", ("By name", "Text"), {"to": [to]}, **options)
assert "email_integration" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, services.broker.url, tag], check=True, timeout=PATIENCE, env={})
    assert AsyncResult(f"{tag}-0").get(timeout=PATIENCE) == accepted(f"{tag}-0")
    with pytest.raises(DeliveryFailed):
        AsyncResult(f"{tag}-1").get(timeout=PATIENCE)
    with pytest.raises(InvalidMail) as caught:
        AsyncResult(f"{tag}-2").get(timeout=PATIENCE)
    assert "not an address" not in str(caught.value)
    wait_until(lambda: len(notes(tag)) == 1 and len(notes(f"{tag}-error")) == 2, what="the links called")
    assert count(server, "By name") == 1


#: The states that a submitter may see: a worker may take the mail at once.
UNDER_WAY = {"queued", "sending", "deferred", "accepted"}


@at_worker
def test_tasks_send_and_starmap_and_chunks_submit(server: SMTPServer) -> None:
    inner = send_from_within.delay("within", "kim@example.com").get(timeout=PATIENCE)
    assert AsyncResult(inner).get(timeout=PATIENCE)["status"] == "accepted"
    mails = [(f"map {number}", "Text", None, ["kim@example.com"]) for number in range(3)]
    mapped = send_email.starmap(mails).apply_async().get(timeout=PATIENCE)
    assert {item["status"] for item in mapped} <= UNDER_WAY
    (chunk,) = send_email.chunks(mails[:2], 2).apply_async().get(timeout=PATIENCE)
    assert {item["status"] for item in chunk} <= UNDER_WAY
    assert Delivery.objects.filter(pk__in=[item["id"] for item in (*mapped, *chunk)]).count() == 5
    wait_until(lambda: len(server.messages) == 6, what="six mails")
    assert [count(server, f"map {number}") for number in range(3)] == [2, 2, 1]


@at_worker
def test_the_same_task_id_or_key_is_one_mail(server: SMTPServer, tag: str) -> None:
    for _ in range(2):
        result = send_email.apply_async(("one id", "Text"), TO, task_id=tag)
        assert result.id == tag
        assert result.get(timeout=PATIENCE) == accepted(tag)
    first = send_email.delay("one key", "Text", **TO, idempotency_key=tag)
    again = send_email.delay("one key", "Text", **TO, idempotency_key=tag)
    named = send_email.apply_async(("one key", "Text"), {**TO, "idempotency_key": tag}, task_id=f"{tag}-2")
    assert again.id == first.id
    assert named.id == f"{tag}-2"
    first.get(timeout=PATIENCE)
    assert named.get(timeout=PATIENCE)["id"] == first.id
    assert (count(server, "one id"), count(server, "one key"), Delivery.objects.count()) == (1, 1, 2)


@at_worker
def test_a_mail_has_an_envelope_sender_and_a_policy_of_its_own(server: SMTPServer) -> None:
    server.inject(Fault(verb="DOT", drop_after_accept=True, match="Subject: held"))
    bounced = send_email.delay("bounces", "Text", **TO, from_email="us@example.com", envelope_sender="b@example.org")
    null = send_email.delay("null", "Text", **TO, envelope_sender="<>")
    held = send_email.delay("held", "Text", **TO, in_doubt="hold")
    bounced.get(timeout=PATIENCE)
    null.get(timeout=PATIENCE)
    wait_until(lambda: Delivery.objects.get(pk=held.id).status == "in_doubt", what="in doubt")
    senders = {message.subject: (message.mail_from, message.parsed["From"]) for message in server.messages}
    assert senders["bounces"] == ("b@example.org", "us@example.com")
    assert senders["null"] == ("<>", "Hanna <noreply@example.com>")


@at_worker
def test_the_states_that_a_waiting_caller_sees(server: SMTPServer) -> None:
    """PENDING, RETRY with code and reason, then SUCCESS or FAILURE."""
    queued = send_email.apply_async(("queued", "Text"), TO, countdown=3600)
    assert (queued.state, queued.result) == ("PENDING", None)
    server.inject(
        Fault(verb="RCPT", reply="450 4.2.0 <kim@example.com> busy", match="busy@"),
        Fault(verb="RCPT", reply="550 5.1.1 <unknown@example.com> unknown", match="unknown@"),
    )
    deferred = send_email.delay("deferred", "Text", to=["busy@example.com"])
    failed = send_email.delay("failed", "Text", to=["unknown@example.com"])
    wait_until(lambda: deferred.state == "RETRY", what="RETRY")
    assert (
        repr(deferred.result)
        == "DeliveryDeferred(450, 'the server is busy and asks us to try again later (450 4.2.0)')"
    )
    wait_until(failed.ready, what="the state FAILURE")
    assert failed.state == "FAILURE"
    reason = "the server says the mailbox does not exist (550 5.1.1)"
    assert repr(failed.result) == f"DeliveryFailed(550, '{reason}', 'failed')"
    server.clear_faults()
    assert deferred.get(timeout=PATIENCE) == accepted(deferred.id)
    assert deferred.state == "SUCCESS"


@at_worker
def test_a_mail_put_off_untried_because_its_relay_is_at_fault_is_a_retry_too(
    smtp_server: Callable[..., SMTPServer], activate: Callable[..., SMTPConfig]
) -> None:
    server = smtp_server(password="right")
    config = activate(server, password="wrong")
    with recorded_events() as events:
        results = [send_email.delay("first", "Text", **TO)]
        wait_until(lambda: results[0].state == "RETRY", what="the state RETRY")
        results += [send_email.delay(f"put off {number}", "Text", **TO) for number in range(4)]
        # Any of them may be the next to try the relay: one untried mail is enough.
        untried = Delivery.objects.filter(status="deferred", attempts=0, waits_for_relay=True)
        put_off = wait_until(untried.first, what="a deferred mail")
        waiting = AsyncResult(put_off.pk).result
        assert (type(waiting), waiting.code) == (DeliveryDeferred, 535)
        assert waiting.reason in {put_off.reason, Delivery.objects.get(pk=put_off.pk).reason}
        wait_until(lambda: {result.state for result in results} == {"RETRY"}, what="the state RETRY of all mails")

        def retried() -> list[str]:
            mine = [event for event in events if event["type"] == "task-retried" and event["uuid"] == put_off.pk]
            return [event["exception"] for event in mine]

        shown = wait_until(retried, what="the event task-retried")
    assert all(text.startswith("DeliveryDeferred(535, ") and "example.com" not in text for text in shown)
    config.password = "right"
    config.save()
    for result in results:
        assert result.get(timeout=PATIENCE)["status"] == "accepted"
    assert len(server.messages) == 5


@at_worker
def test_eta_and_countdown_are_the_rows_due_time(server: SMTPServer) -> None:
    soon = timezone.now() + dt.timedelta(seconds=1.5)
    by_eta = send_email.apply_async(("eta", "Text"), TO, eta=soon)
    by_text = send_email.apply_async(("iso", "Text"), TO, eta=soon.isoformat())
    by_countdown = send_email.apply_async(("countdown", "Text"), TO, countdown=1.5)
    at_once = send_email.apply_async(("at once", "Text"), TO)
    at_once.get(timeout=PATIENCE)
    for result in (by_eta, by_text, by_countdown):
        result.get(timeout=PATIENCE)
    assert all(message.received_at >= soon.timestamp() for message in server.messages if message.subject != "at once")
    assert len(server.messages) == 4


@at_worker
@pytest.mark.parametrize("zone", ["America/Sao_Paulo", "Asia/Kathmandu", "UTC"])
def test_times_of_any_time_zone_are_the_same_moment(server: SMTPServer, zone: str) -> None:
    """A datetime and its text mean the same, for a mail that is called and for one that was prepared."""
    moment = dt.datetime.now(ZoneInfo(zone)) + dt.timedelta(hours=1)
    late = moment + dt.timedelta(hours=1)
    by_call = [
        send_email.apply_async(("zone", "Text"), TO, eta=moment, expires=late),
        send_email.apply_async(("zone", "Text"), TO, eta=moment.isoformat(), expires=late.isoformat()),
        send_email.delay("zone", "Text", **TO, due_at=moment, expires_at=late),
    ]
    mail = send_email.prepare("zone", "Text", **TO)
    mail.apply_async(eta=moment, expires=late)
    rows = [Delivery.objects.get(pk=pk) for pk in (*(result.id for result in by_call), mail.kwargs["delivery_id"])]
    assert {aware(row.due_at) for row in rows} == {moment}
    assert {aware(row.expires_at) for row in rows} == {late}
    assert {row.status for row in rows} == {"queued"}
    soon = dt.datetime.now(ZoneInfo(zone)) + dt.timedelta(seconds=1)
    send_email.apply_async(("soon", "Text"), TO, eta=soon).get(timeout=PATIENCE)
    assert [message.subject for message in server.messages if message.received_at >= soon.timestamp()] == ["soon"]


@at_worker
def test_a_mail_that_expires_before_it_is_due_fails(server: SMTPServer, notes: Notes, tag: str) -> None:
    expiring = {"countdown": 1, "link_error": note_error.s(tag=tag)}
    moment = timezone.now() + dt.timedelta(seconds=0.5)
    results = [
        send_email.apply_async(("late", "Text"), TO, expires=0.5, **expiring),
        send_email.apply_async(("late", "Text"), TO, expires=moment, **expiring),
        send_email.apply_async(("late", "Text"), {**TO, "expires_at": moment}, **expiring),
    ]
    for result in results:
        with pytest.raises(DeliveryFailed) as caught:
            result.get(timeout=PATIENCE)
        assert (caught.value.status, caught.value.code) == ("expired", None)
        assert caught.value.reason == "not accepted in time"
    wait_until(lambda: len(notes(tag)) == 3, what="link_error")
    assert sorted(found[0] for found in notes(tag)) == sorted(result.id for result in results)
    assert server.messages == []


@at_worker
def test_what_is_revoked_is_cancelled(server: SMTPServer, notes: Notes, tag: str) -> None:
    """Both the result's ``revoke()`` and ``control.revoke()`` cancel it at once, even if it is due in an hour."""
    options = {"link_error": note_error.s(tag=tag), "link": note.s(tag=f"{tag}-link")}
    at_once = send_email.apply_async(("revoked", "Text"), TO, countdown=3600, **options)
    at_once.revoke()
    assert Delivery.objects.get(pk=at_once.id).status == "cancelled"
    by_worker = send_email.apply_async(("revoked", "Text"), TO, countdown=3600, **options)
    current_app.control.revoke(by_worker.id)
    wait_until(lambda: Delivery.objects.get(pk=by_worker.id).status == "cancelled", what="the mail cancelled")
    for result in (at_once, by_worker):
        with pytest.raises(DeliveryFailed) as caught:
            AsyncResult(result.id).get(timeout=PATIENCE)
        assert (caught.value.status, caught.value.reason) == ("cancelled", "cancelled")
    wait_until(lambda: len(notes(tag)) == 2, what="link_error")
    wait_until(
        lambda: not Delivery.objects.filter(continue_after__isnull=False).exists(),
        what="the record of the continuation",
    )
    assert sorted(found[0] for found in notes(tag)) == sorted([at_once.id, by_worker.id])
    assert notes(f"{tag}-link") == []
    assert server.messages == []


@at_worker
def test_a_queue_of_ones_own_and_a_priority_are_the_wake_ups(server: SMTPServer, app: Stack) -> None:
    result = send_email.apply_async(("queue", "Text"), TO, queue="celery", priority=3)
    result.get(timeout=PATIENCE)
    assert Delivery.objects.get(pk=result.id).queue == "celery"
    send_email.apply_async(("unread", "Text"), TO, queue="unserved", countdown=0.1)
    wait_until(lambda: messages(services.broker, "unserved"), what="a wake-up")
    assert {message.arguments[0] for message in messages(services.broker, "unserved")} == {"unserved"}
    assert count(server, "unread") == 0


@pytest.mark.usefixtures("transactional_db")
def test_a_queue_that_one_worker_serves_is_sent_by_that_one_alone(
    stack: Callable[..., Stack], server: SMTPServer
) -> None:
    """Its mail waits until that worker runs, even while another worker sends. That worker sends no other mail."""
    running = stack(queues=OF_MAIL)
    of_all = running.worker
    own = send_email.apply_async(("own", "Text"), TO, queue="invoices")
    send_email.delay("usual", "Text", **TO).get(timeout=PATIENCE)
    assert Delivery.objects.get(pk=own.id).status == "queued"
    of_one = running.start_worker(queues=("invoices",))
    assert own.get(timeout=PATIENCE)["status"] == "accepted"
    usual = [send_email.delay("usual", "Text", **TO) for _ in range(5)]
    own_too = [send_email.apply_async(("own", "Text"), TO, queue="invoices") for _ in range(5)]
    for result in (*usual, *own_too):
        result.get(timeout=PATIENCE)
    assert not [result.id for result in (own, *own_too) if f"{result.id}: accepted" in of_all.read_log()]
    assert not [result.id for result in usual if f"{result.id}: accepted" in of_one.read_log()]
    wait_until(
        lambda: all(f"{result.id}: accepted" in of_one.read_log() for result in (own, *own_too)),
        what="the mails in the log of the other worker",
    )


@at_worker
def test_what_is_revoked_before_it_is_submitted_is_cancelled(server: SMTPServer, app: Stack) -> None:
    """A Celery task behaves the same when its message arrives after the revoke command."""
    task_id = "revoked-before"
    current_app.control.revoke(task_id)
    wait_until(RevokedTask.objects.filter(pk=task_id).exists, what="the request to cancel recorded")
    send_email.apply_async(("revoked", "Text"), TO, task_id=task_id)
    wait_until(lambda: Delivery.objects.get(pk=task_id).status == "cancelled", what="the mail cancelled")
    assert server.messages == []


@at_worker
def test_what_is_rolled_back_is_not_sent(server: SMTPServer) -> None:
    """This holds for a whole transaction and for a savepoint within a committed one."""
    with transaction.atomic():
        lost = send_email.delay("lost", "Text", **TO)
        transaction.set_rollback(True)
    with transaction.atomic():
        send_email.delay("kept", "Text", **TO)
        with transaction.atomic():
            send_email.delay("lost too", "Text", **TO)
            transaction.set_rollback(True)
        send_email.delay("kept too", "Text", **TO)
    send_email.delay("last", "Text", **TO).get(timeout=PATIENCE)
    wait_until(lambda: len(server.messages) >= 3, what="three mails")
    assert sorted(message.subject for message in server.messages) == ["kept", "kept too", "last"]
    assert not Delivery.objects.filter(pk=lost.id).exists()


@at_worker
def test_sweeps_that_no_worker_takes_expire(app: Stack) -> None:
    """Beat continues while no worker runs. The next worker finds sweeps of the last eleven minutes, not of a night.

    The clocks of two hosts may differ by ten minutes.
    """
    began = dt.datetime.now(dt.UTC)
    app.worker.end()
    try:
        waiting = wait_until(
            lambda: found if len(found := messages(services.broker, "mail.sweep")) >= 4 else None,
            what="four sweeps",
        )
        expire = [dt.datetime.fromisoformat(message.headers["expires"]) for message in waiting]
        assert max(expire) <= dt.datetime.now(dt.UTC) + dt.timedelta(seconds=660)
        assert min(expire) > began + dt.timedelta(seconds=630)
    finally:
        app.start_worker()


@at_worker
def test_a_process_killed_amid_a_mail_is_not_the_mails_result(server: SMTPServer, app: Stack) -> None:
    """The pool loses the process, another process sends the mail, and the waiting caller sees no error."""
    server.inject(Fault(verb="RCPT", hang=True, times=1))
    result = send_email.delay("survives", "Text", **TO)
    wait_until(lambda: server.transactions, what="the command MAIL")
    busy = [pid for pid in _children(app.worker.pid) if _is_connected_to(pid, server.port)]
    assert busy
    for pid in busy:
        os.kill(pid, signal.SIGKILL)
    assert result.get(timeout=PATIENCE)["status"] == "accepted"
    assert count(server, "survives") == 1


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return [int(word) for word in listed.stdout.split()]


def _is_connected_to(pid: int, port: int) -> bool:
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(entry))
        except OSError:
            continue
    wanted = f":{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(wanted) and row[3] == "01" and f"socket:[{row[9]}]" in inodes for row in rows)


# -- without a worker ------------------------------------------------------------------------------------------------


@pytest.fixture
def eager(settings: Any) -> Any:
    current_app.conf.task_always_eager = True
    yield
    current_app.conf.task_always_eager = False


@pytest.mark.usefixtures("transactional_db", "eager")
def test_eager_calls_send_inline_and_raise_inline(server: SMTPServer) -> None:
    result = send_email.delay("eager", "Text", **TO)
    assert result.get() == accepted(result.id)
    server.inject(Fault(verb="RCPT", reply="550 5.1.1 unknown"))
    failed = send_email.delay("eager", "Text", **TO)
    assert failed.state == "FAILURE"
    with pytest.raises(DeliveryFailed):
        failed.get()
    server.clear_faults()
    server.inject(Fault(verb="RCPT", reply="450 4.2.0 busy"))
    assert send_email.delay("eager", "Text", **TO).get()["status"] == "deferred"
    with pytest.raises(InvalidMail):
        send_email.delay("eager", "Text", to=[]).get()
    assert count(server, "eager") == 1


@pytest.mark.usefixtures("transactional_db", "eager")
def test_eager_propagation_raises_in_the_caller(server: SMTPServer) -> None:
    server.inject(Fault(verb="RCPT", reply="550 5.1.1 unknown"))
    current_app.conf.task_eager_propagates = True
    try:
        with pytest.raises(DeliveryFailed):
            send_email.delay("eager", "Text", **TO)
    finally:
        current_app.conf.task_eager_propagates = False


@pytest.mark.usefixtures("transactional_db", "valkey")
def test_apply_and_a_direct_call_submit() -> None:
    applied = send_email.apply(("applied", "Text"), TO)
    assert applied.get()["status"] in UNDER_WAY
    assert applied.id == applied.get()["id"]
    assert send_email("called", "Text", **TO)["status"] in UNDER_WAY
    assert Delivery.objects.count() == 2


@pytest.mark.usefixtures("transactional_db", "valkey")
@pytest.mark.parametrize(
    "wrong",
    [
        {"to": []},
        {"to": "kim@example.com"},
        {"to": ["no address"]},
        {"subject": "two\nlines", **TO},
        {"colour": 1, **TO},
        {"envelope_sender": "no address", **TO},
        {"envelope_sender": "", **TO},
        {"envelope_sender": 5, **TO},
        {"in_doubt": "perhaps", **TO},
        {"in_doubt": ["hold"], **TO},
    ],
)
def test_bad_input_raises_in_the_caller(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError if "colour" in wrong else InvalidMail):
        send_email.delay(**{"subject": "S", "body": "B", **wrong})
    assert not Delivery.objects.exists()


@pytest.mark.usefixtures("transactional_db", "valkey")
@pytest.mark.parametrize(
    ("when", "says"),
    [
        ({"eta": "garbage"}, "eta must be a datetime or text in ISO 8601, not 'garbage'."),
        ({"eta": float("nan")}, "eta must be a number of seconds, not nan."),
        ({"eta": []}, "eta must be a number of seconds, not []."),
        ({"countdown": float("inf")}, "countdown must be a number of seconds, not inf."),
        ({"countdown": "soon"}, "countdown must be a number of seconds, not 'soon'."),
        ({"expires": "garbage"}, "expires must be a datetime or text in ISO 8601, not 'garbage'."),
        ({"expires": 1e300}, "expires must be a number of seconds, not 1e+300."),
    ],
)
def test_a_moment_that_is_none_is_refused_and_named(when: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidMail) as refused:
        send_email.apply_async(("S", "B"), TO, **when)
    assert str(refused.value) == says
    assert not Delivery.objects.exists()
