"""Pack values in PostgreSQL's binary format, so neither side has to write or parse text.

Each type has its own format (``typsend`` and ``typreceive`` in ``pg_type``). PostgreSQL's documentation of COPY
describes the format of rows ('Binary Format').
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

#: Converts a value to octets; None is NULL.
Packer = Callable[[Any], bytes | None]

_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)

_length = struct.Struct("!i").pack
_int2, _int4, _int8 = (struct.Struct(form).pack for form in ("!h", "!i", "!q"))

_NULL = _length(-1)
_BEGIN = b"PGCOPY\n\xff\r\n\0" + _int4(0) + _int4(0)
_END = _int2(-1)

#: Octets of a block. psycopg also sends blocks of this size; larger ones take it longer.
_BLOCK = 32 * 1024


def packer(field: Any) -> Packer:
    """Return a function that packs the values of a field of ``Delivery``. Datetimes are aware, as with USE_TZ."""
    kind = field.get_internal_type()
    if kind == "JSONField":
        return lambda value: b"\1" + json.dumps(value, cls=field.encoder).encode()
    pack = functools.partial(_moment, field) if kind == "DateTimeField" else _OF_KIND[kind]
    return (lambda value: None if value is None else pack(value)) if field.null else pack


def _octets(value: bytes) -> bytes:
    return value


def _moment(field: Any, value: dt.datetime) -> bytes:
    if value.tzinfo is None:
        value = field.get_prep_value(value)  # warns
    return _int8((value - _EPOCH) // _MICROSECOND)


_OF_KIND: dict[str, Packer] = {
    "CharField": str.encode,
    "TextField": str.encode,
    "BinaryField": _octets,
    "BooleanField": lambda value: b"\1" if value else b"\0",
    "PositiveSmallIntegerField": _int2,
    "PositiveIntegerField": _int4,
    "PositiveBigIntegerField": _int8,
}


def blocks(rows: Iterable[Sequence[bytes | None]], alike: Sequence[bytes | None]) -> Iterator[bytes]:
    """Yield blocks for ``COPY … (FORMAT BINARY)``: packed rows, each followed by the values ``alike``."""
    end = b"".join(_fields(alike))
    block, size = [_BEGIN], 0
    for row in rows:
        packed = b"".join((_int2(len(row) + len(alike)), *_fields(row), end))
        block.append(packed)
        size += len(packed)
        if size >= _BLOCK:
            yield b"".join(block)
            block, size = [], 0
    yield b"".join((*block, _END))


def _fields(values: Sequence[bytes | None]) -> list[bytes]:
    found = []
    for value in values:
        if value is None:
            found.append(_NULL)
        else:
            found += (_length(len(value)), value)
    return found
