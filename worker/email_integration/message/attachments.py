"""Large attachments, which are encoded while they are stored or sent.

Django's rendering has several copies of an attachment in memory at a time, eight times its size together. Here a mark
is rendered in its place, and base64 (RFC 2045 §6.8) is written a piece at a time where the mark was.
"""

from __future__ import annotations

import base64
import copy
import functools
import secrets
from collections.abc import Iterator
from typing import Any

from django.core.mail import EmailMessage, EmailMultiAlternatives

#: Octets of an attachment from which on it is held back.
LARGE = 256 * 1024

#: In base64 these are one line, as the standard library writes it, without '='.
_MARK = 54

#: Octets in a line of base64, and in a piece that is encoded at a time.
_LINE = 57
_PIECE = _LINE * 4096

Octets = bytes | bytearray | memoryview


def hold_back(message: EmailMessage) -> tuple[EmailMessage, dict[bytes, Octets]]:
    """Return ``message`` with a mark in the place of each large attachment, and these by their marks."""
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
    """Take the marks out of what was rendered; return the rest, and where in it each attachment belongs."""
    found = []
    for mark, octets in held_back.items():
        line = base64.b64encode(mark)
        at = content.index(line)
        content = content[:at] + content[at + len(line) :]
        found.append((at, octets))
    return content, tuple(found)


def encoded(octets: Octets) -> Iterator[bytes]:
    """``octets`` in base64, in lines as the standard library has them, without the last line's end."""
    view = memoryview(octets)
    for start in range(0, len(view), _PIECE):
        lines = base64.encodebytes(view[start : start + _PIECE]).replace(b"\n", b"\r\n")
        yield lines if start + _PIECE < len(view) else lines[:-2]


def encoded_size(octets: Octets) -> int:
    """Octets that ``encoded`` gives."""
    size = len(octets)
    return (size + 2) // 3 * 4 + 2 * ((size - 1) // _LINE)


@functools.cache
def _is_built_by_django(cls: type[EmailMessage]) -> bool:
    """Whether a subclass leaves all that builds a message as it is: one may sign what it builds."""
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
    # Those of other kinds are written as text, or taken apart.
    written_in_base64 = not kind.lower().startswith(("text/", "message/", "multipart/"))
    return octets and written_in_base64 and memoryview(content).nbytes >= LARGE
