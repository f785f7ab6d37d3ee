"""Sealed piece by piece: what comes out is what went in, or nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_integration.message import encryption
from email_integration.message.encryption import PIECE, Damaged

KEY = b"k" * 32
TAG = 16

#: Sizes around the borders of pieces, and a few others.
SIZES = (0, 1, 15, 16, 17, PIECE - 1, PIECE, PIECE + 1, PIECE + TAG, 2 * PIECE - 1, 2 * PIECE, 3 * PIECE + 7)


def content(size: int) -> bytes:
    return bytes(number % 251 for number in range(size))


def sealed(plain: bytes, key: bytes = KEY) -> bytes:
    return b"".join(encryption.seal(key, plain))


def opened(stored: bytes, key: bytes = KEY) -> bytes:
    return b"".join(encryption.unseal(key, encryption.read(io.BytesIO(stored))))


def is_damaged(stored: bytes, key: bytes = KEY) -> bool:
    try:
        opened(stored, key)
    except Damaged:
        return True
    return False


@pytest.mark.parametrize("size", SIZES)
def test_any_size_comes_out_as_it_went_in(size: int) -> None:
    assert opened(sealed(content(size))) == content(size)


@given(st.binary(max_size=300), st.binary(min_size=32, max_size=32))
def test_any_bytes_come_out_as_they_went_in(plain: bytes, key: bytes) -> None:
    assert opened(sealed(plain, key), key) == plain


@given(st.integers(0, 2 * PIECE + 100), st.integers(1, 255), st.sampled_from([PIECE + 5, 2 * PIECE, 2 * PIECE + 7]))
def test_one_changed_octet_is_found_wherever_it_is(where: int, change: int, size: int) -> None:
    stored = bytearray(sealed(content(size)))
    stored[where % len(stored)] ^= change
    assert is_damaged(bytes(stored))


@given(st.integers(0, 3 * PIECE), st.sampled_from([1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE]))
def test_what_was_cut_off_is_found_wherever_it_was_cut(where: int, size: int) -> None:
    """At the border of two pieces too, where each piece that is left opens by itself."""
    stored = sealed(content(size))
    assert is_damaged(stored[: where % len(stored)])
    assert is_damaged(stored[: (len(stored) - 1) // (PIECE + TAG) * (PIECE + TAG)])


@given(st.sampled_from(SIZES), st.binary(min_size=1, max_size=100))
def test_what_was_appended_is_found(size: int, more: bytes) -> None:
    assert is_damaged(sealed(content(size)) + more)


def test_pieces_in_another_order_are_found() -> None:
    """Twice, left out, swapped, and those of a content with the same key."""
    one, two, three = encryption.seal(KEY, content(3 * PIECE))
    for pieces in ((two, one, three), (one, one, two, three), (one, three), (two, three), (one, two), (three,), ()):
        assert is_damaged(b"".join(pieces))
    assert opened(one + two + three)


def test_another_key_opens_nothing() -> None:
    stored = sealed(content(10))
    assert is_damaged(stored, b"x" * 32)
    for size in (0, 1, 31, 33):
        assert is_damaged(stored, b"k" * size)


def test_nothing_of_the_content_can_be_seen() -> None:
    """And the same content looks otherwise under each key."""
    plain = b"tell nobody " * 10_000
    assert b"tell nobody" not in sealed(plain)
    assert sealed(plain, encryption.new_key()) != sealed(plain, encryption.new_key())
    one, two = list(encryption.seal(KEY, b"a" * 2 * PIECE))
    assert one[:PIECE] != two[:PIECE]


def test_a_file_that_gives_little_at_a_time_is_read_all_the_same() -> None:
    """As one that comes over a network may."""

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 1000))

    stored = sealed(content(2 * PIECE + 5))
    assert b"".join(encryption.unseal(KEY, encryption.read(Slow(stored)))) == content(2 * PIECE + 5)


def test_no_more_than_a_piece_or_two_is_held_at_a_time() -> None:
    """What is opened is given away before the next but one is read."""
    taken = 0

    def pieces() -> Iterator[bytes]:
        nonlocal taken
        for piece in encryption.seal(KEY, content(5 * PIECE)):
            taken += 1
            yield piece

    for number, block in enumerate(encryption.unseal(KEY, pieces()), start=1):
        assert len(block) == PIECE
        assert taken <= number + 1
