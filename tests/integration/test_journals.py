"""Journals that are shared, damaged, of others, or cannot be written; and what they say of mail that kills."""

from __future__ import annotations

import errno
import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction

from config.local.processes import wait_until
from config.local.smtp_server import Fault, SMTPServer
from email_integration.delivery import manual
from email_integration.ledger import batches
from email_integration.models import Delivery, DeliveryAttempt, DeliveryBatch, SMTPConfig
from email_integration.sending import dispatcher, recovery, sandbox
from email_integration.sending.journal import SlotState, layout, reading
from email_integration.sending.journal.files import JournalFile
from tests.children import (
    Child,
    at,
    die,
    due_now,
    forget_journals,
    hooked,
    mails,
    recover,
    recover_by_lease,
    require_settled,
    send,
    standing,
    stop,
)
from tests.deliveries import RecordingTaskQueue, ago, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

Serve = Callable[..., SMTPServer]


@pytest.fixture(autouse=True)
def folder(journals: Path, bell: RecordingTaskQueue, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
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


def the_file(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def written_over(file: Path, octets: bytes, offset: int = 0) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(octets)


# -- several processes ----------------------------------------------------------------------------------------------


def test_two_processes_recover_the_same_journal(
    server: SMTPServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a dot · one process has locked the journal, and is stopped before its transaction · another finds
    it locked, and does nothing · the first goes on: recorded once.
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
    assert (standing(one), outcomes(one)) == (["in_doubt"], ["in_doubt"])
    assert list(folder.iterdir()) == []
    require_settled()


def test_killed_while_it_recovers(server: SMTPServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a dot · who recovers it is killed after the commit, before the file is gone · recorded once."""
    (one,) = mails(1)
    Child(send, hook=at("dot noted", die)).killed()
    with monkeypatch.context() as patch:
        patch.setattr(reading.AbandonedJournal, "remove", lambda self: die())
        Child(recovery.recover_journals).killed()
    assert len(list(folder.iterdir())) == 1
    recover()
    assert (standing(one), outcomes(one)) == (["in_doubt"], ["in_doubt"])
    assert list(folder.iterdir()) == []
    require_settled()


def test_the_database_is_away_while_it_recovers(
    server: SMTPServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the answer · the database fails · the file stays, its lock is free, the next look recovers it."""
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
    assert (standing(one), outcomes(one)) == (["accepted"], ["accepted"])


def test_two_processes_share_a_folder(server: SMTPServer, folder: Path) -> None:
    """One is stopped with a mail in hand · another, in the same folder, is killed · what is recovered is the mail of
    the dead alone · the living goes on.
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
    assert standing(first, second) == ["queued", "accepted"]
    living.go_on()
    assert living.ended() == 0
    assert standing(first, second) == ["accepted", "accepted"]
    assert len(server.messages) == 2
    require_settled()


def test_a_batch_that_is_locked_is_waited_for(server: SMTPServer, folder: Path, settings: Any) -> None:
    """Killed after the answer · somebody holds the row of its batch for a moment · recovery waits: what the journal
    says is not lost.
    """
    if connection.vendor == "sqlite":
        pytest.skip("SQLite locks no rows; whoever writes is waited for")
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
    assert standing(one) == ["accepted"]


#: The row of a batch waits in the database for a lock, before or after it is there.
TRIGGER = """
CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NEW.owner <> '' THEN PERFORM pg_advisory_xact_lock(20); END IF; RETURN NEW; END $$;
CREATE TRIGGER held {when} INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION held();
"""


@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
def test_killed_while_its_claim_is_under_way(server: SMTPServer, folder: Path, when: str) -> None:
    """A claim is sent to the database, which takes its time · kill -9 · the journal is recovered, and gone · the
    database comes to the claim of the dead: it fails, or it was waited for and is given back. No lease is waited for.
    """
    if connection.vendor != "postgresql":
        pytest.skip("it takes a lock that PostgreSQL alone has")
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
        if when == "AFTER":  # recovery waits for it
            threading.Timer(0.3, go_on.set).start()
        recover()
        assert list(folder.iterdir()) == []
        go_on.set()
        holder.join(60)
        wait_until(lambda: not waiting(), what="the end of the claim")
    finally:
        go_on.set()
        with connection.cursor() as cursor:  # it waits for the claim
            cursor.execute(f"DROP TRIGGER held ON {table}; DROP FUNCTION held()")
    require_settled()
    assert standing(*ids) == ["queued"] * 3
    send()
    assert standing(*ids) == ["accepted"] * 3
    assert len(server.messages) == 3
    recover_by_lease()
    assert not DeliveryBatch.objects.exists()


# -- what cannot be read, or is another's ---------------------------------------------------------------------------


def test_a_torn_slot_leaves_a_doubt(server: SMTPServer, folder: Path) -> None:
    """Killed after the dot was noted · the slot cannot be read · its mail may have been sent: in doubt."""
    (one,) = mails(1)
    Child(send, hook=at("answered", die)).killed()
    file = the_file(folder)
    octets = file.read_bytes()
    place = octets.index(one.encode())
    written_over(file, b"#", place)
    recover()
    require_settled()
    assert (standing(one), len(server.messages)) == (["in_doubt"], 1)


def test_a_torn_list_of_recipients_leaves_a_doubt_about_that_mail_alone(server: SMTPServer, folder: Path) -> None:
    """Killed after the dot was noted · to whom cannot be read · that mail is in doubt, and its batch mates go back."""
    ids = mails(3)
    Child(send, hook=at("answered", die, of=ids[0])).killed()
    file = the_file(folder)
    octets = file.read_bytes()
    written_over(file, b"#", octets.index(b"Primary Mail Server"))
    recover()
    require_settled()
    assert standing(*ids) == ["in_doubt", "queued", "queued"]


def _changed_header(file: Path, **changes: Any) -> None:
    header = layout.decode_header(file.read_bytes()[: layout.PAGE])
    assert header is not None
    written_over(file, layout.encode_header(replace(header, **changes)))


def _of_another_installation(file: Path) -> None:
    _changed_header(file, installation="another")


def _of_another_format(file: Path) -> None:
    written_over(file, b"\x63\x00", 8)


def _damaged(file: Path) -> None:
    written_over(file, b"#", 40)


@pytest.mark.parametrize("change", [_of_another_installation, _of_another_format, _damaged])
def test_what_is_not_ours_is_left_alone(server: SMTPServer, folder: Path, change: Callable[[Path], None]) -> None:
    """Killed after the answer · its journal is another installation's, of an unknown format, or cannot be read · it is
    left as it is, and the lease decides.
    """
    (one,) = mails(1)
    Child(send, hook=at("answer noted", die)).killed()
    change(the_file(folder))
    before = the_file(folder).read_bytes()
    recover()
    assert the_file(folder).read_bytes() == before
    assert Delivery.objects.exclude(batch="").get().pk == one
    recover_by_lease()
    require_settled()
    assert standing(one) == ["in_doubt"]


@pytest.mark.parametrize(
    ("point", "status"), [("in hand", "in_doubt"), ("dot noted", "in_doubt"), ("answer noted", "accepted")]
)
def test_after_another_start_of_the_machine_nothing_goes_back_by_a_journal(
    server: SMTPServer, folder: Path, point: str, status: str
) -> None:
    """The machine goes down · its journal, of another boot, proves no absence of a dot: the lease decides · a 250 that
    it has is recorded.
    """
    (one,) = mails(1)
    Child(send, hook=at(point, die)).killed()
    _changed_header(the_file(folder), boot_id="another")
    recover()
    assert standing(one) == ["accepted" if status == "accepted" else "queued"]
    assert Delivery.objects.exclude(batch="").count() == (status != "accepted")
    recover_by_lease()
    require_settled()
    assert standing(one) == [status]


# -- what cannot be written -----------------------------------------------------------------------------------------


def _has_dot_in(folder: Path, pk: str) -> bool:
    """Whether a journal says that the mail may have had its dot."""
    for file in folder.glob("*.journal"):
        octets = file.read_bytes()
        for slot in range(8):
            begin = layout.PAGE + slot * layout.SLOT_SIZE
            entry = layout.decode_slot(slot, octets[begin : begin + layout.SLOT_SIZE])
            if entry and entry.delivery_id == pk and entry.state is SlotState.DOT:
                return True
    return False


@pytest.mark.parametrize("lasts", [True, False])
@pytest.mark.parametrize("writes", range(1, 16))
def test_the_disk_is_full_amid_a_batch(
    server: SMTPServer, folder: Path, settings: Any, monkeypatch: pytest.MonkeyPatch, writes: int, lasts: bool
) -> None:
    """The journal takes so many writes · the next fails, or all from then on · no dot is said without a note of it, or
    by who may send more than IN_DOUBT_WINDOW · all mail is sent, once.
    """
    of(settings, IN_DOUBT_WINDOW=2)
    ids, left = mails(5), [writes]
    write = JournalFile.write

    def failing(self: JournalFile, octets: bytes, offset: int) -> None:
        left[0] -= 1
        if left[0] == -1 or (lasts and left[0] < 0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, octets, offset)

    unnoted: list[str] = []

    def look(name: str, *given: str) -> None:
        if name == "dot noted" and not _has_dot_in(folder, given[0]):
            unnoted.append(given[0])
            row = DeliveryBatch.objects.get(pk=Delivery.objects.get(pk=given[0]).batch)
            permitted = [pk for pk, _ in row.items[: row.permitted]]
            assert Delivery.objects.filter(pk__in=permitted, batch=row.pk).count() <= 2

    monkeypatch.setattr(JournalFile, "write", failing)
    with hooked(look):
        for _ in range(3):  # what is left to the sweep is tried again
            send()
    assert standing(*ids) == ["accepted"] * 5
    assert Counter(one.subject for one in server.messages) == Counter("01234")
    assert bool(unnoted) or not lasts or writes > 14
    require_settled()


def test_no_file_may_grow(server: SMTPServer, folder: Path) -> None:
    """RLIMIT_FSIZE ends in the first slot · each write fails · without a journal all is sent by IN_DOUBT_WINDOW."""
    ids = mails(4)

    def act() -> None:
        assert dispatcher.own_journal.opened() is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, (layout.PAGE, resource.RLIM_INFINITY))
        send()

    if connection.vendor == "sqlite":
        pytest.skip("SQLite's own files could not be written either")
    assert Child(act).ended() == 0
    assert standing(*ids) == ["accepted"] * 4
    assert len(server.messages) == 4
    require_settled()


# -- doubt ----------------------------------------------------------------------------------------------------------


def test_doubt_pins_the_sender_and_the_bytes(server: SMTPServer, settings: Any) -> None:
    """Sent, and killed before the answer · in doubt · Save of another sender · what is sent again is the same, octet
    for octet, from the same sender, by the same server.
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
    assert (standing(one), outcomes(one)) == (["accepted"], ["in_doubt", "accepted"])
    first, second = server.messages
    assert (first.mail_from, first.content) == (second.mail_from, second.content)


def test_doubt_by_lease_pins_as_well(server: SMTPServer, folder: Path, settings: Any) -> None:
    """The same on another host, whose journal is gone: by what the batch was claimed with."""
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
    assert standing(one) == ["accepted"]
    first, second = server.messages
    assert (first.mail_from, first.content) == (second.mail_from, second.content)


# -- mail that kills ------------------------------------------------------------------------------------------------


def test_a_mail_that_kills_is_put_aside_and_its_batch_mates_are_sent(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of twenty-one kills its process whenever it is prepared, beside others in three sessions · it is tried alone
    soon, and put aside after QUARANTINE_AFTER of those · the others are sent.
    """
    of(settings, SESSIONS=3)
    good = mails(20)
    poison = submitted("killer@example.com", subject="killer").pk
    Delivery.objects.filter(pk=poison).update(next_at=ago(10.5))  # amid the others
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
        "its worker was lost every time it was tried",
    )
    assert deaths == 2 + 3
    # Two of the deaths were in company: those who were beside it may be in doubt.
    assert Counter(standing(*good))["in_doubt"] <= 2 * (3 - 1)
    for pk in good:
        manual.release(pk)
    send()
    assert standing(*good) == ["accepted"] * 20
    assert {one.subject for one in server.messages} == {str(number) for number in range(20)}


def test_a_mail_that_kills_whenever_it_is_tried_alone(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no other mail · killed QUARANTINE_AFTER times, and put aside."""
    (one,) = mails(1)
    deaths = 0
    while Child(send, hook=at("before the content", die)).ended():
        deaths += 1
        recover()
    assert (standing(one), deaths) == (["quarantined"], 3)


def test_mails_that_die_beside_the_one_that_kills_are_not_put_aside(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four mails come one by one, so that each is a batch of its own, in four sessions of one process · one kills it,
    again and again · only that one is put aside.
    """
    of(settings, SESSIONS=4, QUARANTINE_AFTER=1)
    monkeypatch.setattr(dispatcher._Pace, "claims", lambda self, sessions: 1)
    good = mails(3)
    poison = submitted("killer@example.com", subject="killer").pk

    def dying(name: str, *ids: str) -> None:
        if name == "in hand" and poison in ids:
            die()
        elif name == "in hand":
            time.sleep(0.05)  # so that they are in hand together; nothing fails when they are not

    for _ in range(8):
        child = Child(send, hook=dying)
        if child.ended() == 0:
            break
        recover()
    assert standing(poison) == ["quarantined"]
    assert standing(*good) == ["accepted"] * 3


def test_a_suspect_is_alone_in_its_process(server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that were given back twice come with six others, in three sessions · none is begun beside either of them."""
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
                time.sleep(0.1)  # in which another would be begun
        elif name == "answer noted":
            with lock:
                in_hand.difference_update(given)

    with hooked(hook):
        send()
    assert standing(*ids) == ["accepted"] * 8
    assert beside == []


def test_waiting_for_a_reply_never_counts(server: SMTPServer) -> None:
    """Killed while the greeting, or the reply to MAIL, is waited for, more often than QUARANTINE_AFTER · not the
    mail's fault.
    """
    (one,) = mails(1)
    for point in ("before a session", "before MAIL") * 4:
        Child(send, hook=at(point, die)).killed()
        recover()
        assert Delivery.objects.get().returned == 0
    send()
    assert standing(one) == ["accepted"]


def test_an_attempt_that_comes_to_an_end_resets_the_count(server: SMTPServer) -> None:
    """Killed twice · then the server puts it off · the count begins anew."""
    (one,) = mails(1)
    for _ in range(2):
        Child(send, hook=at("before the content", die)).killed()
        recover()
    assert Delivery.objects.get().returned
    server.inject(Fault(verb="DOT", reply="451 4.3.0 Try again later", times=1))
    send()
    assert (standing(one), Delivery.objects.get().returned) == (["deferred"], 0)
