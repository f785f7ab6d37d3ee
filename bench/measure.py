"""The resources that processes have used, read from /proc: whole trees, with ended children."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """Return the ids of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu(roots: Iterable[int]) -> float:
    """Return the CPU seconds that these processes and all their descendants, even ended ones, have used so far."""
    ticks = 0
    for pid in {pid for root in roots for pid in tree(root)}:
        fields = _stat(pid)
        if fields is not None:
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / _TICKS


def memory(roots: Iterable[int]) -> int:
    """Return the octets of memory of these processes and their descendants; shared memory counts once (PSS)."""
    total = 0
    for pid in {pid for root in roots for pid in tree(root)}:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        if found := re.search(r"^Pss:\s+(\d+) kB", text, re.M):
            total += int(found[1]) * 1024
    return total


def peak(pid: int) -> int:
    """Return the largest memory of a process so far, in octets (RSS)."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(found[1]) * 1024 if found else 0


def reset_peak(pid: int) -> int:
    """Reset ``peak``, and return the current memory of the process, in octets."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak(pid)


def machine() -> dict[str, str]:
    """Return the description of the machine."""
    found = re.search(r"^model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text(), re.M)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "CPU": found[1] if found else "unknown",
        "cores": str(os.cpu_count()),
        "memory": f"{pages / 2**30:.0f} GiB",
        "kernel": os.uname().release,
    }


def load() -> str:
    """Return the load averages."""
    return " ".join(Path("/proc/loadavg").read_text().split()[:3])


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on. The name before them may contain any character."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
