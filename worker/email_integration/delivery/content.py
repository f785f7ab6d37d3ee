"""Where the headers and the body of a mail are kept, and how they are read again: sealed, and streamed.

Small ones lie in the row; large ones in a Django storage of their own, if the project has one, so that neither the
database nor a worker's memory has to hold them.
"""

from __future__ import annotations

import base64
import io
import logging
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.core.files import File
from django.core.files.storage import Storage, storages
from django.utils import timezone

from email_integration import conf
from email_integration.exceptions import ContentUnavailable, SecretUnreadable
from email_integration.models import Delivery

from . import sealing
from .render import from_line

logger = logging.getLogger(__name__)

GONE = "the content is kept no longer"
NO_FILE = "the file with the content is not in the storage"
NO_STORAGE = "the storage with the content cannot be read"
NO_KEY = "the content cannot be opened with the keys in SMTP_PASSWORD_KEYS"
DAMAGED = "the stored content is damaged"

#: What a row that keeps no content has in its columns.
NONE = {"content": b"", "content_key": "", "content_file": "", "has_content": False}


Blocks = Generator[bytes, None, None]


@dataclass(frozen=True, kw_only=True)
class Content:
    """Headers and body: how many octets, whether one is beyond ASCII, and ``blocks``, which reads them, ever anew."""

    size: int
    eight_bit: bool
    blocks: Callable[[], Blocks] = field(repr=False)

    @classmethod
    def of(cls, content: bytes) -> Content:
        """What is in memory."""

        def blocks() -> Blocks:
            yield content

        return cls(size=len(content), eight_bit=not content.isascii(), blocks=blocks)

    def with_line(self, line: bytes, at: int) -> Content:
        """The same with ``line`` put in after ``at`` octets, which are in the first block."""

        def blocks() -> Blocks:
            ours = self.blocks()
            first = next(ours, b"")
            yield first[:at] + line + first[at:]
            yield from ours

        return Content(size=self.size + len(line), eight_bit=self.eight_bit, blocks=blocks)


# -- writing --------------------------------------------------------------------------------------------------------


def store(delivery: Delivery, content: bytes) -> None:
    """Put ``content`` into the fields of ``delivery``, which is not saved yet, or into a file that they name.

    Raises ``ImproperlyConfigured`` when it has to be sealed and there is no key.
    """
    pieces: Iterator[bytes]
    if conf.get("ENCRYPT_CONTENT"):
        key = sealing.new_key()
        delivery.content_key = base64.b64encode(key).decode()
        pieces = sealing.seal(key, content)
    else:
        pieces = iter((content,))
    delivery.content_size = len(content)
    delivery.eight_bit = not content.isascii()
    sealed = b"".join(pieces)
    if len(content) > conf.get("PAYLOAD_STORAGE_THRESHOLD"):
        delivery.content_file = _save(sealed)
    if not delivery.content_file:
        delivery.content = sealed


def _save(sealed: bytes) -> str:
    """Return the name of a new file; '' when there is no storage, or none that takes it now."""
    storage = storage_of_contents()
    if storage is None:
        return ""
    try:
        return storage.save(f"{timezone.now():%Y/%m/%d}/{uuid.uuid4().hex}", File(io.BytesIO(sealed)))
    except Exception as error:  # each storage has its own; the mail is not refused for it
        logger.error("The storage takes no content (%s); it goes into the database.", type(error).__name__)
        return ""


def remove_file(name: str) -> None:
    """Delete a file of the storage. Never raises: what is left is collected as an orphan."""
    storage = storage_of_contents()
    if not name or storage is None:
        return
    try:
        storage.delete(name)
    except Exception as error:  # as above
        logger.warning("A content that is no longer needed could not be deleted (%s).", type(error).__name__)


def storage_of_contents() -> Storage | None:
    """The storage that PAYLOAD_STORAGE names; None when the project has none of that name."""
    alias = conf.get("PAYLOAD_STORAGE")
    return storages[alias] if alias in settings.STORAGES else None


# -- reading --------------------------------------------------------------------------------------------------------


def stored(delivery: Delivery) -> Content:
    """The content of ``delivery``, not read yet. Reading it raises ``ContentUnavailable`` when it cannot be had now."""
    return Content(size=delivery.content_size, eight_bit=delivery.eight_bit, blocks=lambda: _blocks(delivery))


def read(delivery: Delivery) -> bytes:
    """The whole content of ``delivery``; a sender that is still left open is missing. Raises ``ContentUnavailable``."""
    content = stored(delivery)
    if delivery.from_at is not None and delivery.from_header:
        content = content.with_line(from_line(delivery.from_header), delivery.from_at)
    return b"".join(content.blocks())


def _blocks(delivery: Delivery) -> Blocks:
    if not delivery.has_content:
        raise ContentUnavailable(GONE)
    size = 0
    try:
        key = base64.b64decode(delivery.content_key)
        with _file(delivery) as file:
            pieces = sealing.read(file)
            for block in sealing.unseal(key, pieces) if key else pieces:
                size += len(block)
                yield block
    except SecretUnreadable:
        raise ContentUnavailable(NO_KEY) from None
    except FileNotFoundError:
        raise ContentUnavailable(NO_FILE) from None
    except sealing.Damaged:
        raise ContentUnavailable(DAMAGED) from None
    except OSError:
        raise ContentUnavailable(NO_STORAGE) from None
    if size != delivery.content_size:
        raise ContentUnavailable(DAMAGED)


def _file(delivery: Delivery) -> Any:
    if not delivery.content_file:
        return io.BytesIO(bytes(delivery.content))
    storage = storage_of_contents()
    if storage is None:
        raise ContentUnavailable(NO_STORAGE)
    try:
        return storage.open(delivery.content_file)
    except OSError:
        raise
    except Exception:  # a storage of the network has exceptions of its own
        raise ContentUnavailable(NO_STORAGE) from None
