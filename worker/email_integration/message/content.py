"""Store and read the headers and body of a mail: encrypted and as a stream.

Small contents are stored in the row. Large contents are stored in a Django storage, if the project configures one, so
neither the database nor a worker's memory has to hold them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import uuid
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings
from django.core.files import File
from django.core.files.storage import Storage, storages
from django.utils import timezone

from email_integration import conf
from email_integration.exceptions import ContentGone, ContentUnavailable, InvalidMail
from email_integration.models import Delivery
from email_integration.secrecy import with_secrets

from . import encryption
from .rendering import Rendered, from_line

logger = logging.getLogger(__name__)

GONE = "the content is no longer kept"
NO_FILE = "the file with the content is not in the storage"
NO_STORAGE = "the storage with the content cannot be read"
NO_KEY = "the content cannot be opened with the keys in SMTP_PASSWORD_KEYS"
OTHER_MAIL = "the content was sealed for another mail"
DAMAGED = "the stored content is damaged"

#: Column values of a row that holds no content.
NONE = {"content": b"", "content_seal": "", "content_file": "", "has_content": False}

#: Column values of a row whose content is erased, with the subject.
ERASED = {**NONE, "subject": ""}

_LABEL = Delivery._meta.label_lower

Blocks = Generator[bytes, None, None]


@dataclass(frozen=True, kw_only=True)
class Content:
    """Headers and body of a mail.

    ``size`` is in octets; ``eight_bit`` is true when an octet is outside ASCII. Each call of ``blocks`` reads the
    content from its beginning.
    """

    size: int
    eight_bit: bool
    blocks: Callable[[], Blocks] = field(repr=False)

    @classmethod
    @with_secrets
    def of(cls, content: bytes) -> Content:
        """Return a content that is in memory."""

        def blocks() -> Blocks:
            yield content

        return cls(size=len(content), eight_bit=not content.isascii(), blocks=blocks)

    @with_secrets
    def with_line(self, line: bytes, at: int) -> Content:
        """Return this content with ``line`` inserted after ``at`` octets."""

        def blocks() -> Blocks:
            passed, is_in = 0, False
            for block in self.blocks():
                here = at - passed
                if not is_in and here <= len(block):
                    yield block[:here] + line + block[here:]
                    is_in = True
                else:
                    yield block
                passed += len(block)

        return Content(size=self.size + len(line), eight_bit=self.eight_bit, blocks=blocks)


def of_rendered(rendered: Rendered) -> Content:
    """Return the rendered content. Each read encodes its large attachments again."""
    return Content(size=rendered.size, eight_bit=rendered.eight_bit, blocks=rendered.blocks)


# -- writing --------------------------------------------------------------------------------------------------------


@with_secrets
def store(delivery: Delivery, content: bytes | Content) -> None:
    """Put ``content`` into the fields of ``delivery``, which is not saved yet, or into a file that these fields name.

    Raises ``ImproperlyConfigured`` when the content must be encrypted and there is no key.
    """
    pieces: Iterable[bytes]
    if isinstance(content, bytes):
        size, eight_bit, pieces = len(content), not content.isascii(), (content,)
    else:
        size, eight_bit, pieces = content.size, content.eight_bit, content.blocks()
    delivery.content_size, delivery.eight_bit = size, eight_bit
    if conf.get("ENCRYPT_CONTENT"):
        delivery.content_seal, pieces = encryption.seal(pieces, place_of(delivery), size=size)
    sealed = joined(pieces)
    if size > conf.get("PAYLOAD_STORAGE_THRESHOLD"):
        delivery.content_file = save_file(sealed)
    if not delivery.content_file:
        delivery.content = sealed


def joined(pieces: Iterable[bytes]) -> bytes:
    """Return the pieces as one byte string. Joining a list would hold the content in memory twice."""
    if isinstance(pieces, tuple):
        return b"".join(pieces)  # a small content has one piece
    file = io.BytesIO()
    for piece in pieces:
        file.write(piece)
    return file.getvalue()  # not copied: no other object uses the file's buffer


def place_of(delivery: Delivery) -> encryption.ContentPlace:
    """Return the place that the content of ``delivery`` is bound to: its row, and the file that the row names."""
    return encryption.ContentPlace(_LABEL, "content", delivery.pk)


def save_file(sealed: bytes) -> str:
    """Return the name of a new file in the storage that holds ``sealed``.

    Return '' when no storage is configured or it refuses the file now. Never raises.
    """
    name = f"{timezone.now():%Y/%m/%d}/{uuid.uuid4().hex}"
    try:
        storage = storage_of_contents()
        if storage is None:
            return ""
        name = storage.save(name, File(io.BytesIO(sealed)))
        _make_durable(storage, name)
    except Exception as error:  # each storage has its own errors; they do not refuse the mail
        logger.error("The storage refused a file (%s); the content is stored in the database.", type(error).__name__)
        remove_file(name)  # remove an incomplete file
        return ""
    return name


def _make_durable(storage: Storage, name: str) -> None:
    """Write the file to the disk before its row is committed, so a power failure never leaves the row without it."""
    try:
        path = Path(storage.path(name))
    except NotImplementedError:  # the storage is not a local disk
        return
    on_windows = not hasattr(os, "O_DIRECTORY")  # Windows cannot open folders, and syncs only writable files
    folders = () if on_windows else path.parents[: name.count("/") + 1]
    for one in (path, *folders):
        opened = os.open(one, os.O_RDWR if on_windows else os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def has_file(name: str) -> bool:
    """Return whether this process can read the file ``name`` of the storage. Never raises."""
    try:
        storage = storage_of_contents()
        if storage is None:
            return False
        with storage.open(name) as file:
            return bool(file.read(1))
    except Exception:  # each storage has its own errors
        return False


def remove_file(name: str) -> None:
    """Delete the file ``name`` of the storage. Never raises: orphan collection removes a file that remains."""
    if not name:
        return
    try:
        storage = storage_of_contents()
        if storage is not None:
            storage.delete(name)
    except Exception as error:  # each storage has its own errors
        logger.warning("Stored content that is no longer needed could not be deleted (%s).", type(error).__name__)


def storage_of_contents() -> Storage | None:
    """Return the storage that PAYLOAD_STORAGE names; None when STORAGES has no such alias.

    Raises ``InvalidStorageError``, or the storage's own error, when the storage cannot be created.
    """
    alias = conf.get("PAYLOAD_STORAGE")
    return storages[alias] if alias in settings.STORAGES else None


# -- reading --------------------------------------------------------------------------------------------------------


def stored(delivery: Delivery) -> Content:
    """Return the content of ``delivery`` without reading it yet.

    Reading it raises ``ContentUnavailable`` when the content cannot be read now.
    """
    return Content(size=delivery.content_size, eight_bit=delivery.eight_bit, blocks=lambda: _blocks(delivery))


def complete(delivery: Delivery) -> Content:
    """Return the content as ``stored`` does, with its From header. A sender that is still left open has no header.

    Raises ``ContentUnavailable`` when the From header in the row is invalid.
    """
    content = stored(delivery)
    if delivery.from_at is not None and delivery.from_header:
        try:
            line = from_line(delivery.from_header)
        except InvalidMail:
            raise ContentUnavailable(DAMAGED) from None
        content = content.with_line(line, delivery.from_at)
    return content


@with_secrets
def read(delivery: Delivery) -> bytes:
    """Return the whole content of ``delivery``, as ``complete`` describes it. Raises ``ContentUnavailable``."""
    return b"".join(complete(delivery).blocks())


@with_secrets
def beginning(delivery: Delivery, first: bytes) -> bytes:
    """Return the first octets of a content that is stored in the row.

    ``first`` is the beginning of the column: at most ``encryption.SEALED_PIECE`` octets, encrypted if the content is.
    Raises ``ContentUnavailable``.
    """
    if not delivery.content_seal:
        return first
    is_whole = delivery.content_size <= encryption.PIECE
    try:
        return encryption.unseal_first(delivery.content_seal, place_of(delivery), first, last=is_whole)
    except encryption.NoKey:
        raise ContentUnavailable(NO_KEY) from None
    except encryption.Misplaced:
        raise ContentUnavailable(OTHER_MAIL) from None
    except encryption.Damaged:
        raise ContentUnavailable(DAMAGED) from None


@with_secrets
def _blocks(delivery: Delivery) -> Blocks:
    if not delivery.has_content:
        raise ContentGone(GONE)
    size = 0
    try:
        if delivery.content_seal and not delivery.content_file and delivery.content_size <= encryption.PIECE:
            block = encryption.unseal_first(
                delivery.content_seal, place_of(delivery), bytes(delivery.content), last=True
            )
            if len(block) != delivery.content_size:
                raise ContentUnavailable(DAMAGED)
            yield block
            return
        with contextlib.closing(_pieces(delivery)) as pieces:
            seal = delivery.content_seal
            for block in encryption.unseal(seal, place_of(delivery), pieces) if seal else pieces:
                size += len(block)
                yield block
    except encryption.NoKey:
        raise ContentUnavailable(NO_KEY) from None
    except encryption.Misplaced:
        raise ContentUnavailable(OTHER_MAIL) from None
    except encryption.Damaged:
        raise ContentUnavailable(DAMAGED) from None
    if size != delivery.content_size:
        raise ContentUnavailable(DAMAGED)


@with_secrets
def _pieces(delivery: Delivery) -> Blocks:
    """Yield the stored octets, from the row or the storage, in the pieces in which they were encrypted."""
    if not delivery.content_file:
        yield from encryption.read(io.BytesIO(bytes(delivery.content)))
        return
    try:
        storage = storage_of_contents()
        if storage is None:
            raise ContentUnavailable(NO_STORAGE)
        with storage.open(delivery.content_file) as file:
            yield from encryption.read(file)
    except ContentUnavailable:
        raise
    except FileNotFoundError:
        raise ContentUnavailable(NO_FILE) from None
    except Exception as error:  # a network storage has its own errors
        logger.error("The storage of contents cannot be read (%s).", type(error).__name__)
        raise ContentUnavailable(NO_STORAGE) from None
