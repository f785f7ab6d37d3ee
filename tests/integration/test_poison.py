"""Unreadable mails, mails that no server accepts, and mails that kill the process: each one ends, and all others
arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone
from redis import Redis

from config.local.valkey import Valkey
from email_integration import tasks
from email_integration.delivery import manual
from email_integration.ledger import claiming
from email_integration.ledger.queues import queue_of
from email_integration.ledger.task_queue import install
from email_integration.models import Delivery, DeliveryBatch, Status
from email_integration.queue import wakeups
from email_integration.queue.sweeper import sweep
from email_integration.sending.dispatcher import dispatch
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks.wake_ups import CeleryTaskQueue
from tests.claims import claimed, record
from tests.deliveries import RecordingTaskQueue, ago, attempt, pretend, submitted
from tests.relays import config_for, soon, wait_longest

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

GOOD = 20


@pytest.fixture(autouse=True)
def _slow_to_try_again(task_queue: RecordingTaskQueue, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_longest(monkeypatch)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RETRY_FIRST": 60.0}


@pytest.fixture
def server(smtp_server: Serve) -> SMTPServer:
    server = smtp_server(security="plain", user=None)
    config_for(server)
    return server


def work_through_everything(task_queue: RecordingTaskQueue) -> None:
    """Do what workers do: a sweep, and a dispatcher for each queue that it wakes."""
    Delivery.objects.filter(next_at__isnull=False, due_at__lte=timezone.now()).update(next_at=ago(1))
    task_queue.woken.clear()
    sweep()
    for queue in set(task_queue.woken):
        while dispatch(queue):
            pass  # until no mail is due: one dispatcher's time may be too short on a busy machine
    assert not DeliveryBatch.objects.exclude(owner="").exists()


def ends(poison: Delivery, server: SMTPServer, task_queue: RecordingTaskQueue) -> Delivery:
    """Process the mail among good mails, which must all arrive, and return its row afterwards."""
    for _ in range(GOOD):
        submitted("good@example.com", subject="Good")
    with soon():
        work_through_everything(task_queue)
    assert len(server.received("good@example.com")) == GOOD
    assert [one for one in server.messages if one.subject != "Good"] == []
    return Delivery.objects.get(pk=poison.pk)


#: Damaged values of a row.
DAMAGES: dict[str, dict[str, Any]] = {
    "recipients are a dictionary": {"recipients": {"to": "kim@example.com"}},
    "recipients are text": {"recipients": "kim@example.com"},
    "recipients are texts": {"recipients": ["kim@example.com"]},
    "recipients are nothing": {"recipients": []},
    "recipients without address": {"recipients": [{"status": "pending"}]},
    "an address that is none": {"recipients": [{"address": None, "status": "pending"}]},
    "an address that is empty": {"recipients": [{"address": "", "status": "pending"}]},
    "an address with a command": {"recipients": [{"address": "a@example.com>\r\nRSET", "status": "pending"}]},
    "a status that no recipient has": {"recipients": [{"address": "a@example.com", "status": "lost"}]},
    "a status that no delivery has": {"status": "lost"},
    "a place for From beyond the end": {"from_at": 2**31 - 1},
    "a pinned From with a line break": {"from_header": "a@example.com\r\nBcc: b@example.com"},
    "a pinned From that is no address": {"from_header": "noreply"},
    "a pinned From beyond ascii": {"from_header": "Jürgen <j@example.com>"},
    "no sender at all": {"from_header": "", "from_at": None, "sender": ""},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_is_put_aside_with_its_reason(
    server: SMTPServer, task_queue: RecordingTaskQueue, damage: str
) -> None:
    row = ends(pretend(submitted(), **DAMAGES[damage]), server, task_queue)
    assert row.status == Status.QUARANTINED
    assert row.reason in ("its row is damaged", "its sender cannot be read")
    assert row.next_at is None
    assert task_queue.results.count((row.pk, "quarantined")) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_can_be_cancelled(damage: str) -> None:
    poison = pretend(submitted(), **DAMAGES[damage])
    assert manual.cancel(poison.pk)
    assert Delivery.objects.get().status == Status.CANCELLED


def test_a_mail_without_remaining_recipients_fails(server: SMTPServer, task_queue: RecordingTaskQueue) -> None:
    settled = [{"address": "kim@example.com", "status": "failed"}]
    row = ends(pretend(submitted(), recipients=settled), server, task_queue)
    assert (row.status, row.reason) == ("failed", "no recipient is left")


def test_rows_that_were_damaged_after_the_claim_keep_what_the_server_said() -> None:
    batch = claimed(submitted())
    pretend(batch.deliveries[0], recipients=5, version=batch.deliveries[0].version + 1)
    assert record(batch)
    assert Delivery.objects.get().status == "accepted"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content": b"damaged"}, "the stored content is damaged"),
        ({"content_seal": "Zm9yIG5vdGhpbmc="}, "the stored content is damaged"),
        ({"content": b"", "has_content": False}, "the content is no longer kept"),
        ({"content": b"", "content_file": "2026/01/01/gone"}, "the file with the content is not in the storage"),
    ],
)
def test_a_content_that_cannot_be_had_waits_with_its_reason(
    server: SMTPServer, task_queue: RecordingTaskQueue, change: dict[str, Any], reason: str
) -> None:
    row = ends(pretend(submitted(), **change), server, task_queue)
    assert (row.status, row.reason, row.waits_for_relay) == ("deferred", reason, False)
    assert row.due_at > timezone.now()


def test_a_file_that_is_gone_waits_with_its_reason(
    server: SMTPServer, task_queue: RecordingTaskQueue, settings: Any, tmp_path: Path
) -> None:
    backend = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(tmp_path)}}
    settings.STORAGES = {**settings.STORAGES, "email_integration": backend}
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "PAYLOAD_STORAGE_THRESHOLD": 1000}
    poison = submitted(body="x" * 2000)
    (tmp_path / poison.content_file).unlink()
    row = ends(poison, server, task_queue)
    assert (row.status, row.reason) == ("deferred", "the file with the content is not in the storage")


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "CONTENT"])
def test_a_mail_that_the_server_chokes_on_waits_alone(
    server: SMTPServer, task_queue: RecordingTaskQueue, verb: Any
) -> None:
    """The server closes the connection each time. The breaker stays closed for the other mails."""
    match = {"MAIL": "choke", "RCPT": "choke", "CONTENT": "choke"}.get(verb, "")
    times = None if match else 1
    server.inject(Fault(verb=verb, drop=True, match=match, times=times))
    poison = submitted("choke@example.com", from_email="choke@example.com", body="x\n" * 100_000)
    if not match:
        attempt(poison.pk)  # first, as nothing in the command identifies it
    row = ends(poison, server, task_queue)
    assert (row.status, row.waits_for_relay) == ("deferred", False)
    assert "lost" in row.reason or "closed" in row.reason or "reset" in row.reason, row.reason


def test_a_database_that_fails_again_and_again_is_not_the_mails_fault(
    server: SMTPServer, task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted()

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError("deadlock detected")

    with monkeypatch.context() as patch:
        patch.setattr(claiming, "claim", failing)
        for _ in range(5):
            work_through_everything(task_queue)
    assert (Delivery.objects.get().status, Delivery.objects.get().returned) == ("queued", 0)
    work_through_everything(task_queue)
    assert Delivery.objects.get().status == "accepted"


# -- waking -----------------------------------------------------------------------------------------------------------


OPTIONS = [
    "no json",
    "[1]",
    "5",
    "null",
    '{"link": 5}',
    '{"chain": "x"}',
    '{"queue": 5}',
    '{"exchange": 5}',
    '{"routing_key": {"a": 1}}',
    '{"priority": "x"}',
    '{"root_id": [1]}',
]


DAMAGED = [{"status": "lost"}, {"priority": "lost"}, *({"options": options} for options in OPTIONS)]


@pytest.mark.parametrize("damage", DAMAGED)
def test_one_bad_row_does_not_stop_the_wake_up_of_other_queues(
    server: SMTPServer, valkey: Valkey, damage: dict[str, Any]
) -> None:
    install(CeleryTaskQueue(tasks.dispatch, tasks.sweep))
    ids = [submitted().pk for _ in range(3)]
    valkey.flush()
    wakeups.forget()
    pretend(Delivery.objects.get(pk=ids[1]), **damage)
    assert sweep() == 1
    assert valkey_client(valkey).llen("mail") == 1
    while dispatch(queue_of("normal")):
        pass
    states = dict(Delivery.objects.values_list("id", "status"))
    assert [states[ids[0]], states[ids[2]]] == ["accepted"] * 2
    assert states[ids[1]] == ("quarantined" if "status" in damage else "accepted")


#: Damaged values of the queue that a caller chose.
QUEUES = ["{", '{"queue": 5}', '{"exchange": 5}', '{"routing_key": {"a": 1}}', "[1]", "a\nb", "x" * 255]


@pytest.mark.parametrize("queue", QUEUES)
def test_a_bad_queue_keeps_no_other_from_being_woken(server: SMTPServer, valkey: Valkey, queue: str) -> None:
    install(CeleryTaskQueue(tasks.dispatch, tasks.sweep))
    bad, good, own = submitted(), submitted(), submitted()
    pretend(bad, queue=queue)
    pretend(own, queue="zzz")
    valkey.flush()
    wakeups.forget()
    sweep()
    client = valkey_client(valkey)
    assert (client.llen("mail"), client.llen("zzz")) == (1, 1)
    while dispatch(queue_of("normal")):
        pass
    dispatch("zzz")
    assert list(Delivery.objects.filter(pk__in=[good.pk, own.pk]).values_list("status", flat=True)) == ["accepted"] * 2


def valkey_client(valkey: Valkey) -> Redis:
    return Redis.from_url(valkey.url)
