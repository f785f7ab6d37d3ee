"""The octets of a journal: a header of one page, then slots of a fixed size.

Each slot begins at a page boundary. A slot has a head and, from DOT on, a body. The head keeps its length while a mail
uses the slot, so each later state overwrites existing octets. Head and body each have a checksum. A slot is free when
its head is all zeros, which includes a slot that was never written (the file is sparse).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from zlib import crc32

#: Octets that the kernel copies at once: after a SIGKILL, a write within one page is complete or absent.
PAGE = 4096

#: Recipients that one delivery may have.
MOST_RECIPIENTS = 10_000

#: Limits of the texts, in characters.
LONGEST_DELIVERY_ID = 255
LONGEST_BATCH_ID = 36
LONGEST_CONFIGURATION = 100
LONGEST_CONFIG_VERSION = 40
LONGEST_INSTALLATION = 64
LONGEST_OWNER = 255
_LONGEST_BOOT_ID = 64

_MAGIC = b"EIJOURNL"
_FORMAT = 1

# Magic, format, and checksum of the rest of the page: this part is the same in every format.
_PREFIX = struct.Struct("<8sHI")
# Process id, slots, octets of a slot, octets of the three texts.
_HEADER = struct.Struct("<qIIHHH")
# State, phase, code, octets and checksum of the body, version of the delivery, started at, octets of the two ids.
_HEAD = struct.Struct("<BBHIIqdHH")
_CHECKSUM = struct.Struct("<I")
# Recipients, refused ones, octets of the configuration and of its version.
_BODY = struct.Struct("<HHHH")

#: Octets at the beginning of a slot that are all zeros when it is free.
FREE_HEAD = bytes(_CHECKSUM.size + _HEAD.size)

_LARGEST_HEAD = len(FREE_HEAD) + 4 * (LONGEST_DELIVERY_ID + LONGEST_BATCH_ID)
_LARGEST_BODY = (
    _BODY.size + 4 * (LONGEST_CONFIGURATION + LONGEST_CONFIG_VERSION) + (MOST_RECIPIENTS + 7) // 8 + 4 * MOST_RECIPIENTS
)

#: Octets of a slot: enough for the most recipients, all of them refused, in whole pages. Only the octets in use are
#: written.
SLOT_SIZE = -(-(_LARGEST_HEAD + _LARGEST_BODY) // PAGE) * PAGE


class SlotState(IntEnum):
    """How far the mail of a slot is. ``UNREADABLE`` is never written; it is the result of reading a damaged slot."""

    FREE = 0
    IN_HAND = 1
    DOT = 2
    ANSWERED = 3
    CONTINUING = 4
    UNREADABLE = 255


class SlotPhase(IntEnum):
    """The current work of the process on a mail."""

    PREPARING = 1
    WAITING = 2
    WRITING = 3


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A transaction whose final dot is about to be sent.

    ``recipients`` are those in the transaction, by their position among the ``count`` recipients of the delivery, in
    ascending order. ``refused`` maps the position of each refused recipient to the reply code to its RCPT.
    ``configuration`` and ``config_version`` name the SMTP configuration in use.
    """

    recipients: tuple[int, ...]
    refused: Mapping[int, int]
    count: int
    configuration: str
    config_version: str


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """A slot in use. If it is ``UNREADABLE``, all fields except ``slot`` may be missing.

    ``started_at`` is in seconds since the epoch. ``code`` is the reply code to the final dot, None without a reply.
    ``dot`` is set from DOT on; None means that there was no dot before the state CONTINUING.
    """

    slot: int
    state: SlotState
    phase: SlotPhase | None = None
    delivery_id: str | None = None
    version: int | None = None
    batch_id: str | None = None
    started_at: float | None = None
    code: int | None = None
    dot: Dot | None = None

    @property
    def torn(self) -> bool:
        """Whether the slot is unreadable: its write was interrupted, or the file is damaged."""
        return self.state is SlotState.UNREADABLE


@dataclass(frozen=True, kw_only=True)
class JournalHeader:
    """The description of the process in a journal. ``slot_size`` is in octets; ``boot_id`` is '' if unknown."""

    installation: str
    owner: str
    pid: int
    boot_id: str
    slots: int
    slot_size: int = field(default=SLOT_SIZE)

    def offset(self, slot: int) -> int:
        """Return the offset of the slot in the file, in octets."""
        return PAGE + slot * self.slot_size


def encode_header(header: JournalHeader) -> bytes:
    """Return the first page. Raises ``ValueError`` when a text is too long."""
    texts = (
        _octets("The installation id", header.installation, LONGEST_INSTALLATION),
        _octets("The owner", header.owner, LONGEST_OWNER),
        _octets("The boot id", header.boot_id, _LONGEST_BOOT_ID),
    )
    numbers = _HEADER.pack(header.pid, header.slots, header.slot_size, *map(len, texts))
    rest = (numbers + b"".join(texts)).ljust(PAGE - _PREFIX.size, b"\0")
    return _PREFIX.pack(_MAGIC, _FORMAT, crc32(rest)) + rest


def decode_header(page: bytes) -> JournalHeader | None:
    """Return the header; None when the page is not a journal, has another format, or is damaged."""
    if len(page) < PAGE:
        return None
    magic, version, checksum = _PREFIX.unpack_from(page)
    rest = page[_PREFIX.size : PAGE]
    if (magic, version, checksum) != (_MAGIC, _FORMAT, crc32(rest)):
        return None
    pid, slots, slot_size, *lengths = _HEADER.unpack_from(rest)
    installation, owner, boot_id = _texts(rest, _HEADER.size, lengths)
    return JournalHeader(
        installation=installation, owner=owner, pid=pid, boot_id=boot_id, slots=slots, slot_size=slot_size
    )


def was_never_written(page: bytes) -> bool:
    """Return whether this is the first page of a journal whose process died before writing the header."""
    return len(page) < PAGE or not any(page)


def encode_ids(delivery_id: str, batch_id: str) -> tuple[int, int, bytes]:
    """Return the ids in the form that ``encode_head`` takes. Raises ``ValueError`` when one is too long."""
    delivery = _octets("The delivery's id", delivery_id, LONGEST_DELIVERY_ID)
    batch = _octets("The batch's id", batch_id, LONGEST_BATCH_ID)
    return len(delivery), len(batch), delivery + batch


def encode_head(
    state: SlotState,
    phase: SlotPhase,
    code: int,
    body: tuple[int, int],
    version: int,
    started_at: float,
    ids: tuple[int, int, bytes],
) -> bytes:
    """Return the head of a slot.

    ``code`` is the reply code, 0 without a reply. ``body`` is the length in octets and the checksum of the body.
    ``started_at`` is in seconds since the epoch. ``ids`` comes from ``encode_ids``. Raises ``ValueError`` when the
    delivery's version exceeds 64 bits.
    """
    try:
        rest = _HEAD.pack(state, phase, code, *body, version, started_at, ids[0], ids[1]) + ids[2]
    except struct.error as error:
        raise ValueError(f"The journal cannot store version {version}, code {code}: {error}") from None
    return _CHECKSUM.pack(crc32(rest)) + rest


def encode_dot(
    recipients: Collection[int], refused: Mapping[int, int], count: int, configuration: str, config_version: str
) -> bytes:
    """Return the body of a slot, with the values that ``Dot`` describes.

    Raises ``ValueError`` when one is out of range.
    """
    if not 0 <= count <= MOST_RECIPIENTS:
        raise ValueError(f"A delivery has at most {MOST_RECIPIENTS} recipients, not {count}.")
    bits = bytearray((count + 7) // 8)
    for position in recipients:
        if not 0 <= position < count:
            raise _no_position(position, count)
        bits[position >> 3] |= 1 << (position & 7)
    codes: list[int] = []
    for position, code in refused.items():
        if not 0 <= position < count:
            raise _no_position(position, count)
        if not 0 <= code <= 999:
            raise ValueError(f"A reply code has three digits, not {code}.")
        codes += (position, code)
    name, of_version, both = _configuration(configuration, config_version)
    head = _BODY.pack(count, len(refused), name, of_version) + both + bits
    return head + struct.pack(f"<{len(codes)}H", *codes) if codes else head


@functools.lru_cache(maxsize=8)
def _configuration(name: str, config_version: str) -> tuple[int, int, bytes]:
    """Return the lengths of both texts, and their octets. They are the same until another configuration is used."""
    octets = _octets("The configuration's name", name, LONGEST_CONFIGURATION)
    of_version = _octets("The configuration's version", config_version, LONGEST_CONFIG_VERSION)
    return len(octets), len(of_version), octets + of_version


def used(page: bytes, slot_size: int) -> int:
    """Return how many octets the slot uses, from its head in ``page``; at most a page when the head cannot be read.

    ``slot_size`` is the maximum, in octets.
    """
    if len(page) < len(FREE_HEAD):
        return len(page)
    *_, body, _, _, _, delivery, batch = _HEAD.unpack_from(page, _CHECKSUM.size)
    in_use: int = len(FREE_HEAD) + delivery + batch + body
    return min(in_use, slot_size)


def decode_slot(slot: int, octets: bytes) -> JournalEntry | None:
    """Return the entry in a slot, None when it is free. ``octets`` are the octets in use."""
    if len(octets) >= len(FREE_HEAD) and octets.startswith(FREE_HEAD):
        return None
    unreadable = JournalEntry(slot=slot, state=SlotState.UNREADABLE)
    if len(octets) < len(FREE_HEAD):
        return unreadable
    try:
        return _decode_slot(slot, octets) or unreadable
    except (ValueError, struct.error):  # a valid checksum, but not written by this code
        return unreadable


def _decode_slot(slot: int, octets: bytes) -> JournalEntry | None:
    (checksum,) = _CHECKSUM.unpack_from(octets)
    state, phase, code, *body, version, started_at, delivery, batch = _HEAD.unpack_from(octets, _CHECKSUM.size)
    head = octets[: len(FREE_HEAD) + delivery + batch]
    if crc32(head[_CHECKSUM.size :]) != checksum:
        return None
    delivery_id, batch_id = _texts(head, len(FREE_HEAD), (delivery, batch))
    dot = None
    if body[0]:
        rest = octets[len(head) : len(head) + body[0]]
        if [len(rest), crc32(rest)] != body:
            state = SlotState.UNREADABLE
        else:
            dot = _decode_dot(rest)
    return JournalEntry(
        slot=slot,
        state=SlotState(state),
        phase=SlotPhase(phase),
        delivery_id=delivery_id,
        version=version,
        batch_id=batch_id,
        started_at=started_at,
        code=code or None,
        dot=dot,
    )


def _decode_dot(body: bytes) -> Dot:
    count, refused, *lengths = _BODY.unpack_from(body)
    configuration, config_version = _texts(body, _BODY.size, lengths)
    begin = _BODY.size + sum(lengths)
    end = begin + (count + 7) // 8
    bits = body[begin:end]
    codes = struct.unpack_from(f"<{2 * refused}H", body, end)
    return Dot(
        recipients=tuple(position for position in range(count) if bits[position >> 3] >> (position & 7) & 1),
        refused=dict(zip(codes[::2], codes[1::2], strict=True)),
        count=count,
        configuration=configuration,
        config_version=config_version,
    )


def _no_position(position: int, count: int) -> ValueError:
    return ValueError(f"The position {position} is out of range for {count} recipients.")


def _octets(what: str, text: str, longest: int) -> bytes:
    if len(text) > longest:
        raise ValueError(f"{what} has {len(text)} characters; it may have at most {longest}.")
    return text.encode()


def _texts(octets: bytes, begin: int, lengths: Collection[int]) -> list[str]:
    found = []
    for length in lengths:
        found.append(octets[begin : begin + length].decode())
        begin += length
    return found
