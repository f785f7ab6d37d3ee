"""The content as it goes over the line: in pieces, with CRLF and dot-stuffing (RFC 5321 §4.5.2), never as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

#: Octets of a last piece of content that goes out along with the final dot. They fit into the buffers between us and
#: the server, so that no line is slow for them, and with the dot into one record of TLS.
ALONG_WITH_DOT = 16 * 1024 - 512

#: Octets sent under one timeout; also what is gathered from smaller blocks, lest each cost a packet.
_PIECE = 64 * 1024


def stuffed(content: bytes | Iterable[bytes]) -> Iterator[bytes]:
    """Give ``content``, ready to be sent, in pieces of some 64 KiB; all together end with CRLF.

    The same comes out however the content is cut into blocks. Bare CR and LF become CRLF (§2.3.8): a server that takes
    them for line ends might see a final dot among them.
    """
    held, last = b"", b""
    for piece in _pieces(content):
        # A CR at the end waits: the next piece may begin with its LF.
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
    """Cut what is larger than a piece, gather what is smaller."""
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
