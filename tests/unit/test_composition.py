"""The arguments of ``send_email``, and the errors for wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.utils.translation import gettext_lazy

from email_integration.exceptions import InvalidMail
from email_integration.message.composition import compose
from email_integration.message.rendering import render
from tests.mime_parts import image_part

GIVEN: dict[str, Any] = {
    "subject": "S",
    "body": "B",
    "from_email": None,
    "to": ["kim@example.com"],
    "cc": (),
    "bcc": (),
    "reply_to": (),
    "html_body": None,
    "attachments": (),
    "headers": None,
}


def made(**given: Any) -> Any:
    arguments = {**GIVEN, **given}
    return compose(arguments.pop("subject"), arguments.pop("body"), arguments.pop("from_email"), **arguments)


def test_everything_that_is_given_is_in_the_message(tmp_path: Path) -> None:
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    image = image_part(b"\x89PNG", content_id="<logo>")
    message = made(
        from_email="a@example.com",
        cc=["lee@example.com"],
        bcc=["sam@example.com"],
        reply_to=["help@example.com"],
        html_body="<p>B</p>",
        attachments=[
            tmp_path / "report.pdf",
            ("a.txt", "text"),
            ("b.bin", b"\0", "application/x-b"),
            ["c.txt", "c"],
            image,
        ],
        headers={"X-A": "1"},
    )
    assert message.recipients() == ["kim@example.com", "lee@example.com", "sam@example.com"]
    assert [tuple(one) for one in message.alternatives] == [("<p>B</p>", "text/html")]
    names = [one[0] for one in message.attachments if isinstance(one, tuple)]
    assert names == ["report.pdf", "a.txt", "b.bin", "c.txt"]
    assert image in message.attachments
    assert render(message).from_header == "a@example.com"


def test_a_lazy_translation_is_text() -> None:
    assert render(made(subject=gettext_lazy("Yes"), html_body=gettext_lazy("No"))).message_id


@pytest.mark.parametrize("sender", [None, ""])
def test_a_sender_left_out_is_left_open(sender: str | None) -> None:
    assert render(made(from_email=sender)).from_at is not None


@pytest.mark.parametrize("name", ["cc", "bcc", "reply_to", "attachments"])
def test_none_is_as_good_as_an_empty_list(name: str) -> None:
    render(made(**{name: None}))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("subject", None),
        ("subject", 7),
        ("subject", "a\r\nBcc: lee@example.com"),
        ("body", None),
        ("body", b"bytes"),
        ("from_email", 7),
        ("from_email", "noreply@"),
        ("from_email", "a@example.com\nX: y"),
        ("html_body", b"<p>"),
        ("to", "kim@example.com"),
        ("to", b"kim@example.com"),
        ("to", [None]),
        ("to", [7]),
        ("to", ["kim@"]),
        ("to", {"kim@example.com": 1}),
        ("to", ["kim@example.com\r\nBcc: lee@example.com"]),
        ("cc", "lee@example.com"),
        ("cc", ["lee@"]),
        ("bcc", "lee@example.com"),
        ("bcc", ["@example.com"]),
        ("reply_to", "lee@example.com"),
        ("reply_to", ["lee\n"]),
        ("headers", ["X-A"]),
        ("headers", {"X-A": None}),
        ("headers", {7: "a"}),
        ("headers", {"X-A": "a\nBcc: lee@example.com"}),
        ("headers", {"X A": "a"}),
        ("attachments", "report.pdf"),
        ("attachments", b"%PDF"),
        ("attachments", {"report.pdf": b"%PDF"}),
        ("attachments", 7),
        ("attachment 1", ["/no/such/file.pdf"]),
        ("attachment 1", ["/"]),
        ("attachment 1", [b"%PDF"]),
        ("attachment 1", [("a.txt",)]),
        ("attachment 1", [("a.txt", None)]),
        ("attachment 1", [("a.txt", "a", "text/plain", 1)]),
        ("attachment 1", [("a\r\nX: y.txt", "a")]),
        ("attachment 1", [(7, "a")]),
        ("attachment 1", [("a.txt", "a", 7)]),
        ("attachment 1", [("a.txt", "a", "nonsense")]),
        ("attachment 2", [("a.txt", "a"), None]),
    ],
)
def test_what_is_wrong_is_refused_and_named(argument: str, value: Any) -> None:
    name = "attachments" if argument.startswith("attachment ") else argument
    with pytest.raises(InvalidMail, match=rf"^{argument}\b"):
        render(made(**{name: value}))


def test_a_text_where_a_list_belongs_is_refused_with_a_way_to_correct_it() -> None:
    with pytest.raises(InvalidMail, match=r"put it in a list: to=\[…\]"):
        made(to="kim@example.com")
