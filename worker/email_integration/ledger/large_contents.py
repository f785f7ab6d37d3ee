"""Write large contents into a row in pieces, because drivers and databases copy the values of a statement.

The row is inserted without its content, which is then written into it, all in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db.models import QuerySet
from django.db.models.expressions import RawSQL

from email_integration.models import Delivery

#: Contents above this number of octets are written in pieces; and the octets of a piece.
LARGE = 16 * 1024 * 1024
_PIECE = 4 * 1024 * 1024


def is_written_in_pieces(connection: Any, content: bytes | memoryview) -> bool:
    """Return whether ``content`` is large, and the database of ``connection`` accepts pieces."""
    return len(content) > LARGE and connection.vendor in _WRITERS


def write(connection: Any, pk: str, content: bytes | memoryview) -> None:
    """Write ``content`` into the row with this key, in the current transaction. Raises ``DatabaseError``."""
    _WRITERS[connection.vendor](connection, pk, content)


def _write_to_postgresql(connection: Any, pk: str, content: bytes | memoryview) -> None:
    """Write a large object (PostgreSQL's documentation, 33.4), which the statement for the row then reads."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT lo_create(0)")
        oid = cursor.fetchone()[0]
        for start, piece in _pieces(content):
            cursor.execute("SELECT lo_put(%s::oid, %s::bigint, %s::bytea)", [oid, start, piece])
        _row(connection, pk).update(content=RawSQL("lo_get(%s::oid)", [oid]))
        cursor.execute("SELECT lo_unlink(%s::oid)", [oid])


def _write_to_sqlite(connection: Any, pk: str, content: bytes | memoryview) -> None:
    """Write into space that zeroblob() reserves. In the last column of a row it takes no memory."""
    row = _row(connection, pk)
    row.update(content=RawSQL("zeroblob(%s)", [len(content)]))
    number = row.values_list(RawSQL("rowid", []), flat=True).get()
    blob = connection.connection.blobopen(Delivery._meta.db_table, "content", number)
    with connection.wrap_database_errors, blob:
        for _start, piece in _pieces(content):
            blob.write(piece)


def _row(connection: Any, pk: str) -> QuerySet[Delivery]:
    return Delivery.objects.using(connection.alias).filter(pk=pk)


def _pieces(content: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces of ``content``, each with its position in octets."""
    view = memoryview(content)
    for start in range(0, len(view), _PIECE):
        yield start, bytes(view[start : start + _PIECE])


_WRITERS = {"postgresql": _write_to_postgresql, "sqlite": _write_to_sqlite}
