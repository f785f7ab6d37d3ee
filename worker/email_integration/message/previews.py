"""Preview a mail for an authorized person: headers, text, HTML and the names of attachments.

Nothing here trusts the mail. A malformed mail is displayed as well as possible, and never raises.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db.models import BinaryField
from django.db.models.functions import Substr

from email_integration.exceptions import ContentUnavailable
from email_integration.models import Delivery
from email_integration.secrecy import with_secrets

from . import content, decoding, encryption, reading

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

#: Characters of a subject in the list.
_LONGEST_SUBJECT = 1_000

#: Content types of pictures that are shown inside the HTML.
_PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """An attachment of a preview. ``size`` is in octets; ``name`` may be blank."""

    name: str = field(repr=False)
    content_type: str
    size: int


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
    found, size = [], 0
    with contextlib.closing(whole.blocks()) as blocks:
        for block in blocks:
            found.append(block)
            size += len(block)
            if size > LOOKED_AT:
                break
    mail = reading.read(b"".join(found)[:LOOKED_AT])
    texts: dict[str, str] = {}
    pictures: dict[str, str] = {}
    attachments = []
    for part in mail.parts:
        data = part.data
        is_text = part.kind in _LONGEST and not part.name and not part.is_attached
        if is_text and part.kind not in texts:
            # One character more than the limit shows whether text is cut. A character has at most four octets in any
            # charset.
            texts[part.kind] = decoding.text(data[: 4 * (_LONGEST[part.kind] + 1)], part.charset)
            continue
        if part.kind in _PICTURES and part.content_id:
            pictures[part.content_id] = f"data:{part.kind};base64,{base64.b64encode(data).decode()}"
        attachments.append(Attachment(name=part.name[:_LONGEST_NAME], content_type=part.kind, size=len(data)))
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
def subjects(deliveries: Iterable[Delivery]) -> dict[str, str]:
    """Return the subjects of the mails whose contents are in their rows and can be read, by id.

    This takes one query, which reads the beginning of each content.
    """
    ids = [delivery.pk for delivery in deliveries if delivery.has_content and not delivery.content_file]
    first = Substr("content", 1, encryption.SEALED_PIECE, output_field=BinaryField())
    columns = ("pk", "content_seal", "content_size")
    found = Delivery.objects.filter(pk__in=ids).only(*columns).annotate(first=first).order_by()
    return {delivery.pk: subject for delivery in found if (subject := _subject(delivery, delivery.first)) is not None}


def _subject(delivery: Delivery, first: Any) -> str | None:
    try:
        # SQLite returns None for a part of an empty value: the content was removed meanwhile.
        fields = reading.fields(content.beginning(delivery, bytes(first or b"")))
    except ContentUnavailable:
        return None
    value = next((value for name, value in fields if name.lower() == "subject"), b"")
    return decoding.header(value[:LONGEST_HEADER])[:_LONGEST_SUBJECT]


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
