"""Where the journals lie, and what is wrong with that place: it takes no journal, or it ends with the worker."""

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

#: File systems in memory, and those of a container's own layer: of Docker, of Podman without root, and older ones.
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_LAYERS = frozenset({"overlay", "overlayfs", "fuse.fuse-overlayfs", "aufs"})

#: The folders that systemd's PrivateTmp= replaces.
_REPLACED = frozenset({"/tmp", "/var/tmp"})  # noqa: S108  # compared, not written to


class Loss(StrEnum):
    """Why a folder ends before the journals in it are of use."""

    IN_MEMORY = "is in memory (tmpfs), and ends with the container or with the machine"
    LAYER = "is in a container's own layer (overlay), and ends with the container"
    PRIVATE_TMP = "is below the private /tmp of a systemd unit: it ends with the unit, and other workers do not see it"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with a place, what that costs, and how to fix it."""

    text: str
    hint: str


def below_temporary(installation: str) -> Path:
    """Return the folder where JOURNAL_DIR names none: this user's, for the installation of this id."""
    return Path(tempfile.gettempdir()) / f"{_prefix()}{installation}"


def problems(*, in_worker: bool = False) -> list[Problem]:
    """Return what is wrong with the place of the journals, as this process sees it. Asks no database.

    Without JOURNAL_DIR, a process that is no worker looks only at folders that are there: where no worker has run, none
    is needed. With DEBUG, a place that ends with the worker is good enough.
    """
    if find_spec("fcntl") is None:  # no journal is kept on such a system
        return []
    try:
        given = conf.get("JOURNAL_DIR")
    except ImproperlyConfigured:  # said by the checks
        return []
    if not isinstance(given, str | os.PathLike):
        return []  # likewise
    if given:
        folders = [Path(given).absolute()]
    else:
        folders = sorted(Path(tempfile.gettempdir()).glob(f"{_prefix()}*"))
        if in_worker:
            folders = folders or [below_temporary("…")]
    return [problem for folder in folders if (problem := _problem(folder)) is not None]


def lost_with(mountinfo: str, path: str) -> Loss | None:
    """Return why the folder ``path``, absolute and without links, ends early; None when it lasts or nothing is known.

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
    """The mounts that ``path`` lies below, the last one first: it covers those before it at the same point."""
    for line in reversed(mountinfo.splitlines()):
        # Between the options and the hyphen there are any number of optional fields.
        place, hyphen, file_system = line.partition(" - ")
        fields, (kind, *_) = place.split(" "), file_system.split(" ")
        if not hyphen or len(fields) < 5:
            continue
        point = _unescaped(fields[4])
        if path == point or path.startswith(point.rstrip("/") + "/"):
            yield _Mount(root=_unescaped(fields[3]), point=point, kind=kind)


def _unescaped(field: str) -> str:
    """A field as it was before blanks, line ends and backslashes became octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)


def _prefix() -> str:
    return f"email_integration-{os.getuid() if hasattr(os, 'getuid') else 0}-"


def _problem(folder: Path) -> Problem | None:
    if why := _objection(folder):
        return Problem(
            text=f"No journal can be kept in {folder}: {why}.",
            hint=f"After a kill -9, up to IN_DOUBT_WINDOW ({conf.get('IN_DOUBT_WINDOW')}) mails of each batch that a "
            "worker process had in hand are in doubt, and the others wait for the end of its lease (LEASE). Name a "
            "folder in EMAIL_INTEGRATION['JOURNAL_DIR'] that belongs to the user of the workers, with mode 0700. "
            "See docs/deployment.md.",
        )
    if not settings.DEBUG and (loss := _loss(folder)):
        return Problem(
            text=f"The folder of the journals, {folder}, {loss}.",
            hint="If a worker process is killed and its journal is gone, all mails of each batch that it had in hand, "
            "up to a hundred, are in doubt at the end of its lease (LEASE). Name a folder in "
            "EMAIL_INTEGRATION['JOURNAL_DIR'] that outlives the worker, such as a StateDirectory of systemd or a "
            "volume of its container. See docs/deployment.md.",
        )
    return None


def _objection(folder: Path) -> str | None:
    """Why this process keeps no journal there."""
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        parent = _nearest(folder)
        return None if os.access(parent, os.W_OK | os.X_OK) else f"it is missing, and {parent} cannot be written to"
    except OSError as error:
        return f"it cannot be looked at ({error.strerror})"
    if not stat.S_ISDIR(found.st_mode):
        return "it is a link or a file, not a folder"
    from .journal.files import objection  # it is loaded by what sends, and not with the app

    if why := objection(found):
        return f"it {why}"
    return None if os.access(folder, os.W_OK | os.X_OK) else "it cannot be written to"


def _nearest(folder: Path) -> Path:
    """The folder that is there, of those above a missing one."""
    return next(parent for parent in folder.parents if parent.exists())


def _loss(folder: Path) -> Loss | None:
    try:
        mountinfo = _MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux
        return None
    return lost_with(mountinfo, os.path.realpath(folder))
