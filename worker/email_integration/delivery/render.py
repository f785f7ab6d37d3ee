"""Turn Django's ``EmailMessage`` into an envelope and finished bytes, once, in the caller."""

from __future__ import annotations

import email.policy
from dataclasses import dataclass, field
from email.errors import MessageError
from email.message import Message
from typing import Any

import django
from django.conf import settings
from django.core.mail import EmailMessage

from email_integration.addresses import envelope_address
from email_integration.exceptions import InvalidMail


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A mail as it will be sent. ``from_header`` is blank when the sender was left open."""

    message_id: str
    from_header: str = field(repr=False)
    recipients: tuple[str, ...] = field(repr=False)
    content: bytes = field(repr=False)

    @property
    def from_open(self) -> bool:
        return not self.from_header


def render(message: EmailMessage, *, default_from_is_open: bool = False) -> Rendered:
    """Render ``message``; Message-ID and Date are fixed from here on, Bcc is in the envelope alone.

    A ``from_email`` that is empty leaves the sender open: the active configuration's is filled in when the mail is
    sent. With ``default_from_is_open`` that also goes for one equal to DEFAULT_FROM_EMAIL, which is what Django's own
    functions put in when none was given. Raises ``InvalidMail``.
    """
    given_from = message.from_email or ""
    is_default = given_from == settings.DEFAULT_FROM_EMAIL
    from_open = "From" not in message.extra_headers and (not given_from or (default_from_is_open and is_default))
    recipients = tuple(dict.fromkeys(envelope_address(item) for item in message.recipients()))
    if not recipients:
        raise InvalidMail("The mail has no recipient: give at least one address in to, cc or bcc.")
    if not from_open:
        envelope_address(given_from or message.extra_headers["From"])
    for item in message.reply_to:
        envelope_address(item)
    try:
        mime = _mime(message)
        from_header = "" if from_open else _one_line(mime["From"])
        if from_open:
            del mime["From"]
        content = _bytes(mime)
    except (MessageError, ValueError, TypeError, OSError, LookupError) as error:
        # BadHeaderError (line breaks in a header) is a ValueError, an unknown charset a LookupError.
        raise InvalidMail(f"The mail cannot be rendered: {error}") from error
    return Rendered(
        message_id=_one_line(mime["Message-ID"]), from_header=from_header, recipients=recipients, content=content
    )


def with_from(content: bytes, from_header: str) -> bytes:
    """Return ``content`` with a From header in front."""
    return b"From: " + from_header.encode("ascii") + b"\r\n" + content


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
