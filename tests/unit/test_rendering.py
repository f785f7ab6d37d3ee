"""From Django's messages to envelope and bytes."""

from __future__ import annotations

import email
import email.message
import email.policy
import re
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from hypothesis import given
from hypothesis import strategies as st

from email_integration.exceptions import InvalidMail
from email_integration.message.rendering import Rendered, from_header_of, from_line, render
from tests.mime_parts import image_part

DEFAULT = "Default <default@example.com>"


@pytest.fixture(autouse=True)
def _default_sender(settings: Any) -> None:
    settings.DEFAULT_FROM_EMAIL = DEFAULT


def message(**given: Any) -> EmailMessage:
    return EmailMessage(
        **{"subject": "S", "body": "B", "from_email": "a@example.com", "to": ["kim@example.com"], **given}
    )


def left_open() -> EmailMessage:
    given = message()
    given.from_email = ""
    return given


def parsed(rendered: Rendered) -> email.message.EmailMessage:
    return email.message_from_bytes(rendered.content, policy=email.policy.default)


def test_the_content_is_what_django_would_send() -> None:
    rendered = render(
        message(
            subject="Grüße",
            body="Zeile eins\nZeile zwei",
            cc=["Lee <lee@example.com>"],
            reply_to=["help@example.com"],
            headers={"X-Campaign": "spring", "List-Id": "<news.example.com>"},
        )
    )
    found = parsed(rendered)
    assert found["Subject"] == "Grüße"
    assert found.get_content().split() == ["Zeile", "eins", "Zeile", "zwei"]
    assert (found["From"], found["To"], found["Cc"]) == ("a@example.com", "kim@example.com", "Lee <lee@example.com>")
    assert (found["Reply-To"], found["X-Campaign"], found["List-Id"]) == (
        "help@example.com",
        "spring",
        "<news.example.com>",
    )
    assert rendered.from_header == "a@example.com"


def test_lines_end_in_crlf() -> None:
    rendered = render(message(body="one\ntwo\rthree\r\nfour"))
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", rendered.content)


def test_alternatives_attachments_and_inline_images_survive() -> None:
    given = EmailMultiAlternatives("S", "text", "a@example.com", ["kim@example.com"])
    given.attach_alternative('<img src="cid:logo">', "text/html")
    given.attach(image_part(b"\x89PNG\r\n\x1a\n", content_id="<logo>"))
    given.attach("größe.pdf", b"%PDF-1.4\r\n.\r\n", "application/pdf")
    given.attach("note.txt", "Notiz: ä", "text/plain")
    found = parsed(render(given))
    body = found.get_body(("html",))
    assert body is not None
    assert 'src="cid:logo"' in body.get_content()
    parts = {part.get_filename(): part for part in found.iter_attachments()}
    assert parts["größe.pdf"].get_content() == b"%PDF-1.4\r\n.\r\n"
    assert parts["note.txt"].get_content().strip() == "Notiz: ä"
    assert parts[None]["Content-ID"] == "<logo>"


def test_the_content_subtype_survives() -> None:
    given = message(body="<b>B</b>")
    given.content_subtype = "html"
    assert parsed(render(given)).get_content_type() == "text/html"


def test_message_id_and_date_are_there_once_and_can_be_given() -> None:
    rendered = render(message())
    assert [len(parsed(rendered).get_all(name) or ()) for name in ("Message-ID", "Date")] == [1, 1]
    assert parsed(rendered)["Message-ID"] == rendered.message_id
    given = render(message(headers={"message-id": "<1@example.com>", "Date": "Mon, 01 Jan 2026 00:00:00 +0000"}))
    assert given.message_id == "<1@example.com>"
    assert parsed(given).get_all("Message-ID") == ["<1@example.com>"]


def test_bcc_is_in_the_envelope_alone() -> None:
    rendered = render(message(bcc=["secret@example.com"]))
    assert rendered.recipients == ("kim@example.com", "secret@example.com")
    assert b"secret@" not in rendered.content
    assert "secret@" not in repr(rendered)


@pytest.mark.parametrize("name", ["Bcc", "bcc", "BCC"])
def test_a_bcc_header_is_refused(name: str) -> None:
    """Its addresses would receive no mail. Django refuses it from 6.1 on, and did not send to them before."""
    with pytest.raises(InvalidMail, match="argument bcc"):
        render(message(headers={name: "other@example.com"}))


class _FromDjango5(EmailMessage):
    """Overrides message() as code for Django 5 does, where it takes no policy."""

    def message(self) -> Any:  # type: ignore[override]  # Django 6 and later give a policy
        mime = super().message()
        mime["Bcc"] = "secret@example.com"
        mime["X-Campaign"] = "spring"
        return mime


class _WithPolicy(EmailMessage):
    """Overrides message() as code for every Django does."""

    def message(self, **kwargs: Any) -> Any:
        mime = super().message(**kwargs)
        mime["X-Campaign"] = "spring"
        return mime


@pytest.mark.parametrize("kind", [_FromDjango5, _WithPolicy])
def test_a_message_of_ones_own_is_rendered_by_every_django(kind: type[EmailMessage]) -> None:
    given = kind("Grüße", "Erste\nZweite\n", "Jürgen <j@example.com>", ["kim@example.com"])
    rendered = render(given)
    assert b"X-Campaign: spring\r\n" in rendered.content
    assert b"secret@" not in rendered.content
    assert rendered.content.count(b"\n") == rendered.content.count(b"\r\n")
    assert rendered.from_header == "=?utf-8?q?J=C3=BCrgen?= <j@example.com>"
    assert parsed(rendered)["Subject"] == "Grüße"


def test_everybody_gets_the_mail_once() -> None:
    rendered = render(message(to=["Kim <kim@example.com>"], cc=["kim@example.com"], bcc=["lee@EXAMPLE.com"]))
    assert rendered.recipients == ("kim@example.com", "lee@EXAMPLE.com")


def with_from(rendered: Rendered, from_header: str) -> bytes:
    """Return the content with the sender inserted where it was left open."""
    assert rendered.from_at is not None
    return rendered.content[: rendered.from_at] + from_line(from_header) + rendered.content[rendered.from_at :]


# -- the sender -----------------------------------------------------------------------------------------------------


def test_a_sender_left_open_is_not_in_the_content() -> None:
    rendered = render(left_open())
    assert parsed(rendered)["From"] is None
    complete = email.message_from_bytes(with_from(rendered, "Hanna <h@example.com>"), policy=email.policy.default)
    assert complete["From"] == "Hanna <h@example.com>"
    assert complete.get_content() == parsed(rendered).get_content()


@pytest.mark.parametrize(("through_backend", "is_open"), [(True, True), (False, False)])
def test_the_default_sender_counts_as_open_only_through_the_backends(through_backend: bool, is_open: bool) -> None:
    given = message(from_email=None)
    assert given.from_email == DEFAULT
    assert (render(given, default_from_is_open=through_backend).from_at is not None) == is_open


def test_a_from_header_of_its_own_leaves_from_email_to_the_envelope() -> None:
    """As in Django: bounces go to from_email."""
    rendered = render(message(from_email="bounce@example.com", headers={"From": "Hanna <h@example.com>"}))
    assert (rendered.from_header, rendered.sender) == ("Hanna <h@example.com>", "bounce@example.com")


@pytest.mark.parametrize("through_backend", [True, False])
def test_a_from_header_of_its_own_is_the_sender_when_there_is_no_other(through_backend: bool) -> None:
    given = message(headers={"From": "Hanna <h@example.com>"})
    given.from_email = DEFAULT if through_backend else ""
    rendered = render(given, default_from_is_open=through_backend)
    assert rendered.from_at is None
    assert (rendered.from_header, rendered.sender) == ("Hanna <h@example.com>", "")


def test_domains_and_names_beyond_ascii_are_encoded() -> None:
    rendered = render(
        message(from_email="Jürgen <j@bücher.example>", to=["Kim <kim@xn--bcher-kva.example>", "l@bücher.example"])
    )
    assert rendered.recipients == ("kim@xn--bcher-kva.example", "l@xn--bcher-kva.example")
    assert rendered.from_header == "=?utf-8?q?J=C3=BCrgen?= <j@xn--bcher-kva.example>"
    rendered.content.split(b"\r\n\r\n")[0].decode("ascii")


@pytest.mark.parametrize(
    "sender", ["a@example.com", "Hanna <a@example.com>", '"Doe, J." <a@example.com>', "Jürgen <a@bücher.example>"]
)
def test_the_configurations_sender_becomes_a_header(sender: str) -> None:
    content = with_from(render(left_open()), from_header_of(sender))
    found = email.message_from_bytes(content, policy=email.policy.default)["From"].addresses
    assert len(found) == 1
    assert found[0].username == "a"


LONG = "notifications+3f0c8a52-91d4-4b7e-8d0a-5f2f@mail.customer-service.example.com"


@pytest.mark.parametrize("sender", [LONG, f"{'Kundenservice-Rechnungen-' * 3} <a@example.com>"])
def test_a_sender_that_begins_on_the_next_line_is_read_and_filled_in(sender: str) -> None:
    """From Django 6 on, a header whose first word does not fit begins on the next line."""
    given = render(message(from_email=sender))
    assert given.from_header == " ".join(sender.split())
    assert given.sender == ""
    filled = with_from(render(left_open()), from_header_of(sender))
    assert given.content.split(b"\r\nTo:")[0].split(b"From:")[1] == filled.split(b"\r\nTo:")[0].split(b"From:")[1]
    assert email.message_from_bytes(filled, policy=email.policy.default)["From"] == " ".join(sender.split())


def test_a_very_long_sender_is_folded() -> None:
    content = with_from(render(left_open()), from_header_of(f"{'名' * 280} <a@example.com>"))
    assert max(len(line) for line in content.split(b"\r\n")) <= 998
    assert email.message_from_bytes(content, policy=email.policy.default)["From"].addresses[0].username == "a"


# -- refused mails --------------------------------------------------------------------------------------------------

BAD_ADDRESSES = [
    "",
    " ",
    "kim@",
    "@example.com",
    "kim@example.com, lee@example.com",
    "kim@example.com\r\nBcc: lee@example.com",
    "kim@example.com\nX: y",
    "Kim\x0bX: y <kim@example.com>",
    "Kim\u2028X: y <kim@example.com>",
    "kim@example..com",
    "kim@exa mple.com",
    "<>",
    "jürgen @example.com",
    "jür..gen@example.com",
    "ü" * 33 + "@example.com",
    "kim@" + "a" * 64 + ".com",
    "kim smith",
    "k" * 1_000 + "@example.com",
    "kim@example.com> SIZE=1",
]


@pytest.mark.parametrize("address", [one for one in BAD_ADDRESSES if one])
@pytest.mark.parametrize("argument", ["to", "cc", "bcc"])
def test_an_address_that_is_none_is_refused_by_name(argument: str, address: str) -> None:
    with pytest.raises(InvalidMail, match=f"^{argument}: "):
        render(message(**{argument: ["lee@example.com", address]}))


@pytest.mark.parametrize(
    "address", [one for one in BAD_ADDRESSES if re.search(r"[\n\r\x0b\u2028]", one)] + ["k" * 1_001]
)
def test_a_reply_to_that_no_header_can_hold_is_refused_by_name(address: str) -> None:
    """Any other is accepted, because no server checks it."""
    with pytest.raises(InvalidMail, match=r"^reply_to: "):
        render(message(reply_to=["lee@example.com", address]))


@pytest.mark.parametrize("address", [one for one in BAD_ADDRESSES if one.strip()])
def test_a_sender_that_is_none_is_refused_by_name(address: str) -> None:
    with pytest.raises(InvalidMail, match=r"^from_email: "):
        render(message(from_email=address))


@pytest.mark.parametrize("to", [[], [""], None])
def test_a_mail_without_recipients_is_refused(to: Any) -> None:
    with pytest.raises(InvalidMail, match="no recipient"):
        render(message(to=to))


@pytest.mark.parametrize("breaking", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\0"])
@pytest.mark.parametrize("where", ["subject", "value", "name", "filename", "From"])
def test_a_line_break_in_a_header_is_refused(where: str, breaking: str) -> None:
    text = f"a{breaking}Bcc: lee@example.com"
    given = message()
    if where == "subject":
        given.subject = text
    elif where == "filename":
        given.attach(text, b"x", "application/pdf")
    else:
        given.extra_headers = {text: "v"} if where == "name" else {"X-A" if where == "value" else where: text}
    with pytest.raises(InvalidMail, match=r"line break|is not a valid header name"):
        render(given)


@pytest.mark.parametrize("name", ["", "X A", "X:A", "X-Ä"])
def test_a_name_that_no_header_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidMail, match="is not a valid header name"):
        render(message(headers={name: "v"}))


@pytest.mark.parametrize("given", [{"subject": "\ud800"}, {"body": "\ud800"}])
def test_what_cannot_be_encoded_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(InvalidMail):
        render(message(**given))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(subject=texts, body=texts, name=texts, value=texts)
def test_whatever_is_taken_comes_out_with_the_headers_that_went_in(
    subject: str, body: str, name: str, value: str
) -> None:
    """No text adds a header or ends the headers early."""
    given = message(subject=subject, body=body, headers={"X-A": value}, to=[f'"{name}" <kim@example.com>'])
    try:
        rendered = render(given)
    except InvalidMail:
        return
    head, _, _ = rendered.content.partition(b"\r\n\r\n")
    names = [line.split(b":")[0].decode() for line in head.split(b"\r\n") if line[:1] not in (b" ", b"\t")]
    assert sorted(names) == sorted(
        [
            "Content-Type",
            "MIME-Version",
            "Content-Transfer-Encoding",
            "Subject",
            "From",
            "To",
            "Date",
            "Message-ID",
            "X-A",
        ]
    )
    assert rendered.recipients == ("kim@example.com",)
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", rendered.content)


@given(texts)
def test_a_sender_is_either_refused_or_one_address(text: str) -> None:
    try:
        rendered = render(message(from_email=text))
    except InvalidMail:
        return
    assert rendered.from_at is not None or rendered.sender or "@" in rendered.from_header
