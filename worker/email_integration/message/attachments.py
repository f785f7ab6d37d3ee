"""Encode large attachments while they are stored or sent.

Django's rendering holds several copies of an attachment in memory at once, eight times its size in total. This module
renders a marker in place of the attachment. It then writes base64 (RFC 2045 §6.8) piece by piece at that position.
"""

from __future__ import annotations

import base64
import copy
import functools
import secrets
from collections.abc import Iterator
from typing import Any

from django.core.mail import EmailMessage, EmailMultiAlternatives

#: Attachments of at least this many octets are replaced by a marker.
LARGE = 256 * 1024

#: Octets of a marker. In base64 they are one line, as the standard library writes it, without '='.
_MARK = 54

#: Octets in a line of base64, and in a piece that is encoded at once.
_LINE = 57
_PIECE = _LINE * 4096

Octets = bytes | bytearray | memoryview


def hold_back(message: EmailMessage) -> tuple[EmailMessage, dict[bytes, Octets]]:
    """Return ``message`` with a marker in place of each large attachment, and the attachments by their markers."""
    held_back: dict[bytes, Octets] = {}
    if not _is_built_by_django(type(message)):  # type: ignore[arg-type]  # a class can be hashed
        return message, held_back
    kept: list[Any] = list(message.attachments)
    for place, attachment in enumerate(kept):
        if _is_large(attachment):
            name, octets, kind = attachment
            mark = secrets.token_bytes(_MARK)
            held_back[mark] = octets.cast("B") if isinstance(octets, memoryview) else octets
            kept[place] = (name, mark, kind)
    if not held_back:
        return message, held_back
    message = copy.copy(message)
    message.attachments = kept
    return message, held_back


def placed(content: bytes, held_back: dict[bytes, Octets]) -> tuple[bytes, tuple[tuple[int, Octets], ...]]:
    """Remove the markers of ``held_back`` from the rendered ``content``.

    Return the rest, and for each attachment its position in the rest, in octets, and its octets.
    """
    found = []
    for mark, octets in held_back.items():
        line = base64.b64encode(mark)
        at = content.index(line)
        content = content[:at] + content[at + len(line) :]
        found.append((at, octets))
    return content, tuple(found)


def encoded(octets: Octets) -> Iterator[bytes]:
    """Yield ``octets`` in base64 (RFC 2045 §6.8), in the standard library's lines, without the last line end."""
    view = memoryview(octets)
    for start in range(0, len(view), _PIECE):
        lines = base64.encodebytes(view[start : start + _PIECE]).replace(b"\n", b"\r\n")
        yield lines if start + _PIECE < len(view) else lines[:-2]


def encoded_size(octets: Octets) -> int:
    """Return the number of octets that ``encoded`` yields."""
    size = len(octets)
    return (size + 2) // 3 * 4 + 2 * ((size - 1) // _LINE)


@functools.cache
def _is_built_by_django(cls: type[EmailMessage]) -> bool:
    """Return whether a subclass leaves Django's message building unchanged.

    A subclass may sign the message it builds.
    """
    own = [one for one in cls.__mro__ if one not in EmailMultiAlternatives.__mro__]
    return not any(
        callable(vars(EmailMultiAlternatives).get(name, getattr(EmailMessage, name, None)))
        for one in own
        for name in vars(one)
        if not name.startswith("__")
    )


def _is_large(attachment: Any) -> bool:
    if not isinstance(attachment, tuple) or len(attachment) != 3 or not isinstance(attachment[2], str):
        return False
    _name, content, kind = attachment
    octets = isinstance(content, bytes | bytearray) or (isinstance(content, memoryview) and content.contiguous)
    # Attachments of other kinds are written as text or parsed.
    written_in_base64 = not kind.lower().startswith(("text/", "message/", "multipart/"))
    return octets and written_in_base64 and memoryview(content).nbytes >= LARGE
