"""What processes have used, read from /proc: whole trees, with the children that have ended."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu(roots: Iterable[int]) -> float:
    """Seconds of CPU that these processes and their descendants, the ended ones too, have used so far."""
    ticks = 0
    for pid in {pid for root in roots for pid in tree(root)}:
        fields = _stat(pid)
        if fields is not None:
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / _TICKS


def memory(roots: Iterable[int]) -> int:
    """Octets that these processes and their descendants hold, what they share counted once (PSS)."""
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
    """The most that a process has ever had in memory, in octets (RSS)."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(found[1]) * 1024 if found else 0


def reset_peak(pid: int) -> int:
    """Have ``peak`` begin anew, and give what the process holds now, in octets."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak(pid)


def machine() -> dict[str, str]:
    """What this was measured on."""
    found = re.search(r"^model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text(), re.M)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "CPU": found[1] if found else "unknown",
        "cores": str(os.cpu_count()),
        "memory": f"{pages / 2**30:.0f} GiB",
        "kernel": os.uname().release,
    }


def load() -> str:
    """The load averages."""
    return " ".join(Path("/proc/loadavg").read_text().split()[:3])


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the name before it may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
