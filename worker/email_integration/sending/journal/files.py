"""The files of journals: their folder, their locks, and the effect of a fork on both."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: The suffix of a journal's file name.
SUFFIX = ".journal"

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

#: Number of locks of one file. Each part of the file has a lock, so writes to different parts do not wait for each
#: other.
_LOCKS = 61
_PART = 4096


class JournalUnavailable(Exception):
    """No journal can be kept or read. ``why`` is a sentence for the log."""

    def __init__(self, why: str) -> None:
        super().__init__(why)


class JournalFile:
    """An open file of a journal. It is closed in each forked child; threads may share it.

    A lock by ``flock`` belongs to the open file description, which a forked child inherits. The child closes its copy
    immediately and does not unlock it: unlocking would also unlock the parent's file, and an open copy would hold the
    lock after the parent's death.
    """

    def __init__(self, folder: int, name: str, *, new: bool) -> None:
        """Open the file, or create a ``new`` one, in an open folder. Raises ``OSError``; links are refused."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        self.name = name
        self._using = _new_locks()
        with _forking:
            self._descriptor = os.open(name, flags | (os.O_CREAT | os.O_EXCL if new else 0), 0o600, dir_fd=folder)
            _open.add(self)

    @property
    def is_open(self) -> bool:
        """Whether this process has the file open. A forked child has not."""
        return self._descriptor >= 0

    def lock(self) -> bool:
        """Take the lock. Return False when another process has it. Never waits."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def stat(self) -> os.stat_result:
        """Return the status of the file."""
        return os.fstat(self._descriptor)

    def is_at_its_name(self, folder: int) -> bool:
        """Return whether this is still the file with its name. It may have been removed before its lock was taken."""
        try:
            named = os.stat(self.name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, self.stat())

    def resize(self, size: int) -> None:
        """Set the length to ``size`` octets. This allocates no blocks."""
        os.ftruncate(self._descriptor, size)

    def read(self, length: int, offset: int) -> bytes:
        """Return ``length`` octets from ``offset``, or fewer at the end of the file."""
        found = b""
        with self._using[offset // _PART % _LOCKS]:
            while more := os.pread(self._descriptor, length - len(found), offset + len(found)):
                found += more
        return found

    def write(self, octets: bytes, offset: int) -> None:
        """Write all octets at ``offset``. Raises ``OSError``, possibly after writing some of them."""
        # 'release' takes all of these locks. So no thread writes to a descriptor that another thread has just closed:
        # its number may belong to a socket by then. Also, no write continues after 'release'.
        with self._using[offset // _PART % _LOCKS]:
            written = os.pwrite(self._descriptor, octets, offset)
            while written < len(octets):  # a full disk shortened it; the next write shows why
                written += os.pwrite(self._descriptor, octets[written:], offset + written)

    def release(self) -> None:
        """Release the lock and close the file. A closed file stays closed."""
        with contextlib.ExitStack() as until_then:
            for lock in self._using:
                until_then.enter_context(lock)
            until_then.enter_context(_forking)
            descriptor, self._descriptor = self._descriptor, -1
            _open.discard(self)
            if descriptor >= 0:
                # Only the owner unlocks: a child that is being started without os.fork may have a copy.
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)

    def forget(self) -> None:
        """Close a forked child's copy without unlocking."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1
        self._using = _new_locks()  # a thread of the parent may hold an old lock


def _new_locks() -> list[threading.Lock]:
    return [threading.Lock() for _ in range(_LOCKS)]


#: The files that this process has open. Changed under ``_forking``.
_open: set[JournalFile] = set()
#: Prevents a fork between opening or closing a file and its registration. Reentrant, because a signal handler may fork.
_forking = threading.RLock()


def _close_in_child() -> None:
    for file in _open:
        file.forget()
    _open.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_close_in_child)


def can_lock() -> bool:
    """Return whether this system can lock files as the journal requires."""
    return fcntl is not None


def is_own(found: os.stat_result) -> bool:
    """Return whether this process has the file open. Opening and closing it again would release some kinds of locks."""
    with _forking:
        return any(os.path.samestat(found, file.stat()) for file in _open)


def objection(found: os.stat_result) -> str | None:
    """Return why a file or folder is not trusted; None when it is.

    It is trusted when it belongs to this user, and no other user can write to it.
    """
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return "is a link or a device"
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        return "has more than one name (hard links)"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}"
    if found.st_mode & _WRITABLE_BY_OTHERS:
        return f"can be written by other users (mode {stat.S_IMODE(found.st_mode):04o}, expected 0700 or 0600)"
    return None


@contextlib.contextmanager
def opened(folder: Path, *, make: bool) -> Iterator[int | None]:
    """Yield a descriptor of the folder, which must belong to this user alone; None when it is missing and not ``make``.

    The folders above it are not checked, because a container's volume often belongs to another user. Raises
    ``JournalUnavailable``.
    """
    if not can_lock():
        raise JournalUnavailable("This system has no fcntl, so files cannot be locked and no journal is kept.")
    if make and not os.path.lexists(folder):
        try:
            _make(folder)
        except OSError as error:
            raise unavailable(f"The journal's folder {folder} cannot be created", error) from None
    descriptor = None
    try:
        # The check before opening gives a clear message; the check after opening is of the folder that is used.
        _require(folder, os.lstat(folder))
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if make or not isinstance(error, FileNotFoundError):
            raise unavailable(f"The journal's folder {folder} cannot be opened", error) from None
    if descriptor is None:
        yield None
        return
    try:
        _require(folder, os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def unavailable(what: str, error: OSError) -> JournalUnavailable:
    """Return an exception that names the failed action and the system's reason."""
    return JournalUnavailable(f"{what}: {error.strerror or error}.")


def boot_id() -> str:
    """Return the id of this start of the machine; '' when the system has none, which proves nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _make(folder: Path) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        _make(folder.parent)
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.mkdir(folder, 0o700)


def _require(folder: Path, found: os.stat_result) -> None:
    why = objection(found) if stat.S_ISDIR(found.st_mode) else "is a link or a file, not a folder"
    if why:
        raise JournalUnavailable(f"The journal's folder {folder} {why}.")
