"""The journal of a sending process: recovery reads every entry, and leaves the files of others alone.

``test_journal_processes.py`` tests kills, forks and races.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_integration.sending.journal import (
    MOST_RECIPIENTS,
    Dot,
    Journal,
    JournalEntry,
    JournalUnavailable,
    Slot,
    SlotPhase,
    SlotState,
    abandoned,
    files,
    layout,
    reading,
    writing,
)

OURS = "4d1c2f5e-7c0a-4d7e-9f0e-2b8a6f1f1f11"
OTHER_USER = 65534
ROOT = os.geteuid() == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journals"


def journal(folder: Path, installation: str = OURS, slots: int = 8) -> Journal:
    return Journal.open(folder, installation=installation, owner="celery@host:7", slots=slots)


def dot(slot: Slot, **changed: Any) -> None:
    said: dict[str, Any] = {
        "recipients": [0, 2],
        "refused": {1: 550},
        "count": 3,
        "configuration": "Our server",
        "config_version": "7",
    }
    slot.dot(**said | changed)


def entries(folder: Path, installation: str = OURS) -> list[list[JournalEntry]]:
    """Return the entries that recovery finds in each journal; nothing is removed."""
    with abandoned(folder, installation=installation) as found:
        return [one.entries for one in found]


def only(folder: Path) -> JournalEntry:
    """Return the entry that recovery finds, where one journal has one entry."""
    ((entry,),) = entries(folder)
    return entry


def leave(folder: Path, *steps: Callable[[Slot], None]) -> Path:
    """Write a journal with one claimed mail, take these steps for it, and close the journal."""
    mine = journal(folder)
    slot = mine.take("the-id", 3, "the-batch", started_at=1234.5)
    for step in steps:
        step(slot)
    mine.close()
    return mine.path


def answered(slot: Slot) -> None:
    slot.answered(250)


BEFORE: dict[str, Any] = {
    "slot": 0,
    "delivery_id": "the-id",
    "version": 3,
    "batch_id": "the-batch",
    "started_at": 1234.5,
    "phase": SlotPhase.PREPARING,
}
SAID = Dot(recipients=(0, 2), refused={1: 550}, count=3, configuration="Our server", config_version="7")


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([], {"state": SlotState.IN_HAND}),
        ([Slot.waiting], {"state": SlotState.IN_HAND, "phase": SlotPhase.WAITING}),
        ([Slot.waiting, Slot.writing], {"state": SlotState.IN_HAND, "phase": SlotPhase.WRITING}),
        ([Slot.writing, Slot.preparing], {"state": SlotState.IN_HAND}),
        ([dot], {"state": SlotState.DOT, "dot": SAID}),
        ([Slot.writing, dot], {"state": SlotState.DOT, "dot": SAID, "phase": SlotPhase.WRITING}),
        ([Slot.writing, dot, Slot.not_said], {"state": SlotState.IN_HAND, "phase": SlotPhase.WRITING}),
        ([dot, answered], {"state": SlotState.ANSWERED, "dot": SAID, "code": 250}),
        ([dot, answered, Slot.continuing], {"state": SlotState.CONTINUING, "dot": SAID, "code": 250}),
        ([dot, Slot.continuing], {"state": SlotState.CONTINUING, "dot": SAID}),
        ([Slot.continuing], {"state": SlotState.CONTINUING}),
    ],
)
def test_each_state_is_read_as_it_was_written(
    folder: Path, steps: list[Callable[[Slot], None]], left: dict[str, Any]
) -> None:
    leave(folder, *steps)

    entry = only(folder)

    assert entry == JournalEntry(**BEFORE | left)
    assert not entry.torn


@pytest.mark.parametrize("steps", [[], [Slot.writing], [dot], [dot, answered], [dot, answered, Slot.continuing]])
def test_a_freed_slot_leaves_nothing_and_an_idle_journal_is_removed(
    folder: Path, steps: list[Callable[[Slot], None]]
) -> None:
    mine = journal(folder)
    slot = mine.take("the-id", 1, "the-batch")
    for step in steps:
        step(slot)
    assert (mine.in_use, mine.path.exists()) == (1, True)
    slot.free()
    assert mine.in_use == 0
    mine.close()
    mine.close()
    assert list(folder.iterdir()) == []


def test_what_an_earlier_mail_left_in_a_slot_is_not_taken_for_a_later_ones(folder: Path) -> None:
    mine = journal(folder, slots=1)
    for position in range(3):
        slot = mine.take("a long id " * 20, 1, "b" * 36)
        dot(slot, recipients=range(5000), refused={}, count=5000)
        slot.answered(250)
        slot.free()
        slot = mine.take(f"id-{position}", 1, "b")
        if position < 2:
            slot.free()
    mine.close()
    entry = only(folder)
    assert (entry.delivery_id, entry.state, entry.dot, entry.code) == ("id-2", SlotState.IN_HAND, None, None)


@pytest.mark.parametrize("refused", [{}, dict.fromkeys(range(1, MOST_RECIPIENTS, 2), 451)])
def test_as_many_recipients_as_a_mail_may_have(folder: Path, refused: dict[int, int]) -> None:
    taken = tuple(position for position in range(MOST_RECIPIENTS) if position not in refused)
    sizes = {"configuration": "\N{SNOWMAN}" * 100, "config_version": "\N{SNOWMAN}" * 40, "count": MOST_RECIPIENTS}
    mine = journal(folder, slots=2)
    for number in range(2):
        slot = mine.take(f"{number}" + "\N{MAGE}" * 254, 2**63 - 1, "\N{MAGE}" * 36)
        slot.dot(recipients=taken, refused=refused, **sizes)  # type: ignore[arg-type]
        slot.answered(452)
    mine.close()
    ((first, second),) = entries(folder)
    for entry in (first, second):
        assert entry.dot == Dot(recipients=taken, refused=refused, **sizes)  # type: ignore[arg-type]
        assert (entry.state, entry.code, entry.version) == (SlotState.ANSWERED, 452, 2**63 - 1)
    assert second.delivery_id == "1" + "\N{MAGE}" * 254


def test_all_refused_of_the_most_recipients_fit_into_a_slot(folder: Path) -> None:
    refused = dict.fromkeys(range(MOST_RECIPIENTS), 550)
    mine = journal(folder, slots=2)
    for number in range(2):
        dot(mine.take(f"{number}", 1, "b"), recipients=(), refused=refused, count=MOST_RECIPIENTS)
    mine.close()
    ((first, second),) = entries(folder)
    assert first.dot is not None
    assert second.dot is not None
    assert (first.dot.refused, second.dot.refused, second.delivery_id) == (refused, refused, "1")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=36)


@st.composite
def dots(draw: st.DrawFn) -> Dot:
    count = draw(st.integers(0, 300))
    positions = st.integers(0, count - 1) if count else st.nothing()
    return Dot(
        recipients=tuple(sorted(draw(st.sets(positions)))),
        refused=draw(st.dictionaries(positions, st.integers(0, 999))),
        count=count,
        configuration=draw(TEXT),
        config_version=draw(TEXT),
    )


@st.composite
def slots(draw: st.DrawFn) -> tuple[bytes, JournalEntry]:
    """Generate the octets of a slot, and the entry that they encode."""
    said = draw(st.none() | dots())
    body = (
        b""
        if said is None
        else layout.encode_dot(said.recipients, said.refused, said.count, said.configuration, said.config_version)
    )
    entry = JournalEntry(
        slot=5,
        state=draw(st.sampled_from([SlotState.IN_HAND, SlotState.DOT, SlotState.ANSWERED, SlotState.CONTINUING])),
        phase=draw(st.sampled_from(SlotPhase)),
        delivery_id=draw(TEXT),
        version=draw(st.integers(-(2**63), 2**63 - 1)),
        batch_id=draw(TEXT),
        started_at=draw(st.floats(allow_nan=False)),
        code=draw(st.none() | st.integers(1, 999)),
        dot=said,
    )
    assert entry.phase is not None
    assert entry.started_at is not None
    head = layout.encode_head(
        entry.state,
        entry.phase,
        entry.code or 0,
        (len(body), layout.crc32(body) if body else 0),
        entry.version or 0,
        entry.started_at,
        layout.encode_ids(entry.delivery_id or "", entry.batch_id or ""),
    )
    return head + body, entry


@given(slots(), st.binary(max_size=20))
def test_what_is_encoded_is_decoded(slot: tuple[bytes, JournalEntry], rest: bytes) -> None:
    octets, entry = slot
    assert layout.used(octets.ljust(layout.PAGE, b"\0"), layout.SLOT_SIZE) == len(octets)
    assert layout.decode_slot(5, octets + rest) == entry


@given(slots(), st.data())
def test_a_flipped_bit_and_a_cut_are_noticed(slot: tuple[bytes, JournalEntry], data: st.DataObject) -> None:
    octets, entry = slot
    at = data.draw(st.integers(0, len(octets) * 8 - 1))
    flipped = bytearray(octets)
    flipped[at // 8] ^= 1 << at % 8
    for damaged in (bytes(flipped), octets[: at // 8]):
        found = layout.decode_slot(5, damaged)
        assert found is not None
        assert found.torn
        # An undamaged head still names the mail.
        assert found.delivery_id in (None, entry.delivery_id)


@given(st.binary(max_size=300))
def test_no_octets_are_too_strange_to_be_looked_at(octets: bytes) -> None:
    layout.used(octets, layout.SLOT_SIZE)
    layout.decode_slot(0, octets)
    layout.decode_header(octets)


def test_a_state_that_is_unknown_is_unreadable() -> None:
    head = layout.encode_head(99, SlotPhase.WAITING, 0, (0, 0), 1, 1.0, layout.encode_ids("a", "b"))  # type: ignore[arg-type]
    found = layout.decode_slot(0, head)
    assert found is not None
    assert found.torn


def test_a_damaged_body_still_says_which_mail_it_is(folder: Path) -> None:
    path = leave(folder, dot, answered)
    octets = path.read_bytes()
    at = octets.index(b"Our server")
    path.write_bytes(octets[:at] + b"X" + octets[at + 1 :])
    entry = only(folder)
    assert entry.torn
    assert (entry.delivery_id, entry.version, entry.code, entry.dot) == ("the-id", 3, 250, None)


@pytest.mark.parametrize("cut", [0, 1, 35, 36, 50, 51, 74])
def test_a_file_that_was_cut_off_has_unreadable_slots(folder: Path, cut: int) -> None:
    path = leave(folder, dot)
    os.truncate(path, layout.PAGE + cut)
    ((first, *others),) = entries(folder)
    assert first.torn
    assert first.delivery_id == ("the-id" if cut >= 51 else None)  # where the head ends
    # The content of slots missing from the file is unknown too.
    assert [entry.torn for entry in others] == [True] * 7


@pytest.mark.parametrize("where", [0, 8, 10, 14, 30, 60, layout.PAGE - 1])
def test_a_header_that_is_unknown_or_damaged_is_left_alone(folder: Path, where: int) -> None:
    path = leave(folder, dot)
    octets = bytearray(path.read_bytes())
    octets[where] ^= 1
    path.write_bytes(octets)
    os.utime(path, (0, 0))
    assert entries(folder) == []
    assert path.read_bytes() == octets


def test_another_installations_journal_is_left_alone_and_not_locked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = leave(folder, dot)
    os.utime(path, (0, 0))
    locked: list[str] = []
    really = files.JournalFile.lock
    monkeypatch.setattr(files.JournalFile, "lock", lambda file: locked.append(file.name) or really(file))
    assert entries(folder, installation="another") == []
    assert locked == []
    assert only(folder).delivery_id == "the-id"
    assert locked == [path.name]


def test_the_journal_says_of_whom_it_is(folder: Path) -> None:
    leave(folder)
    with abandoned(folder, installation=OURS) as found:
        (one,) = found
        assert (one.owner, one.pid, one.boot_is_ours) == ("celery@host:7", os.getpid(), True)


@pytest.mark.parametrize(("then", "now"), [("an earlier start", None), ("", None), ("", "")])
def test_another_start_of_the_machine_is_recognised(
    folder: Path, then: str, now: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without boot ids, no earlier boot counts as this one."""
    monkeypatch.setattr(writing, "boot_id", lambda: then)
    if now is not None:
        monkeypatch.setattr(reading, "boot_id", lambda: now)
    leave(folder)
    with abandoned(folder, installation=OURS) as found:
        assert [one.boot_is_ours for one in found] == [False]


def test_removing_and_releasing(folder: Path) -> None:
    path = leave(folder)
    with abandoned(folder, installation=OURS) as found:
        (first,) = found
        assert entries(folder) == []  # it is locked
        first.release()
        first.release()
        assert only(folder).delivery_id == "the-id"
        with pytest.raises(RuntimeError, match="is already released"):
            first.remove()
    with abandoned(folder, installation=OURS) as found:
        (second,) = found
        second.remove()
        assert not path.exists()
        with pytest.raises(RuntimeError, match="is already released"):
            second.remove()
    assert list(found) == []


def test_the_end_of_the_block_releases_all(folder: Path) -> None:
    leave(folder)
    leave(folder)
    with contextlib.suppress(ZeroDivisionError), abandoned(folder, installation=OURS) as found:
        assert next(found).entries
        raise ZeroDivisionError
    assert list(found) == []
    assert len(entries(folder)) == 2


def test_this_processs_own_journal_is_not_even_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network file system, closing any descriptor may release the lock of the whole process."""
    mine = journal(folder)
    dot(mine.take("the-id", 1, "b"))
    with monkeypatch.context() as patch:
        patch.delattr(reading, "JournalFile")
        assert entries(folder) == []
    assert not can_be_locked(mine.path)
    mine.close()
    assert can_be_locked(mine.path)
    assert len(entries(folder)) == 1


def can_be_locked(path: Path) -> bool:
    with path.open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_journal_that_another_removes_between_the_list_and_the_lock(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = leave(folder)
    really = files.JournalFile.lock

    def lock(file: files.JournalFile) -> bool:
        path.unlink()
        replaced.append(leave(folder))
        replaced[0].rename(path)
        return really(file)

    replaced: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(files.JournalFile, "lock", lock)
        # The journal that is created meanwhile takes its lock by the real function.
        patch.setattr(writing, "_made", lambda *args: made(really, *args))
        assert entries(folder) == []
    assert only(folder).delivery_id == "the-id"


def made(lock: Callable[[files.JournalFile], bool], descriptor: int, header: Any, page: bytes) -> files.JournalFile:
    file = files.JournalFile(descriptor, "replacing.journal", new=True)
    assert lock(file)
    file.resize(header.offset(header.slots))
    file.write(page, 0)
    return file


def test_a_journal_that_is_removed_while_others_are_read(folder: Path) -> None:
    paths = sorted([leave(folder), leave(folder)])
    with abandoned(folder, installation=OURS) as found:
        assert next(found).path == paths[0]
        paths[1].unlink()
        assert list(found) == []


@pytest.mark.parametrize("octets", [b"", b"EIJOURNL", bytes(layout.PAGE - 1), bytes(layout.PAGE + 1000)])
def test_what_a_death_while_making_a_journal_leaves_is_removed_a_minute_later(folder: Path, octets: bytes) -> None:
    folder.mkdir(mode=0o700)
    path = folder / "7-0.journal"
    path.write_bytes(octets)
    assert entries(folder) == []
    assert path.exists()
    minute_ago = time.time() - 61
    os.utime(path, (minute_ago, minute_ago))
    with path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert entries(folder) == []
        assert path.exists()
    assert entries(folder) == []
    assert not path.exists()


def test_a_journal_whose_file_is_taken_for_rubbish_while_it_is_made_is_made_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process was stopped for more than a minute between creating the file and locking it."""
    really = files.JournalFile.lock
    tries: list[str] = []

    def lock(file: files.JournalFile) -> bool:
        tries.append(file.name)
        if len(tries) == 1:
            (folder / file.name).unlink()
        return len(tries) != 2 and really(file)

    monkeypatch.setattr(files.JournalFile, "lock", lock)
    mine = journal(folder)
    assert len(tries) == 3
    assert mine.is_in_place
    monkeypatch.setattr(files.JournalFile, "lock", lambda _: False)
    with pytest.raises(JournalUnavailable, match="removed immediately"):
        journal(folder)
    mine.close()


def test_other_files_are_not_looked_at(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    for name in ("notes", "7.journal.bak"):
        (folder / name).touch()
        os.utime(folder / name, (0, 0))
    assert entries(folder) == []
    assert len(list(folder.iterdir())) == 2


def test_modes_and_descriptors(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        mine = journal(tmp_path / "one" / "two" / "three", slots=256)
    finally:
        os.umask(before)
    for made in (tmp_path / "one", tmp_path / "one" / "two", mine.path.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert stat.S_IMODE(mine.path.stat().st_mode) == 0o600
    assert not os.get_inheritable(mine._file._descriptor)
    for number in range(1000):
        slot = mine.take(f"{number}", 1, "b")
        dot(slot)
        slot.free()
    # Sparse: few pages are ever used.
    assert mine.path.stat().st_blocks * 512 < 100_000 < mine.path.stat().st_size
    mine.close()


def test_two_journals_in_one_folder_have_names_of_their_own(folder: Path) -> None:
    first, second = journal(folder), journal(folder)
    assert first.path != second.path
    first.close()
    assert second.is_in_place
    second.close()


def test_a_relative_folder_stays_the_same_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = journal(Path("journals"))
    monkeypatch.chdir("/")
    assert mine.is_in_place
    mine.close()
    assert list(folder.iterdir()) == []


def test_a_file_that_a_cleaner_removed_is_noticed(folder: Path) -> None:
    mine = journal(folder)
    assert mine.is_in_place
    mine.path.unlink()
    assert not mine.is_in_place
    mine.path.touch()
    assert not mine.is_in_place
    mine.close()
    assert mine.path.exists()  # not this journal's file


def refused(folder: Path, says: str) -> None:
    """Check that neither writing nor reading uses the folder."""
    for use in (lambda: journal(folder), lambda: entries(folder)):
        with pytest.raises(JournalUnavailable, match=says):
            use()


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777, 0o1777, 0o2770])
def test_a_folder_that_others_can_write_to_is_refused(folder: Path, mode: int) -> None:
    leave(folder)
    folder.chmod(mode)
    refused(folder, "can be written by other users")


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o2755])
def test_a_folder_that_others_can_read_is_used(folder: Path, mode: int) -> None:
    leave(folder)
    folder.chmod(mode)
    leave(folder)
    assert len(entries(folder)) == 2


def test_a_folder_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    leave(folder)
    (tmp_path / "link").symlink_to(folder)
    refused(tmp_path / "link", "is a link")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "dangling", "is a link")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "not a folder")
    refused(tmp_path / "file" / "below", "Not a directory")


def test_a_missing_folder_has_no_journals_and_is_not_made(folder: Path) -> None:
    assert entries(folder) == []
    assert not folder.exists()


if ROOT:

    def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
        leave(folder)
        os.chown(folder, OTHER_USER, -1)
        refused(folder, f"belongs to user {OTHER_USER}, and this process runs as user 0")

    def test_a_file_of_another_user_is_left_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = leave(folder)
        os.chown(path, OTHER_USER, -1)
        assert entries(folder) == entries(folder) == []
        assert path.exists()
        (logged,) = caplog.messages
        assert f"belongs to user {OTHER_USER}" in logged

else:

    def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
        refused(Path("/usr"), "belongs to user 0")

    def test_a_file_of_another_user_is_left_alone() -> None:
        assert "belongs to user 0" in str(files.objection(Path("/etc/passwd").stat()))


def symlink(path: Path, target: Path) -> None:
    path.symlink_to(target)


def hard_link(path: Path, target: Path) -> None:
    path.hardlink_to(target)


def fifo(path: Path, target: Path) -> None:
    os.mkfifo(path)


def directory(path: Path, target: Path) -> None:
    path.mkdir(mode=0o700)


def writable_by_others(path: Path, target: Path) -> None:
    path.write_bytes(target.read_bytes())
    path.chmod(0o620)


@pytest.mark.parametrize(
    ("arrange", "says"),
    [
        (symlink, "is a link"),
        (hard_link, "has more than one name"),
        (fifo, "a device"),
        (directory, "is a folder"),
        (writable_by_others, "can be written by other users (mode 0620"),
    ],
)
def test_what_is_no_file_of_ours_alone_is_left_alone(
    folder: Path, tmp_path: Path, arrange: Callable[[Path, Path], None], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    target = leave(tmp_path / "elsewhere", dot)
    folder.mkdir(mode=0o700)
    path = folder / "1-2.journal"
    arrange(path, target)
    leave(folder)
    assert only(folder).state is SlotState.IN_HAND
    assert entries(folder) != []
    assert path.exists()
    (logged,) = caplog.messages  # once, not at each check
    assert says in logged


def test_a_slot_for_each_mail_and_no_more(folder: Path) -> None:
    mine = journal(folder, slots=2)
    first, second = mine.take("a", 1, "b"), mine.take("b", 1, "b")
    with pytest.raises(JournalUnavailable, match="all its 2 slots in use"):
        mine.take("c", 1, "b")
    first.free()
    third = mine.take("c", 1, "b")
    assert mine.in_use == 2
    third.free()
    second.free()
    mine.close()
    with pytest.raises(JournalUnavailable, match="is closed"):
        mine.take("d", 1, "b")


def test_after_the_lock_is_released_nothing_can_be_written(folder: Path) -> None:
    """A thread that hung until then may continue: it must not send a final dot that recovery does not know."""
    mine = journal(folder)
    slot = mine.take("the-id", 1, "b")
    mine.close()
    for step in (Slot.waiting, dot, Slot.continuing, Slot.free):
        with pytest.raises(JournalUnavailable, match="closed in this process"):
            step(slot)
    assert only(folder).state is SlotState.IN_HAND


def test_a_step_that_does_not_follow_the_last_is_an_error(folder: Path) -> None:
    mine = journal(folder)
    slot = mine.take("the-id", 1, "b")
    with pytest.raises(RuntimeError, match="IN_HAND"):
        slot.answered(250)
    dot(slot)
    for step in (dot, Slot.waiting):
        with pytest.raises(RuntimeError, match="DOT"):
            step(slot)
    slot.answered(250)
    with pytest.raises(RuntimeError, match="ANSWERED"):
        slot.answered(250)
    slot.free()
    other = mine.take("another", 1, "b")  # the same slot
    for step in (Slot.free, Slot.waiting, dot, Slot.continuing):
        with pytest.raises(RuntimeError, match="FREE"):
            step(slot)
    other.waiting()
    mine.close()
    assert only(folder).delivery_id == "another"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"recipients": [3]}, "position 3 is out of range for 3 recipients"),
        ({"recipients": [-1]}, "position -1"),
        ({"refused": {3: 550}}, "position 3"),
        ({"refused": {-1: 550}}, "position -1"),
        ({"refused": {0: 1000}}, "three digits, not 1000"),
        ({"refused": {0: -1}}, "three digits, not -1"),
        ({"count": MOST_RECIPIENTS + 1}, "at most 10000 recipients, not 10001"),
        ({"count": -1, "recipients": [], "refused": {}}, "recipients, not -1"),
        ({"configuration": "x" * 101}, "name has 101 characters"),
        ({"config_version": "x" * 41}, "version has 41 characters"),
    ],
)
def test_what_a_dot_cannot_hold_is_an_error_and_the_mail_stays_in_hand(
    folder: Path, changed: dict[str, Any], says: str
) -> None:
    mine = journal(folder)
    slot = mine.take("the-id", 1, "b")
    with pytest.raises(ValueError, match=says):
        dot(slot, **changed)
    assert slot.state is SlotState.IN_HAND
    dot(slot)
    mine.close()
    assert only(folder).state is SlotState.DOT


@pytest.mark.parametrize("code", [0, -1, 1000])
def test_a_code_that_is_none_is_an_error(folder: Path, code: int) -> None:
    mine = journal(folder)
    slot = mine.take("the-id", 1, "b")
    dot(slot)
    with pytest.raises(ValueError, match="three digits"):
        slot.answered(code)
    mine.close()
    assert only(folder).state is SlotState.DOT


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("x" * 256, 1, "b"), "id has 256 characters"),
        (("id", 1, "x" * 37), "id has 37 characters"),
        (("id", 2**63, "b"), "cannot store version"),
        (("\ud800", 1, "b"), "surrogates"),
    ],
)
def test_what_a_slot_cannot_hold_is_an_error_and_takes_none(
    folder: Path, arguments: tuple[str, int, str], says: str
) -> None:
    mine = journal(folder)
    with pytest.raises(ValueError, match=says):
        mine.take(*arguments)
    assert mine.in_use == 0
    mine.close()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"installation": "x" * 65}, "installation id has 65"),
        ({"owner": "x" * 256}, "owner has 256"),
        ({"slots": 0}, "not 0"),
        ({"slots": 65_536}, "not 65536"),
    ],
)
def test_what_a_header_cannot_hold_is_an_error(folder: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Journal.open(folder, **{"installation": OURS, "owner": "us", "slots": 8} | changed)
    assert not folder.exists()


def test_many_threads_take_slots_of_their_own(folder: Path) -> None:
    mine = journal(folder, slots=210)
    kept: list[Slot] = []
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(100):
                slot = mine.take(f"{number}-{turn}", turn, "b")
                dot(slot, recipients=[number], refused={}, count=10)
                slot.answered(250)
                if turn % 5:
                    slot.free()
                else:
                    kept.append(slot)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert mine.in_use == len(kept) == 200
    mine.close()
    (found,) = entries(folder)
    assert sorted((entry.delivery_id, entry.dot and entry.dot.recipients) for entry in found) == sorted(
        (f"{number}-{turn}", (number,)) for number in range(10) for turn in range(0, 100, 5)
    )


def test_without_locks_there_is_no_journal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "fcntl", None)
    with pytest.raises(JournalUnavailable, match="no fcntl"):
        journal(folder)
    assert entries(folder) == []
    assert not folder.exists()


def test_the_exception_passes_between_processes() -> None:
    error = pickle.loads(pickle.dumps(JournalUnavailable("It is full.")))
    assert (type(error), str(error)) == (JournalUnavailable, "It is full.")


def test_a_machine_without_a_boot_id_says_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(files.boot_id()) == 36
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: Path("/nowhere").read_bytes())
    assert files.boot_id() == ""
