"""Contents, sealed in one piece or in several: opening returns the original content or fails."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from email_integration.message import encryption
from email_integration.message.encryption import PIECE, ContentPlace, Damaged, Misplaced, NoKey

PLACE = ContentPlace("app.model", "content", "row")
TAG = 16

#: Sizes around the borders of pieces, and a few others.
SIZES = (0, 1, 15, 16, 17, PIECE - 1, PIECE, PIECE + 1, PIECE + TAG, 2 * PIECE - 1, 2 * PIECE, 3 * PIECE + 7)

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))

Sealed = tuple[str, bytes]


def keys(*given: str) -> Any:
    return override_settings(EMAIL_INTEGRATION={**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": list(given)})


@pytest.fixture(autouse=True, scope="module")
def one_key() -> Iterator[None]:
    with keys(NEW):
        yield


def content(size: int) -> bytes:
    return bytes(number % 251 for number in range(size))


def sealed(plain: bytes, place: ContentPlace = PLACE) -> Sealed:
    seal, pieces = encryption.seal((plain,), place, size=len(plain))
    return seal, b"".join(pieces)


def opened(seal: str, stored: bytes, place: ContentPlace = PLACE) -> bytes:
    return b"".join(encryption.unseal(seal, place, encryption.read(io.BytesIO(stored))))


def is_damaged(seal: str, stored: bytes, place: ContentPlace = PLACE) -> bool:
    try:
        opened(seal, stored, place)
    except Damaged:
        return True
    return False


@pytest.mark.parametrize("size", SIZES)
def test_any_size_comes_out_as_it_went_in(size: int) -> None:
    """A content of up to 64 KiB is one piece; its beginning can be opened separately."""
    seal, stored = sealed(content(size))
    assert opened(seal, stored) == content(size)
    assert seal.startswith("gcm$1$" if size <= PIECE else "stream$1$")
    assert len(seal) <= 100
    first = encryption.unseal_first(seal, PLACE, stored[: encryption.SEALED_PIECE], last=size <= PIECE)
    assert first == content(size)[:PIECE]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("block", [1000, PIECE, PIECE + 1, 5 * PIECE])
def test_blocks_of_any_size_come_out_as_they_went_in(size: int, block: int) -> None:
    """They are sealed in the same pieces as a single block."""
    plain = content(size)
    blocks = (plain[start : start + block] for start in range(0, size, block))
    seal, pieces = encryption.seal(blocks, PLACE, size=size)
    stored = list(pieces)
    assert opened(seal, b"".join(stored)) == plain
    assert {len(one) for one in stored[:-1]} <= {encryption.SEALED_PIECE}


@given(st.binary(max_size=300), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_octets_come_out_as_they_went_in(plain: bytes, row: str) -> None:
    place = PLACE._replace(row=row)
    assert opened(*sealed(plain, place), place) == plain


@given(
    st.integers(0, 2 * PIECE + 100),
    st.integers(1, 255),
    st.sampled_from([9, PIECE, PIECE + 5, 2 * PIECE, 2 * PIECE + 7]),
)
def test_one_changed_octet_is_found_wherever_it_is(where: int, change: int, size: int) -> None:
    seal, stored = sealed(content(size))
    changed = bytearray(stored)
    changed[where % len(stored)] ^= change
    assert is_damaged(seal, bytes(changed))


@given(st.integers(0, 3 * PIECE), st.sampled_from([1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE]))
def test_what_was_cut_off_is_found_wherever_it_was_cut(where: int, size: int) -> None:
    """Also at the border of two pieces, where each remaining piece would open."""
    seal, stored = sealed(content(size))
    assert is_damaged(seal, stored[: where % len(stored)])
    assert is_damaged(seal, stored[: (len(stored) - 1) // (PIECE + TAG) * (PIECE + TAG)])


@given(st.sampled_from(SIZES), st.binary(min_size=1, max_size=100))
def test_what_was_appended_is_found(size: int, more: bytes) -> None:
    seal, stored = sealed(content(size))
    assert is_damaged(seal, stored + more)


def test_pieces_in_another_order_are_found() -> None:
    """Repeated, missing and swapped pieces, and pieces of another content of the same row."""
    seal, pieces = encryption.seal((content(3 * PIECE),), PLACE, size=3 * PIECE)
    one, two, three = pieces
    for some in ((two, one, three), (one, one, two, three), (one, three), (two, three), (one, two), (three,), ()):
        assert is_damaged(seal, b"".join(some))
    assert opened(seal, one + two + three)
    _, (other, *_) = encryption.seal((content(3 * PIECE),), PLACE, size=3 * PIECE)
    assert is_damaged(seal, other + two + three)


# -- bound to its place by every part of the seal ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, PIECE + 1])
@pytest.mark.parametrize("change", [{"row": "other"}, {"row": "row\0"}, {"field": "other"}, {"model": "app.other"}])
def test_a_content_opens_in_its_own_place_alone(size: int, change: dict[str, str]) -> None:
    """Also when the readable check of the place is forged to match."""
    elsewhere = PLACE._replace(**change)
    seal, stored = sealed(content(size))
    with pytest.raises(Misplaced):
        opened(seal, stored, elsewhere)
    forged = seal.replace(PLACE.check(), elsewhere.check())
    assert forged != seal
    assert is_damaged(forged, stored, elsewhere)


@pytest.mark.parametrize("size", [0, 10, PIECE + 1])
def test_a_seal_of_another_content_opens_nothing(size: int) -> None:
    (one, _), (_, two) = sealed(content(size)), sealed(content(size))
    assert is_damaged(one, two)


@pytest.mark.parametrize("size", [10, PIECE + 1])
def test_a_seal_that_was_changed_opens_nothing(size: int) -> None:
    """Any part of the seal may be the changed one."""
    seal, stored = sealed(content(size))
    kind, version, key, day, check, random = seal.split("$")
    other = {"gcm": "stream", "stream": "gcm"}[kind]
    swapped = f"{int(random[0], 16) ^ 1:x}{random[1:]}"
    for changed in (
        (other, version, key, day, check, random),
        (kind, "2", key, day, check, random),
        (kind, version, key, str(int(day) - 1), check, random),
        (kind, version, key, "0" + day, check, random),
        (kind, version, key, day, check, swapped),
        (kind, version, key, day, check, random[:-4]),
        (kind, version, key, day, check, ""),
        (kind, version, key, day, random),
        (kind, version, key.upper() + "g", day, check, random),
        ("é",),
        ("nonsense",),
    ):
        assert is_damaged("$".join(changed), stored)
    assert is_damaged(f"{seal}\n", stored)
    assert is_damaged(f"{seal}$", stored)
    assert opened(seal, stored) == content(size)


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, PIECE + 1])
def test_every_configured_key_opens_and_the_newest_seals(size: int) -> None:
    """The seal names the key by its id; the id does not disclose the key."""
    with keys(OLD):
        seal, stored = sealed(content(size))
        assert encryption.key_id(seal) == encryption.newest_key_id()
    with keys(NEW, OLD):
        assert opened(seal, stored) == content(size)
        assert encryption.key_id(sealed(content(size))[0]) == encryption.newest_key_id() != encryption.key_id(seal)
    for others in ([NEW], [], ["nonsense"]):
        with keys(*others), pytest.raises(NoKey):
            opened(seal, stored)


@pytest.mark.parametrize("given", [[], ["nonsense"]])
def test_nothing_is_sealed_without_usable_keys(given: list[str]) -> None:
    with keys(*given), pytest.raises(ImproperlyConfigured):
        encryption.seal((b"x",), PLACE, size=1)


def test_each_day_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key seals more contents than its random nonces allow. Contents of all days can be opened."""

    class Days:
        now = 0.0

        @classmethod
        def time(cls) -> float:
            return cls.now

    monkeypatch.setattr(encryption, "time", Days)
    found = []
    for Days.now in (1, 86_399, 86_400, 20_000 * 86_400, 20_001 * 86_400):
        found.append(sealed(b"x"))
    assert [seal.split("$")[3] for seal, _ in found] == ["0", "0", "1", "20000", "20001"]
    assert [opened(*one) for one in found] == [b"x"] * 5
    of_days = {encryption._key_of_day(bytes(32), str(day)) for day in range(100)}
    assert len(of_days) == 100


def test_no_two_contents_have_a_nonce_in_common() -> None:
    """Where nonces are counted, no key is shared either: the same content looks different each time."""
    small, large = [sealed(b"the same") for _ in range(1000)], [sealed(b"a" * (PIECE + 1)) for _ in range(20)]
    assert len({seal.split("$")[5] for seal, _ in small}) == len({stored for _, stored in small}) == 1000
    assert len({stored[:PIECE] for _, stored in large}) == len({stored[PIECE:] for _, stored in large}) == 20


def test_nothing_of_the_content_can_be_seen() -> None:
    """Equal pieces do not look equal. The seal contains neither a configured key nor one derived from it."""
    plain = b"kept secret " * 10_000
    seal, stored = sealed(plain)
    assert b"kept secret" not in stored
    _, (one, two) = encryption.seal((b"a" * 2 * PIECE,), PLACE, size=2 * PIECE)
    assert one[:PIECE] != two[:PIECE]
    assert NEW not in seal
    assert NEW[:8] not in seal


# -- streaming ---------------------------------------------------------------------------------------------------------


def test_a_file_that_gives_little_at_a_time_is_read_all_the_same() -> None:
    """A file that is read over a network may do this."""

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 1000))

    seal, stored = sealed(content(2 * PIECE + 5))
    pieces = encryption.read(Slow(stored))
    assert b"".join(encryption.unseal(seal, PLACE, pieces)) == content(2 * PIECE + 5)


def test_no_more_than_a_piece_or_two_is_held_at_a_time() -> None:
    """A sealed or opened piece is passed on before the next but one is read."""
    taken = 0

    def pieces(given: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal taken
        for piece in given:
            taken += 1
            yield piece

    seal, sealing = encryption.seal(pieces([content(PIECE)] * 5), PLACE, size=5 * PIECE)
    all_pieces = []
    for number, piece in enumerate(sealing, start=1):
        all_pieces.append(piece)
        assert taken <= number + 1
    taken = 0
    for number, block in enumerate(encryption.unseal(seal, PLACE, pieces(all_pieces)), start=1):
        assert len(block) == PIECE
        assert taken <= number + 1
