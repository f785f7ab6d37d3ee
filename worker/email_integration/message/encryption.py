"""Contents sealed piece by piece, so that a large one is never in memory as a whole.

The STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance, 2015) over AES-256-GCM: a nonce counts the pieces and marks the last one, so that what was cut off,
put in another order or taken from elsewhere does not open. Each content has a key of its own, which is what makes
counting safe.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

#: Octets of plain content in each piece but the last.
PIECE = 64 * 1024

_TAG = 16

#: Octets of a sealed piece.
SEALED_PIECE = PIECE + _TAG

_LAST = 1


class Damaged(Exception):
    """What is sealed was changed, cut short, or sealed with another key."""


def new_key() -> bytes:
    """Make a key, for one content."""
    return secrets.token_bytes(32)


def seal(key: bytes, content: bytes) -> Iterator[bytes]:
    """Give the sealed pieces of ``content``, in order."""
    cipher = AESGCM(key)
    view = memoryview(content)
    last = max(0, (len(content) - 1) // PIECE)
    for number in range(last + 1):
        piece = view[number * PIECE : (number + 1) * PIECE]
        yield cipher.encrypt(_nonce(number, last=number == last), bytes(piece), None)


def seal_blocks(key: bytes, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """As ``seal``, for a content that comes in blocks of any size."""
    cipher = AESGCM(key)
    waiting = bytearray()
    number = 0
    for block in blocks:
        view = memoryview(block)
        for start in range(0, len(view), PIECE):
            waiting += view[start : start + PIECE]
            if len(waiting) > PIECE:  # the last one is known by its end
                yield cipher.encrypt(_nonce(number, last=False), bytes(waiting[:PIECE]), None)
                number += 1
                del waiting[:PIECE]
    yield cipher.encrypt(_nonce(number, last=True), bytes(waiting), None)


def unseal(key: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Give the plain content of ``pieces``, as ``read`` cuts them. Raises ``Damaged``."""
    try:
        cipher = AESGCM(key)
    except ValueError as error:  # not as long as a key is
        raise Damaged from error
    held: bytes | None = None
    number = 0
    for piece in pieces:
        if held is not None:
            yield _open(cipher, number, held, last=False)
            number += 1
        held = piece
    if held is None:
        raise Damaged
    yield _open(cipher, number, held, last=True)


def unseal_first(key: bytes, piece: bytes, *, last: bool) -> bytes:
    """Open the first piece of a content alone, which of a small one is the ``last`` too. Raises ``Damaged``."""
    try:
        cipher = AESGCM(key)
    except ValueError as error:  # as above
        raise Damaged from error
    return _open(cipher, 0, piece, last=last)


class Readable(Protocol):
    """A file as any storage gives it."""

    def read(self, size: int, /) -> bytes: ...


def read(file: Readable) -> Iterator[bytes]:
    """Cut what is sealed in ``file`` into its pieces, also when the file gives less at a time than it is asked for."""
    waiting = bytearray()
    while block := file.read(SEALED_PIECE - len(waiting)):
        waiting += block
        if len(waiting) == SEALED_PIECE:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


def _open(cipher: AESGCM, number: int, piece: bytes, *, last: bool) -> bytes:
    try:
        return cipher.decrypt(_nonce(number, last=last), piece, None)
    except (InvalidTag, ValueError) as error:  # a ValueError when it is shorter than its tag
        raise Damaged from error


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([_LAST if last else 0])
