"""The content in the form to send: in pieces, with CRLF and dot-stuffing (RFC 5321 §4.5.2), never as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

#: Maximum size, in octets, of a last piece of content that is sent together with the final dot. It fits into the
#: buffers between this process and the server, so even a slow line takes it at once, and with the dot into one TLS
#: record.
ALONG_WITH_DOT = 16 * 1024 - 512

#: Octets sent under one timeout. Smaller blocks are gathered to this size, so that they do not cost a packet each.
_PIECE = 64 * 1024


def stuffed(content: bytes | Iterable[bytes]) -> Iterator[bytes]:
    """Yield ``content``, ready to send, in pieces of some 64 KiB; the last one ends with CRLF.

    The result does not depend on how the content is cut into blocks. Bare CR and LF become CRLF (§2.3.8): a server that
    accepts them as line ends might see a final dot among them.
    """
    held, last = b"", b""
    for piece in _pieces(content):
        # A CR at the end is kept back: the next piece may begin with its LF.
        whole = held + piece
        held = whole[-1:] if whole[-1:] == b"\r" else b""
        lines = _with_crlf(whole[:-1] if held else whole)
        if not lines:
            continue
        dotted = lines.replace(b"\n.", b"\n..")
        if lines[:1] == b"." and last in (b"", b"\n"):
            dotted = b"." + dotted
        last = lines[-1:]
        yield dotted
    if held or last != b"\n":
        yield b"\r\n"


def _pieces(content: bytes | Iterable[bytes]) -> Iterator[bytes]:
    """Cut blocks that are larger than a piece, and gather smaller ones."""
    waiting = bytearray()
    only = b""  # most contents are one small block, which is not copied
    for block in (content,) if isinstance(content, bytes) else content:
        if not (only or waiting) and len(block) <= _PIECE:
            only = block
            continue
        waiting += only
        only = b""
        view = memoryview(block)
        for start in range(0, len(view), _PIECE):
            waiting += view[start : start + _PIECE]
            if len(waiting) >= _PIECE:
                yield bytes(waiting)
                waiting.clear()
    if only or waiting:
        yield only or bytes(waiting)


def _with_crlf(lines: bytes) -> bytes:
    if lines.count(b"\r") == lines.count(b"\n") == lines.count(b"\r\n"):
        return lines
    return lines.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
