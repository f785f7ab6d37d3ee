"""Preview a mail for an authorized person: headers, text, HTML and the names of attachments.

Nothing here trusts the mail. A malformed mail is displayed as well as possible, and never raises.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Collection, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db.models import BinaryField
from django.db.models.functions import Substr

from email_integration.exceptions import ContentUnavailable
from email_integration.models import Delivery
from email_integration.secrecy import with_secrets

from . import content, decoding, encryption, reading, rendering, sealed_subjects

#: Octets of a mail that are examined. The rest usually contains attachments.
LOOKED_AT = 5 * 1024 * 1024

#: Limits: headers shown, characters of each header, and characters of all headers together.
MOST_HEADERS = 500
LONGEST_HEADER = 10_000
_ALL_HEADERS = 100_000

#: Limits: characters of the text, and of the HTML without its pictures.
LONGEST_TEXT = 500_000
LONGEST_HTML = 2_000_000

#: Limits: attachments listed, and characters of a name.
MOST_ATTACHMENTS = 200
_LONGEST_NAME = 255

#: Total characters of pictures that the HTML uses more than once, without their first use. Each picture is inserted
#: completely or not.
REPEATED = 1_000_000

#: Content types of pictures that are shown inside the HTML.
_PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """An attachment of a preview. ``size`` is in octets; ``name`` may be blank.

    ``is_offered`` is false when the mail is too large to read this attachment alone.
    """

    name: str = field(repr=False)
    content_type: str
    size: int
    is_offered: bool


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The displayable parts of a mail.

    ``text`` and ``html`` are blank when the mail has none. ``is_cut`` is true when parts of the mail are not shown.
    """

    headers: tuple[tuple[str, str], ...] = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    attachments: tuple[Attachment, ...] = field(repr=False)
    is_cut: bool


@with_secrets
def preview(delivery: Delivery) -> Preview:
    """Return a preview of the content of ``delivery``. Raises ``ContentUnavailable``."""
    whole = content.complete(delivery)
    mail = _beginning(whole)
    first, others = _texts_and_attachments(mail.parts)
    # One character more than the limit shows whether text is cut. A character has at most four octets in any charset.
    texts = {kind: decoding.text(part.data[: 4 * (_LONGEST[kind] + 1)], part.charset) for kind, part in first.items()}
    pictures: dict[str, str] = {}
    attachments = []
    for part in others:
        data = part.data
        if part.kind in _PICTURES and part.content_id:
            pictures[part.content_id] = f"data:{part.kind};base64,{base64.b64encode(data).decode()}"
        attachments.append(_attachment(part, len(data), whole))
    headers = _headers(mail.fields)
    html, has_all_pictures = _with_pictures(texts.get("text/html", "")[:LONGEST_HTML], pictures)
    return Preview(
        headers=headers,
        text=texts.get("text/plain", "")[:LONGEST_TEXT],
        html=html,
        attachments=tuple(attachments[:MOST_ATTACHMENTS]),
        is_cut=(
            whole.size > LOOKED_AT
            or mail.is_cut
            or not has_all_pictures
            or len(headers) < len(mail.fields)
            or any(len(value) > LONGEST_HEADER for _name, value in mail.fields)
            or any(len(text) > _LONGEST[kind] for kind, text in texts.items())
            or len(attachments) > MOST_ATTACHMENTS
        ),
    )


def _beginning(whole: content.Content) -> reading.MailStructure:
    found, size = [], 0
    with contextlib.closing(whole.blocks()) as blocks:
        for block in blocks:
            found.append(block)
            size += len(block)
            if size > LOOKED_AT:
                break
    return reading.read(b"".join(found)[:LOOKED_AT])


def _texts_and_attachments(parts: Iterable[reading.Part]) -> tuple[dict[str, reading.Part], list[reading.Part]]:
    """Return the first text of each kind that is shown, and all other parts, which are listed as attachments."""
    texts: dict[str, reading.Part] = {}
    others = []
    for part in parts:
        if part.kind in _LONGEST and not part.name and not part.is_attached and part.kind not in texts:
            texts[part.kind] = part
        else:
            others.append(part)
    return texts, others


def _attachment(part: reading.Part, size: int, whole: content.Content) -> Attachment:
    is_offered = part.encoding == "base64" or not _is_cut(part, whole)
    return Attachment(name=part.name[:_LONGEST_NAME], content_type=part.kind, size=size, is_offered=is_offered)


def _is_cut(part: reading.Part, whole: content.Content) -> bool:
    """Return whether the part may continue after the octets that are examined."""
    return whole.size > LOOKED_AT and part.at + len(part.body) >= LOOKED_AT


@with_secrets
def attachment(delivery: Delivery, number: int) -> tuple[Attachment, Generator[bytes, None, None]]:
    """Return the attachment with this number in the list of ``preview``, from 0, and its decoded octets in pieces.

    Raises ``ContentUnavailable``, also while the pieces are read, and ``IndexError`` if there is no such attachment or
    it is not offered.
    """
    whole = content.complete(delivery)
    part = _texts_and_attachments(_beginning(whole).parts)[1][:MOST_ATTACHMENTS][number]
    is_cut = _is_cut(part, whole)
    found = _attachment(part, len(part.body) if is_cut else len(part.data), whole)
    if not found.is_offered:
        raise IndexError(number)
    return found, _decoded(whole, part.at) if is_cut else _in_one_piece(part)


def _in_one_piece(part: reading.Part) -> Generator[bytes, None, None]:
    yield part.data


@with_secrets
def _decoded(whole: content.Content, at: int) -> Generator[bytes, None, None]:
    """Yield the octets of the base64 that begins after ``at`` octets. It ends at the hyphens of a boundary."""
    waiting = b""
    with contextlib.closing(whole.blocks()) as blocks:
        for block in blocks:
            at, skipped = max(0, at - len(block)), at
            text, end, _ = block[skipped:].partition(b"-")
            waiting += text.translate(None, b"\r\n \t")
            ready = len(waiting) if end else len(waiting) // 4 * 4
            yield decoding.transferred(waiting[:ready], "base64")
            waiting = waiting[ready:]
            if end:
                return
    yield decoding.transferred(waiting, "base64")


#: Content types of texts that are shown, and the limit of each in characters.
_LONGEST = {"text/plain": LONGEST_TEXT, "text/html": LONGEST_HTML}


def _headers(fields: Iterable[reading.Field]) -> tuple[tuple[str, str], ...]:
    """Return the headers that are shown, in their order."""
    shown: list[tuple[str, str]] = []
    left = _ALL_HEADERS
    for name, value in fields:
        name, text = name[:LONGEST_HEADER], decoding.header(value[:LONGEST_HEADER])
        left -= len(name) + len(text)
        if left < 0 or len(shown) == MOST_HEADERS:
            break
        shown.append((name, text))
    return tuple(shown)


@with_secrets
def subjects(deliveries: Collection[Delivery]) -> dict[str, str]:
    """Return the subjects of the mails by id: the stored ones, and those in contents that can be read in their rows.

    Only rows of earlier versions have no stored subject. One query reads the beginnings of all their contents.
    """
    found = {delivery.pk: sealed_subjects.of(delivery) for delivery in deliveries if delivery.subject}
    ids = [
        delivery.pk
        for delivery in deliveries
        if not delivery.subject and delivery.has_content and not delivery.content_file
    ]
    return found | _in_contents(ids) if ids else found


def sender(delivery: Delivery) -> str:
    """Return the From header for people: decoded (RFC 2047)."""
    return decoding.header(delivery.from_header.encode("utf-8", "replace"))


def _in_contents(ids: Collection[str]) -> dict[str, str]:
    first = Substr("content", 1, encryption.SEALED_PIECE, output_field=BinaryField())
    columns = ("pk", "content_seal", "content_size")
    found = Delivery.objects.filter(pk__in=ids).only(*columns).annotate(first=first).order_by()
    return {delivery.pk: subject for delivery in found if (subject := _subject(delivery, delivery.first)) is not None}


def _subject(delivery: Delivery, first: Any) -> str | None:
    try:
        # SQLite returns None for a part of an empty value: the content was removed meanwhile.
        return rendering.subject_in(content.beginning(delivery, bytes(first or b"")))[: sealed_subjects.LONGEST]
    except ContentUnavailable:
        return None


def _with_pictures(html: str, pictures: dict[str, str]) -> tuple[str, bool]:
    """Return ``html`` with the pictures that the mail itself contains (RFC 2392), and whether all fitted.

    The first use of each picture is always replaced. Further uses count towards ``REPEATED``, so a small mail cannot
    make a large page.
    """
    named: set[str] = set()
    left, is_whole = REPEATED, True

    def picture(found: re.Match[str]) -> str:
        nonlocal left, is_whole
        content_id = found[1]
        data = pictures.get(content_id)
        if data is None:
            return found[0]
        if content_id in named:
            if len(data) > left:
                is_whole = False
                return found[0]
            left -= len(data)
        named.add(content_id)
        return data

    if pictures:
        html = re.sub(r"(?i)\bcid:([^\s\"'<>)]+)", picture, html)
    return html, is_whole
