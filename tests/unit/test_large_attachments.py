"""Large attachments are encoded after a mail is built, and the result is the same octet for octet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives

from email_integration.message import attachments
from email_integration.message.rendering import render
from tests.made_up import made_up_alike

OCTETS = bytes(range(256)) * 20


class Signing(EmailMessage):
    def message(self, *args: Any, **kwargs: Any) -> Any:
        mime = super().message(*args, **kwargs)
        mime["X-Signature"] = str(sum(mime.as_bytes()))
        return mime


def made(*files: Any, cls: Callable[..., EmailMessage] = EmailMultiAlternatives) -> EmailMessage:
    message = cls("S", "B", "a@example.com", ["kim@example.com"])
    for number, file in enumerate(files):
        message.attach(f"{number}.bin", file, "application/octet-stream")
    message.attach("a.txt", "text", "text/plain")
    return message


@pytest.mark.parametrize(
    "files",
    [
        (OCTETS,),
        (bytearray(OCTETS), memoryview(OCTETS)[:4097], b"small"),
        (OCTETS, OCTETS),
        *((OCTETS[:size],) for size in (58, 59, 113, 114, 115, 2048, 3 * 57 * 16)),
    ],
    ids=len,
)
@pytest.mark.parametrize("cls", [EmailMessage, EmailMultiAlternatives, Signing])
def test_a_large_attachment_is_written_as_django_writes_it(
    files: tuple[Any, ...], cls: Callable[..., EmailMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    with made_up_alike():
        expected = render(made(*files, cls=cls)).content
    monkeypatch.setattr(attachments, "LARGE", 58)
    monkeypatch.setattr(attachments, "_PIECE", 3 * 57)
    message = made(*files, cls=cls)
    with made_up_alike():
        rendered = render(message)
    assert rendered.content == expected
    assert rendered.size == len(expected)
    assert rendered.eight_bit == (not expected.isascii())
    assert [one[1] for one in message.attachments[:-1]] == list(files)


@pytest.mark.parametrize(
    ("cls", "is_held_back"), [(EmailMessage, True), (EmailMultiAlternatives, True), (Signing, False)]
)
def test_it_is_held_back_where_django_builds_the_mail(
    cls: Callable[..., EmailMessage], is_held_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "LARGE", 58)
    message = made(OCTETS, cls=cls)
    assert bool(attachments.hold_back(message)[1]) == is_held_back
