"""Render the most common mails exactly as Django does, but much faster.

For each mail Django builds a tree of parts. The standard library then parses the headers and flattens the tree. A mail
that is one text, or a text and HTML, always has the same form. This module only inserts the values into that form. The
forms follow this code:

====================  ===================================  ==========================================================
what                  Django 5.2                           from Django 6.0 on
====================  ===================================  ==========================================================
order of the headers  ``EmailMessage.message()``           the same
MIME headers          ``SafeMIMEText``, ``MIMEMultipart``  ``MIMEPart.set_content()``, ``add_alternative()``
a plain header        ``Header.encode()`` changes nothing  ``BaseHeader.fold()`` changes nothing
any other header      called: ``encode_header()`` and      called: ``EmailPolicy.header_store_parse()`` and
                      ``Compat32.fold_binary()``           ``fold_binary()``
a text                ``SafeMIMEText.set_payload()``       short lines: ``contentmanager._encode_text()``; any
                                                           other called: ``raw_data_manager.set_content()``
line ends, the whole  ``Generator._write_lines()``, ``_handle_multipart()``
====================  ===================================  ==========================================================

Three safeguards keep the result identical. ``draft`` leaves a message to Django unless it knows every part of it.
Django renders the first mail of each shape in a process; if its octets differ, Django renders all mails of that shape.
The tests compare generated mails on each supported pair of Django and Python.
"""

from __future__ import annotations

import functools
import logging
import random
import re
import sys
from dataclasses import dataclass, field
from email.contentmanager import raw_data_manager
from email.message import MIMEPart
from email.policy import SMTP, compat32

import django
from django.conf import settings
from django.core.mail import EmailAlternative, EmailMessage, EmailMultiAlternatives
from django.utils.safestring import SafeString

from email_integration import django_internals
from email_integration.exceptions import refusal

from . import limits

logger = logging.getLogger(__name__)

_IS_MODERN = django.VERSION >= (6, 0)

#: Attributes that Django's constructors set. Any other attribute may override something.
_ATTRIBUTES = frozenset({
    "subject", "body", "from_email", "to", "cc", "bcc", "reply_to", "attachments", "alternatives", "extra_headers",
    "content_subtype", "connection", "_connection",
})  # fmt: skip

#: Headers that Django sets itself, headers that Python parses in a special way, and headers of a part.
_NOT_COMMON = re.compile(
    r"subject|from|sender|to|cc|bcc|reply-to|date|orig-date|mime-version|(?:resent|content)-.*", re.I
)

_MESSAGE_ID = re.compile(r"<[a-z0-9.$%+=_-]+@[a-z0-9.-]+>", re.I | re.A)

#: Characters of a line that is never folded: ``Header.encode()`` allows 76, everything else 78 (RFC 5322 §2.1.1).
_LINE = 76

#: Printable ASCII with single spaces inside. Such a value needs no encoding.
_PLAIN = re.compile(r"[!-~]+(?: [!-~]+)*")

#: Addresses whose written form is the same before and after parsing.
_ADDRESS = r"[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*@[a-z0-9-]+(?:\.[a-z0-9-]+)*"
_MAILBOX = rf"(?:(?:[a-z0-9!#$%&'*+/=?^_`{{|}}~-]+ )+<{_ADDRESS}>|{_ADDRESS})"
_PLAIN_ADDRESSES = re.compile(rf"{_MAILBOX}(?:, {_MAILBOX})*", re.I | re.A)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A mail without a generated Message-ID, Date and boundary."""

    #: Everything that the form depends on: the types and encodings of the parts, the headers and their character sets.
    shape: tuple[str, ...]
    #: Type and encoding, MIME headers and octets of each part. There are one or two parts.
    parts: list[tuple[str, str, bytes]] = field(repr=False)
    #: The header lines before Date and Message-ID, and the header lines after them.
    before: bytes = field(repr=False)
    after: bytes = field(repr=False)
    #: The Message-ID in ``after``; '' when Django generates one.
    message_id: str = field(repr=False)

    def new_boundary(self) -> str:
        """Return a boundary that occurs in no part (RFC 2046 §5.1.1), as ``_make_boundary()`` does.

        Return '' for a mail with one part.
        """
        if len(self.parts) == 1:
            return ""
        token = random.randrange(sys.maxsize)  # noqa: S311 - it is no secret
        first = boundary = f"{'=' * 15}{token:0{len(str(sys.maxsize))}d}=="
        number = 0
        while any(boundary.encode() in octets for *_, octets in self.parts):
            boundary, number = f"{first}.{number}", number + 1
        return boundary

    def octets(self, *, message_id: str, date: str, boundary: str) -> bytes:
        """Return the finished mail.

        ``message_id`` is used unless the message sets one, ``date`` has the form of RFC 5322 §3.3, and ``boundary`` is
        that of ``new_boundary``; '' for a mail with one part.
        """
        named = b"" if self.message_id else _line("Message-ID", message_id)
        headers = (self.before, f"Date: {date}\r\n".encode(), named, self.after, b"\r\n")
        if len(self.parts) == 1:
            ((_kind, head, octets),) = self.parts
            return b"".join((head.encode(), *headers, octets))
        mark = f"--{boundary}".encode()
        inner: list[bytes] = []
        for _kind, head, octets in self.parts:
            inner += (mark, b"\r\n", head.encode(), b"\r\n", octets, b"\r\n")
        return b"".join((_multipart(boundary).encode(), *headers, *inner, mark, b"--\r\n"))


class _NotCommon(Exception):
    """Django must render the message, or raise the error for it."""


def draft(message: EmailMessage, from_email: str) -> Draft | None:
    """Return ``message`` with ``from_email`` in From, or None when Django must render it.

    ``limits.check`` must have accepted ``message``. Raises the errors that are not the fault of a mail
    (``exceptions.refusal``).
    """
    try:
        return _draft(message, from_email)
    except Exception as error:  # a message may hold any object; Django reports the error
        refusal("The mail cannot be drafted", error)
        return None


def _draft(message: EmailMessage, from_email: str) -> Draft:
    if (
        type(message) not in (EmailMessage, EmailMultiAlternatives)
        or not vars(message).keys() <= _ATTRIBUTES
        or message.attachments
        or message.encoding
        or (message.from_email and type(message.from_email) not in _TEXT)
        or getattr(message, "alternative_subtype", "alternative") != "alternative"
        or settings.DEFAULT_CHARSET != "utf-8"
        or settings.EMAIL_USE_LOCALTIME
        or not django_internals.renders_mail_itself()
    ):
        raise _NotCommon
    parts = _parts(message)
    before = [("Subject", _text(message.subject)), ("From", from_email)]
    for name, addresses in (("To", message.to), ("Cc", message.cc), ("Reply-To", message.reply_to)):
        if addresses:
            before.append((name, ", ".join(map(_text, addresses))))
    after, message_id = _own_headers(message.extra_headers)
    headers = [name if value.isascii() else f"{name} beyond ASCII" for name, value in (*before, *after)]
    return Draft(
        shape=(*[kind for kind, _head, _octets in parts], *headers),
        parts=parts,
        before=b"".join([_line(name, value) for name, value in before]),
        after=b"".join([_line(name, value) for name, value in after]),
        message_id=message_id,
    )


def _text(value: object) -> str:
    if type(value) not in _TEXT:
        raise _NotCommon
    return str(value)


#: Lazy text is left out: each evaluation may give another text.
_TEXT = (str, SafeString)


def _own_headers(headers: dict[str, str]) -> tuple[list[tuple[str, str]], str]:
    """Return the headers that the message itself sets, and the Message-ID among them."""
    if type(headers) is not dict:
        raise _NotCommon
    found, message_id = [], ""
    for name, value in headers.items():
        found.append((name, _text(value)))
        if name.lower() == "message-id":
            if message_id or not _MESSAGE_ID.fullmatch(value):
                raise _NotCommon
            message_id = value
        elif _NOT_COMMON.fullmatch(name):
            raise _NotCommon
    return found, message_id


# -- a header -------------------------------------------------------------------------------------------------------


def _line(name: str, value: str) -> bytes:
    """Return a header as one or more lines."""
    plain = _PLAIN_ADDRESSES if name in ("From", "To", "Cc", "Reply-To") else _PLAIN
    if len(name) + len(": ") + len(value) <= _LINE and plain.fullmatch(value) and "=?" not in value:
        return f"{name}: {value}\r\n".encode()
    # Many mails share these headers. Recipients' addresses are not kept in memory.
    return _kept(name, value) if name in ("Subject", "From", "Reply-To") and len(value) < 1000 else _folded(name, value)


def _folded(name: str, value: str) -> bytes:
    """Return a header as Django and the standard library encode and fold it."""
    if _IS_MODERN:
        parsed = SMTP.header_store_parse(name, value)[1]
        lines = SMTP.fold_binary(name, parsed)
    else:
        parsed = django_internals.encode_header(name, value)
        lines = _COMPAT32.fold_binary(name, parsed)
    # limits.check_built() and Generator._write_headers() check for these.
    if limits.BREAKS.search(str(parsed)) or limits.BREAKS.search(lines.decode("latin-1").removesuffix("\r\n")):
        raise _NotCommon
    # _idna_encode_address_header_domains() of Django 6 rewrites the domain of such an address.
    if any(not one.domain.isascii() for one in getattr(parsed, "addresses", ())):
        raise _NotCommon
    return lines


_kept = functools.lru_cache(maxsize=64)(_folded)

_COMPAT32 = compat32.clone(linesep="\r\n")

#: Octets of a line in a text that needs no encoding, from Django 6 on.
_LONGEST_IN_7BIT = _COMPAT32.max_line_length or 0


# -- a part ---------------------------------------------------------------------------------------------------------


def _parts(message: EmailMessage) -> list[tuple[str, str, bytes]]:
    """Return the type and encoding, the MIME headers and the octets of each part."""
    texts = [(_text(message.content_subtype), _text(message.body))]
    alternatives = getattr(message, "alternatives", ())
    if alternatives:
        [alternative] = alternatives
        if type(alternative) is not EmailAlternative or alternative.mimetype != "text/html" or not message.body:
            raise _NotCommon
        texts.append(("html", _text(alternative.content)))
    found = []
    for number, (subtype, text) in enumerate(texts):
        if subtype not in ("plain", "html") or "\0" in text:
            raise _NotCommon
        encoding, octets = _encoded(text)
        head = _part_head(subtype, encoding, is_moved=bool(alternatives) and number == 0)
        # Generator._write_lines() writes line ends in the same way.
        if b"\r" in octets:
            octets = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        octets = octets.replace(b"\n", b"\r\n")
        found.append((f"{subtype} in {encoding}", head, octets))
    return found


if _IS_MODERN:

    def _encoded(text: str) -> tuple[str, bytes]:
        """Return the transfer encoding of ``text``, and ``text`` in that encoding."""
        lines = text.encode().splitlines()
        # This policy has the same line lengths and line ends as Django's. It parses no headers; _part_head() writes
        # them.
        if text.isascii() and max(map(len, lines), default=0) <= _LONGEST_IN_7BIT:
            return "7bit", b"\n".join([*lines, b""]) if lines else b"\n"
        part = MIMEPart(policy=_COMPAT32)
        part.set_content(text, charset="utf-8", content_manager=raw_data_manager)
        return str(part["Content-Transfer-Encoding"]), str(part.get_payload()).encode()

    def _part_head(subtype: str, encoding: str, *, is_moved: bool) -> str:
        # make_alternative() moves the 'Content-' headers of the first part down, and leaves MIME-Version.
        version = "" if is_moved else "MIME-Version: 1.0\r\n"
        return f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n{version}'

    def _multipart(boundary: str) -> str:
        return f'MIME-Version: 1.0\r\nContent-Type: multipart/alternative;\r\n boundary="{boundary}"\r\n'

else:

    def _encoded(text: str) -> tuple[str, bytes]:
        octets = text.encode()
        if max(map(len, octets.splitlines()), default=0) > 998:
            raise _NotCommon  # Django may choose quoted-printable
        return "7bit" if text.isascii() else "8bit", octets

    def _part_head(subtype: str, encoding: str, *, is_moved: bool) -> str:
        return (
            f'Content-Type: text/{subtype}; charset="utf-8"\r\nMIME-Version: 1.0\r\n'
            f"Content-Transfer-Encoding: {encoding}\r\n"
        )

    def _multipart(boundary: str) -> str:
        return f'Content-Type: multipart/alternative;\r\n boundary="{boundary}"\r\nMIME-Version: 1.0\r\n'


# -- compared with Django's -----------------------------------------------------------------------------------------

#: Whether Django rendered the first mail of a shape in this process to the same octets.
_seen: dict[tuple[str, ...], bool] = {}

#: Limit on the number of shapes, because an application can use any number of header names. Django renders the mails of
#: all further shapes.
_MOST_SHAPES = 500

_DIFFERS = (
    "Django %s renders mails of the form '%s' differently than expected. All such mails are left to Django, which "
    "takes longer."
)


def is_proven(draft: Draft) -> bool:
    """Return whether Django rendered the first mail of this shape to the same octets."""
    return _seen.get(draft.shape, False)


def compare(draft: Draft, content: bytes, *, message_id: str, date: str, boundary: str) -> None:
    """Compare the first mail of a shape with ``content``, as Django rendered it, and remember whether they are equal.

    ``draft`` is the draft of that mail; ``message_id``, ``date`` and ``boundary`` are the values in ``content``.
    """
    if draft.shape in _seen or len(_seen) >= _MOST_SHAPES:
        return
    is_same = draft.octets(message_id=message_id, date=date, boundary=boundary) == content
    _seen[draft.shape] = is_same
    if not is_same:
        logger.warning(_DIFFERS, django.get_version(), ", ".join(draft.shape))
