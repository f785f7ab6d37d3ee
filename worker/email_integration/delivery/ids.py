"""Ids of deliveries that nobody has given one: UUIDs of version 7, which begin with the time (RFC 9562 §5.7)."""

from __future__ import annotations

import secrets
import time
import uuid

_VERSION, _VARIANT = 7 << 76, 0b10 << 62
_RANDOM = ~(0xF << 76) & ~(0b11 << 62)


def new_id() -> str:
    """An id that nobody can guess, greater than those of earlier milliseconds.

    What was written lately lies together in the indexes. A random id would have another page of each of them read and
    written for each mail, and the more mails there were before, the fewer of these pages are in memory.
    """
    milliseconds = time.time_ns() // 1_000_000 & (1 << 48) - 1
    return str(uuid.UUID(int=milliseconds << 80 | secrets.randbits(80) & _RANDOM | _VERSION | _VARIANT))
