"""Check a message against limits before anything is built from it, so the work is bounded by the size of the input."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from email.headerregistry import BaseHeader
from email.message import Message
from typing import Any

import django
from django.core.mail import EmailAlternative, EmailMessage, EmailMultiAlternatives
from django.utils.functional import Promise

from email_integration.addresses import LINE_BREAK, LONGEST, check_text, is_too_nested, quoted
from email_integration.exceptions import InvalidMail, refusal

#: Recipients of a mail. Each one is a command to the server.
MOST_RECIPIENTS = 10_000

#: Characters of all headers of a mail, including the names of attachments. Exchange accepts 256 kB (MaxHeaderSize).
ALL_HEADERS = 256 * 1024

#: Characters of all address headers. Postfix accepts no more in one header (header_size_limit, 102,400 octets), and
#: names outside ASCII take long to encode.
ALL_ADDRESSES = 100_000

#: Characters of the name of an attachment: four times the limit of file systems.
LONGEST_NAME = 1000

#: RFC 5322 §3.6.8: printable ASCII except the colon.
_HEADER_NAME = re.compile(r"[!-9;-~]+")

#: RFC 2045 §5.1.
_WORD = r"[!#$%&'*+.^_`{|}~0-9A-Za-z-]{1,127}"
#: Optional parameters, as calendar invitations have them. Django accepts them as part of the type.
_PARAMETERS = r"[ \t]*(?:;[ -~\t]*)?"
_MIME_TYPE = re.compile(f"{_WORD}(?:/{_WORD})+{_PARAMETERS}")
_SUBTYPE = re.compile(f"{_WORD}{_PARAMETERS}")

#: Headers whose values are addresses (RFC 5322 §3.6).
_OF_ADDRESSES = re.compile(r"(resent-)?(from|sender|reply-to|to|cc)", re.I)

#: Headers that are parsed, which may take Django 6 minutes; and the limit for one, in characters: a line (RFC 5322
#: §2.1.1).
_TAKEN_APART = re.compile(
    r"(resent-)?(message-id|date)|content-(type|disposition|transfer-encoding)|mime-version", re.I
)
_LINE = 998

#: Addresses without comments and without commas, except inside quotes.
_ADDRESS = re.compile(r'(?:[^",()\\]|"(?:[^"\\]|\\.)*")*+', re.S)

#: A line break that starts another header or the body, or a NUL, which no header can hold.
BREAKS = re.compile(r"(?>\r\n|\r|\n)(?![ \t])|\0")


def check(message: Any) -> None:
    """Raise ``InvalidMail`` when ``message`` cannot become a mail, regardless of how it was created."""
    check_is_message(message)
    if _is_plain(message):
        return
    given = _lists(message)
    recipients = sum(len(given[name]) for name in ("to", "cc", "bcc"))
    if recipients > MOST_RECIPIENTS:
        raise InvalidMail(
            f"The mail has {recipients} recipients; it may have at most {MOST_RECIPIENTS}. Split it into several mails."
        )
    headers = list(_headers(message))
    names = list(_names(message))
    addresses = [str(one) for name in ("to", "cc", "reply_to") for one in given[name]]
    addresses += [text for _what, text in headers if _OF_ADDRESSES.fullmatch(text.partition(":")[0])]
    _check_size("to, cc and reply_to", addresses, most=ALL_ADDRESSES)
    for text in map(str, given["reply_to"]):
        if not _is_bounded(text):
            raise InvalidMail(f"reply_to: {quoted(text)} is too long, or cannot be parsed.")
        check_text(f"reply_to: {quoted(text)}", text)
        if LINE_BREAK.search(text):
            raise InvalidMail(f"reply_to: {quoted(text)} contains a line break or a NUL; remove it.")
    texts = [*addresses, *(text for _what, text in headers), *(name for _what, name in names)]
    _check_size("subject, headers, addresses and names of attachments", texts, most=ALL_HEADERS)
    for what, text in (*headers, *names):
        check_text(what, text)
        if LINE_BREAK.search(_as_encoded(text)):
            raise InvalidMail(f"{what} contains a line break or a NUL; remove it.")
    for what, text in _texts(message):
        check_text(what, text)


def _is_plain(message: EmailMessage) -> bool:
    """Return whether the headers are short printable ASCII, and the texts or HTML are ASCII.

    Most mails are like this, and such a mail exceeds no limit.
    """
    alternatives = getattr(message, "alternatives", [])
    if (
        type(message) not in (EmailMessage, EmailMultiAlternatives)
        or not type(message.to) is type(message.cc) is type(message.bcc) is list
        or message.reply_to != []
        or message.extra_headers != {}
        or message.attachments != []
        or type(alternatives) is not list
        or not all(type(one) is EmailAlternative and one.mimetype == "text/html" for one in alternatives)
        or message.content_subtype not in ("plain", "html")
        or getattr(message, "mixed_subtype", "mixed") != "mixed"
        or getattr(message, "alternative_subtype", "alternative") != "alternative"
    ):
        return False
    words: list[Any] = [message.subject, *message.to, *message.cc, *message.bcc]
    texts: list[Any] = [message.body, *[one.content for one in alternatives]]
    if {*map(type, words), *map(type, texts)} != {str}:
        return False
    header = " ".join(words)
    return len(header) <= LONGEST and header.isascii() and header.isprintable() and all(map(str.isascii, texts))


def _as_encoded(text: str) -> str:
    """Return the text of a header as Django encodes it: from Django 6 on, without a line break at its end."""
    lines = text.splitlines() if django.VERSION >= (6, 0) else ()
    return lines[0] if len(lines) == 1 else text


def check_is_message(message: Any) -> None:
    """Raise ``InvalidMail`` unless ``message`` is Django's ``EmailMessage``."""
    if not isinstance(message, EmailMessage):
        kind = "None" if message is None else f"a {type(message).__name__}"
        raise InvalidMail(f"A mail must be an EmailMessage (django.core.mail), not {kind}.")


def has_recipients(message: Any) -> bool:
    """Return whether the message has a recipient. Raises ``InvalidMail`` when it is not a message."""
    check_is_message(message)
    try:
        return bool(message.recipients())
    except Exception as error:  # recipients() joins any objects in to, cc and bcc
        raise refusal("to, cc and bcc must be lists of addresses", error) from error


def check_built(mime: Message[Any, Any]) -> None:
    """Raise ``InvalidMail`` for a header, of the mail or of a part, that contains another header or a NUL.

    Django checks the headers that it writes itself, but none of a finished part.
    """
    for part in mime.walk():
        for name, value in part.raw_items():
            by_django = part is mime and isinstance(value, BaseHeader)
            text = _as_encoded(str(value)) if by_django else str(value)
            if re.search("[\0-\x20:]", name) or BREAKS.search(text):
                raise InvalidMail(f"The header {quoted(name)} of a part contains a line break or a NUL; remove it.")


def _lists(message: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name in ("to", "cc", "bcc", "reply_to"):
        value = getattr(message, name)
        if name == "reply_to" and not isinstance(value, str | bytes | Mapping):
            value = list(value) if isinstance(value, Collection) else value or ()  # Django only joins it
        if not isinstance(value, list | tuple):
            raise InvalidMail(f"{name} must be a list of addresses, not a {type(value).__name__}.")
        found[name] = list(value)
    return found


def _headers(message: Any) -> Iterator[tuple[str, str]]:
    """Yield the name of each header in error messages, and its text."""
    yield "subject", str(message.subject)
    if not hasattr(message.extra_headers, "items"):
        raise InvalidMail("headers must be a dictionary of strings.")
    for name, value in message.extra_headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidMail(f"headers: {quoted(name)} is not a valid header name.")
        if name.lower() == "bcc":  # its addresses get no mail; Django 6.1 and later refuse it
            raise InvalidMail(f"headers: {name!r} cannot be set as a header; put its addresses into the argument bcc.")
        text = str(value)
        if _OF_ADDRESSES.fullmatch(name) and not _is_bounded(text):
            raise InvalidMail(
                f"headers: {name} cannot be parsed; write 'Name <user@example.com>', and separate addresses by commas."
            )
        if _TAKEN_APART.fullmatch(name) and len(text) > _LINE:
            raise InvalidMail(f"headers: {name} has {len(text)} characters; it may have at most {_LINE}.")
        yield f"headers: {name}", f"{name}: {text}"


def _is_bounded(text: str) -> bool:
    """Return whether the time to parse the addresses of a header is at most proportional to their number.

    Django 6 needs seconds for a name of thousands of characters.
    """
    if len(text) > ALL_ADDRESSES or any(is_too_nested(one) for one in text.split(",")):
        return False
    at = 0
    while len(text) - at > LONGEST:
        found = _ADDRESS.match(text, at, at + LONGEST)
        end = found.end() if found else at
        if text[end : end + 1] != ",":
            return False
        at = end + 1
    return True


def _names(message: Any) -> Iterator[tuple[str, str]]:
    """Yield the names of attachments. Raises ``InvalidMail`` for a type that contains another header."""
    if not isinstance(message.attachments, list | tuple):
        raise InvalidMail(f"attachments must be a list, not a {type(message.attachments).__name__}.")
    for number, attachment in enumerate(message.attachments, 1):
        if isinstance(attachment, tuple) and len(attachment) == 3:
            check_mime_type(f"attachment {number}", attachment[2])
            name = str(attachment[0] or "")
            if len(name) > LONGEST_NAME:
                raise InvalidMail(
                    f"attachment {number}: its name has {len(name)} characters; it may have at most {LONGEST_NAME}."
                )
            yield f"attachment {number}: its name", name
    for number, alternative in enumerate(getattr(message, "alternatives", None) or (), 1):
        if isinstance(alternative, tuple) and len(alternative) == 2:
            check_mime_type(f"alternative {number}", alternative[1])
    for name in ("content_subtype", "mixed_subtype", "alternative_subtype"):
        if not _is_type(_SUBTYPE, str(getattr(message, name, "x"))):
            raise InvalidMail(f"{name} {quoted(getattr(message, name))} is not a subtype; write one such as 'html'.")


def check_mime_type(what: str, kind: Any) -> None:
    """Raise ``InvalidMail`` unless ``kind`` is None or a MIME type, with or without parameters (RFC 2045 §5.1).

    ``what`` names the value in the error message.
    """
    if kind is not None and not (isinstance(kind, str | Promise) and _is_type(_MIME_TYPE, str(kind))):
        raise InvalidMail(f"{what}: the MIME type must be text such as 'text/plain', or None.")


def _is_type(form: re.Pattern[str], kind: str) -> bool:
    # From Django 6 on, the time to parse a type grows faster than its length.
    return len(kind) <= _LINE and form.fullmatch(kind) is not None


def _texts(message: Any) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each body."""
    if isinstance(message.body, str | Promise):
        yield "body", str(message.body)
    for kind in ("alternative", "attachment"):
        for number, one in enumerate(getattr(message, f"{kind}s", None) or (), 1):
            place = 0 if kind == "alternative" else 1
            if isinstance(one, tuple) and len(one) > place and isinstance(one[place], str):
                yield f"{kind} {number}", one[place]


def _check_size(what: str, texts: Iterable[str], *, most: int) -> None:
    size = sum(map(len, texts))
    if size > most:
        raise InvalidMail(
            f"{what} have {size} characters in total; they may have at most {most}. Put many recipients into bcc, or "
            "split the mail into several mails."
        )
