"""A mail for tests: parsed, with the attribute names of Django's ``EmailMessage``."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from django.core.mail import EmailAttachment

from email_integration.message.content import read
from email_integration.models import Delivery


@dataclass(frozen=True, kw_only=True, repr=False)
class ParsedMail:
    """A mail parsed from its bytes. ``recipients`` are those of the envelope; the rest is visible to its reader."""

    recipients: list[str]
    content: bytes
    message: EmailMessage = field(compare=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.subject!r} to {', '.join(self.recipients)}>"

    @property
    def subject(self) -> str:
        return self._header("Subject")

    @property
    def from_email(self) -> str:
        """The From header; '' while the sender is left open and the configuration's is not inserted yet."""
        return self._header("From")

    @property
    def to(self) -> list[str]:
        return self._addresses("To")

    @property
    def cc(self) -> list[str]:
        return self._addresses("Cc")

    @property
    def bcc(self) -> list[str]:
        """The recipients that neither To nor Cc names."""
        named = {
            address.addr_spec.lower()
            for name in ("To", "Cc")
            for address in getattr(self.message[name], "addresses", ())
        }
        return [recipient for recipient in self.recipients if recipient.lower() not in named]

    @property
    def reply_to(self) -> list[str]:
        return self._addresses("Reply-To")

    @property
    def message_id(self) -> str:
        return self._header("Message-ID")

    @property
    def headers(self) -> dict[str, str]:
        """All headers, decoded."""
        return {name: str(value) for name, value in self.message.items()}

    @property
    def body(self) -> str:
        """The plain text, with newlines between its lines and none at its end; '' when there is no text.

        From 6.0 on, Django ends each text with a newline, so a newline at the end of the original text is not visible
        here.
        """
        return self._text("plain")

    @property
    def html_body(self) -> str:
        """The HTML, in the same form as ``body``."""
        return self._text("html")

    @property
    def attachments(self) -> list[EmailAttachment]:
        """All parts except ``body`` and ``html_body``. Text parts are returned as text, all others as bytes."""
        bodies = [self.message.get_body((kind,)) for kind in ("plain", "html")]
        return [
            EmailAttachment(part.get_filename(), _value(part), part.get_content_type())
            for part in _leaves(self.message)
            if not any(part is body for body in bodies)
        ]

    def _header(self, name: str) -> str:
        return str(self.message[name] or "").strip()

    def _addresses(self, name: str) -> list[str]:
        return [str(address) for address in getattr(self.message[name], "addresses", ())]

    def _text(self, kind: str) -> str:
        part = self.message.get_body((kind,))
        return "" if part is None else str(_value(part)).removesuffix("\n")


@dataclass(frozen=True, kw_only=True, repr=False)
class SubmittedMail(ParsedMail):
    """A mail that was submitted to this app. ``delivery`` is its row at the time of reading."""

    delivery: Delivery


@dataclass(frozen=True, kw_only=True, repr=False)
class ReceivedMail(ParsedMail):
    """A mail that a ``FakeRelay`` has accepted. ``sender`` is the envelope sender."""

    sender: str


def submitted_mail(delivery: Delivery) -> SubmittedMail:
    """Return the mail of a delivery. Raises ``ContentUnavailable``."""
    content = read(delivery)
    return SubmittedMail(
        delivery=delivery,
        recipients=[item["address"] for item in delivery.recipients],
        content=content,
        message=_parsed(content),
    )


def received_mail(*, sender: str, recipients: list[str], content: bytes) -> ReceivedMail:
    """Return the mail that a server received."""
    return ReceivedMail(sender=sender, recipients=recipients, content=content, message=_parsed(content))


def _parsed(content: bytes) -> EmailMessage:
    return email.message_from_bytes(content, policy=email.policy.default)


def _leaves(part: Any) -> Iterator[Any]:
    """Yield the parts that are not multiparts. An attached message is one part, whatever it contains."""
    if part.get_content_maintype() == "multipart":
        for inner in part.iter_parts():
            yield from _leaves(inner)
    else:
        yield part


def _value(part: Any) -> Any:
    """Return the content of the part: text, bytes, or a message."""
    value = part.get_content()
    return value.replace("\r\n", "\n") if isinstance(value, str) else value
