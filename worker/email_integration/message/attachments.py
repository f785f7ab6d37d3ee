"""Large attachments, which are encoded while they are stored or sent.

Django's rendering has several copies of an attachment in memory at a time, eight times its size together. Here a mark
is rendered in its place, and base64 (RFC 2045 §6.8) is written a piece at a time where the mark was.
"""

from __future__ import annotations

import base64
import copy
import secrets
from collections.abc import Iterator

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
    """Return ``message`` with a mark in the place of each large attachment, and these by their marks.

    That of a subclass is left alone: it may sign what it renders.
    """
    held_back: dict[bytes, Octets] = {}
    if type(message) not in (EmailMessage, EmailMultiAlternatives):
        return message, held_back
    kept: list[object] = []
    for attachment in message.attachments:
        if isinstance(attachment, tuple) and len(attachment) == 3:
            name, octets, kind = attachment
            if isinstance(octets, Octets) and len(octets) >= LARGE and _is_base64(kind):
                mark = secrets.token_bytes(_MARK)
                held_back[mark] = octets if not isinstance(octets, memoryview) else octets.cast("B")
                attachment = (name, mark, kind)
        kept.append(attachment)
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


def _is_base64(kind: object) -> bool:
    """Whether Django encodes it so: not text, and no mail."""
    return isinstance(kind, str) and not kind.startswith(("text/", "message/"))
