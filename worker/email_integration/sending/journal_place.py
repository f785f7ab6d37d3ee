"""The folder of the journals, and its problems: it cannot be used, or it is lost together with the worker."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from email_integration import conf

_MOUNTINFO = Path("/proc/self/mountinfo")

#: File systems in memory, and those of a container's writable layer: of Docker, rootless Podman, and older ones.
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_LAYERS = frozenset({"overlay", "overlayfs", "fuse.fuse-overlayfs", "aufs"})

#: The folders that systemd's PrivateTmp= replaces.
_REPLACED = frozenset({"/tmp", "/var/tmp"})  # noqa: S108  # compared, not written to


class Loss(StrEnum):
    """The reason why a folder is lost before its journals are useful."""

    IN_MEMORY = "is in memory (tmpfs): it is lost when the container or the machine stops"
    LAYER = "is in a container's own layer (overlay): it is lost together with the container"
    PRIVATE_TMP = (
        "is below the private /tmp of a systemd unit: it is lost when the unit stops, and other workers do not see it"
    )


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A problem of a folder, its consequence, and how to fix it."""

    text: str
    hint: str


def below_temporary(installation: str) -> Path:
    """Return the folder used without JOURNAL_DIR: that of this user and of the installation with this id."""
    return Path(tempfile.gettempdir()) / f"{_prefix()}{installation}"


def problems(*, in_worker: bool = False) -> list[Problem]:
    """Return the problems of the journals' folder, as this process sees them. It does not query the database.

    Without JOURNAL_DIR, a process that is not a worker checks only existing folders: if no worker has run, no folder is
    needed. With DEBUG, a folder that is lost together with the worker is accepted.
    """
    if find_spec("fcntl") is None:  # such a system keeps no journal
        return []
    try:
        given = conf.get("JOURNAL_DIR")
    except ImproperlyConfigured:  # reported by the checks
        return []
    if not isinstance(given, str | os.PathLike):
        return []  # also reported by the checks
    if given:
        folders = [Path(given).absolute()]
    else:
        folders = sorted(Path(tempfile.gettempdir()).glob(f"{_prefix()}*"))
        if in_worker:
            folders = folders or [below_temporary("…")]
    return [problem for folder in folders if (problem := _problem(folder)) is not None]


def lost_with(mountinfo: str, path: str) -> Loss | None:
    """Return why the folder ``path``, absolute and without links, is lost early; None when it lasts or this is unknown.

    ``mountinfo`` is the text of ``/proc/self/mountinfo``; see proc_pid_mountinfo(5).
    """
    found = max(_mounts(mountinfo, path), key=lambda mount: len(mount.point), default=None)
    if found is None:
        return None
    if found.point in _REPLACED and "systemd-private" in found.root:
        return Loss.PRIVATE_TMP
    if found.kind in _IN_MEMORY:
        return Loss.IN_MEMORY
    return Loss.LAYER if found.kind in _LAYERS else None


@dataclass(frozen=True, kw_only=True)
class _Mount:
    root: str
    point: str
    kind: str


def _mounts(mountinfo: str, path: str) -> Iterator[_Mount]:
    """Yield the mounts above ``path``, the last one first: it hides earlier ones at the same point."""
    for line in reversed(mountinfo.splitlines()):
        # The number of optional fields between the options and the hyphen varies.
        place, hyphen, file_system = line.partition(" - ")
        fields, (kind, *_) = place.split(" "), file_system.split(" ")
        if not hyphen or len(fields) < 5:
            continue
        point = _unescaped(fields[4])
        if path == point or path.startswith(point.rstrip("/") + "/"):
            yield _Mount(root=_unescaped(fields[3]), point=point, kind=kind)


def _unescaped(field: str) -> str:
    """Return a field with its octal escapes replaced by blanks, line ends and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)


def _prefix() -> str:
    return f"email_integration-{os.getuid() if hasattr(os, 'getuid') else 0}-"


def _problem(folder: Path) -> Problem | None:
    if why := _objection(folder):
        return Problem(
            text=f"No journal can be kept in {folder}: {why}.",
            hint="After a kill -9 of a worker process, some mails of each of its batches are in doubt, up to "
            f"IN_DOUBT_WINDOW ({conf.get('IN_DOUBT_WINDOW')}) a batch. The other mails wait until the batch's lease "
            "(LEASE) ends. Set EMAIL_INTEGRATION['JOURNAL_DIR'] to a folder that belongs to the user of the workers "
            "and has mode 0700. See docs/deployment.md.",
        )
    if not settings.DEBUG and (loss := _loss(folder)):
        return Problem(
            text=f"The journals' folder {folder} {loss}.",
            hint="If a worker process is killed and its journal is lost, all mails of each of its batches, up to a "
            "hundred a batch, are in doubt when the batch's lease (LEASE) ends. Set "
            "EMAIL_INTEGRATION['JOURNAL_DIR'] to a folder that is kept when the worker ends, such as a "
            "StateDirectory of systemd or a volume of its container. See docs/deployment.md.",
        )
    return None


def _objection(folder: Path) -> str | None:
    """Return why this process cannot keep a journal in that folder; None when it can."""
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        parent = _nearest(folder)
        return (
            None
            if os.access(parent, os.W_OK | os.X_OK)
            else f"it does not exist, and this process cannot write to {parent}"
        )
    except OSError as error:
        return f"it cannot be inspected ({error.strerror})"
    if not stat.S_ISDIR(found.st_mode):
        return "it is a link or a file, not a folder"
    from .journal.files import objection  # loaded by processes that send, and not with the app

    if why := objection(found):
        return f"it {why}"
    return None if os.access(folder, os.W_OK | os.X_OK) else "this process cannot write to it"


def _nearest(folder: Path) -> Path:
    """Return the nearest existing folder above a missing one."""
    return next(parent for parent in folder.parents if parent.exists())


def _loss(folder: Path) -> Loss | None:
    try:
        mountinfo = _MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux
        return None
    return lost_with(mountinfo, os.path.realpath(folder))
