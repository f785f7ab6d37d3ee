"""Large contents on their way into PostgreSQL, in pieces: libpq copies whatever a statement has for a value.

They are a large object (PostgreSQL's documentation, 33.4) until the statement that inserts the row has read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Octets from which on a value is sent in pieces, and of a piece.
LARGE = 16 * 1024 * 1024
_PIECE = 4 * 1024 * 1024


@dataclass(frozen=True)
class LargeObject:
    """What stands for the value in a statement: ``lo_get`` of the ``oid``."""

    oid: int


def upload(cursor: Any, octets: bytes | memoryview) -> LargeObject:
    """Send ``octets`` in the current transaction, which must not end before ``remove``."""
    cursor.execute("SELECT lo_create(0)")
    oid = cursor.fetchone()[0]
    view = memoryview(octets)
    for start in range(0, len(view), _PIECE):
        piece = bytes(view[start : start + _PIECE])
        cursor.execute("SELECT lo_put(%s::oid, %s::bigint, %s::bytea)", [oid, start, piece])
    return LargeObject(oid)


def remove(cursor: Any, value: LargeObject) -> None:
    """Delete the large object: the row has its octets."""
    cursor.execute("SELECT lo_unlink(%s::oid)", [value.oid])
