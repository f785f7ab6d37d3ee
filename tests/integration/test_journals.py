"""Journals used by several processes, and statements of a killed process that still run in the database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction

from config.local.processes import wait_until
from email_integration.ledger import batches
from email_integration.models import Delivery, DeliveryAttempt, DeliveryBatch
from email_integration.sending import dispatcher, recovery
from email_integration.sending.journal import reading
from email_integration.smtpd import SMTPServer
from tests.children import (
    Child,
    at,
    delivery_statuses,
    die,
    mails,
    recover,
    recover_by_lease,
    require_settled,
    send,
    stop,
)
from tests.deliveries import RecordingTaskQueue, submitted
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


# -- several processes ----------------------------------------------------------------------------------------------


def test_two_processes_recover_the_same_journal(
    server: SMTPServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a dot · one process has locked the journal, and is stopped before its transaction · another finds it
    locked, and does nothing · the first continues: recorded once.
    """
    (one,) = mails(1)
    Child(send, hook=at("dot noted", die)).killed()
    take_over = batches.take_over

    def stopping(*given: Any, **more: Any) -> Any:
        stop()
        return take_over(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "take_over", stopping)
        first = Child(recovery.recover_journals)
    first.stopped()
    recover()
    assert outcomes(one) == []
    first.go_on()
    assert first.ended() == 0
    recover()
    assert (delivery_statuses(one), outcomes(one)) == (["in_doubt"], ["in_doubt"])
    assert list(folder.iterdir()) == []
    require_settled()


def test_killed_while_it_recovers(server: SMTPServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a dot · the recovering process is killed after the commit, before it deletes the file · recorded
    once.
    """
    (one,) = mails(1)
    Child(send, hook=at("dot noted", die)).killed()
    with monkeypatch.context() as patch:
        patch.setattr(reading.AbandonedJournal, "remove", lambda self: die())
        Child(recovery.recover_journals).killed()
    assert len(list(folder.iterdir())) == 1
    recover()
    assert (delivery_statuses(one), outcomes(one)) == (["in_doubt"], ["in_doubt"])
    assert list(folder.iterdir()) == []
    require_settled()


def test_the_database_is_away_while_it_recovers(
    server: SMTPServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the answer · the database fails · the file stays, its lock is free, and the next
    check recovers it.
    """
    (one,) = mails(1)
    Child(send, hook=at("answer noted", die)).killed()

    def failing(*given: Any, **more: Any) -> Any:
        raise OperationalError("the database is starting up")

    with monkeypatch.context() as patch:
        patch.setattr(batches, "take_over", failing)
        with pytest.raises(OperationalError):
            recover()
    assert len(list(folder.iterdir())) == 1
    recover()
    assert (delivery_statuses(one), outcomes(one)) == (["accepted"], ["accepted"])


def test_two_processes_share_a_folder(server: SMTPServer, folder: Path) -> None:
    """One process is stopped with a mail in progress · another, with the same folder, is killed · only the mail of the
    dead process is recovered · the other process continues.
    """
    (first,) = mails(1)
    living = Child(send, hook=at("before the content", stop))
    living.stopped()
    second = submitted("lee@example.com", subject="second").pk
    Child(send, hook=at("before the content", die)).killed()
    assert len(list(folder.iterdir())) == 2
    recover()
    assert len(list(folder.iterdir())) == 1
    assert Delivery.objects.exclude(batch="").get().pk == first
    send()
    assert delivery_statuses(first, second) == ["queued", "accepted"]
    living.go_on()
    assert living.ended() == 0
    assert delivery_statuses(first, second) == ["accepted", "accepted"]
    assert len(server.messages) == 2
    require_settled()


def test_a_batch_that_is_locked_is_waited_for(server: SMTPServer, folder: Path, settings: Any) -> None:
    """Killed after the answer · another transaction locks the row of its batch for a moment · recovery waits, and the
    journal's entries are not lost.
    """
    if connection.vendor == "sqlite":
        return  # SQLite locks no rows, and lets each writer wait
    (one,) = mails(1)
    Child(send, hook=at("answer noted", die)).killed()
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            assert DeliveryBatch.objects.select_for_update().get()
            held.set()
            assert go_on.wait(60)
        connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    letting_go = threading.Timer(0.3, go_on.set)
    letting_go.start()
    recover()
    go_on.set()
    holder.join(60)
    require_settled()
    assert delivery_statuses(one) == ["accepted"]


#: Make the insert of the batch row wait for a lock in the database, before or after the row exists.
TRIGGER = """
CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NEW.owner <> '' THEN PERFORM pg_advisory_xact_lock(20); END IF; RETURN NEW; END $$;
CREATE TRIGGER held {when} INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION held();
"""


@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
def test_killed_while_its_claim_is_under_way(server: SMTPServer, folder: Path, when: str) -> None:
    """The database is slow to execute a claim · kill -9 · the journal is recovered and deleted · the database executes
    the claim of the dead process: the claim fails, or recovery waits for it and gives the mail back. No lease is waited
    for.
    """
    if connection.vendor != "postgresql":
        return  # it takes a lock that only PostgreSQL has
    ids, table = mails(3), DeliveryBatch._meta.db_table
    locked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(20)")
            locked.set()
            assert go_on.wait(60)
        connections.close_all()

    def waiting() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            return int(cursor.fetchone()[0])

    with connection.cursor() as cursor:
        cursor.execute(TRIGGER.format(when=when, table=table))
    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert locked.wait(60)
        child = Child(send)
        wait_until(waiting, what="the claim")
        child.kill()
        assert not Delivery.objects.exclude(batch="").exists()
        if when == "AFTER":  # recovery waits for the claim
            threading.Timer(0.3, go_on.set).start()
        recover()
        assert list(folder.iterdir()) == []
        go_on.set()
        holder.join(60)
        wait_until(lambda: not waiting(), what="the end of the claim")
    finally:
        go_on.set()
        with connection.cursor() as cursor:  # the test waits for the claim
            cursor.execute(f"DROP TRIGGER held ON {table}; DROP FUNCTION held()")
    require_settled()
    assert delivery_statuses(*ids) == ["queued"] * 3
    send()
    assert delivery_statuses(*ids) == ["accepted"] * 3
    assert len(server.messages) == 3
    recover_by_lease()
    assert not DeliveryBatch.objects.exists()
