"""The journal of a sending process under kills, forks, races and full disks, with real processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.local.processes import PATIENCE
from email_integration.sending.journal import Dot, Journal, JournalEntry, SlotPhase, SlotState, abandoned

OURS = "4d1c2f5e-7c0a-4d7e-9f0e-2b8a6f1f1f11"
OTHER_USER = 65534

BEGIN = r"""
import json, os, resource, subprocess, sys, threading, time
from pathlib import Path
from email_integration.sending.journal import Journal, JournalUnavailable, SlotState, abandoned, files, layout

folder = Path(sys.argv[1])
INSTALLATION = sys.argv[2]

def say(word):
    os.write(1, f"{word}\n".encode())  # in one write: a child may say something at the same time

def stay():
    sys.stdin.read()

def journal(slots=8):
    return Journal.open(folder, installation=INSTALLATION, owner="us", slots=slots)

def dot(slot, count=3, refused={1: 550}):
    slot.dot(recipients=[n for n in range(count) if n not in refused], refused=refused, count=count,
             configuration="Our server", config_version="7")

def fails(act, says):
    try:
        act()
    except JournalUnavailable as error:
        assert says in str(error), error
    else:
        raise AssertionError("it did not fail")

def limit_files(octets):
    # Where Python runs it ignores SIGXFSZ, so that a write beyond fails with EFBIG.
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, resource.RLIM_INFINITY))
"""


class Child:
    """A process that runs a program with the names of ``BEGIN``, and ends when its input closes."""

    def __init__(self, program: str, folder: Path, **how: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + program, str(folder), OURS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **how,
        )

    def heard(self) -> str:
        """Wait for a line and return it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def end(self) -> int:
        """Wait for the process to exit, and return its exit code."""
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journals"


@pytest.fixture
def child(folder: Path) -> Iterator[Callable[..., Child]]:
    started: list[Child] = []

    def start(program: str, **how: Any) -> Child:
        started.append(Child(program, folder, **how))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        for stream in (one.process.stdin, one.process.stdout):
            assert stream is not None
            stream.close()


def entries(folder: Path) -> list[JournalEntry]:
    with abandoned(folder, installation=OURS) as found:
        return [entry for one in found for entry in one.entries]


SAID = Dot(recipients=(0, 2), refused={1: 550}, count=3, configuration="Our server", config_version="7")


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ("", None),
        ("slot = mine.take('id', 3, 'b', 1.5)", {"state": SlotState.IN_HAND}),
        ("slot.waiting()", {"state": SlotState.IN_HAND, "phase": SlotPhase.WAITING}),
        ("slot.writing()", {"state": SlotState.IN_HAND, "phase": SlotPhase.WRITING}),
        ("dot(slot)", {"state": SlotState.DOT, "phase": SlotPhase.WRITING, "dot": SAID}),
        ("slot.answered(250)", {"state": SlotState.ANSWERED, "phase": SlotPhase.WRITING, "dot": SAID, "code": 250}),
        ("slot.continuing()", {"state": SlotState.CONTINUING, "phase": SlotPhase.WRITING, "dot": SAID, "code": 250}),
        ("slot.free()", None),
    ],
)
def test_a_killed_process_leaves_what_it_had_written(
    folder: Path, child: Callable[..., Child], steps: str, left: dict[str, Any] | None
) -> None:
    """Each case first takes the steps of the cases before it."""
    named = ["", "slot = mine.take('id', 3, 'b', 1.5)", "slot.waiting()", "slot.writing()", "dot(slot)"]
    named += ["slot.answered(250)", "slot.continuing()", "slot.free()"]
    owner = child("\n".join(["mine = journal()", *named[: named.index(steps) + 1], "say('there')", "stay()"]))
    assert owner.heard() == "there"
    assert entries(folder) == []  # the owner lives

    owner.kill()

    with abandoned(folder, installation=OURS) as found:
        (one,) = found
        assert (one.pid, one.owner, one.boot_is_ours) == (owner.process.pid, "us", True)
        expected: dict[str, Any] = {
            "slot": 0,
            "phase": SlotPhase.PREPARING,
            "delivery_id": "id",
            "version": 3,
            "batch_id": "b",
            "started_at": 1.5,
        }
        assert one.entries == ([] if left is None else [JournalEntry(**expected | left)])
        one.remove()
    assert list(folder.iterdir()) == []


def test_a_process_that_ends_by_itself_leaves_its_journal_too(folder: Path, child: Callable[..., Child]) -> None:
    assert child("slot = journal().take('id', 1, 'b')").end() == 0
    (entry,) = entries(folder)
    assert entry.state is SlotState.IN_HAND


def test_no_kill_leaves_half_a_step(folder: Path, child: Callable[..., Child]) -> None:
    """Also for a step larger than the kernel's unit of copying: each slot is in the old or in the new state."""
    program = """
mine = journal(64)
refused = {n: 550 for n in range(0, 10_000, 2)}
say("there")
while True:
    slots = [mine.take(f"id-{n}", 1, "b") for n in range(8)]
    for slot in slots:
        dot(slot, 10_000, refused)
    for slot in slots:
        slot.answered(250)
        slot.free()
"""
    seen: Counter[SlotState] = Counter()
    wait = random.Random(7)
    for _ in range(12):
        owner = child(program)
        assert owner.heard() == "there"
        with pytest.raises(subprocess.TimeoutExpired):
            owner.process.wait(wait.uniform(0.0, 0.1))
        owner.kill()
        with abandoned(folder, installation=OURS) as found:
            for one in found:
                for entry in one.entries:
                    seen[entry.state] += 1
                    assert (entry.dot is None) == (entry.state is SlotState.IN_HAND)
                    assert entry.dot is None or (len(entry.dot.recipients), len(entry.dot.refused)) == (5000, 5000)
                one.remove()
    assert not seen[SlotState.UNREADABLE]
    assert seen[SlotState.IN_HAND] + seen[SlotState.DOT] > 0


@pytest.mark.parametrize("pages", [1, 2, 5])
def test_a_write_of_many_pages_that_is_cut_off_by_a_kill_leaves_the_state_before(
    folder: Path, child: Callable[..., Child], pages: int
) -> None:
    """The kernel copies page by page, and checks for SIGKILL between pages."""
    owner = child(f"""
really = os.pwrite

def cut_off(descriptor, octets, offset):
    end = (offset // layout.PAGE + {pages}) * layout.PAGE
    written = really(descriptor, octets[: end - offset], offset)
    if written < len(octets):
        os.kill(os.getpid(), 9)
    return written

os.pwrite = cut_off
slot = journal().take("id", 1, "b")
dot(slot, 10_000, {{n: 550 for n in range(5_000)}})
""")
    assert owner.end() == -9
    (entry,) = entries(folder)
    assert (entry.delivery_id, entry.state, entry.dot) == ("id", SlotState.IN_HAND, None)


FORKS = {
    "fork": "child = os.fork() or in_child()",
    "multiprocessing": (
        "import multiprocessing; multiprocessing.get_context('fork').Process(target=in_child, daemon=False).start()"
    ),
    "subprocess": "subprocess.Popen([sys.executable, '-c', CODE], pass_fds=[pipe], close_fds=True)",
    "all descriptors": (
        "os.set_inheritable(pipe, True); subprocess.Popen([sys.executable, '-c', CODE], close_fds=False)"
    ),
    "spawn": "os.set_inheritable(pipe, True); os.posix_spawn(sys.executable, ['python', '-c', CODE], os.environ)",
}

#: A child of the owner: it reports its start, and lives until the test closes the pipe.
FORKING = """
pipe = int(os.environ["PIPE"])
CODE = f"import os; os.write(1, b'forked' + bytes([10])); os.read({pipe}, 1)"
mine = journal()
slot = mine.take("id", 1, "b")

def in_child():
    for act in (slot.waiting, lambda: dot(slot), slot.free, lambda: mine.take("other", 1, "b")):
        fails(act, "closed")
    mine.close()
    say("forked")
    os.read(pipe, 1)
    os._exit(0)

"""


@pytest.mark.parametrize("way", FORKS)
def test_a_child_of_the_owner_neither_holds_nor_frees_its_lock(
    folder: Path, child: Callable[..., Child], way: str
) -> None:
    reading, writing = os.pipe()
    program = FORKING + FORKS[way] + "\nsay('there')\nstay()"
    try:
        owner = child(program, pass_fds=[reading], env={**os.environ, "PIPE": str(reading)})
        os.close(reading)
        assert {owner.heard(), owner.heard()} == {"forked", "there"}
        # The child lives and has closed its copy; the owner's lock is unchanged.
        assert entries(folder) == []
        assert len(list(folder.iterdir())) == 1
        owner.kill()
        # The child still lives, and the lock is free.
        (entry,) = entries(folder)
        assert (entry.delivery_id, entry.state) == ("id", SlotState.IN_HAND)
    finally:
        os.close(writing)


def test_a_child_that_ends_leaves_the_lock_and_the_file_to_its_parent(
    folder: Path, child: Callable[..., Child]
) -> None:
    owner = child("""
mine = journal()
idle = journal()
slot = mine.take("id", 1, "b")
for ending in (sys.exit, os._exit, lambda code: (mine.close(), idle.close(), os._exit(code))):
    child = os.fork()
    if not child:
        ending(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
dot(slot)
say("there")
stay()
""")
    assert owner.heard() == "there"
    assert entries(folder) == []
    assert len(list(folder.iterdir())) == 2
    owner.kill()
    (entry,) = entries(folder)
    assert entry.state is SlotState.DOT


def test_a_child_keeps_a_journal_of_its_own_and_recovers_that_of_its_dead_parent(
    folder: Path, child: Callable[..., Child]
) -> None:
    owner = child("""
mine = journal()
slot = mine.take("the parent's", 1, "b")
if not os.fork():
    own = journal()
    slot = own.take("the child's", 1, "b")
    sys.stdin.readline()
    with abandoned(folder, installation=INSTALLATION) as found:
        say([entry.delivery_id for one in found for entry in one.entries])
    os._exit(0)
say("there")
os.close(0)
time.sleep(600)
""")
    assert owner.heard() == "there"
    owner.kill()
    owner.send("go")
    assert owner.heard() == '["the parent\'s"]'


def test_a_fork_while_another_thread_opens_a_journal_copies_no_lock(folder: Path, child: Callable[..., Child]) -> None:
    """The thread is held up right after it has opened the file. A fork then waits, or closes the copy."""
    owner = child("""
opened, forked = threading.Event(), threading.Event()

def hold_up(frame, event, function):
    if event == "c_return" and function is os.open and frame.f_code.co_name == "__init__":
        opened.set()
        forked.wait(0.5)  # the fork waits for this thread, where all is well

def work():
    journal().take("id", 1, "b")

threading.setprofile(hold_up)
thread = threading.Thread(target=work)
thread.start()
opened.wait()
if not os.fork():
    say("forked")
    stay()
    os._exit(0)
forked.set()
thread.join()
say("there")
time.sleep(600)
""")
    assert {owner.heard(), owner.heard()} == {"forked", "there"}
    owner.kill()
    (entry,) = entries(folder)
    assert entry.delivery_id == "id"


def test_forks_and_journals_of_many_threads(folder: Path, child: Callable[..., Child]) -> None:
    owner = child("""
def work():
    for _ in range(50):
        journal(1).take("id", 1, "b")
        journal(1).close()

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
hears, says = os.pipe()
for _ in range(10):
    if not os.fork():
        own = journal(1)
        own.close()
        os.write(says, b".")
        sys.stdin.read()
        os._exit(0)
for thread in threads:
    thread.join()
for _ in range(10):
    os.read(hears, 1)  # each has let go of its copies
say("there")
time.sleep(600)
""")
    assert owner.heard() == "there"
    owner.kill()
    assert len(entries(folder)) == 150


def test_of_many_that_look_exactly_one_gets_each_journal(folder: Path, child: Callable[..., Child]) -> None:
    for number in range(20):
        mine = Journal.open(folder, installation=OURS, owner="us", slots=1)
        mine.take(f"{number}", 1, "b")
        mine.close()
    program = """
say("there")
sys.stdin.readline()
with abandoned(folder, installation=INSTALLATION) as found:
    got = list(found)
    say(json.dumps([entry.delivery_id for one in got for entry in one.entries]))
    sys.stdin.readline()
    for one in got:
        one.remove()
say("done")
"""
    lookers = [child(program) for _ in range(4)]
    assert [looker.heard() for looker in lookers] == ["there"] * 4
    for looker in lookers:
        looker.send("go")
    got = [identifier for looker in lookers for identifier in json.loads(looker.heard())]
    assert sorted(got, key=int) == [str(number) for number in range(20)]
    assert entries(folder) == []
    for looker in lookers:
        looker.send("go")
    assert [looker.heard() for looker in lookers] == ["done"] * 4
    assert list(folder.iterdir()) == []


def test_a_process_killed_during_recovery_leaves_the_journal_to_the_next(
    folder: Path, child: Callable[..., Child]
) -> None:
    child("slot = journal().take('id', 1, 'b')").end()
    looker = child("""
with abandoned(folder, installation=INSTALLATION) as found:
    got = next(found)
    say(len(got.entries))
    stay()
""")
    assert looker.heard() == "1"
    assert entries(folder) == []
    looker.kill()
    assert len(entries(folder)) == 1


def test_a_child_of_a_recovering_process_holds_no_lock(folder: Path, child: Callable[..., Child]) -> None:
    child("slot = journal().take('id', 1, 'b')").end()
    looker = child("""
found = abandoned(folder, installation=INSTALLATION)
got = next(found.__enter__())
if not os.fork():
    say("forked")
    stay()
    os._exit(0)
say("there")
time.sleep(600)
""")
    assert {looker.heard(), looker.heard()} == {"forked", "there"}
    assert entries(folder) == []
    looker.kill()
    assert len(entries(folder)) == 1


FULL = {
    "no room for a journal": """
limit_files(100)
fails(journal, "No journal can be created")
assert not list(folder.iterdir())
""",
    "no room for a mail": """
mine = journal()
limit_files(layout.PAGE)
for _ in range(20):  # more than there are slots: none is lost
    fails(lambda: mine.take("id", 1, "b"), "cannot be written")
assert mine.in_use == 0
limit_files(resource.RLIM_INFINITY)
mine.take("id", 1, "b").free()
mine.close()
assert not list(folder.iterdir())
""",
    "room for a part of a mail": """
mine = journal()
limit_files(layout.PAGE + 20)
for _ in range(20):
    fails(lambda: mine.take("id", 1, "b"), "cannot be written")
assert mine.in_use == 0
limit_files(resource.RLIM_INFINITY)
mine.close()
assert not list(folder.iterdir())
""",
    "no room for the dot": """
mine = journal()
slot = mine.take("id", 1, "b")
for room in (39, 40, 60):  # within the page of the head
    limit_files(layout.PAGE + room)
    fails(lambda: dot(slot), "File too large")
    assert slot.state is SlotState.IN_HAND
limit_files(layout.PAGE * 3)
fails(lambda: dot(slot, 10_000, {n: 550 for n in range(5_000)}), "File too large")
assert slot.state is SlotState.IN_HAND
say("in hand")
""",
    "no room after the dot": """
mine = journal()
small, large = mine.take("small", 1, "b"), mine.take("large", 1, "b")
small.writing()
dot(small)
dot(large, 10_000, {n: 550 for n in range(5_000)})
limit_files(layout.PAGE)
fails(lambda: mine.take("id", 1, "b"), "File too large")
limit_files(layout.PAGE + 42)  # what a mail in hand has written
small.answered(250)
small.continuing()
small.free()
small = mine.take("i", 1, "b")
limit_files(layout.PAGE + layout.SLOT_SIZE + 42)
large.answered(250)
large.continuing()
say("continuing")
""",
}


@pytest.mark.parametrize("case", FULL)
def test_a_full_disk_shows_before_the_dot(folder: Path, child: Callable[..., Child], case: str) -> None:
    """A file size limit simulates it: new parts of the file cannot be written, existing parts can."""
    program = child(FULL[case] + "\nos._exit(0)")
    said = program.heard()
    assert program.end() == 0
    if said == "in hand":
        (entry,) = entries(folder)
        assert (entry.state, entry.dot) == (SlotState.IN_HAND, None)
    elif said == "continuing":
        first, second = entries(folder)
        assert (first.delivery_id, first.state) == ("i", SlotState.IN_HAND)
        assert (second.delivery_id, second.state, second.code) == ("large", SlotState.CONTINUING, 250)
        assert second.dot is not None
        assert len(second.dot.refused) == 5000


def test_a_disk_that_takes_nothing_is_reported_at_each_step(folder: Path) -> None:
    mine = Journal.open(folder, installation=OURS, owner="us", slots=2)
    slot = mine.take("id", 1, "b")
    descriptor = mine._file._descriptor
    kept, full = os.dup(descriptor), os.open("/dev/full", os.O_RDWR)
    try:
        os.dup2(full, descriptor, inheritable=False)
        for step in (
            slot.waiting,
            slot.continuing,
            slot.free,
            lambda: mine.take("other", 1, "b"),
            lambda: slot.dot(recipients=[0], refused={}, count=1, configuration="c", config_version="v"),
        ):
            with pytest.raises(Exception, match="No space left on device") as caught:
                step()
            assert caught.type.__name__ == "JournalUnavailable"
            assert caught.value.__suppress_context__
        assert slot.state is SlotState.IN_HAND
        os.dup2(kept, descriptor, inheritable=False)
        slot.waiting()
    finally:
        os.close(full)
        os.close(kept)
        mine.close()
    (entry,) = entries(folder)
    assert (entry.state, entry.phase) == (SlotState.IN_HAND, SlotPhase.WAITING)


def test_a_folder_that_is_read_only(child: Callable[..., Child]) -> None:
    """No file is created there. Existing files are read, and stay if they cannot be removed."""
    # Not below pytest's own folder, which an ordinary user may not enter.
    above = Path(tempfile.mkdtemp())
    try:
        above.chmod(0o711)
        program = Child(
            f"""
if os.geteuid() == 0:
    os.mkdir(folder, 0o700)
    os.chown(folder, {OTHER_USER}, -1)
    os.seteuid({OTHER_USER})
mine = journal()
slot = mine.take("id", 1, "b")
mine.close()
os.chmod(folder, 0o500)
fails(journal, "No journal can be created")
fails(lambda: Journal.open(folder / "below", installation=INSTALLATION, owner="us"), "cannot be created")
with abandoned(folder, installation=INSTALLATION) as found:
    (one,) = found
    assert [entry.delivery_id for entry in one.entries] == ["id"]
    fails(one.remove, "cannot be removed")
    with abandoned(folder, installation=INSTALLATION) as again:
        assert len(list(again)) == 1
os.chmod(folder, 0o000)
fails(lambda: abandoned(folder, installation=INSTALLATION).__enter__(), "cannot be opened")
os.chmod(folder, 0o300)
fails(lambda: abandoned(folder, installation=INSTALLATION).__enter__(), "cannot be opened")
os.chmod(folder, 0o700)
os.chmod(mine.path, 0o000)
with abandoned(folder, installation=INSTALLATION) as found:
    assert list(found) == []
""",
            above / "journals",
            stderr=subprocess.PIPE,
        )
        _, said = program.process.communicate(timeout=PATIENCE)
        assert program.process.returncode == 0, said
        assert "Permission denied; it is ignored" in said
    finally:
        shutil.rmtree(above)
