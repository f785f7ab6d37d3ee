"""A journal folder that cannot be written, unreadable journals, and workers that share a folder, or have none."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from email_integration.conf import DEFAULTS
from email_integration.sending.journal.layout import PAGE, SLOT_SIZE

from .cases import Case, Run
from .crash import Victim
from .crashes import die_at
from .world import TIMES, Setting

_DATABASES = ("sqlite", "postgresql", "mariadb")

#: One session in one process, so that one mail is at its dot at a time.
_ONE = (("SESSIONS", "1"),)
_WATCHED = Setting(watched=True, concurrency=1, extra=_ONE)

#: How many mails may be in doubt for a process without a journal.
_WINDOW = DEFAULTS["IN_DOUBT_WINDOW"]

#: Mails of a batch.
_MAILS = 12

# -- folders ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount a file system in memory there."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(("mode=0700", *options)), "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # a worker has files open there


def _full(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Leave space for the header of a journal, and for no mail."""
    return _mounted(folder, "size=4k")


def _nearly_full(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Leave space for the header of a journal, and for some mails."""
    return _mounted(folder, "size=16k")


def _read_only(folder: Path) -> contextlib.AbstractContextManager[None]:
    return _mounted(folder, "ro")


@contextlib.contextmanager
def _of_another_user(folder: Path) -> Iterator[None]:
    before = folder.stat()
    os.chown(folder, 12345, 12345)
    try:
        yield
    finally:
        os.chown(folder, before.st_uid, before.st_gid)


def _kept_from(away: Callable[[Path], contextlib.AbstractContextManager[None]], point: str) -> Callable[[Run], None]:
    """Return an action that prevents journals in the folder, and kills a process at ``point``."""

    def act(run: Run) -> None:
        run.submit(2)  # then its journal exists
        run.wait(run.is_over, "the first mails finished")
        with away(run.world.journals):
            die_at(run, point, "child")
            run.drain()

    return act


# -- files ------------------------------------------------------------------------------------------------------------


def _truncate(file: Path) -> None:
    """Keep the header, and a part of the first slot."""
    os.truncate(file, PAGE + 20)


def _truncate_all(file: Path) -> None:
    os.truncate(file, 0)


def _spoil(file: Path) -> None:
    """Overwrite the slots with other data."""
    with file.open("r+b") as journal:
        for slot in range(3):
            journal.seek(PAGE + slot * SLOT_SIZE + 10)
            journal.write(b"spoiled")


def _of_another_version(file: Path) -> None:
    with file.open("r+b") as journal:
        journal.seek(8)
        journal.write(struct.pack("<H", 99))


def _remove(file: Path) -> None:
    file.unlink()


def _harmed(harm: Callable[[Path], None], point: str) -> Callable[[Run], None]:
    """Return an action that damages the journal of a stopped process, and kills the process."""

    def act(run: Run) -> None:
        die_at(run, point, "stopped")
        victim = run.world.plan.victim
        harm(_journal_of(run, victim))
        os.kill(victim, signal.SIGKILL)

    return act


def _journal_of(run: Run, pid: int) -> Path:
    (found,) = run.world.journals.glob(f"{pid}-*.journal")
    return found


# -- processes --------------------------------------------------------------------------------------------------------


def _paused(point: str) -> Callable[[Run], None]:
    """Return an action that stops a process until its batch was taken over, and then continues it.

    It stops at its first mail, where it is in no transaction whose locks could block others.
    """

    def act(run: Run) -> None:
        die_at(run, point, "stopped", nth=1)
        victim = run.world.plan.victim
        try:
            run.wait(run.is_over, "all mails finished without the stopped process")
        finally:
            os.kill(victim, signal.SIGCONT)
        # The process must change nothing now. Its finished task shows that it has continued.
        before = run.world.smtp.total
        run.submit(10)
        run.wait(run.is_over, "the further mails finished")
        run.remark(f"{run.world.smtp.total - before - 10} more copies after the stopped process continued")

    return act


def _killed(point: str, victim: Victim) -> Callable[[Run], None]:
    """Return an action that kills, and reports the seconds until all mails were finished."""

    def act(run: Run) -> None:
        die_at(run, point, victim)
        killed = time.monotonic()
        run.wait(lambda: run.open_rows(start_missing=False) == 0, "all mails finished by the other worker")
        run.remark(f"all mails settled {time.monotonic() - killed:.1f} s after the kill")

    return act


def _away_while_recovering(point: str) -> Callable[[Run], None]:
    """Return an action that kills a process, and stops the database before another process can recover its mail."""

    def act(run: Run) -> None:
        die_at(run, point, "stopped", nth=1)  # in no transaction
        with run.world.database.away():
            os.kill(run.world.plan.victim, signal.SIGKILL)
            time.sleep(float(TIMES["LEASE"]))
        killed = time.monotonic()
        run.wait(run.is_over, "all mails finished")
        run.remark(f"all mails settled {time.monotonic() - killed:.1f} s after the database was back")

    return act


def _many(run: Run) -> None:
    run.world.smtp.slow = 0.05
    run.submit(100, followed=True)
    run.world.smtp.slow = 0.0


# -- cases ------------------------------------------------------------------------------------------------------------


def _on(setting: Setting, database: str) -> Setting:
    return dataclasses.replace(setting, database=database)


def _of(
    group: str, setting: Setting, cases: list[tuple[str, Callable[[Run], None], range]], *, twice: int = 1
) -> list[Case]:
    return [
        Case(
            group=group,
            name=name,
            setting=_on(setting, database),
            act=act,
            doubts=doubts,
            may_follow_twice=twice,
            slow=database != "sqlite" or group in ("journal", "pause"),
        )
        for database in _DATABASES
        for name, act, doubts in cases
    ]


_FOLDERS = {"full": _full, "nearly full": _nearly_full, "read-only": _read_only, "another user's": _of_another_user}

#: How many mails are in doubt after a kill, if the reply was not written or only to a damaged journal.
_FILES = {
    "truncated": (_truncate, range(1, _MAILS + 1)),
    "empty": (_truncate_all, range(1, _MAILS + 1)),
    "corrupt": (_spoil, range(1, _MAILS + 1)),
    "of another version": (_of_another_version, range(1, _MAILS + 1)),
    "removed": (_remove, range(1, _MAILS + 1)),
}

#: Two containers of one machine, and two hosts.
_CONTAINERS = dataclasses.replace(_WATCHED, workers=2, hosts="share")
_APART = Setting(watched=True, workers=2, hosts="apart", ahead=600)

CASES = [
    *_of(
        "journal",
        dataclasses.replace(_WATCHED, root=True),
        [
            (f"folder {name}, child killed at '{point}'", _kept_from(away, point), range(1, _WINDOW + 1))
            for name, away in _FOLDERS.items()
            for point in ("answered", "answer noted")
        ],
    ),
    *_of(
        "journal",
        _WATCHED,
        [
            (f"journal {name}, child killed at 'answered'", _harmed(harm, "answered"), doubts)
            for name, (harm, doubts) in _FILES.items()
        ],
    ),
    *_of(
        "containers",
        _CONTAINERS,
        [
            ("one of two killed at 'before the dot'", _killed("before the dot", "worker"), range(1)),
            ("one of two killed at 'dot noted'", _killed("dot noted", "worker"), range(1, 2)),
            ("one of two killed at 'answer noted'", _killed("answer noted", "worker"), range(1)),
            ("one of two killed at 'recorded'", _killed("recorded", "worker"), range(1)),
        ],
    ),
    *_of(
        "pause",
        Setting(watched=True, extra=_ONE),
        [
            (f"stopped past the lease at '{point}'", _paused(point), range(1, _MAILS + 1))
            for point in ("before MAIL", "before the dot", "dot noted", "answered", "answer noted", "before the record")
        ]
        + [("stopped past the lease at 'recorded'", _paused("recorded"), range(_MAILS + 1))],
        twice=_MAILS,
    ),
    *_of(
        "recovery",
        _WATCHED,
        [
            ("database away, child killed at 'dot noted'", _away_while_recovering("dot noted"), range(1, 2)),
            ("database away, child killed at 'answer noted'", _away_while_recovering("answer noted"), range(1)),
        ],
    ),
    *(
        case
        for case in _of(
            "clock",
            _APART,
            [
                ("clocks of hosts ten minutes apart", _many, range(1)),
                (
                    "clocks of hosts ten minutes apart, one killed at 'answered'",
                    _killed("answered", "worker"),
                    range(1, _MAILS + 1),
                ),
                (
                    "clocks of hosts ten minutes apart, one killed at 'recorded'",
                    _killed("recorded", "worker"),
                    range(_MAILS + 1),
                ),
            ],
            twice=2,
        )
        if case.setting.database != "sqlite"
    ),
]
