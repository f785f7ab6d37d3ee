"""Read the journals of dead processes."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from .files import SUFFIX, JournalFile, boot_id, can_lock, is_own, objection, opened, unavailable
from .layout import PAGE, JournalEntry, JournalHeader, decode_header, decode_slot, used, was_never_written

logger = logging.getLogger(__name__)

#: Seconds after which a file without a header is garbage: its process died while creating it.
_RUBBISH_AFTER = 60.0

#: The files about which this process has logged a warning. Each is logged once.
_warned: set[str] = set()


class AbandonedJournal:
    """The journal of a dead process, locked by this one.

    ``entries`` are its slots in use. ``owner`` and ``pid`` are those of the dead process. ``boot_is_ours`` is true when
    the machine has not restarted since. Only then are the entries complete: after a power failure some may be missing.
    """

    def __init__(
        self, file: JournalFile, folder: int, path: Path, header: JournalHeader, entries: list[JournalEntry]
    ) -> None:
        self.path = path
        self.owner = header.owner
        self.pid = header.pid
        self.boot_is_ours = bool(header.boot_id) and header.boot_id == boot_id()
        self.entries = entries
        self._file = file
        self._folder = folder

    def remove(self) -> None:
        """Unlink the file and release it. Call this after the commit of all work that its entries require.

        Raises ``JournalUnavailable`` when the file cannot be unlinked; then it stays, and its lock is released. Raises
        ``RuntimeError`` when it was released before, because another process may hold it by now.
        """
        if not self._file.is_open:
            raise RuntimeError(f"The journal {self.path} is already released.")
        try:
            os.unlink(self._file.name, dir_fd=self._folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise unavailable(f"The journal {self.path} cannot be removed", error) from None
        finally:
            self._file.release()

    def release(self) -> None:
        """Release the lock and keep the file for the next search. Does nothing when it was released before."""
        self._file.release()


@contextlib.contextmanager
def abandoned(folder: Path, *, installation: str) -> Iterator[Iterator[AbandonedJournal]]:
    """Yield an iterator over the journals in ``folder`` whose processes are dead. Each one is locked.

    It never waits for a lock. Journals of this process, of other installations and of unknown formats are skipped. The
    end of the block releases all journals that were neither removed nor released. If the folder is missing, or the
    system has no locks, there are no journals. A file that cannot be read is skipped, with one warning in the log.
    Raises ``JournalUnavailable`` when the folder cannot be used.
    """
    if not can_lock():
        yield iter(())
        return
    with contextlib.ExitStack() as stack:
        folder = Path(folder).absolute()
        descriptor = stack.enter_context(opened(folder, make=False))
        if descriptor is None:
            yield iter(())
            return
        found = _found(descriptor, folder, installation, stack)
        stack.callback(found.close)
        yield found


def _found(
    descriptor: int, folder: Path, installation: str, stack: contextlib.ExitStack
) -> Generator[AbandonedJournal, None, None]:
    try:
        names = sorted(name for name in os.listdir(descriptor) if name.endswith(SUFFIX))
    except OSError as error:
        raise unavailable(f"The journal's folder {folder} cannot be read", error) from None
    for name in names:
        try:
            journal = _taken(descriptor, folder, name, installation)
        except FileNotFoundError:
            continue  # another process was faster
        except OSError as error:
            _warn(folder / name, f"cannot be read: {error.strerror or error}")
            continue
        if journal is not None:
            stack.callback(journal.release)
            yield journal


def _taken(descriptor: int, folder: Path, name: str, installation: str) -> AbandonedJournal | None:
    """Return the locked journal if it is of this installation and its process is dead. Raises ``OSError``."""
    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    if why := objection(status) or ("is a folder" if stat.S_ISDIR(status.st_mode) else None):
        _warn(folder / name, why)
        return None
    # A new file without a header is being created. Locking it, even for a moment, would disturb its process.
    if is_own(status) or (status.st_size < PAGE and not _is_old(status)):
        return None
    file = JournalFile(descriptor, name, new=False)
    try:
        journal = _checked(file, descriptor, folder / name, installation)
    except BaseException:
        file.release()
        raise
    if journal is None:
        file.release()
    return journal


def _checked(file: JournalFile, descriptor: int, path: Path, installation: str) -> AbandonedJournal | None:
    page = file.read(PAGE, 0)
    if was_never_written(page):
        # Checked again under the lock: its process may have been slow, not dead.
        if _is_old(file.stat()) and _lock(file, descriptor) and was_never_written(file.read(PAGE, 0)):
            os.unlink(file.name, dir_fd=descriptor)
        return None
    header = decode_header(page)
    if header is None or header.installation != installation or not _lock(file, descriptor):
        return None
    return AbandonedJournal(file, descriptor, path, header, list(_entries(file, header)))


def _lock(file: JournalFile, descriptor: int) -> bool:
    # Another process may have locked and unlinked it after the folder was listed; then this file has no name any more.
    return file.lock() and file.is_at_its_name(descriptor)


def _entries(file: JournalFile, header: JournalHeader) -> Iterator[JournalEntry]:
    for slot in range(header.slots):
        offset = header.offset(slot)
        octets = file.read(PAGE, offset)
        in_use = used(octets, header.slot_size)
        entry = decode_slot(slot, octets if in_use <= PAGE else file.read(in_use, offset))
        if entry is not None:
            yield entry


def _is_old(found: os.stat_result) -> bool:
    return time.time() - found.st_mtime > _RUBBISH_AFTER


def _warn(path: Path, why: str) -> None:
    if str(path) not in _warned:
        _warned.add(str(path))
        logger.warning("The journal %s %s; it is ignored.", path, why)
