"""One attempt, with a real server and a real database, and its effects on both."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from config.local.processes import PATIENCE, wait_until
from email_integration import conf, routing
from email_integration.ledger import batches, claiming
from email_integration.models import Delivery, DeliveryAttempt, DeliveryBatch, SMTPConfig
from email_integration.queue import retry_now
from email_integration.queue.sweeper import sweep
from email_integration.sending import in_hand, recovery
from email_integration.sending.sessions import pool
from email_integration.smtpd import Fault, Message, SMTPServer
from tests import services
from tests.claims import claimed
from tests.deliveries import (
    Clock,
    RecordingTaskQueue,
    ago,
    attempt,
    due_again,
    in_threads,
    pretend,
    statuses,
    submitted,
)
from tests.mail_settings import NO_SERVER
from tests.relays import config_for, wait_longest
from tests.scripted import Conversation, ScriptedServer

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

KIM, LEE = "kim@example.com", "lee@example.com"


@pytest.fixture(autouse=True)
def _slow_to_try_again(task_queue: RecordingTaskQueue, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_longest(monkeypatch)
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "RETRY_FIRST": 60.0,
        "RETRY_MAX": 600.0,
        "BREAKER_PROBE_FIRST": 60.0,
        "BREAKER_PROBE_MAX": 600.0,
    }


ShortReply = Callable[[], contextlib.AbstractContextManager[None]]


@pytest.fixture
def short_reply(settings: Any) -> ShortReply:
    """Within ``with short_reply()``, the client waits only briefly for the missing reply to the final dot."""

    @contextlib.contextmanager
    def short() -> Iterator[None]:
        usual = settings.EMAIL_INTEGRATION
        settings.EMAIL_INTEGRATION = {**usual, "REPLY_TIMEOUT": 0.5}
        yield
        settings.EMAIL_INTEGRATION = usual

    return short


def tried(delivery: Delivery) -> Delivery:
    """Attempt the delivery and return its row afterwards."""
    result = attempt(delivery.pk)
    assert result is not None
    row = Delivery.objects.get(pk=delivery.pk)
    assert (row.status, row.version, row.code) == (result.status, result.version, result.code)
    return row


def due(delivery: Delivery) -> Delivery:
    """Let the time pass until a deferred delivery is due, and return it."""
    return pretend(delivery, due_at=ago(1), next_at=ago(1))


def session_ends(server: SMTPServer, number: int = 1) -> None:
    wait_until(lambda: not server.sessions[number - 1].is_open, what="the end of the session")


# -- success --------------------------------------------------------------------------------------------------------


def test_a_mail_is_accepted_once_however_often_it_is_tried(smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server)
    delivery = submitted(subject="Grüße")
    row = tried(delivery)
    assert (row.status, row.smtp_config, row.attempts) == ("accepted", "Primary Mail Server", 1)
    assert attempt(delivery.pk) is None
    (message,) = server.messages
    assert (message.subject, message.message_id) == ("Grüße", delivery.message_id)


def test_a_sender_left_open_is_the_configurations(smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server, from_email="Jürgen <j@bücher.example>")
    row = tried(submitted())
    assert server.messages[0].mail_from == "j@xn--bcher-kva.example"
    assert server.messages[0].parsed["From"].addresses[0].display_name == "Jürgen"
    assert row.from_header == "=?utf-8?q?J=C3=BCrgen?= <j@xn--bcher-kva.example>"


def test_an_envelope_sender_of_its_own_is_used(smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server)
    tried(submitted(from_email="bounce@example.com", headers={"From": "Hanna <h@example.com>"}))
    assert server.messages[0].mail_from == "bounce@example.com"
    assert server.messages[0].parsed["From"] == "Hanna <h@example.com>"


def test_many_mails_go_over_one_session_and_ask_for_the_configuration_once(
    smtp_server: Serve, django_assert_num_queries: Any
) -> None:
    server = smtp_server()
    config_for(server)
    deliveries = [submitted() for _ in range(5)]
    tried(deliveries[0])
    for delivery in deliveries[1:]:
        # SELECT, claim, record, and a claim that finds nothing more.
        with django_assert_num_queries({"postgresql": 4, "sqlite": 22, "mysql": 21}[connection.vendor]):
            attempt(delivery.pk)
    assert len(server.messages) == 5
    assert (len(server.sessions), server.auths) == (1, 1)


# -- recipients -----------------------------------------------------------------------------------------------------


def test_recipients_put_off_are_tried_again_alone(smtp_server: Serve) -> None:
    server = smtp_server(faults=[Fault(verb="RCPT", reply="450 4.2.0 Greylisted", match="lee@", times=1)])
    config_for(server)
    delivery = submitted(KIM, LEE)
    row = tried(delivery)
    assert (row.status, row.code, row.reason) == ("deferred", 450, "1 of 2 recipients were deferred")
    assert tried(due(delivery)).status == "accepted"
    assert [message.rcpt_tos for message in server.messages] == [(KIM,), (LEE,)]
    assert server.messages[0].content == server.messages[1].content


def test_everybody_refused_for_good_fails(smtp_server: Serve) -> None:
    server = smtp_server(faults=[Fault(verb="RCPT", reply="550 5.1.1 <kim@example.com> unknown")])
    config_for(server)
    delivery = submitted(KIM)
    row = tried(delivery)
    assert (row.status, row.code, row.reason) == (
        "failed",
        550,
        "the server says the mailbox does not exist (550 5.1.1)",
    )
    assert statuses(delivery) == {KIM: "failed"}


def many(count: int) -> list[str]:
    return [f"r{number}@example.com" for number in range(count)]


@pytest.mark.parametrize(
    "reply", ["452 4.5.3 Too many recipients", "552 5.5.3 Too many recipients", "452 Too many rcpts"]
)
@pytest.mark.parametrize("pipelining", [True, False])
def test_a_server_that_takes_so_many_recipients_at_a_time_gets_the_rest_at_once(
    task_queue: RecordingTaskQueue, reply: str, pipelining: bool
) -> None:
    """RFC 5321 §4.5.3.1.10. Once the limit is known, a transaction has no more recipients than the server accepts."""
    taken: list[list[bytes]] = []
    contents: list[bytes] = []

    def talk(conversation: Conversation) -> None:
        conversation.say("220 localhost")
        conversation.hear()
        conversation.say("250-localhost", *(["250-PIPELINING"] if pipelining else []), "250 HELP")
        while line := conversation.hear():
            if line.startswith(b"MAIL"):
                taken.append([])
            elif line.startswith(b"RCPT") and len(taken[-1]) == 100:
                conversation.say(reply)
                continue
            elif line.startswith(b"RCPT"):
                taken[-1].append(line)
            elif line == b"DATA":
                conversation.say("354 go on")
                contents.append(conversation.hear_content())
            conversation.say("250 ok")

    with ScriptedServer(talk) as server:
        config_for(server)
        delivery = submitted(*many(250))
        row = tried(delivery)
        assert (row.status, row.attempts, row.reason) == ("accepted", 3, "accepted by the server")
        assert [len(names) for names in taken] == [100, 100, 50]
        assert sorted(line for names in taken for line in names) == sorted(
            f"RCPT TO:<{address}>".encode() for address in many(250)
        )
        assert (len(contents), len(set(contents))) == (3, 1)
        asked = sum(line.startswith(b"RCPT") for line in server.heard)
        assert asked == 250 + (99 if pipelining else 1)
        assert server.connections == 1
        pool.close()
    assert [status for pk, status in task_queue.results] == ["deferred", "deferred", "accepted"]


def test_a_server_that_takes_no_recipient_at_all_is_left_alone_for_a_while(smtp_server: Serve) -> None:
    server = smtp_server(faults=[Fault(verb="RCPT", reply="452 4.5.3 Too many recipients")])
    config_for(server)
    row = tried(submitted(KIM, LEE))
    assert (row.status, row.code, row.attempts, row.waits_for_relay) == ("deferred", 452, 1, False)
    assert row.due_at > timezone.now()
    assert server.transactions == 1


# -- faults of the relay --------------------------------------------------------------------------------------------


def test_a_wrong_password_defers_and_burns_nothing(smtp_server: Serve) -> None:
    server = smtp_server()
    config = config_for(server, password="s3cret")
    delivery = submitted()
    row = tried(delivery)
    assert (row.status, row.code, row.waits_for_relay) == ("deferred", 535, True)
    assert statuses(delivery) == {KIM: "pending"}
    assert server.failed_auths == 1
    config.password = "password"
    config.save()
    assert Delivery.objects.get().due_at <= timezone.now()
    assert tried(delivery).status == "accepted"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(verb="CONNECT", reply="554 5.7.1 Go away"), 554),
        (Fault(verb="CONNECT", drop=True), None),
        (Fault(verb="MAIL", reply="530 5.7.0 Log in first"), 530),
        (Fault(verb="RCPT", reply="550 5.7.30 Basic authentication is disabled"), 550),
        (Fault(verb="DOT", reply="421 4.3.2 Shutting down"), 421),
        (Fault(verb="MAIL", reply="553 5.7.1 Not your address"), 553),
    ],
)
def test_what_the_relay_is_at_fault_for_waits_for_it(smtp_server: Serve, fault: Fault, code: int | None) -> None:
    config_for(smtp_server(faults=[fault]))
    row = tried(submitted())
    assert (row.status, row.code, row.waits_for_relay) == ("deferred", code, True)
    assert row.due_at > timezone.now()


def test_a_server_that_does_not_speak_smtp_defers_and_can_be_recorded() -> None:
    with ScriptedServer(lambda talk: talk.say("SSH-2.0-OpenSSH_9.2")) as server:
        config_for(server)
        row = tried(submitted())
    assert (row.status, row.code, row.waits_for_relay) == ("deferred", None, True)
    assert row.reason == "the server's reply is not valid SMTP (greeting)"


def test_without_a_relay_a_mail_waits_and_says_why() -> None:
    row = tried(submitted())
    assert (row.status, row.waits_for_relay, row.smtp_config) == ("deferred", True, "")
    assert NO_SERVER in row.reason


def test_a_password_that_cannot_be_opened_defers_with_a_clear_reason(smtp_server: Serve, settings: Any) -> None:
    config_for(smtp_server())
    delivery = submitted()
    keys = settings.EMAIL_INTEGRATION["SMTP_PASSWORD_KEYS"]
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [Fernet.generate_key().decode()]}
    row = tried(delivery)
    assert (row.status, row.waits_for_relay) == ("deferred", True)
    assert "“Primary Mail Server”" in row.reason
    assert "SMTP_PASSWORD_KEYS" in row.reason
    assert row.attempt_log.get().smtp_config == "Primary Mail Server"
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": keys}
    routing.forget()  # as after the start of a new process with other keys
    assert tried(due(row)).status == "accepted"


def test_a_sender_of_the_configuration_that_is_none_defers_with_a_clear_reason(smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server, from_email="noreply")
    row = tried(submitted())
    assert (row.status, row.waits_for_relay) == ("deferred", True)
    assert "from_email" in row.reason
    assert tried(submitted(from_email="a@example.com")).status == "accepted"


# -- sessions that end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_421_on_a_session_that_has_carried_mail_reopens_and_goes_on(smtp_server: Serve, verb: Any) -> None:
    server = smtp_server()
    config_for(server)
    tried(submitted())
    server.inject(Fault(verb=verb, reply="421 4.4.2 Timeout", times=1))
    assert tried(submitted()).status == "accepted"
    assert (len(server.sessions), len(server.messages)) == (2, 2)


def test_a_session_that_died_unnoticed_is_reopened(smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server)
    tried(submitted())
    server.inject(Fault(verb="MAIL", drop=True, times=1))
    assert tried(submitted()).status == "accepted"
    assert DeliveryAttempt.objects.count() == 2


def test_421_on_a_fresh_session_defers(smtp_server: Serve) -> None:
    server = smtp_server(faults=[Fault(verb="MAIL", reply="421 4.3.2 Too busy")])
    config_for(server)
    row = tried(submitted())
    assert (row.status, row.code, row.waits_for_relay) == ("deferred", 421, True)
    assert len(server.sessions) == 1


@pytest.mark.parametrize("verb", ["RCPT", "DATA", "CONTENT"])
def test_a_connection_lost_before_the_final_dot_defers(smtp_server: Serve, verb: Any) -> None:
    server = smtp_server(faults=[Fault(verb=verb, drop=True, times=1)])
    config_for(server)
    # For CONTENT, the body is so long that the client is still writing when the connection is cut.
    delivery = submitted(body=("x" * 70 + "\n") * (200_000 if verb == "CONTENT" else 1))
    row = tried(delivery)
    assert (row.status, row.waits_for_relay) == ("deferred", False)
    assert server.messages == []
    assert tried(due(delivery)).status == "accepted"


# -- doubt ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [Fault(verb="DOT", drop_after_accept=True, times=1), Fault(verb="DOT", hang_after_accept=True, times=1)]
)
def test_a_connection_lost_after_the_final_dot_is_in_doubt_and_resent_to_the_byte(
    smtp_server: Serve, fault: Fault, short_reply: ShortReply
) -> None:
    """This holds even if the configuration, and its default sender, has changed in between."""
    server = smtp_server(faults=[fault])
    config = config_for(server)
    delivery = submitted()
    with short_reply():
        assert tried(delivery).status == "deferred"
    assert DeliveryAttempt.objects.get().outcome == "in_doubt"
    config.from_email = "other@example.com"
    config.save()
    assert tried(due(delivery)).status == "accepted"
    first, second = server.messages
    assert (first.content, first.mail_from) == (second.content, second.mail_from)


def test_what_is_in_doubt_can_be_held_for_a_person(smtp_server: Serve, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "IN_DOUBT": "hold"}
    server = smtp_server(faults=[Fault(verb="DOT", drop_after_accept=True)])
    config_for(server)
    delivery = submitted()
    assert tried(delivery).status == "in_doubt"
    assert attempt(delivery.pk) is None
    assert len(server.messages) == 1


@pytest.mark.parametrize(("policy", "sent"), [("resend", 1), ("hold", 0)])
def test_a_worker_killed_after_its_claim_leaves_a_doubt(
    smtp_server: Serve, settings: Any, policy: str, sent: int
) -> None:
    """The worker left no journal and was permitted to send the final dot."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "IN_DOUBT": policy}
    server = smtp_server()
    config_for(server)
    delivery = submitted()
    lost = claimed(delivery)
    assert attempt(delivery.pk) is None, "it was sent while another worker was sending it"
    DeliveryBatch.objects.update(lease_until=ago(1))
    recovery.recover_leases()
    assert attempt(delivery.pk) is None, "it was sent although its owner may only be slow"
    DeliveryBatch.objects.update(suspected_at=ago(recovery.SUSPECTED_FOR + 1))
    recovery.recover_leases()
    assert DeliveryAttempt.objects.get().outcome == "in_doubt"
    assert not batches.renew(lost)
    due_again()
    result = attempt(delivery.pk)
    assert (result is None) == (policy == "hold")
    assert len(server.messages) == sent
    assert Delivery.objects.get().status == ("accepted" if sent else "in_doubt")


def test_what_a_killed_worker_was_not_allowed_yet_is_in_no_doubt(smtp_server: Serve) -> None:
    """The mail goes back to the queue unchanged."""
    config_for(smtp_server())
    ids = [submitted().pk for _ in range(3)]
    claimed(permitted=1)
    DeliveryBatch.objects.update(lease_until=ago(60), suspected_at=ago(recovery.SUSPECTED_FOR + 1))
    recovery.recover_leases()
    assert list(DeliveryAttempt.objects.values_list("delivery", "outcome")) == [(ids[0], "in_doubt")]
    rows = Delivery.objects.filter(pk__in=ids[1:]).values_list("status", "batch", "attempts", "returned")
    assert set(rows) == {("queued", "", 0, 0)}
    assert [tried(Delivery.objects.get(pk=pk)).status for pk in ids[1:]] == ["accepted"] * 2


# -- races ----------------------------------------------------------------------------------------------------------


def take_over() -> None:
    """Take over a batch whose owner has not responded, as the sweeper does."""
    batch = DeliveryBatch.objects.get()
    batches.take_over(batch.pk, lambda row, deliveries: [])


def test_a_worker_that_lost_its_claim_sends_no_final_dot(smtp_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker takes over while the content is being sent, which takes so long that the lease has
    to be renewed.
    """
    clock = Clock()
    monkeypatch.setattr(in_hand, "time", clock)
    server = smtp_server()
    config_for(server)
    delivery = submitted()
    lost = threading.Event()
    server.inject(Fault(verb="DATA", until=lost, times=1))
    worker, results = in_thread(lambda: attempt(delivery.pk))
    wait_until(lambda: server.sessions and "DATA" in server.sessions[0].verbs, what="the command DATA")
    take_over()
    before = claimed(delivery)
    clock.ahead += conf.get("LEASE")
    lost.set()
    worker.join(PATIENCE)
    assert results == [None]
    session_ends(server)
    assert server.messages == []
    assert Delivery.objects.get().batch == before.id
    assert not DeliveryAttempt.objects.exists()


def test_two_workers_with_one_mail_send_it_once(smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server)
    delivery = submitted()
    start = threading.Barrier(3)
    results: list[Any] = []

    def work() -> None:
        try:
            start.wait(PATIENCE)
            results.append(attempt(delivery.pk))
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(server.messages) == 1
    assert sorted(result is None for result in results) == [False, True, True]
    assert Delivery.objects.get().status == "accepted"


def test_a_configuration_replaced_while_a_session_is_opened_is_not_used(smtp_server: Serve) -> None:
    old, new = smtp_server(), smtp_server()
    config_for(old)
    new_config = config_for(new, name="Backup", is_active=False)
    replaced = threading.Event()
    old.inject(Fault(verb="AUTH", until=replaced, times=1))
    delivery = submitted()
    worker, result = in_thread(lambda: attempt(delivery.pk))
    wait_until(lambda: old.sessions and "AUTH" in old.sessions[0].verbs, what="the command AUTH")
    SMTPConfig.objects.activate(new_config)
    replaced.set()
    worker.join(PATIENCE)
    assert [one.smtp_config for one in result] == ["Backup"]
    assert (len(old.messages), len(new.messages)) == (0, 1)
    assert "MAIL" not in old.sessions[0].verbs


def test_a_configuration_replaced_while_it_fails_is_not_waited_for(smtp_server: Serve) -> None:
    """Otherwise its failure would be recorded after the change that wakes waiting mail."""
    old, new = smtp_server(), smtp_server()
    config_for(old)
    new_config = config_for(new, name="Backup", is_active=False)
    replaced = threading.Event()
    old.inject(Fault(verb="AUTH", until=replaced, reply="535 5.7.8 Wrong"))
    delivery = submitted()
    worker, result = in_thread(lambda: attempt(delivery.pk))
    wait_until(lambda: old.sessions and "AUTH" in old.sessions[0].verbs, what="the command AUTH")
    SMTPConfig.objects.activate(new_config)
    replaced.set()
    worker.join(PATIENCE)
    assert [one.status for one in result] == ["accepted"]


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@pytest.mark.parametrize("slow", ["to renew", "and cannot renew"])
def test_workers_whose_lease_may_end_before_the_reply_send_nothing(
    smtp_server: Serve, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """Another worker would send the mail as well."""
    clock = Clock()
    monkeypatch.setattr(in_hand, "time", clock)
    server = smtp_server()
    config_for(server)
    renew = batches.renew

    def renewing(batch: Any) -> bool:
        if slow == "and cannot renew":
            raise OperationalError("gone")
        renewed = renew(batch)
        clock.ahead += conf.get("LEASE") - conf.get("REPLY_TIMEOUT") + 1
        return renewed

    delivery = submitted()
    with monkeypatch.context() as patch:
        patch.setattr(batches, "renew", renewing)
        server.inject(Fault(verb="MAIL", times=1))
        clock.ahead += conf.get("LEASE") - conf.get("REPLY_TIMEOUT") + 1
        row = tried(delivery)
    assert (row.status, row.cause) == ("deferred", "too_slow")
    assert server.messages == []
    session_ends(server)
    clock.ahead = 0.0
    assert tried(due(delivery)).status == "accepted"


def test_a_lease_that_nears_its_end_is_renewed(smtp_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is renewed while the mail makes progress, and only as often as necessary."""
    clock = Clock()
    monkeypatch.setattr(in_hand, "time", clock)
    config_for(smtp_server())
    renewed: list[str] = []

    def renewing(batch: Any) -> bool:
        renewed.append(batch.id)
        batch.lease_ends += conf.get("LEASE")
        return True

    monkeypatch.setattr(batches, "renew", renewing)
    assert tried(submitted()).status == "accepted"
    assert renewed == []
    clock.ahead = conf.get("LEASE") - conf.get("REPLY_TIMEOUT")
    assert tried(submitted()).status == "accepted"
    assert len(renewed) == 1


def test_many_attempts_sweeps_and_changes_at_once_come_to_no_deadlock(
    smtp_server: Serve, task_queue: RecordingTaskQueue
) -> None:
    server = smtp_server(faults=[Fault(verb="RCPT", reply="450 4.2.0 Later", match="later")])
    config = config_for(server)
    ids = [submitted("later@example.com" if number % 3 else KIM).pk for number in range(30)]

    def work(turn: int) -> None:
        for pk in ids[turn:] + ids[:turn]:
            attempt(pk)

    def change() -> None:
        for _ in range(5):
            config.save()

    def look() -> None:
        for _ in range(5):
            due_again()
            sweep()
            retry_now.wake()

    found = in_threads(*[functools.partial(work, turn) for turn in (0, 10, 20)], change, look)
    assert [one for one in found if isinstance(one, Exception)] == []
    assert len(server.messages) == Delivery.objects.filter(status="accepted").count() == 10
    assert not Delivery.objects.exclude(batch="").exists()
    assert not DeliveryBatch.objects.exists()


def test_a_result_that_cannot_be_stored_does_not_make_a_doubt(
    smtp_server: Serve, task_queue: RecordingTaskQueue
) -> None:
    """Otherwise the mail would be sent again each time its lease expires."""

    def refuse(delivery: Delivery) -> None:
        raise ValueError("no room for a result")

    server = smtp_server()
    config_for(server)
    delivery = submitted()
    task_queue.result_rows = refuse  # type: ignore[method-assign]
    assert tried(delivery).status == "accepted"
    assert len(server.messages) == 1


# -- database outages -----------------------------------------------------------------------------------------------


def test_an_outcome_is_recorded_despite_an_outage_of_the_database(smtp_server: Serve) -> None:
    """The outage begins once the server has the mail: connections are cut (PostgreSQL) or writing is
    locked (SQLite).
    """

    begun = threading.Event()

    def outage() -> None:
        with contextlib.closing(connection):
            if services.database == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                begun.set()
            else:
                with transaction.atomic():
                    begun.set()
                    over.wait(0.5)

    over = threading.Event()
    breaking = threading.Thread(target=outage)

    def on_message(message: Message) -> None:
        breaking.start()
        begun.wait(PATIENCE)

    server = smtp_server(on_message=on_message)
    config_for(server)
    delivery = submitted()
    assert tried(delivery).status == "accepted"
    assert len(server.messages) == 1
    breaking.join(PATIENCE)


def test_a_database_that_fails_at_the_claim_costs_nothing_but_time(
    smtp_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = smtp_server()
    config_for(server)
    delivery = submitted()

    def gone(*args: Any, **kwargs: Any) -> bool:
        raise OperationalError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(claiming, "claim", gone)
        with pytest.raises(OperationalError):
            attempt(delivery.pk)
    assert server.sessions == []
    assert tried(delivery).status == "accepted"


# -- mail that is not attempted -------------------------------------------------------------------------------------


def test_what_is_not_there_is_skipped() -> None:
    assert attempt("unknown") is None


def test_what_is_not_due_is_skipped(smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server)
    assert attempt(submitted(due_at=timezone.now() + dt.timedelta(minutes=1)).pk) is None
    assert server.sessions == []


@pytest.mark.parametrize("is_due", [True, False])
def test_what_has_expired_ends_even_if_it_is_not_due(is_due: bool, task_queue: RecordingTaskQueue) -> None:
    delivery = submitted(expires_at=ago(1))
    if not is_due:
        pretend(delivery, due_at=timezone.now() + dt.timedelta(minutes=1))
    row = tried(delivery)
    assert (row.status, row.reason) == ("expired", "not accepted in time")
    assert task_queue.results == [(delivery.pk, "expired")]


# -- messages -------------------------------------------------------------------------------------------------------


def test_neither_log_nor_reason_shows_address_password_or_the_servers_words(
    smtp_server: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = "<kim@example.com> your password is s3cret"
    server = smtp_server(
        faults=[
            Fault(verb="AUTH", reply=f"535 5.7.8 {said}", times=1),
            Fault(verb="MAIL", reply=f"451 4.3.0 {said}", times=1),
            Fault(verb="RCPT", reply=f"450 4.2.0 {said}", times=1),
            Fault(verb="DOT", reply=f"451 4.3.0 {said}", times=1),
        ]
    )
    config_for(server)
    delivery = submitted()
    for _ in range(5):
        tried(due(delivery))
    attempts = [
        {name: value for name, value in row.items() if name != "reply"} for row in DeliveryAttempt.objects.values()
    ]
    shown = caplog.text + str(attempts) + Delivery.objects.get().reason
    for secret in ("kim@", "s3cret", "your password is"):
        assert secret not in shown


def test_a_hint_when_to_come_back_is_honoured(smtp_server: Serve) -> None:
    config_for(smtp_server(faults=[Fault(verb="RCPT", reply="450 4.2.0 Greylisted, try again in 300 seconds")]))
    row = tried(submitted())
    assert 295 <= (row.due_at - timezone.now()).total_seconds() <= 330


def test_an_unexpected_error_keeps_the_mail_and_shows_only_its_kind(
    smtp_server: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config_for(smtp_server())

    def broken(*args: Any, **kwargs: Any) -> None:
        raise KeyError("kim@example.com")

    monkeypatch.setattr("email_integration.sending.messages.from_line", broken)
    row = tried(submitted())
    assert (row.status, row.waits_for_relay) == ("deferred", False)
    assert row.reason.startswith("unexpected KeyError in broken, line ")
    assert "kim@" not in caplog.text


def test_an_unexpected_error_at_the_final_dot_is_a_doubt(smtp_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    config_for(smtp_server())

    def broken(*args: Any, **kwargs: Any) -> None:
        raise KeyError

    monkeypatch.setattr("email_integration.smtp.session.Session.finish", broken)
    assert tried(submitted()).status == "deferred"
    assert DeliveryAttempt.objects.get().outcome == "in_doubt"


def test_the_pool_keeps_no_session_of_a_mail_that_was_given_up(smtp_server: Serve, short_reply: ShortReply) -> None:
    config_for(smtp_server(faults=[Fault(verb="DOT", hang=True)]))
    with short_reply():
        tried(submitted())
    assert repr(pool) == "<Pool idle=0>"


def test_backoff_uses_the_number_of_the_attempt(smtp_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    config_for(smtp_server(faults=[Fault(verb="RCPT", reply="450 4.2.0 Later")]))
    delivery = submitted()
    waits = [round((tried(due(delivery)).due_at - timezone.now()).total_seconds()) for _ in range(5)]
    assert waits == pytest.approx([60, 120, 240, 480, 600], abs=3)
