"""Write this process's journal: a slot for each mail in progress, one ``pwrite`` for each step."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NoReturn
from zlib import crc32

from .files import SUFFIX, JournalFile, JournalUnavailable, boot_id, opened, unavailable
from .layout import (
    FREE_HEAD,
    PAGE,
    JournalHeader,
    SlotPhase,
    SlotState,
    encode_dot,
    encode_head,
    encode_header,
    encode_ids,
)

#: Number of files to try, when one is removed before its lock is taken.
_TRIES = 3

_MOST_SLOTS = 65_535

# Looking up an enumeration member takes a while, and each step of each mail needs several.
_FREE, _IN_HAND, _DOT, _ANSWERED, _CONTINUING = (
    SlotState.FREE,
    SlotState.IN_HAND,
    SlotState.DOT,
    SlotState.ANSWERED,
    SlotState.CONTINUING,
)
_PREPARING, _WAITING, _WRITING = SlotPhase.PREPARING, SlotPhase.WAITING, SlotPhase.WRITING


class Journal:
    """The journal of this process. Threads may share it, but not a slot; a forked child has no journal."""

    def __init__(self, file: JournalFile, folder: Path, header: JournalHeader) -> None:
        self.path = folder / file.name
        self._file = file
        self._header = header
        self._slot_size = header.slot_size
        # The most recently freed slot is used first, so that few pages of the file are ever used.
        self._free = deque(reversed(range(header.slots)))

    @classmethod
    def open(cls, folder: Path, *, installation: str, owner: str, slots: int = 256) -> Journal:
        """Create the journal of this process and lock it. Call it after a fork.

        ``folder`` is created with mode 0700 if it is missing, and so are the folders above it. ``installation`` (at
        most 64 characters) separates installations that share a folder. ``owner`` (at most 255) is passed to the
        process that recovers. ``slots`` limits the mails that are in progress or not recorded yet.

        Raises ``JournalUnavailable``, and ``ValueError`` when a text is too long or ``slots`` is not 1 to 65,535.
        """
        if not 1 <= slots <= _MOST_SLOTS:
            raise ValueError(f"A journal has 1 to {_MOST_SLOTS} slots, not {slots}.")
        header = JournalHeader(installation=installation, owner=owner, pid=os.getpid(), boot_id=boot_id(), slots=slots)
        page = encode_header(header)
        folder = Path(folder).absolute()
        with opened(folder, make=True) as descriptor:
            assert descriptor is not None  # noqa: S101  # it was made
            for _ in range(_TRIES):
                try:
                    file = _made(descriptor, header, page)
                except OSError as error:
                    raise unavailable(f"No journal can be created in {folder}", error) from None
                if file is not None:
                    return cls(file, folder, header)
        raise JournalUnavailable(f"No journal can be created in {folder}: each new file is removed immediately.")

    @property
    def owner(self) -> str:
        """The owner in the header."""
        return self._header.owner

    @property
    def in_use(self) -> int:
        """The number of slots in use."""
        return self._header.slots - len(self._free)

    @property
    def is_in_place(self) -> bool:
        """Whether the file is still where recovery searches for it. A cleaner of temporary folders may have removed it.

        Checked before each batch (a few microseconds). If it is false, another journal must be opened.
        """
        try:
            return os.path.samestat(os.stat(self.path, follow_symlinks=False), self._file.stat())
        except OSError:
            return False

    def take(self, delivery_id: str, version: int, batch_id: str, started_at: float | None = None) -> Slot:
        """Record that the mail is in progress, in the phase PREPARING, and return its slot.

        ``delivery_id`` has at most 255 characters, ``batch_id`` at most 36. ``version`` is that of the delivery.
        ``started_at`` is in seconds since the epoch; by default it is the current time. Raises ``JournalUnavailable``,
        also when no slot is free, and ``ValueError`` when a text is too long.
        """
        ids = encode_ids(delivery_id, batch_id)
        try:
            number = self._free.pop()
        except IndexError:
            why = f"has all its {self._header.slots} slots in use" if self._file.is_open else "is closed"
            raise JournalUnavailable(f"The journal {self.path} {why}.") from None
        slot = Slot(self, number, version, time.time() if started_at is None else started_at, ids)
        try:
            slot._write_head(_IN_HAND, _PREPARING, 0)
        except BaseException:
            self._put_back(number)
            raise
        return slot

    def close(self) -> None:
        """Remove the file when no slot is in use, else leave it to recovery. Release the lock. Never raises.

        After this no slot can be written. In a forked child it does nothing.
        """
        if not self._file.is_open:
            return
        taken_away = 0  # one by one, so no thread can take one afterwards
        with contextlib.suppress(IndexError):
            while True:
                self._free.pop()
                taken_away += 1
        if taken_away == self._header.slots:
            with (
                contextlib.suppress(OSError, JournalUnavailable),  # then recovery removes it
                opened(self.path.parent, make=False) as folder,
            ):
                if folder is not None and self._file.is_at_its_name(folder):
                    os.unlink(self._file.name, dir_fd=folder)
        self._file.release()

    def _put_back(self, slot: int) -> None:
        """Free a slot whose first write failed. If a part of it remains in the file, the slot is not used again."""
        with contextlib.suppress(JournalUnavailable):
            self._write(FREE_HEAD, slot)
        # A full disk does not accept zeros even in unwritten places, where none are needed.
        with contextlib.suppress(OSError):
            if self._file.read(len(FREE_HEAD), self._header.offset(slot)) == FREE_HEAD:
                self._free.append(slot)

    def _write(self, octets: bytes, slot: int, begin: int = 0) -> None:
        try:
            self._file.write(octets, PAGE + slot * self._slot_size + begin)
        except OSError as error:
            if not self._file.is_open:
                raise JournalUnavailable(f"The journal {self.path} is closed in this process.") from None
            raise unavailable(f"The journal {self.path} cannot be written", error) from None


class Slot:
    """One mail in progress. Only one thread at a time may use it.

    When a method returns, its step is visible to every process on the machine. All methods raise ``JournalUnavailable``
    when they cannot write; this leaves the previous state, or at worst a slot that recovery cannot read. They raise
    ``RuntimeError`` when the step is not allowed in the current state.

    IN_HAND writes the head, which all later states overwrite in place. A file system that allocates blocks once
    therefore reports a full disk at IN_HAND, or at DOT, which writes the body, and never after the dot. A copy-on-write
    file system (btrfs, ZFS) does not guarantee this.
    """

    __slots__ = ("_body", "_code", "_ids", "_journal", "_number", "_phase", "_started_at", "_state", "_version")

    def __init__(
        self, journal: Journal, number: int, version: int, started_at: float, ids: tuple[int, int, bytes]
    ) -> None:
        self._journal = journal
        self._number = number
        self._version = version
        self._started_at = started_at
        self._ids = ids
        self._state = _IN_HAND
        self._phase = _PREPARING
        self._code = 0
        self._body = (0, 0)

    @property
    def state(self) -> SlotState:
        """The recorded state."""
        return self._state

    def preparing(self) -> None:
        """Record that the content is being read and prepared."""
        self._enter(_PREPARING)

    def waiting(self) -> None:
        """Record that the process waits for a session or for a reply of the server."""
        self._enter(_WAITING)

    def writing(self) -> None:
        """Record that the content is being written to the server."""
        self._enter(_WRITING)

    def dot(
        self,
        *,
        recipients: Collection[int],
        refused: Mapping[int, int],
        count: int,
        configuration: str,
        config_version: str,
    ) -> None:
        """Record the transaction whose final dot is sent next. If this raises, the dot must not be sent.

        ``recipients`` are the positions, from 0, of those in the transaction among the ``count`` recipients of the
        delivery (at most 10,000). ``refused`` maps the position of each refused recipient to its reply code.
        ``configuration`` (at most 100 characters) and ``config_version`` (at most 40) name the SMTP configuration.
        Raises ``ValueError`` when a value is out of range.
        """
        if self._state is not _IN_HAND:
            self._refuse(_IN_HAND)
        body = encode_dot(recipients, refused, count, configuration, config_version)
        described = (len(body), crc32(body))
        head = encode_head(_DOT, self._phase, self._code, described, self._version, self._started_at, self._ids)
        try:
            if len(head) + len(body) <= PAGE:
                self._journal._write(head + body, self._number)
            else:
                # A kill may interrupt a write of several pages, so the head says IN_HAND until the body is complete.
                self._journal._write(body, self._number, len(head))
                self._journal._write(head, self._number)
        except BaseException:
            with contextlib.suppress(JournalUnavailable):  # works on a full disk: its octets exist already
                self._write_head(_IN_HAND, self._phase, self._code)
            raise
        self._state, self._body = _DOT, described

    def not_said(self) -> None:
        """Record that the final dot was not sent after all. The mail is in the state IN_HAND again."""
        if self._state is not _DOT:
            self._refuse(_DOT)
        self._body = (0, 0)
        self._write_head(_IN_HAND, self._phase, self._code)

    def answered(self, code: int) -> None:
        """Record the reply ``code`` to the final dot, before any other action. Raises ``ValueError``."""
        if self._state is not _DOT:
            self._refuse(_DOT)
        if not 0 < code <= 999:
            raise ValueError(f"A reply code has three digits, not {code}.")
        self._write_head(_ANSWERED, self._phase, code)

    def continuing(self) -> None:
        """Record that the outcome is committed, and that the continuation of the mail is being published."""
        if self._state not in (_IN_HAND, _DOT, _ANSWERED):
            self._refuse(_IN_HAND, _DOT, _ANSWERED)
        self._write_head(_CONTINUING, self._phase, self._code)

    def free(self) -> None:
        """Free the slot. No further step can be recorded in it."""
        if self._state is _FREE:
            self._refuse(_IN_HAND, _DOT, _ANSWERED, _CONTINUING)
        self._journal._write(FREE_HEAD, self._number)
        self._state = _FREE
        self._journal._free.append(self._number)

    def _enter(self, phase: SlotPhase) -> None:
        if self._state is not _IN_HAND:
            self._refuse(_IN_HAND)
        if phase is not self._phase:
            self._write_head(_IN_HAND, phase, self._code)

    def _refuse(self, *states: SlotState) -> NoReturn:
        allowed = ", ".join(state.name for state in states)
        raise RuntimeError(f"The slot is in state {self._state.name}; this step is allowed only in {allowed}.")

    def _write_head(self, state: SlotState, phase: SlotPhase, code: int) -> None:
        head = encode_head(state, phase, code, self._body, self._version, self._started_at, self._ids)
        self._journal._write(head, self._number)
        self._state, self._phase, self._code = state, phase, code


def _made(folder: int, header: JournalHeader, page: bytes) -> JournalFile | None:
    """Return a new, locked journal; None when another process removed it as garbage. Raises ``OSError``."""
    file = JournalFile(folder, f"{header.pid}-{secrets.token_hex(8)}{SUFFIX}", new=True)
    try:
        if file.lock():
            # Set the size first: then a file with a header is complete, and one without a header is left over from a
            # crash.
            file.resize(header.offset(header.slots))
            file.write(page, 0)
            if file.is_at_its_name(folder):
                return file
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(file.name, dir_fd=folder)
        file.release()
        raise
    file.release()
    return None
