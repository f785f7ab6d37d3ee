"""Large attachments: put into a mail after it is built, for Python's and Django's way to write them has five copies."""

from __future__ import annotations

import base64
import copy
import functools
import io
import secrets
from collections.abc import Iterator
from typing import Any

from django.core.mail import EmailMessage, EmailMultiAlternatives

#: Octets from which on an attachment is one.
LARGE = 1024 * 1024

#: Octets in a line of base64 (RFC 2045 §6.8: at most 76 characters), and in a block of them.
_LINE = 57
_BLOCK = 4096 * _LINE


class Large:
    """Stands in for the large attachments of a message while that is built: ``message`` has marks in their places."""

    def __init__(self, message: EmailMessage) -> None:
        self.message = message
        self._files: dict[bytes, Any] = {}
        places = []
        if _is_built_by_django(type(message)):  # type: ignore[arg-type]  # a class can be hashed
            places = [place for place, one in enumerate(message.attachments) if _is_large(one)]
        if not places:
            return
        attachments: list[Any] = list(message.attachments)
        for place in places:
            filename, file, kind = attachments[place]
            mark = secrets.token_bytes(_LINE)
            self._files[base64.b64encode(mark)] = file
            attachments[place] = (filename, mark, kind)
        self.message = copy.copy(message)
        self.message.attachments = attachments

    def put_in(self, content: bytes) -> bytes:
        """Return ``content`` with the attachments in the places of their marks."""
        if not self._files:
            return content
        found = sorted((content.index(mark), mark) for mark in self._files)
        whole = io.BytesIO()
        at = 0
        for begin, mark in found:
            whole.write(content[at:begin])
            for block in _encoded(self._files[mark]):
                whole.write(block)
            at = begin + len(mark)
        whole.write(content[at:])
        return whole.getvalue()  # the buffer itself, not a copy


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


def _encoded(file: Any) -> Iterator[bytes]:
    """The file in base64, in lines, without the end of the last."""
    view = memoryview(file).cast("B")
    for begin in range(0, len(view), _BLOCK):
        text = base64.b64encode(view[begin : begin + _BLOCK])
        lines = [text[at : at + 76] for at in range(0, len(text), 76)]
        yield (b"\r\n" if begin else b"") + b"\r\n".join(lines)
