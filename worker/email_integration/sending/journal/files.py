"""The files of journals: their folder, their locks, and what a fork does to both."""

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

#: How the name of a journal ends.
SUFFIX = ".journal"

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

#: Locks of one file, of which each part has one: what writes to different parts does not wait for each other.
_LOCKS = 61
_PART = 4096


class JournalUnavailable(Exception):
    """No journal can be kept or read; ``why`` is a sentence for the log."""

    def __init__(self, why: str) -> None:
        super().__init__(why)


class JournalFile:
    """An open file of a journal, closed in each child that is forked; threads may share it.

    A lock by ``flock`` belongs to the open file description, which a forked child inherits. The child closes its copy
    at once and does not unlock: an unlocking would be for the parent too, and a copy left open would hold the lock
    after the parent's death.
    """

    def __init__(self, folder: int, name: str, *, new: bool) -> None:
        """Open the file, or make a ``new`` one, in an open folder. Raises ``OSError``; links are refused."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        self.name = name
        self._using = _new_locks()
        with _forking:
            self._descriptor = os.open(name, flags | (os.O_CREAT | os.O_EXCL if new else 0), 0o600, dir_fd=folder)
            _open.add(self)

    @property
    def is_open(self) -> bool:
        """Whether this process has it open; a forked child has not."""
        return self._descriptor >= 0

    def lock(self) -> bool:
        """Take the lock; False when another has it. Never waits."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def stat(self) -> os.stat_result:
        """Return what the system says of the file."""
        return os.fstat(self._descriptor)

    def is_at_its_name(self, folder: int) -> bool:
        """Whether it is still the file of this name: it may have been removed before its lock was taken."""
        try:
            named = os.stat(self.name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, self.stat())

    def resize(self, size: int) -> None:
        """Make it ``size`` octets long; nothing is allocated."""
        os.ftruncate(self._descriptor, size)

    def read(self, length: int, offset: int) -> bytes:
        """Return octets from ``offset``, fewer than ``length`` at the end of the file."""
        found = b""
        with self._using[offset // _PART % _LOCKS]:
            while more := os.pread(self._descriptor, length - len(found), offset + len(found)):
                found += more
        return found

    def write(self, octets: bytes, offset: int) -> None:
        """Write all octets. Raises ``OSError``; some may be written then."""
        # Under a lock, all of which 'release' takes, so that no thread writes to a descriptor which another has just
        # closed: its number may belong to a socket by then. It also makes 'release' the end of all writing.
        with self._using[offset // _PART % _LOCKS]:
            written = os.pwrite(self._descriptor, octets, offset)
            while written < len(octets):  # cut off, by a full disk: writing on tells why
                written += os.pwrite(self._descriptor, octets[written:], offset + written)

    def release(self) -> None:
        """Give up the lock and close the file; nothing where it is closed already."""
        with contextlib.ExitStack() as until_then:
            for lock in self._using:
                until_then.enter_context(lock)
            until_then.enter_context(_forking)
            descriptor, self._descriptor = self._descriptor, -1
            _open.discard(self)
            if descriptor >= 0:
                # Only by its owner: a child that is just being started by another way than os.fork may have a copy.
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)

    def forget(self) -> None:
        """Close a child's copy, without unlocking."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1
        self._using = _new_locks()  # another thread of the parent may have had one of the old ones


def _new_locks() -> list[threading.Lock]:
    return [threading.Lock() for _ in range(_LOCKS)]


#: The files that this process has open, changed under ``_forking``.
_open: set[JournalFile] = set()
#: No fork comes between opening a file, or closing it, and its registration. A signal's handler may fork: reentrant.
_forking = threading.RLock()


def _close_in_child() -> None:
    for file in _open:
        file.forget()
    _open.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_close_in_child)


def can_lock() -> bool:
    """Whether this system can lock files as the journal needs it."""
    return fcntl is not None


def is_own(found: os.stat_result) -> bool:
    """Whether this process has the file open: opening and closing it once more would free some kinds of locks."""
    with _forking:
        return any(os.path.samestat(found, file.stat()) for file in _open)


def objection(found: os.stat_result) -> str | None:
    """Return why a file or folder is not to be trusted, None when it is: it belongs to this user, and to no other."""
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return "is a link or a device"
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        return "is a link: it has another name"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}"
    if found.st_mode & _WRITABLE_BY_OTHERS:
        return f"can be written by other users (mode {stat.S_IMODE(found.st_mode):04o}, expected 0700 or 0600)"
    return None


@contextlib.contextmanager
def opened(folder: Path, *, make: bool) -> Iterator[int | None]:
    """Open the folder, of which this user alone is the owner; None when it is missing, and not to be made.

    The folders above it are not looked at: a container's volume often belongs to another user.
    Raises ``JournalUnavailable``.
    """
    if not can_lock():
        raise JournalUnavailable("This system has no fcntl, so files cannot be locked and no journal is kept.")
    if make and not os.path.lexists(folder):
        try:
            _make(folder)
        except OSError as error:
            raise unavailable(f"The journal's folder {folder} cannot be made", error) from None
    descriptor = None
    try:
        # Before it is opened, to say it in words; after it is opened it is the very folder that is used.
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
    """Return the exception that says what cannot be done and the system's reason."""
    return JournalUnavailable(f"{what}: {error.strerror or error}.")


def boot_id() -> str:
    """Return what tells one start of this machine from another; '' where it is not told, which proves nothing."""
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
