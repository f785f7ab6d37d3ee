"""Build Django's ``EmailMessage`` from the arguments of ``send_email``, or raise a clear error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.message import MIMEPart
from email.mime.base import MIMEBase
from numbers import Number
from pathlib import Path
from typing import Any

import django
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils.functional import Promise

from email_integration.addresses import quoted
from email_integration.exceptions import InvalidMail, refusal
from email_integration.secrecy import with_secrets

from . import limits

#: A finished MIME part, as Django's ``attach()`` accepts it.
_PARTS: tuple[type[Any], ...] = (MIMEBase, MIMEPart) if django.VERSION >= (6, 0) else (MIMEBase,)

#: A file to attach: its path, or (filename, content[, MIME type]) as Django takes it, or a finished MIME part.
Attachment = str | Path | MIMEBase | tuple[Any, ...] | list[Any]


@with_secrets
def compose(
    subject: str,
    body: str,
    from_email: str | None = None,
    to: Sequence[str] = (),
    *,
    cc: Sequence[str] = (),
    bcc: Sequence[str] = (),
    reply_to: Sequence[str] = (),
    html_body: str | None = None,
    attachments: Sequence[Attachment] = (),
    headers: Mapping[str, str] | None = None,
) -> EmailMessage:
    """Return the message for these arguments, which are those of ``send_email``.

    The sender is left open when ``from_email`` is empty. Raises ``InvalidMail``, which names the wrong argument and
    says how to fix it.
    """
    # Lazy translations are evaluated here, in the language that is active now.
    try:
        subject, body, html_body, from_email = _now(subject), _now(body), _now(html_body), _now(from_email)
    except Exception as error:  # evaluating lazy text may raise anything
        raise refusal("subject, body, html_body or from_email cannot be converted to text", error) from error
    for name, value in (("subject", subject), ("body", body)):
        if not isinstance(value, str):
            raise InvalidMail(f"{name} must be text, not {_kind(value)}.")
    for name, text in (("from_email", from_email), ("html_body", html_body)):
        if text is not None and not isinstance(text, str):
            raise InvalidMail(f"{name} must be text or None, not {_kind(text)}.")
    message = EmailMultiAlternatives(
        subject=subject,
        body=body,
        from_email=from_email,
        to=_addresses("to", to),
        cc=_addresses("cc", cc),
        bcc=_addresses("bcc", bcc),
        reply_to=_addresses("reply_to", reply_to),
        headers=_headers(headers),
    )
    if not from_email:
        message.from_email = ""  # left open; Django would put DEFAULT_FROM_EMAIL here
    if html_body is not None:
        message.attach_alternative(html_body, "text/html")
    if not isinstance(attachments, list | tuple | None):
        raise InvalidMail(f"attachments must be a list, not {_kind(attachments)}.")
    for number, attachment in enumerate(attachments or (), 1):
        _attach(message, number, attachment)
    return message


def _now(text: Any) -> Any:
    return str(text) if isinstance(text, Promise) else text


def _addresses(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list | tuple | set | frozenset):
        hint = f"; put it in a list: {name}=[…]" if isinstance(value, str) else ""
        raise InvalidMail(f"{name} must be a list of addresses, not {_kind(value)}{hint}.")
    for item in value:
        if not isinstance(item, str | Promise):
            raise InvalidMail(f"{name} must be a list of strings; it contains {_kind(item)}.")
    return [_made(name, item) for item in value]


def _made(name: str, text: Any) -> str:
    """Return ``text`` as a string. Raises ``InvalidMail`` for lazy text, or a number, that cannot be converted."""
    try:
        return str(text)
    except Exception as error:  # evaluating lazy text may raise anything
        raise refusal(f"{name} cannot be converted to text", error) from error


def _headers(headers: Any) -> dict[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise InvalidMail(f"headers must be a dictionary of strings, not {_kind(headers)}.")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str | Promise | Number):
            raise InvalidMail(f"headers must be a dictionary of strings; {quoted(name)} or its value is not a string.")
    return {name: _made(f"headers: {quoted(name)}", value) for name, value in headers.items()}


def _attach(message: EmailMessage, number: int, attachment: Any) -> None:
    if isinstance(attachment, _PARTS):
        message.attach(attachment)
    elif isinstance(attachment, str | Path):
        try:
            message.attach_file(str(attachment))
        except (OSError, ValueError) as error:
            hint = "give a path that this process can read, or (filename, content, mimetype)"
            raise refusal(f"attachment {number} cannot be read; {hint}", error) from error
    elif isinstance(attachment, tuple | list) and 2 <= len(attachment) <= 3:
        filename, content, mimetype = (*attachment, None)[:3]
        if isinstance(filename, Promise):
            filename = _made(f"attachment {number}: its name", filename)
        if content is None or not isinstance(content, str | bytes | bytearray | memoryview):
            raise InvalidMail(f"attachment {number}: the content must be text or bytes, not {_kind(content)}.")
        if not isinstance(filename, str | None):
            raise InvalidMail(f"attachment {number}: the filename must be text or None, not {_kind(filename)}.")
        limits.check_mime_type(f"attachment {number}", mimetype)
        message.attach(filename, content, mimetype)  # type: ignore[arg-type]  # octets of any kind, and no name
    else:
        raise InvalidMail(
            f"attachment {number} must be a path or (filename, content[, mimetype]), not {_kind(attachment)}."
        )


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" if value is not None else "None"
