"""Turn Django's ``EmailMessage`` into an envelope and finished bytes, once, in the caller."""

from __future__ import annotations

import email.policy
import functools
import re
from dataclasses import dataclass, field
from email.errors import MessageError
from email.message import Message
from typing import Any

import django
from django.conf import settings
from django.core.mail import EmailMessage

from email_integration.addresses import CONTROL, envelope_address
from email_integration.exceptions import InvalidMail

#: RFC 5322 §3.6.8: printable ASCII but the colon.
_HEADER_NAME = re.compile(r"[!-9;-~]+")


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A mail as it will be sent. ``from_header`` is blank when the sender was left open."""

    message_id: str
    from_header: str = field(repr=False)
    #: The envelope's sender where it is not the address of the From header.
    sender: str = field(repr=False)
    recipients: tuple[str, ...] = field(repr=False)
    content: bytes = field(repr=False)

    @property
    def from_open(self) -> bool:
        return not self.from_header


def render(message: EmailMessage, *, default_from_is_open: bool = False) -> Rendered:
    """Render ``message``; Message-ID and Date are fixed from here on, Bcc is in the envelope alone.

    A ``from_email`` that is empty leaves the sender open: the active configuration's is filled in when the mail is
    sent. With ``default_from_is_open`` that also goes for one equal to DEFAULT_FROM_EMAIL, which is what Django's own
    functions put in when none was given. A From header of its own wins over ``from_email``, which then is the
    envelope's sender alone. Raises ``InvalidMail``.
    """
    given = str(message.from_email or "")
    left_open = not given or (default_from_is_open and given == settings.DEFAULT_FROM_EMAIL)
    own_header = message.extra_headers.get("From")
    from_open = left_open and not own_header
    _check(message)
    recipients = _recipients(message)
    sender = "" if left_open else _address("from_email", given)
    if own_header and left_open:
        _address("headers", own_header)
    try:
        mime = _mime(message)
        from_header = "" if from_open else _one_line(mime["From"])
        if from_open:
            del mime["From"]
        del mime["Bcc"]  # whoever sets it as a header must not show it to everybody
        content = _bytes(mime)
    except (MessageError, ValueError, TypeError, OSError, LookupError) as error:
        # BadHeaderError (line breaks in a header) is a ValueError, an unknown charset a LookupError.
        raise InvalidMail(f"The mail cannot be rendered: {error}") from error
    return Rendered(
        message_id=_one_line(mime["Message-ID"])[:998],
        from_header=from_header,
        sender=sender if own_header else "",
        recipients=recipients,
        content=content,
    )


def _recipients(message: EmailMessage) -> tuple[str, ...]:
    known = {
        item: _address(name, item)
        for name in ("to", "cc", "bcc", "reply_to")
        for item in getattr(message, name)
        if item
    }
    found = [known.get(item) or _address("to", item) for item in message.recipients()]
    if not found:
        raise InvalidMail("The mail has no recipient: give at least one address in to, cc or bcc.")
    return tuple(dict.fromkeys(found))


def _address(argument: str, text: str) -> str:
    try:
        return envelope_address(str(text))
    except InvalidMail as error:
        raise InvalidMail(f"{argument}: {error}") from None


def _check(message: EmailMessage) -> None:
    """Refuse what would begin a new header, or the body, in the middle of one; Django looks for CR and LF in values."""
    texts = {"subject": message.subject}
    for name, value in message.extra_headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidMail(f"headers: {name!r} is no name of a header.")
        texts[f"headers: {name}"] = value
    for number, attachment in enumerate(message.attachments, 1):
        if isinstance(attachment, tuple):
            texts[f"attachment {number}: its name"] = attachment[0] or ""
    for what, text in texts.items():
        if CONTROL.search(str(text)):
            raise InvalidMail(f"{what} holds a line break or another control character.")


def with_from(content: bytes, from_header: str) -> bytes:
    """Return ``content`` with a From header in front, folded where it would be too long a line (RFC 5322 §2.1.1)."""
    folded = from_header if len(from_header) < 900 else from_header.replace(" ", "\r\n ")
    return b"From: " + folded.encode("ascii") + b"\r\n" + content


@functools.lru_cache(maxsize=32)
def from_header_of(from_email: str) -> str:
    """Return ``from_email`` as a header value in ASCII (RFC 2047), by Django's own rendering."""
    rendered = render(EmailMessage(from_email=from_email, to=["postmaster@localhost"]))
    return rendered.from_header


if django.VERSION >= (6, 0):

    def _mime(message: EmailMessage) -> Message[Any, Any]:
        return message.message(policy=email.policy.SMTP)  # Django 6 and later

    def _bytes(mime: Message[Any, Any]) -> bytes:
        return mime.as_bytes()

else:

    def _mime(message: EmailMessage) -> Message[Any, Any]:
        return message.message()

    def _bytes(mime: Message[Any, Any]) -> bytes:
        return mime.as_bytes(linesep="\r\n")  # type: ignore[call-arg]  # Django's own SafeMIME classes take it


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
