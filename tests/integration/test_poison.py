"""Mails that cannot be read, that nobody can take, or that kill: each comes to its end, and the others arrive."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone
from email_integration.tasks.ringing import CeleryDoorbell
from redis import Redis

from config.local.smtp_server import Fault, SMTPServer
from config.local.valkey import Valkey
from email_integration import tasks
from email_integration.delivery import manual
from email_integration.ledger import task_queue, transitions
from email_integration.models import Delivery, Status
from email_integration.outcomes.classification import Accepted
from email_integration.queue.sweeper import sweep
from email_integration.sending import sandbox
from tests.deliveries import RecordingDoorbell, ago, attempt, pretend, submitted
from tests.relays import config_for, soon, wait_longest

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

GOOD = 20


@pytest.fixture(autouse=True)
def _slow_to_try_again(bell: RecordingDoorbell, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_longest(monkeypatch)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RETRY_FIRST": 60.0}


@pytest.fixture
def server(smtp_server: Serve) -> SMTPServer:
    server = smtp_server(security="plain", user=None)
    config_for(server)
    return server


def work_through_everything(bell: RecordingDoorbell) -> None:
    """What workers do: a sweep, and an attempt for each ring."""
    Delivery.objects.filter(ring_after__isnull=False).update(ring_after=ago(1))
    bell.rings.clear()
    sweep()
    for pk in bell.rung:
        attempt(pk)


def ends(poison: Delivery, server: SMTPServer, bell: RecordingDoorbell) -> Delivery:
    """Work on it among good ones, that all arrive, and give the row as it is then."""
    for _ in range(GOOD):
        submitted("good@example.com", subject="Good")
    with soon():
        work_through_everything(bell)
    assert len(server.received("good@example.com")) == GOOD
    assert [one for one in server.messages if one.subject != "Good"] == []
    return Delivery.objects.get(pk=poison.pk)


#: What somebody may have made of a row.
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
    "a pinned From that is no address": {"from_header": "nobody"},
    "a pinned From beyond ascii": {"from_header": "Jürgen <j@example.com>"},
    "no sender at all": {"from_header": "", "from_at": None, "sender": ""},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_is_put_aside_with_its_reason(server: SMTPServer, bell: RecordingDoorbell, damage: str) -> None:
    row = ends(pretend(submitted(), **DAMAGES[damage]), server, bell)
    assert row.status == Status.QUARANTINED
    assert row.reason in ("its row is damaged", "its sender cannot be read")
    assert row.ring_after is None
    assert bell.reports.count((row.pk, "quarantined")) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_can_be_cancelled(damage: str) -> None:
    poison = pretend(submitted(), **DAMAGES[damage])
    assert manual.cancel(poison.pk)
    assert Delivery.objects.get().status == Status.CANCELLED


def test_a_mail_that_nobody_is_left_to_get_comes_to_its_end(server: SMTPServer, bell: RecordingDoorbell) -> None:
    settled = [{"address": "kim@example.com", "status": "failed"}]
    row = ends(pretend(submitted(), recipients=settled), server, bell)
    assert (row.status, row.reason) == ("failed", "nobody is left to send it to")


def test_rows_that_were_damaged_after_the_claim_keep_what_the_server_said() -> None:
    from tests.integration.test_transitions import RELAY, TRY

    delivery = submitted()
    assert transitions.claim(delivery, RELAY, from_header="a@example.com", sender="a@example.com")
    pretend(delivery, recipients=5, fence=delivery.fence + 1)
    assert transitions.record(delivery, Accepted(code=250, accepted=("kim@example.com",), refused={}), TRY)
    assert Delivery.objects.get().status == "accepted"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content": b"damaged"}, "the stored content is damaged"),
        ({"content_seal": "Zm9yIG5vdGhpbmc="}, "the stored content is damaged"),
        ({"content": b"", "has_content": False}, "the content is kept no longer"),
        ({"content": b"", "content_file": "2026/01/01/gone"}, "the file with the content is not in the storage"),
    ],
)
def test_a_content_that_cannot_be_had_waits_with_its_reason(
    server: SMTPServer, bell: RecordingDoorbell, change: dict[str, Any], reason: str
) -> None:
    row = ends(pretend(submitted(), **change), server, bell)
    assert (row.status, row.reason, row.waits_for_relay) == ("deferred", reason, False)
    assert row.due_at > timezone.now()


def test_a_file_that_is_gone_waits_with_its_reason(
    server: SMTPServer, bell: RecordingDoorbell, settings: Any, tmp_path: Path
) -> None:
    backend = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(tmp_path)}}
    settings.STORAGES = {**settings.STORAGES, "email_integration": backend}
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "PAYLOAD_STORAGE_THRESHOLD": 1000}
    poison = submitted(body="x" * 2000)
    (tmp_path / poison.content_file).unlink()
    row = ends(poison, server, bell)
    assert (row.status, row.reason) == ("deferred", "the file with the content is not in the storage")


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "CONTENT"])
def test_a_mail_that_the_server_chokes_on_waits_alone(server: SMTPServer, bell: RecordingDoorbell, verb: Any) -> None:
    """The server closes the connection each time; the gate stays open for the others."""
    match = {"MAIL": "choke", "RCPT": "choke", "CONTENT": "choke"}.get(verb, "")
    times = None if match else 1
    server.inject(Fault(verb=verb, drop=True, match=match, times=times))
    poison = submitted("choke@example.com", from_email="choke@example.com", body="x\n" * 100_000)
    if not match:
        attempt(poison.pk)  # first, for there is nothing in the command to tell it by
    row = ends(poison, server, bell)
    assert (row.status, row.waits_for_relay) == ("deferred", False)
    assert "lost" in row.reason or "closed" in row.reason or "reset" in row.reason, row.reason


def test_a_mail_that_kills_its_worker_each_time_is_put_aside_after_three_that_count(
    server: SMTPServer, bell: RecordingDoorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Ends a worker as nothing else does: nothing more is recorded."""

    plan, deaths = sandbox.plan_now, []

    def dying(recipients: Iterable[str]) -> sandbox.Plan:
        if "killer@example.com" in recipients:
            deaths.append(1)
            raise Killed
        return plan(recipients)

    monkeypatch.setattr(sandbox, "plan_now", dying)
    poison = submitted("killer@example.com")
    for _ in range(GOOD):
        submitted("good@example.com")
    for _ in range(8):
        for pk in bell.rung:
            with contextlib.suppress(Killed):
                attempt(pk)
        Delivery.objects.filter(ring_after__isnull=False).update(ring_after=ago(1))
        bell.rings.clear()
        sweep()
    row = Delivery.objects.get(pk=poison.pk)
    assert (row.status, row.reason) == ("quarantined", "its worker was lost every time it was tried")
    assert len(deaths) == 1 + 3  # the first attempt of a mail is not counted
    assert len(server.received("good@example.com")) == GOOD


def test_a_database_that_fails_again_and_again_is_not_the_mails_fault(
    server: SMTPServer, bell: RecordingDoorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = submitted()

    def failing(*args: Any, **kwargs: Any) -> bool:
        raise OperationalError("deadlock detected")

    with monkeypatch.context() as patch:
        patch.setattr(transitions, "claim", failing)
        for _ in range(5):
            Delivery.objects.update(ring_after=ago(1))
            sweep()
            with pytest.raises(OperationalError):
                attempt(delivery.pk)
    assert Delivery.objects.get().unfinished == 0
    attempt(delivery.pk)
    assert Delivery.objects.get().status == "accepted"


# -- ringing --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("damage", [{"status": "lost"}, *({"options": options} for options in OPTIONS)])
def test_one_bad_row_keeps_nobody_elses_ring_from_being_heard(
    server: SMTPServer, valkey: Valkey, damage: dict[str, Any]
) -> None:
    task_queue.install(CeleryDoorbell(tasks.deliver, tasks.deliver_group, tasks.sweep))
    ids = [submitted().pk for _ in range(3)]
    valkey.flush()
    Delivery.objects.update(ring_after=ago(1))
    pretend(Delivery.objects.get(pk=ids[1]), **damage)
    sweep()
    heard = b"".join(valkey_client(valkey).lrange("mail", 0, -1))
    assert ids[0].encode() in heard
    assert ids[2].encode() in heard
    for pk in ids:
        attempt(pk)
    states = dict(Delivery.objects.values_list("id", "status"))
    assert [states[ids[0]], states[ids[2]]] == ["accepted"] * 2
    assert states[ids[1]] == ("quarantined" if "status" in damage else "accepted")


def valkey_client(valkey: Valkey) -> Redis:
    return Redis.from_url(valkey.url)
