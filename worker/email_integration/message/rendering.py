"""Render Django's ``EmailMessage`` to an envelope and finished bytes, once, in the calling process."""

from __future__ import annotations

import base64
import email.policy
import functools
import inspect
import re
from collections.abc import Generator
from dataclasses import dataclass, field
from email.message import Message
from email.utils import make_msgid
from typing import Any

import django
from django.conf import settings
from django.core.mail import DNS_NAME, EmailMessage

from email_integration import conf, django_internals
from email_integration.addresses import envelope_address, mail_address, quoted
from email_integration.exceptions import InvalidMail, refusal
from email_integration.secrecy import with_secrets

from . import assembly, attachments, decoding, limits, reading

#: Placeholder for a sender that is left open during rendering. No real address can equal it (RFC 2606 §2).
_MARK = "left-open@sender.invalid"
_MARK_LINE = f"From: {_MARK}\r\n".encode()

#: Octets of the header that a subject is read from.
_LONGEST_SUBJECT = 10_000

_FROM = re.compile(rb"^From:(?: (?!\r\n))?([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)\r\n", re.M | re.I)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A mail in the form in which it is sent.

    ``from_header`` is the From header of the content, on one line. It is ASCII (RFC 2047), unless a subclass writes
    UTF-8. It is blank when the sender was left open.
    """

    message_id: str
    from_header: str = field(repr=False)
    #: The position of the From header in the content, in octets; None when the content already contains it.
    from_at: int | None
    #: The envelope sender when it differs from the address in From; '<>' for the null sender.
    sender: str = field(repr=False)
    recipients: tuple[str, ...] = field(repr=False)
    #: The subject in readable form, on one line.
    subject: str = field(repr=False)
    #: Headers and body without the attachments in ``large``.
    frame: bytes = field(repr=False)
    #: Large attachments, which are encoded when they are read: the position of each in ``frame``, and its octets.
    large: tuple[tuple[int, bytes | bytearray | memoryview], ...] = field(default=(), repr=False)

    @property
    def content(self) -> bytes:
        """Return headers and body as a whole. Use ``blocks`` for large mails."""
        return b"".join(self.blocks()) if self.large else self.frame

    @property
    def size(self) -> int:
        """Return the number of octets of headers and body."""
        return len(self.frame) + sum(attachments.encoded_size(octets) for _at, octets in self.large)

    @property
    def eight_bit(self) -> bool:
        """Return whether an octet is outside ASCII."""
        return not self.frame.isascii()

    @with_secrets
    def blocks(self) -> Generator[bytes, None, None]:
        """Yield headers and body piece by piece."""
        done = 0
        for at, octets in self.large:
            yield self.frame[done:at]
            yield from attachments.encoded(octets)
            done = at
        yield self.frame[done:]


@with_secrets
def render(
    message: EmailMessage, *, default_from_is_open: bool = False, envelope_sender: str | None = None
) -> Rendered:
    """Render ``message``. This fixes its Message-ID and Date. Bcc is only in the envelope.

    An empty ``from_email`` leaves the sender open: the sender of the active configuration is inserted when the mail is
    sent. With ``default_from_is_open`` the same happens when ``from_email`` equals DEFAULT_FROM_EMAIL, because Django's
    own functions insert that when the caller gives no sender. If the message sets a From header, that header takes
    precedence, and ``from_email`` is only the envelope sender. ``envelope_sender`` is the option of ``MailOptions``.
    Raises ``InvalidMail``.
    """
    try:
        return _render(message, default_from_is_open=default_from_is_open, envelope_sender=envelope_sender)
    except Exception as error:  # Django accepts any objects, and a subclass may raise anything
        raise refusal("The mail cannot be rendered", error) from error


def _render(message: EmailMessage, *, default_from_is_open: bool, envelope_sender: str | None) -> Rendered:
    limits.check(message)
    given = str(message.from_email or "")
    left_open = not given or (default_from_is_open and given == settings.DEFAULT_FROM_EMAIL)
    own_header = message.extra_headers.get("From")
    recipients = _recipients(message)
    sender = "" if left_open else _address("from_email", message.from_email)
    if own_header and left_open and not _bare(str(own_header)):
        # Django accepts any text there, and uses DEFAULT_FROM_EMAIL in the envelope.
        sender = _address("from_email", message.from_email) if given else _address("headers", own_header)
    message, held_back = attachments.hold_back(message)
    content, message_id, subject, from_open = _written(message, given, left_open=left_open)
    if b"\0" in content:
        raise InvalidMail("The mail contains a NUL in a place that cannot encode it; remove it.")
    # The message itself is not used: from Django 6 on it gives the text without its encoding.
    found = None if from_open else _FROM.search(content, 0, content.index(b"\r\n\r\n") + 2)
    from_header = one_line(found[1].decode("utf-8", "replace")) if found else ""
    if envelope_sender is None:
        # They are also equal when Django changed a local part outside ASCII so that it is no longer an address.
        envelope_sender = "" if sender == _bare(from_header) else sender
    from_at = None
    if from_open:
        from_at = content.index(_MARK_LINE)
        content = content[:from_at] + content[from_at + len(_MARK_LINE) :]
    content, large = attachments.placed(content, held_back)
    return Rendered(
        message_id=message_id[:998],
        from_header=from_header,
        from_at=from_at,
        sender=envelope_sender,
        recipients=recipients,
        subject=subject,
        frame=content,
        large=large,
    )


def _written(message: EmailMessage, given: str, *, left_open: bool) -> tuple[bytes, str, str, bool]:
    """Return the octets, the Message-ID, the subject, and whether the octets have the placeholder of an open sender."""
    draft = None
    # Only Django itself shows how it renders a default sender that is not plain ASCII.
    is_plain = given.isascii() and given.isprintable() and "=?" not in given
    if not left_open or not given or (is_plain and _bare(given)):
        draft = assembly.draft(message, _MARK if left_open else given)
    if draft is not None and assembly.is_proven(draft):
        domain = conf.get("MESSAGE_ID_DOMAIN")
        made_up = make_msgid(domain=domain) if domain else django_internals.mail_message_id()
        content = draft.octets(message_id=made_up, date=django_internals.mail_date(), boundary=draft.new_boundary())
        subject = one_line(message.subject)
        if "=?" in subject or not subject.isprintable():  # as a client decodes it
            subject = subject_in(content)
        return content, draft.message_id or made_up, subject, left_open
    mime, from_open = _built(message, given, left_open=left_open)
    content, message_id = _bytes(mime), one_line(mime["Message-ID"])
    if draft is not None:
        boundary = str(mime.get_boundary(""))
        assembly.compare(draft, content, message_id=message_id, date=str(mime["Date"]), boundary=boundary)
    return content, message_id, subject_in(content), from_open


def subject_in(beginning: bytes) -> str:
    """Return the subject of a mail in readable form, on one line; '' for none. ``beginning`` has its headers."""
    value = next((value for name, value in reading.fields(beginning) if name.lower() == "subject"), b"")
    return one_line(decoding.header(value[:_LONGEST_SUBJECT]))


def _built(message: EmailMessage, given: str, *, left_open: bool) -> tuple[Message[Any, Any], bool]:
    """Return the message as Django builds it, and whether it contains the placeholder."""
    mime = _mime(message)
    limits.check_built(mime)
    _encode_nul(mime)
    _name(mime, message)
    # A subclass may have set another From header.
    own_header = message.extra_headers.get("From")
    from_open = left_open and not own_header and _bare(one_line(mime["From"] or "")) in ("", _bare(given))
    if from_open:
        _mark_from(mime)
    del mime["Bcc"]  # a subclass that sets Bcc as a header must not show it
    return mime, from_open


#: Many mails have the same sender.
_sender = functools.lru_cache(maxsize=64)(envelope_address)


def _bare(from_header: str) -> str:
    """Return the address in a From header; '' when there is none."""
    try:
        return _sender(from_header)
    except InvalidMail:
        return ""


def _name(mime: Message[Any, Any], message: EmailMessage) -> None:
    """Set a Message-ID in the domain MESSAGE_ID_DOMAIN, if it is set and the message does not set a Message-ID."""
    domain = conf.get("MESSAGE_ID_DOMAIN")
    own = any(name.lower() == "message-id" for name in message.extra_headers)
    if not one_line(mime["Message-ID"] or ""):  # a class that builds the message may omit it
        del mime["Message-ID"]
        mime["Message-ID"] = make_msgid(domain=domain or str(DNS_NAME))
    elif domain and not own:
        mime.replace_header("Message-ID", make_msgid(domain=domain))


#: Transfer encodings that can represent a NUL.
_ENCODED = frozenset({"base64", "quoted-printable"})


def _encode_nul(mime: Message[Any, Any]) -> None:
    """Encode the parts that contain a NUL, which no unencoded part may contain (RFC 2045 §2.7, §2.8).

    A signed mail stays unchanged.
    """
    parts = list(mime.walk())
    if any(part.get_content_type() == "multipart/signed" for part in parts):
        return
    for part in parts:
        if part.is_multipart() or str(part.get("Content-Transfer-Encoding", "")).lower() in _ENCODED:
            continue
        octets: Any = part.get_payload(decode=True)
        if octets and b"\0" in octets:
            del part["Content-Transfer-Encoding"]
            part.set_payload(base64.encodebytes(octets).decode("ascii"))
            part["Content-Transfer-Encoding"] = "base64"


def _mark_from(mime: Message[Any, Any]) -> None:
    """Put the placeholder into From, where Django writes that header, so it can be found in the octets."""
    if "From" in mime:
        mime.replace_header("From", _MARK)
    else:
        mime["From"] = _MARK


def _recipients(message: EmailMessage) -> tuple[str, ...]:
    known = {item: _address(name, item) for name in ("to", "cc", "bcc") for item in getattr(message, name) if item}
    found = [known.get(item) or _address("to", item) for item in message.recipients()]
    if not found:
        raise InvalidMail("The mail has no recipient: give at least one address in to, cc or bcc.")
    return tuple(dict.fromkeys(found))


def _address(argument: str, text: Any) -> str:
    if argument == "bcc" and isinstance(text, str):
        text = text.strip(" \t\r\n")  # text from a file may have blanks; bcc is in no header
    try:
        return mail_address(text)
    except InvalidMail as error:
        raise InvalidMail(f"{argument}: {error}") from None


def from_line(from_header: str) -> bytes:
    """Return the From line for a content whose sender was left open. ``from_header`` comes from ``from_header_of``.

    Raises ``InvalidMail`` unless the result is exactly one header in ASCII.
    """
    # A long value starts on the next line. From Django 6 on, there is no space before it.
    blank = "" if from_header.startswith((" ", "\r\n")) else " "
    line = f"From:{blank}{from_header}\r\n".encode()
    if not (line.isascii() and _FROM.fullmatch(line)):
        raise InvalidMail("The From header cannot be read.")
    return line


@functools.lru_cache(maxsize=32)
def from_header_of(from_email: str) -> str:
    """Return ``from_email`` as a folded header value in ASCII (RFC 2047), as Django renders it.

    Raises ``InvalidMail`` when it contains no address.
    """
    rendered = render(EmailMessage(from_email=from_email, to=["postmaster@localhost"]))
    found = _FROM.search(rendered.content)
    if found is None:
        raise InvalidMail(f"{quoted(from_email)} cannot be rendered.")
    return found[1].decode("ascii")


if django.VERSION >= (6, 0):
    #: The headers of a mail inside this one stay unchanged, and so do signatures over them. Folding would take very
    #: long.
    _AS_GIVEN = email.policy.SMTP.clone(refold_source="none")

    def _mime(message: EmailMessage) -> Message[Any, Any]:
        # A subclass that was written for Django 5 accepts no policy.
        if _takes_policy(type(message).message):
            return message.message(policy=_AS_GIVEN)
        return message.message()

    @functools.lru_cache
    def _takes_policy(function: Any) -> bool:
        parameters = inspect.signature(function).parameters.values()
        return any(one.name == "policy" or one.kind is one.VAR_KEYWORD for one in parameters)

    def _bytes(mime: Message[Any, Any]) -> bytes:
        # Without that policy, the lines end in a single LF.
        return re.sub(rb"\r?\n|\r", b"\r\n", mime.as_bytes())

else:

    def _mime(message: EmailMessage) -> Message[Any, Any]:
        return message.message()

    def _bytes(mime: Message[Any, Any]) -> bytes:
        return mime.as_bytes(linesep="\r\n")  # type: ignore[call-arg]  # Django's own SafeMIME classes take it


def one_line(value: object) -> str:
    return " ".join(str(value).split())
