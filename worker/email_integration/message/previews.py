"""What a mail looks like, for a person who may see it: headers, text, HTML, the names of attachments.

Nothing here trusts the mail: whatever is wrong with it is shown as well as it can be, and never raises.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from typing import Any

from django.db.models import BinaryField
from django.db.models.functions import Substr

from email_integration.exceptions import ContentUnavailable
from email_integration.models import Delivery
from email_integration.secrecy import with_secrets

from . import content, encryption

#: Octets of a mail that are looked at; the rest is attachments, as a rule.
LOOKED_AT = 5 * 1024 * 1024

#: What a picture in a mail may be to be shown in its place.
_PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """``size`` in octets; ``name`` may be blank."""

    name: str = field(repr=False)
    content_type: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Preview:
    """``text`` and ``html`` are blank when the mail has none; ``is_cut`` says that it was too large to look at all."""

    headers: tuple[tuple[str, str], ...] = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    attachments: tuple[Attachment, ...] = field(repr=False)
    is_cut: bool


@with_secrets
def preview(delivery: Delivery) -> Preview:
    """Open the content of ``delivery``. Raises ``ContentUnavailable``."""
    whole = content.complete(delivery)
    found, size = [], 0
    with contextlib.closing(whole.blocks()) as blocks:
        for block in blocks:
            found.append(block)
            size += len(block)
            if size > LOOKED_AT:
                break
    message = message_from_bytes(b"".join(found)[:LOOKED_AT])
    texts: dict[str, str] = {}
    pictures: dict[str, str] = {}
    attachments = []
    for part in _parts(message):
        kind = part.get_content_type()
        name = _decoded(part.get_filename() or "")
        data = _data(part)
        if kind in ("text/plain", "text/html") and kind not in texts and not name and not _is_attached(part):
            texts[kind] = _text(part, data)
            continue
        if kind in _PICTURES and (content_id := str(part.get("Content-ID", "")).strip(" <>")):
            pictures[content_id] = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        attachments.append(Attachment(name=name, content_type=kind, size=len(data)))
    return Preview(
        headers=tuple((name, _decoded(value)) for name, value in message.raw_items()),
        text=texts.get("text/plain", ""),
        html=_with_pictures(texts.get("text/html", ""), pictures),
        attachments=tuple(attachments),
        is_cut=whole.size > LOOKED_AT,
    )


@with_secrets
def subjects(deliveries: Iterable[Delivery], *, using: str) -> dict[str, str]:
    """The subjects of those whose contents lie in their rows and can be read, by id: one query, a piece of each.

    ``using`` is the database that has them.
    """
    ids = [delivery.pk for delivery in deliveries if delivery.has_content and not delivery.content_file]
    first = Substr("content", 1, encryption.SEALED_PIECE, output_field=BinaryField())
    columns = ("pk", "content_key", "content_size")
    found = Delivery.objects.using(using).filter(pk__in=ids).only(*columns).annotate(first=first).order_by()
    return {delivery.pk: subject for delivery in found if (subject := _subject(delivery, delivery.first)) is not None}


def _subject(delivery: Delivery, first: Any) -> str | None:
    try:
        # SQLite gives None for a part of nothing: the content is gone since.
        headers = content.beginning(delivery, bytes(first or b"")).partition(b"\r\n\r\n")[0]
    except ContentUnavailable:
        return None
    return next(
        (_decoded(value) for name, value in message_from_bytes(headers).raw_items() if name.lower() == "subject"), ""
    )


def _parts(message: Message) -> Iterator[Message]:
    """The leaves; a mail within the mail is one."""
    if message.get_content_maintype() != "multipart" or not message.is_multipart():
        yield message
        return
    for part in message.get_payload():
        if isinstance(part, Message):
            yield from _parts(part)


def _data(part: Message) -> bytes:
    if part.is_multipart():  # a mail within the mail
        return b"".join(one.as_bytes() for one in part.get_payload() if isinstance(one, Message))
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


def _is_attached(part: Message) -> bool:
    return part.get_content_disposition() == "attachment"


def _text(part: Message, data: bytes) -> str:
    try:
        return data.decode(part.get_content_charset("utf-8"), "replace")
    except LookupError:  # no such charset
        return data.decode("utf-8", "replace")


def _decoded(header: object) -> str:
    """A header's text as a person reads it (RFC 2047, RFC 6532)."""
    plain = re.sub(r"\r?\n(?=[ \t])", "", str(header)).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    try:
        return str(make_header(decode_header(plain)))
    except (ValueError, LookupError):  # not as it should be: as it is
        return plain


def _with_pictures(html: str, pictures: dict[str, str]) -> str:
    """``html`` with the pictures that it has from the mail itself (RFC 2392) in it."""
    if not pictures:
        return html
    return re.sub(r"(?i)\bcid:([^\s\"'<>)]+)", lambda found: pictures.get(found[1], found[0]), html)
