"""The preview of a mail for people, whatever the mail contains."""

from __future__ import annotations

import base64
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import pytest

from email_integration.exceptions import ContentUnavailable
from email_integration.message import content, previews
from email_integration.models import Delivery

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def shown(data: bytes, **values: Any) -> previews.Preview:
    delivery = Delivery(**values)
    content.store(delivery, data)
    return previews.preview(delivery)


def test_a_mail_with_everything() -> None:
    """Texts, a picture in the HTML, attachments with their names, decoded headers."""
    mail = EmailMessage(policy=SMTP)
    mail["Subject"] = "Grüße aus Köln"
    mail.set_content("Plain ä")
    mail.add_alternative('<p>Rich ä</p><img src="cid:logo"><img src="cid:other">', subtype="html")
    html = mail.get_payload()[1]  # type: ignore[index]
    html.add_related(PNG, "image", "png", cid="<logo>")  # type: ignore[union-attr]
    mail.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="Übersicht.pdf")
    mail.add_attachment("name,address\r\n", subtype="csv", filename="people.csv")
    inner = EmailMessage()
    inner["Subject"] = "Inner"
    inner.set_content("forwarded")
    mail.add_attachment(inner)
    seen = shown(mail.as_bytes())
    assert dict(seen.headers)["Subject"] == "Grüße aus Köln"
    assert seen.text.strip() == "Plain ä"
    assert "Rich ä" in seen.html
    assert f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}"' in seen.html
    assert 'src="cid:other"' in seen.html
    kinds = [(one.name, one.content_type) for one in seen.attachments]
    assert kinds == [
        ("", "image/png"),
        ("Übersicht.pdf", "application/pdf"),
        ("people.csv", "text/csv"),
        ("", "message/rfc822"),
    ]
    assert [one.size for one in seen.attachments[:2]] == [len(PNG), len(b"%PDF-")]
    assert not seen.is_cut


def test_a_sender_that_was_left_open_is_among_the_headers() -> None:
    seen = shown(b"Subject: S\r\nTo: b@example.com\r\n\r\nText", from_at=12, from_header="Kim <kim@example.com>")
    assert [name for name, _ in seen.headers] == ["Subject", "From", "To"]
    assert dict(seen.headers)["From"] == "Kim <kim@example.com>"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no header at all",
        b"Subject: =?nonsense?q?=41?=\r\n\r\nText",
        b"Subject: =?utf-8?b?!!!?=\r\n\r\nText",
        b"Subject: \xff\xfe\r\nContent-Type: text/plain; charset=martian\r\n\r\n\xff",
        b"Content-Type: multipart/mixed; boundary=\r\n\r\n--\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n",
        b"Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!",
        b'Content-Type: image/png; name="=?x?y?z?="\r\nContent-ID: \xff\r\n\r\n',
    ],
)
def test_a_mail_that_is_not_as_it_should_be_is_shown_all_the_same(data: bytes) -> None:
    assert isinstance(shown(data), previews.Preview)


def test_what_is_too_large_is_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "LOOKED_AT", 100_000)
    seen = shown(b"Subject: S\r\n\r\n" + b"x" * 300_000)
    assert seen.is_cut
    assert 90_000 < len(seen.text) < 100_000


def test_what_is_gone_is_not_made_up() -> None:
    with pytest.raises(ContentUnavailable):
        previews.preview(Delivery(has_content=False))


def test_nothing_of_a_mail_is_in_its_representation() -> None:
    """It may appear in a traceback."""
    seen = shown(b"Subject: secret\r\nContent-Type: text/html\r\n\r\nsecret")
    assert seen.html == "secret"
    assert "secret" not in repr(seen)
