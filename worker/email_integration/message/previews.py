"""What a mail looks like, for a person who may see it: headers, text, HTML, the names of attachments.

Nothing here trusts the mail: whatever is wrong with it is shown as well as it can be, and never raises.
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

#: Octets of a mail that are looked at; the rest is attachments, as a rule.
LOOKED_AT = 5 * 1024 * 1024

#: Headers that are shown, characters of each, and of all of them together.
MOST_HEADERS = 500
LONGEST_HEADER = 10_000
_ALL_HEADERS = 100_000

#: Characters of the text, and of the HTML without its pictures, that are shown.
LONGEST_TEXT = 500_000
LONGEST_HTML = 2_000_000

#: Attachments that are listed, and characters of a name.
MOST_ATTACHMENTS = 200
_LONGEST_NAME = 255

#: Characters of pictures that stand in the HTML for more than the first time: each is put in as a whole.
REPEATED = 1_000_000

#: Characters of a subject in the list.
_LONGEST_SUBJECT = 1_000

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
    """``text`` and ``html`` are blank when the mail has none; ``is_cut`` says that there is more than is shown."""

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
    mail = reading.read(b"".join(found)[:LOOKED_AT])
    texts: dict[str, str] = {}
    pictures: dict[str, str] = {}
    attachments = []
    for part in mail.parts:
        data = part.data
        is_text = part.kind in _LONGEST and not part.name and not part.is_attached
        if is_text and part.kind not in texts:
            # One more, to see whether there is more; no charset has more than four octets to a character.
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


#: The texts that are shown, and characters of each.
_LONGEST = {"text/plain": LONGEST_TEXT, "text/html": LONGEST_HTML}


def _headers(fields: Iterable[reading.Field]) -> tuple[tuple[str, str], ...]:
    """Those that are shown, in their order."""
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
    """The subjects of those whose contents lie in their rows and can be read, by id: one query, a piece of each."""
    ids = [delivery.pk for delivery in deliveries if delivery.has_content and not delivery.content_file]
    first = Substr("content", 1, encryption.SEALED_PIECE, output_field=BinaryField())
    columns = ("pk", "content_seal", "content_size")
    found = Delivery.objects.filter(pk__in=ids).only(*columns).annotate(first=first).order_by()
    return {delivery.pk: subject for delivery in found if (subject := _subject(delivery, delivery.first)) is not None}


def _subject(delivery: Delivery, first: Any) -> str | None:
    try:
        # SQLite gives None for a part of nothing: the content is gone since.
        fields = reading.fields(content.beginning(delivery, bytes(first or b"")))
    except ContentUnavailable:
        return None
    value = next((value for name, value in fields if name.lower() == "subject"), b"")
    return decoding.header(value[:LONGEST_HEADER])[:_LONGEST_SUBJECT]


def _with_pictures(html: str, pictures: dict[str, str]) -> tuple[str, bool]:
    """``html`` with the pictures that it has from the mail itself (RFC 2392), and whether it has them all.

    Each is put in for the first time that it is named. What is named again draws on ``REPEATED``, so that a small mail
    does not make a large page.
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
