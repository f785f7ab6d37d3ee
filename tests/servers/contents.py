"""Twenty-four mails, and their submission to a server by Django's own backend."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from email.utils import parseaddr

import django
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.backends.smtp import EmailBackend

from config.local.processes import LOOPBACK
from tests.mime_parts import image_part

TO = ["kim@example.com"]
MessageFactory = Callable[[], EmailMessage]


def message(**given: object) -> EmailMessage:
    return EmailMessage(**{"subject": "S", "body": "B", "from_email": "Hanna <h@example.com>", "to": TO, **given})


def with_parts(made: EmailMessage, *parts: object) -> EmailMessage:
    for part in parts:
        made.attach(*part) if isinstance(part, tuple) else made.attach(part)
    return made


def multi(body: str = "text", html: str = "<p>html ü</p>") -> EmailMultiAlternatives:
    made = EmailMultiAlternatives("S", body, "Hanna <h@example.com>", TO)
    made.attach_alternative(html, "text/html")
    return made


CONTENTS: dict[str, MessageFactory] = {
    "plain text": message,
    "dots": lambda: message(body=".\n..\n...\n.a\nb\n.\r\n.\n\n.."),
    "a dot at the end": lambda: message(body="the last line:\n."),
    "long lines": lambda: message(body="x" * 5000 + "\n" + "ü" * 3000 + "\n.\n" + "y" * 998),
    "long lines of words": lambda: message(body=("word " * 190 + "\n") * 20),
    "8 bit": lambda: message(body="Grüße, 你好, \N{GRINNING FACE}\n" * 30),
    "line ends of all kinds": lambda: message(body="a\nb\r\nc\rd\n\ne\r\r\nf"),
    "trailing blanks": lambda: message(body="blanks   \ntab\t\n   \n \t \nend  "),
    "an empty body": lambda: message(body=""),
    "nothing in it": lambda: message(subject="", body=""),
    "no line end": lambda: message(body="no line end"),
    "many line ends": lambda: message(body="\n" * 60),
    "From at the start of a line": lambda: message(body="From here\n>From there\n"),
    "an alternative": multi,
    "an attachment": lambda: with_parts(
        message(), ("a.pdf", b"%PDF\r\n.\r\n\0" + bytes(range(256)) * 40, "application/pdf")
    ),
    "a text attached": lambda: with_parts(message(), ("größe 名.txt", "Notiz: ä\n.\n.\n", "text/plain")),
    "a mail attached": lambda: with_parts(
        message(), ("m.eml", message(subject="innen ü", body="ü\n.\n"), "message/rfc822")
    ),
    "an inline image": lambda: with_parts(
        multi(), image_part(b"\x89PNG\r\n\x1a\n", content_id="<logo>", filename="l.png")
    ),
    "a subject beyond ASCII": lambda: message(subject="Grüße und mehr davon " * 30),
    "a long subject": lambda: message(subject="word " * 150),
    "headers of its own": lambda: message(headers={"List-Id": "Grüße <l.example.com>", "X-A": "ü" * 90}),
    "international domains": lambda: message(
        from_email="Jürgen <j@bücher.example>", to=["Müller <m@müller.example>", *TO]
    ),
    "many recipients": lambda: message(to=[f"Person {n} <s{n}@example.com>" for n in range(40)], bcc=["b@example.com"]),
    "a local part beyond ASCII": lambda: message(to=["jürgen@example.com"]),
}

#: Contents that a server without SMTPUTF8 cannot accept.
NEEDS_SMTPUTF8 = frozenset({"a local part beyond ASCII"})
#: The header that identifies the contents at their destination.
MARK = "X-Content"


def made(name: str) -> EmailMessage:
    message = CONTENTS[name]()
    message.extra_headers[MARK] = name.replace(" ", "-")
    return message


def hand_over_by_django(message: EmailMessage, port: int) -> None:
    """Send as Django's backend does. Mail that it cannot send goes by ``smtplib``, with the same bytes."""
    if any(not parseaddr(address)[1].partition("@")[0].isascii() for address in message.recipients()):
        content = message.message().as_bytes(linesep="\r\n")
        with smtplib.SMTP(LOOPBACK, port) as client:
            options = ["SMTPUTF8", "BODY=8BITMIME"]
            client.sendmail("h@example.com", message.recipients(), content, options)
        return
    alias = {"alias": "djangos"} if django.VERSION >= (6, 1) else {}
    EmailBackend(host=LOOPBACK, port=port, **alias).send_messages([message])
