"""A storage of contents that is full, missing or damaged for a while, and mails large enough to be stored in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from .cases import Case, Run
from .outages import POSTGRESQL, no_room
from .world import World

#: Octets. Contents larger than 256 KiB are stored in the storage.
_LARGE = 300_000


def _full(run: Run) -> None:
    """Fill the storage for some of the mails."""
    run.world.smtp.stop()  # submitted mail stays stored
    run.submit(5, size=_LARGE)
    run.promise(len(_files(run.world)) == 5, f"{len(_files(run.world))} of 5 mails are in the storage")
    with no_room(run.world):
        run.submit(20, size=_LARGE)
    run.promise(len(_files(run.world)) == 5, "the full storage contains new files")
    run.submit(5, size=_LARGE)
    run.promise(len(_files(run.world)) == 10, "the storage is not used again after it was full")
    run.promise(not run.refused, f"{run.refused} submissions were refused")
    run.world.smtp.start()
    run.wait(run.is_over, "all mails finished")
    run.wait(lambda: not _files(run.world), "all files deleted")


def _out_of_reach(
    away: Callable[[Path], contextlib.AbstractContextManager[None]], reason: str
) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        run.world.smtp.stop()
        run.submit(10, size=_LARGE)
        waiting = f"SELECT 1 FROM email_integration_delivery WHERE status = 'deferred' AND reason = '{reason}'"
        with away(run.world.payloads):
            run.world.smtp.start()
            run.wait(lambda: len(run.world.database.query(waiting)) == 10, "ten mails waiting for the storage")
            run.submit(5)
            run.wait(run.arrived(5), "mails without a file accepted")
        run.promise(run.arrived(5)() and not run.arrived(6)(), "a mail arrived without its content")

    return act


@contextlib.contextmanager
def _gone(folder: Path) -> Iterator[None]:
    aside = folder.rename(folder.with_name("aside"))
    yield
    aside.rename(folder)


@contextlib.contextmanager
def _spoiled(folder: Path) -> Iterator[None]:
    """Put a file in the place of the folder."""
    with _gone(folder):
        folder.touch()
        yield
        folder.unlink()


def _files(world: World) -> list[Path]:
    return [found for found in world.payloads.rglob("*") if found.is_file()]


CASES = [
    Case(group="storage", name=name, setting=POSTGRESQL, act=act, doubts=range(1), slow=slow)
    for name, act, slow in (
        ("full for a while", _full, False),
        ("removed for a while", _out_of_reach(_gone, "the file with the content is not in the storage"), False),
        ("corrupt for a while", _out_of_reach(_spoiled, "the storage with the content cannot be read"), True),
    )
]
