"""Encrypt contents with AES-256-GCM, under keys that are derived from SMTP_PASSWORD_KEYS.

Each configured key gives one derived key a day (HKDF, RFC 5869). Deriving a key needs no stored data, and no key
encrypts too many contents: NIST SP 800-38D §8.3 allows 2^32 random nonces for each key, which is 49,000 mails a second
for a day.

- A content of at most ``PIECE`` octets is encrypted in one piece, with a random nonce.
- A larger content is encrypted piece by piece, so it is never in memory as a whole. It uses the STREAM construction
  (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance, 2015). A
  nonce counts the pieces and marks the last one, so pieces that are missing, reordered or foreign fail to decrypt. Each
  such content has a separate key, derived from the key of the day and a random salt. This makes counting nonces safe.

The *seal* is a text in the row: ``gcm`` or ``stream``, the version of the format, the id of the configured key, the day
(since 1970, UTC), a checksum of the place, and the nonce or the salt. It is authenticated together with the place: the
model, the field and the id of the row. A content that is copied into another row cannot be decrypted there. The
checksum is not needed for that; it only explains the reason to people.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.core.exceptions import ImproperlyConfigured

from email_integration import conf, fields
from email_integration.secrecy import with_secrets

#: Octets of plain content in each piece except the last.
PIECE = 64 * 1024

_TAG = 16

#: Octets of an encrypted piece.
SEALED_PIECE = PIECE + _TAG

_VERSION = "1"
_ONE_PIECE, _STREAM = "gcm", "stream"
_NONCE, _SALT, _KEY, _KEY_ID = 12, 32, 32, 4
_DAY = 24 * 3600

#: The seal in the row: kind, version, id of the key, day, checksum of the place, nonce or salt.
_SEAL = re.compile(
    rf"(gcm|stream)\${_VERSION}\$([0-9a-f]{{8}})\$([0-9]{{1,6}})\$([0-9a-f]{{8}})\$([0-9a-f]{{24}}|[0-9a-f]{{64}})",
    re.ASCII,
)

_LAST = 1


class Damaged(Exception):
    """The encrypted content was changed, truncated, or copied from elsewhere."""


class Misplaced(Exception):
    """The content was encrypted for another row, and moved to this row outside this app."""


class NoKey(Exception):
    """The content was encrypted with a key that is not in SMTP_PASSWORD_KEYS."""


class ContentPlace(NamedTuple):
    """The place that a content is encrypted for: ``model`` by its label, ``field``, and the id of the ``row``."""

    model: str
    field: str
    row: str

    def __bytes__(self) -> bytes:
        # Names of models and fields never contain a NUL.
        return f"{self.model}\0{self.field}\0{self.row}".encode()

    def check(self) -> str:
        """Return the checksum of the place in a seal, for messages to people."""
        return hashlib.sha256(bytes(self)).hexdigest()[:8]

    def bound(self, seal: str) -> bytes:
        """Return the data that is authenticated with the content: the text of its seal, and this place."""
        return seal.encode() + b"\0" + bytes(self)


# -- keys -----------------------------------------------------------------------------------------------------------


@with_secrets
def newest_key_id() -> str:
    """Return the id of the key that encrypts new contents. Raises ``ImproperlyConfigured`` without usable keys."""
    return next(iter(_configured()))


@with_secrets
def key_id(seal: str) -> str:
    """Return the id of the configured key in a seal; '' when the text is not a seal of this version."""
    found = _SEAL.fullmatch(seal)
    return found[2] if found else ""


def _configured() -> dict[str, bytes]:
    """Return the configured keys by their ids, newest first. Raises ``ImproperlyConfigured``."""
    given = conf.get("SMTP_PASSWORD_KEYS")
    if not given:
        fields.keys()  # raises an error that says what is missing
    return _by_id(tuple(given))


@functools.lru_cache(maxsize=4)
@with_secrets
def _by_id(given: tuple[str, ...]) -> dict[str, bytes]:
    fields.keys()  # raises an error for invalid keys
    masters = [base64.urlsafe_b64decode(key) for key in given]
    return {_derived(master, b"", b"key id", _KEY_ID).hex(): master for master in masters}


@functools.lru_cache(maxsize=64)
@with_secrets
def _key_of_day(master: bytes, day: str) -> bytes:
    return _derived(master, b"", b"contents\0" + day.encode(), _KEY)


@functools.lru_cache(maxsize=64)
@with_secrets
def _cipher_of_day(master: bytes, day: str) -> AESGCM:
    return AESGCM(_key_of_day(master, day))


@with_secrets
def _derived(key: bytes, salt: bytes, purpose: bytes, length: int) -> bytes:
    info = b"email_integration content " + _VERSION.encode() + b"\0" + purpose
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt or None, info=info).derive(key)


# -- sealing --------------------------------------------------------------------------------------------------------


@with_secrets
def seal(blocks: Iterable[bytes], place: ContentPlace, *, size: int) -> tuple[str, Iterable[bytes]]:
    """Return the seal of a content, and its encrypted pieces in order.

    ``blocks`` may have any sizes; ``size`` is their total, in octets. The content can be decrypted only in ``place``.
    The blocks of a large content are read while its pieces are read. Raises ``ImproperlyConfigured`` without usable
    keys, and any error that ``blocks`` raises.
    """
    newest, master = next(iter(_configured().items()))
    day = str(int(time.time()) // _DAY)
    if size <= PIECE:
        nonce = secrets.token_bytes(_NONCE)
        text = _seal(_ONE_PIECE, newest, day, place, nonce)
        return text, (_cipher_of_day(master, day).encrypt(nonce, b"".join(blocks), place.bound(text)),)
    salt = secrets.token_bytes(_SALT)
    text = _seal(_STREAM, newest, day, place, salt)
    bound = place.bound(text)
    return text, _in_pieces(AESGCM(_derived(_key_of_day(master, day), salt, bound, _KEY)), blocks, bound)


def _seal(kind: str, key: str, day: str, place: ContentPlace, random: bytes) -> str:
    return f"{kind}${_VERSION}${key}${day}${place.check()}${random.hex()}"


@with_secrets
def _in_pieces(cipher: AESGCM, blocks: Iterable[bytes], bound: bytes) -> Iterator[bytes]:
    waiting = bytearray()
    number = 0
    for block in blocks:
        view = memoryview(block)
        for start in range(0, len(view), PIECE):
            waiting += view[start : start + PIECE]
            if len(waiting) > PIECE:  # keep the last piece: it gets another nonce
                yield cipher.encrypt(_nonce(number, last=False), bytes(waiting[:PIECE]), bound)
                number += 1
                del waiting[:PIECE]
    yield cipher.encrypt(_nonce(number, last=True), bytes(waiting), bound)


# -- opening --------------------------------------------------------------------------------------------------------


@with_secrets
def unseal(seal: str, place: ContentPlace, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the plain content of ``pieces``, which ``read`` has split.

    ``seal`` and ``place`` are those of its encryption. Raises ``Damaged``, ``Misplaced`` and ``NoKey``.
    """
    opened = _Opened(seal, place)
    held: bytes | None = None
    number = 0
    for piece in pieces:
        if held is not None:
            yield opened.piece(number, held, last=False)
            number += 1
        held = piece
    if held is None:
        raise Damaged
    yield opened.piece(number, held, last=True)


@with_secrets
def unseal_first(seal: str, place: ContentPlace, piece: bytes, *, last: bool) -> bytes:
    """Decrypt only the first piece of a content. ``last`` says whether it is also the last piece.

    ``seal`` and ``place`` are those of its encryption. Raises ``Damaged``, ``Misplaced`` and ``NoKey``.
    """
    return _Opened(seal, place).piece(0, piece, last=last)


class _Opened:
    """A decryptor for the pieces of one content. Raises ``Damaged``, ``Misplaced`` and ``NoKey``."""

    def __init__(self, seal: str, place: ContentPlace) -> None:
        found = _SEAL.fullmatch(seal)
        if found is None:
            raise Damaged
        kind, key, day, self._check, random = found.groups()
        given = bytes.fromhex(random)
        if len(given) != (_NONCE if kind == _ONE_PIECE else _SALT):
            raise Damaged
        self._place = place
        self._bound = place.bound(seal)
        self._only = given if kind == _ONE_PIECE else b""
        try:
            master = _configured()[key]
        except (KeyError, ImproperlyConfigured):
            raise self._misplaced_or(NoKey) from None
        if kind == _ONE_PIECE:
            self._cipher = _cipher_of_day(master, day)
        else:
            self._cipher = AESGCM(_derived(_key_of_day(master, day), given, self._bound, _KEY))

    def piece(self, number: int, piece: bytes, *, last: bool) -> bytes:
        if self._only and (number or not last):
            raise Damaged
        try:
            return self._cipher.decrypt(self._only or _nonce(number, last=last), piece, self._bound)
        except (InvalidTag, ValueError) as error:  # ValueError: the piece is shorter than its tag
            raise self._misplaced_or(Damaged) from error

    def _misplaced_or(self, why: type[Exception]) -> Exception:
        """Return ``Misplaced`` when the place differs from the seal's, because that alone explains the failure.

        Otherwise return ``why``.
        """
        return Misplaced() if self._check != self._place.check() else why()


class Readable(Protocol):
    """A file as every storage returns it."""

    def read(self, size: int, /) -> bytes: ...


def read(file: Readable) -> Iterator[bytes]:
    """Yield the encrypted content of ``file`` in its pieces, even when a read returns fewer octets than requested."""
    waiting = bytearray()
    while block := file.read(SEALED_PIECE - len(waiting)):
        waiting += block
        if len(waiting) == SEALED_PIECE:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([_LAST if last else 0])
