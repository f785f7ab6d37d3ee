"""The files in which the processes of one worker keep their metrics, and merging those of dead processes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

#: Replaces the process id in the name of the file for dead processes.
_GONE = "gone"


class Children(Collector):
    """The metrics of all processes that keep them in ``folder``.

    ``is_ours`` means that no other program uses the folder. Then the counts of dead processes are added up in one file
    for each kind, so that the number of files does not grow with each replaced process; their gauges are dropped.
    """

    def __init__(self, folder: Path, *, is_ours: bool) -> None:
        self._folder = folder
        self._is_ours = is_ours
        # If two requests come at once, one must not read while the other adds up.
        self._lock = threading.Lock()
        self._files = MultiProcessCollector(None, str(folder))

    def collect(self) -> Iterable[Metric]:
        """Return the current metrics."""
        with self._lock:
            if self._is_ours:
                self._bury()
            return list(self._files.collect())

    def _bury(self) -> None:
        for file in self._folder.glob("*.db"):
            kind, _, pid = file.stem.rpartition("_")
            if not pid.isdigit() or _lives(int(pid)):
                continue
            if kind in ("counter", "histogram"):
                _add(file, self._folder / f"{kind}_{_GONE}.db")
            file.unlink()


def _lives(pid: int) -> bool:
    if os.name == "nt":
        return True  # on Windows, signal 0 is Ctrl-C
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True


def _add(file: Path, total: Path) -> None:
    kept = MmapedDict(str(total))
    try:
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(file)):
            so_far, _ = kept.read_value(key)
            kept.write_value(key, so_far + value, timestamp)
    finally:
        kept.close()
