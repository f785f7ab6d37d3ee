"""libfaketime, which gives processes a clock of their own. A Debian package, see ``tests/debian-packages.txt``."""

from __future__ import annotations

import os
from pathlib import Path

#: Where Debian puts libraries, each architecture in a folder of its own.
LIBRARIES = Path("/usr/lib")


def library() -> Path | None:
    """The library, if it is installed."""
    return next(iter(sorted(LIBRARIES.glob("*/faketime/libfaketime.so.1"))), None)


def environment(clock: Path) -> dict[str, str]:
    """What processes must have in theirs to go by the file ``clock``. Raises ``FileNotFoundError``."""
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
