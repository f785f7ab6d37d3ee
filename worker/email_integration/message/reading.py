"""Parse the headers and parts of a mail from untrusted octets, in bounded time and without errors.

The standard library's parser recurses for each multipart inside another, and compares each line with all enclosing
boundaries. It limits neither of these, nor the number of headers and parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import decoding

#: Nesting depth of multiparts that are parsed. A deeper multipart is one part.
DEEPEST = 20

#: Parts of a mail that are parsed.
MOST_PARTS = 500

#: Octets and lines of the headers of a mail, or of a part, that are parsed.
_HEADER_OCTETS = 256 * 1024
_HEADER_LINES = 20_000

#: Octets of a structured header, such as Content-Type, that are parsed.
_STRUCTURED = 8 * 1024

#: Possible boundaries that are examined in a whole mail.
_LOOKS = 100_000

_LINE = re.compile(rb"([^\r\n]*)(?:\r\n|\n|\r)?")
_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")
#: RFC 5322 §2.2: printable ASCII except the colon.
_FIELD = re.compile(rb"([!-9;-~]*)[ \t]*:[ \t]*(.*)", re.S)
_BOUNDARY_ENDS = re.compile(rb"(--)?[ \t]*(\r\n|\n|\r|\Z)")
_KIND = re.compile(r"[!-.0-~]+/[!-.0-~]+")
_LONGEST_KIND = 127

#: A name and its value, unfolded.
Field = tuple[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part that is not a multipart. ``body`` is in the transfer encoding ``encoding``, which is in lower case.

    ``at`` is the position of the body in the mail, in octets.
    """

    kind: str
    charset: str
    name: str = field(repr=False)
    content_id: str = field(repr=False)
    is_attached: bool
    encoding: str
    body: bytes = field(repr=False)
    at: int

    @property
    def data(self) -> bytes:
        """Return the content of the part without its transfer encoding."""
        return decoding.transferred(self.body, self.encoding)


@dataclass(frozen=True, kw_only=True)
class MailStructure:
    """The headers and parts of a mail. ``is_cut`` is true when a limit left some of it unparsed."""

    fields: tuple[Field, ...] = field(repr=False)
    parts: tuple[Part, ...]
    is_cut: bool


def read(data: bytes) -> MailStructure:
    """Parse ``data``, a mail or its beginning. A mail inside it is one part."""
    reader = _Reader(data)
    fields, _body = reader.fields(0, len(data))
    parts = tuple(reader.parts(0, len(data), depth=0, default="text/plain"))
    return MailStructure(fields=tuple(fields), parts=parts, is_cut=reader.is_cut)


def fields(data: bytes) -> list[Field]:
    """Return the headers of a mail. ``data`` is its beginning."""
    return _Reader(data).fields(0, len(data))[0]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._looks = _LOOKS
        self._parts = MOST_PARTS
        self.is_cut = False

    def fields(self, start: int, end: int) -> tuple[list[Field], int]:
        """Return the headers that begin at ``start``, and the position of the body."""
        lines: list[tuple[str, list[bytes]]] = []
        at, limit = start, min(end, start + _HEADER_OCTETS)
        for _number in range(_HEADER_LINES):
            found = _LINE.match(self._data, at, limit)
            line = found[1] if found else b""
            if not line:
                return _unfolded(lines), found.end() if found else at
            named = _FIELD.fullmatch(line)
            if line[:1] in b" \t":
                if lines:
                    lines[-1][1].append(line)
            elif named:
                lines.append((named[1].decode("ascii"), [named[2]]))
            elif (at > start or not line.startswith(b"From ")) and not (found and found.end() == limit < end):
                return _unfolded(lines), at  # no blank line: the body starts here
            at = found.end() if found else end
            if at >= limit:
                break
        if at >= end:
            return _unfolded(lines), end
        self.is_cut = True
        blank = _BLANK_LINE.search(self._data, max(start, at - 2), end)
        return _unfolded(lines), blank.end() if blank else end

    def parts(self, start: int, end: int, *, depth: int, default: str) -> Iterator[Part]:
        """Yield the parts between ``start`` and ``end``, which are at nesting ``depth`` in the mail."""
        if self._parts <= 0:
            self.is_cut = True
            return
        fields, body = self.fields(start, end)
        first: dict[str, bytes] = {}
        for name, value in fields:
            first.setdefault(name.lower(), value[:_STRUCTURED])
        kind, of_type = decoding.parameters(first.get("content-type", default.encode()))
        kind = kind[:_LONGEST_KIND] if _KIND.fullmatch(kind) else "text/plain"
        if kind.startswith("multipart/") and depth < DEEPEST:
            inner = "message/rfc822" if kind == "multipart/digest" else "text/plain"
            is_empty = True
            for part_start, part_end in self._between(_boundary(first.get("content-type", b"")), body, end):
                is_empty = False
                yield from self.parts(part_start, part_end, depth=depth + 1, default=inner)
            if not is_empty:
                return
        self._parts -= 1
        disposition, of_disposition = decoding.parameters(first.get("content-disposition", b""))
        yield Part(
            kind=kind,
            charset=of_type.get("charset", "utf-8"),
            name=of_disposition.get("filename") or of_type.get("name", ""),
            content_id=decoding.header(first.get("content-id", b"")).strip(" <>"),
            is_attached=disposition == "attachment",
            encoding=first.get("content-transfer-encoding", b"").strip().decode("latin-1").lower(),
            body=self._data[body:end],
            at=body,
        )

    def _between(self, boundary: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the positions of the parts between these boundaries (RFC 2046 §5.1.1)."""
        opened, at = -1, start
        mark = b"--" + boundary
        while boundary and (at := self._data.find(mark, at, end)) >= 0:
            self._looks -= 1
            if self._looks < 0 or self._parts <= 0:
                self.is_cut = True
                return
            before, at = at, at + len(mark)
            found = _BOUNDARY_ENDS.match(self._data, at, end)
            if not found or (before > start and self._data[before - 1 : before] not in (b"\r", b"\n")):
                continue
            if opened >= 0:
                yield opened, max(opened, self._without_line_end(before))
            opened, at = found.end(), found.end(1) if found[1] else found.start(2)
            if found[1]:
                return
        if opened >= 0:
            yield opened, end

    def _without_line_end(self, at: int) -> int:
        """Return where the part before the boundary at ``at`` ends.

        The line end before a boundary belongs to the boundary.
        """
        return at - (2 if self._data[at - 2 : at] == b"\r\n" else 1)


def _unfolded(lines: list[tuple[str, list[bytes]]]) -> list[Field]:
    return [(name, b"".join(parts)) for name, parts in lines]


def _boundary(content_type: bytes) -> bytes:
    """Return the boundary as octets, because it is compared and not displayed."""
    found = re.search(rb';\s*boundary\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]+)', content_type, re.I | re.S)
    if not found:
        return b""
    return re.sub(rb"\\(.)", rb"\1", found[1][1:-1], flags=re.S) if found[1].startswith(b'"') else found[1]
