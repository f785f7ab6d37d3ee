"""libfaketime, which fakes the clock of processes. A Debian package, see ``tests/debian-packages.txt``."""

from __future__ import annotations

import os
from pathlib import Path

#: Debian's folder of libraries, with a folder for each architecture.
LIBRARIES = Path("/usr/lib")


def library() -> Path | None:
    """Return the path of the library, or None if it is not installed."""
    return next(iter(sorted(LIBRARIES.glob("*/faketime/libfaketime.so.1"))), None)


def environment(clock: Path) -> dict[str, str]:
    """Return the environment of processes whose clock follows the file ``clock``. Raises ``FileNotFoundError``."""
    found = library()
    if found is None:
        raise FileNotFoundError("libfaketime is not installed")
    path = os.environ.get("PYTHONPATH")
    return {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).with_name("clock_site")), *([path] if path else [])]),
        "LD_PRELOAD": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
