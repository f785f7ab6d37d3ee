"""Journals that cannot be read, belong to another installation, or cannot be written."""

from __future__ import annotations

import errno
import os
import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection

from email_integration.ledger import installation
from email_integration.models import Delivery, DeliveryBatch
from email_integration.sending import dispatcher
from email_integration.sending.journal import SlotState, layout
from email_integration.sending.journal.files import JournalFile
from email_integration.smtpd import SMTPServer
from tests.children import (
    Child,
    at,
    delivery_statuses,
    die,
    hooked,
    mails,
    recover,
    recover_by_lease,
    require_settled,
    send,
)
from tests.deliveries import RecordingTaskQueue
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


def the_file(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def written_over(file: Path, octets: bytes, offset: int = 0) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(octets)


# -- unreadable and foreign journals --------------------------------------------------------------------------------


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
    assert (delivery_statuses(one), len(server.messages)) == (["in_doubt"], 1)


def test_a_torn_list_of_recipients_leaves_a_doubt_about_that_mail_alone(server: SMTPServer, folder: Path) -> None:
    """Killed after the dot was noted · the list of recipients cannot be read · that mail is in doubt, and its batch
    mates go back.
    """
    ids = mails(3)
    Child(send, hook=at("answered", die, of=ids[0])).killed()
    file = the_file(folder)
    octets = file.read_bytes()
    written_over(file, b"#", octets.index(b"Primary Mail Server"))
    recover()
    require_settled()
    assert delivery_statuses(*ids) == ["in_doubt", "queued", "queued"]


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
    """Killed after the answer · its journal belongs to another installation, has an unknown format, or cannot be read ·
    the file stays unchanged, and the lease decides.
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
    assert delivery_statuses(one) == ["in_doubt"]


@pytest.mark.parametrize(
    ("point", "status"), [("in hand", "in_doubt"), ("dot noted", "in_doubt"), ("answer noted", "accepted")]
)
def test_after_another_start_of_the_machine_nothing_goes_back_by_a_journal(
    server: SMTPServer, folder: Path, point: str, status: str
) -> None:
    """The machine restarts · a journal of the previous boot does not prove that no dot was sent: the lease decides · a
    250 in it is recorded.
    """
    (one,) = mails(1)
    Child(send, hook=at(point, die)).killed()
    _changed_header(the_file(folder), boot_id="another")
    recover()
    assert delivery_statuses(one) == ["accepted" if status == "accepted" else "queued"]
    assert Delivery.objects.exclude(batch="").count() == (status != "accepted")
    recover_by_lease()
    require_settled()
    assert delivery_statuses(one) == [status]


# -- journals that cannot be written --------------------------------------------------------------------------------


def _has_dot_in(folder: Path, pk: str) -> bool:
    """Return whether a journal says that the mail's final dot may have been sent."""
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
    """The journal accepts this many writes · the next write fails, or all following ones · each dot is noted, or is
    sent by a process that may send no more than IN_DOUBT_WINDOW · all mail is sent, once.
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
        for _ in range(3):  # mail left for the sweep is tried again
            send()
    assert delivery_statuses(*ids) == ["accepted"] * 5
    assert Counter(one.subject for one in server.messages) == Counter("01234")
    assert bool(unnoted) or not lasts or writes > 14
    require_settled()


def test_a_database_that_is_back_has_its_journal_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database fails where a process asks for its journal · it has none then, and one when it asks again."""
    own_journal, identity = dispatcher.own_journal, installation.identity

    def fails() -> str:
        raise OperationalError("the server closed the connection")

    own_journal.close()
    try:
        monkeypatch.setattr(installation, "identity", fails)
        assert own_journal.opened() is None
        monkeypatch.setattr(installation, "identity", identity)
        journal = own_journal.opened()
        assert journal is not None
        assert journal.is_in_place
    finally:
        own_journal.close()


def test_no_file_may_grow(server: SMTPServer, folder: Path) -> None:
    """RLIMIT_FSIZE ends in the first slot · each write fails · all mail is sent without a journal, by
    IN_DOUBT_WINDOW.
    """
    ids = mails(4)

    def act() -> None:
        assert dispatcher.own_journal.opened() is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, (layout.PAGE, resource.RLIM_INFINITY))
        send()

    if connection.vendor == "sqlite":
        return  # the files of SQLite could not be written either
    assert Child(act).ended() == 0
    assert delivery_statuses(*ids) == ["accepted"] * 4
    assert len(server.messages) == 4
    require_settled()
