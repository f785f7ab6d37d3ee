"""Every message that Django can send arrives byte for byte as Django's own backend would have sent it."""

from __future__ import annotations

from collections.abc import Callable
from email.message import EmailMessage as Modern
from email.message import Message as Parsed
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.backends.smtp import EmailBackend as DjangosBackend
from django.utils.functional import lazystr
from django.utils.translation import gettext_lazy
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from email_integration.exceptions import InvalidMail
from email_integration.models import Delivery
from email_integration.queue.submission import submit
from email_integration.smtpd import Message, SMTPServer
from tests.deliveries import RecordingTaskQueue, attempt, mail
from tests.made_up import made_up_alike
from tests.mime_parts import MODERN, Part, bytes_part, image_part, text_part
from tests.relays import config_for

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

TO = ["kim@example.com"]


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


@pytest.fixture
def server(smtp_server: Serve) -> SMTPServer:
    server = smtp_server(security="plain", user=None)
    config_for(server)
    return server


def through_us(message: EmailMessage, server: SMTPServer, **how: Any) -> Message:
    """Submit and send the message, and return the received one."""
    server.messages.clear()
    delivery = submit(message, **how)
    result = attempt(delivery.pk)
    assert isinstance(result, Delivery), result
    assert result.status == "accepted", result.reason
    (arrived,) = server.messages
    return arrived


def through_django(message: EmailMessage, server: SMTPServer) -> Message:
    server.messages.clear()
    # Django 6.1 requires the alias of an entry in MAILERS.
    DjangosBackend(alias="djangos", host=server.host, port=server.port).send_messages([message])
    (arrived,) = server.messages
    return arrived


def arrives_alike(build: Callable[[], EmailMessage], server: SMTPServer) -> Message:
    """Send one message through Django and two through this app. Return the last received one.

    Our first message of a kind may be rendered by Django, and the second by us.
    """
    with made_up_alike():
        expected = through_django(build(), server)
    for _ in range(2):
        with made_up_alike():
            arrived = through_us(build(), server)
        assert arrived.content == expected.content
        assert arrived.mail_from == expected.mail_from
        # We name a duplicate recipient only once.
        assert arrived.rcpt_tos == tuple(dict.fromkeys(expected.rcpt_tos))
    return arrived


@pytest.mark.parametrize("length", [10, 90_000, 140_000])
def test_a_sender_left_open_comes_to_its_place_however_long_the_headers_before_it(
    server: SMTPServer, length: int
) -> None:
    """The content is read in blocks of 64 KiB."""
    subject = "word " * (length // 5) + "end"
    arrived = through_us(mail(*TO, subject=subject), server)
    assert arrived.parsed["From"] == "Hanna <noreply@example.com>"
    assert " ".join(arrived.parsed["Subject"].split()) == subject
    assert arrived.parsed.get_payload().strip() == "B"


# -- single cases ---------------------------------------------------------------------------------------------------


def message(**given: Any) -> EmailMessage:
    return EmailMessage(**{"subject": "S", "body": "B", "from_email": "Hanna <h@example.com>", "to": TO, **given})


def multi(**given: Any) -> EmailMultiAlternatives:
    made = EmailMultiAlternatives("S", "text", "Hanna <h@example.com>", TO, **given)
    made.attach_alternative("<p>html</p>", "text/html")
    return made


def with_(made: EmailMessage, *attachments: Any, **attributes: Any) -> EmailMessage:
    for attachment in attachments:
        made.attach(*attachment) if isinstance(attachment, tuple) else made.attach(attachment)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def inline_image() -> Part:
    return image_part(b"\x89PNG\r\n\x1a\n", content_id="<logo>", filename="lögo.png")


def part() -> Part:
    return bytes_part(b"\0\1\2.\r\n.\r\n", "x-thing")


def parsed_mail() -> Parsed:
    made = Parsed()
    made["Subject"] = "inner"
    made.set_payload("inner text")
    return made


class OwnMessage(EmailMessage):
    """A message that builds its MIME itself, with a different sender."""

    def message(self, **kwargs: Any) -> Any:
        if MODERN:
            made: Any = Modern(**kwargs)
            made.set_content(self.body)
        else:
            from django.core.mail import SafeMIMEText

            made = SafeMIMEText(self.body, "plain", "utf-8")
        made["Subject"] = "own"
        made["From"] = "another@example.org"
        made["To"] = "undisclosed-recipients:;"
        made["Message-ID"] = "<own@example.com>"
        made["X-Own"] = "yes"
        return made


class Amended(EmailMultiAlternatives):
    """A message that adds a header to the result of Django."""

    def message(self, **kwargs: Any) -> Any:
        made = super().message(**kwargs)
        made["Feedback-ID"] = "1:2:3"
        return made


CASES: dict[str, Callable[[], EmailMessage]] = {
    "plain text": message,
    "an html body by content_subtype": lambda: with_(message(body="<b>ü</b>"), content_subtype="html"),
    "an alternative": multi,
    "several alternatives": lambda: with_(
        multi(alternatives=[("BEGIN:VCALENDAR", "text/calendar"), ("# md", "text/markdown")])
    ),
    "an alternative of another kind": lambda: multi(alternatives=[(b"\0\1", "application/x-thing")]),
    "alternatives without a body": lambda: EmailMultiAlternatives(
        "S", "", "h@example.com", TO, alternatives=[("<p>ü</p>", "text/html")]
    ),
    "an attachment of bytes": lambda: with_(message(), ("a.pdf", b"%PDF\r\n.\r\n\0", "application/pdf")),
    "an attachment of text": lambda: with_(message(), ("a.txt", "Notiz: ä\n.\n", "text/plain")),
    "bytes that are text": lambda: with_(message(), ("a.csv", "ü;2\r\n".encode(), "text/csv")),
    "bytes that are no text": lambda: with_(message(), ("a.txt", b"\xff\xfe", "text/plain")),
    "a message as an attachment": lambda: with_(
        message(), ("m.eml", message(subject="innen ü", body="ü", headers={"Message-ID": "<i@x>"}), "message/rfc822")
    ),
    "a parsed message as an attachment": lambda: with_(message(), (None, parsed_mail(), "message/rfc822")),
    "a message's text as an attachment": lambda: with_(
        message(), ("m.eml", b"Subject: inner\n\nFrom here on\n", "message/rfc822")
    ),
    "a mail with folded headers as an attachment": lambda: with_(
        message(), ("m.eml", b"Subject: in two\r\n lines\r\nX-A: b\r\n\tc\r\n\r\nFrom here on\r\n", "message/rfc822")
    ),
    "parts": lambda: with_(message(), part(), text_part("ü"), bytes_part(b"\0", "octet-stream")),
    "two of one name": lambda: with_(message(), ("a.bin", b"1"), ("a.bin", b"2")),
    "a name beyond ascii": lambda: with_(message(), ("größe 名.pdf", b"1", "application/pdf")),
    "no name": lambda: with_(message(), (None, b"1", "image/png")),
    "an attachment alone": lambda: with_(message(body=""), ("a.bin", b"1")),
    "attachments given at once": lambda: message(attachments=[("a.txt", "1", "text/plain"), part()]),
    "an inline image": lambda: with_(multi(), inline_image()),
    "headers of its own": lambda: message(
        headers={"List-Id": "Grüße <l.example.com>", "X-A": "ü" * 90, "Precedence": "bulk", "Sender": "J <j@bü.de>"}
    ),
    "To and Cc as headers": lambda: message(headers={"To": "everybody@example.com", "Cc": "x@example.com"}),
    "a date and an id of its own": lambda: message(
        headers={"date": "Mon, 1 Jan 2024 00:00:00 +0000", "MESSAGE-ID": "<x@y>"}
    ),
    "a From header": lambda: message(from_email="bounce@example.com", headers={"From": "Jürgen <j@bücher.example>"}),
    "reply to": lambda: message(reply_to=["Jürgen <j@bücher.example>", "b@example.com"]),
    "cc and bcc": lambda: message(cc=["Lee <lee@example.com>", "kim@example.com"], bcc=["secret@example.com"]),
    "bcc alone": lambda: message(to=[], bcc=["secret@example.com"]),
    "empty recipients": lambda: message(to=["", *TO], cc=[""]),
    "international domains": lambda: message(from_email="Jürgen <j@bücher.example>", to=["Müller <m@müller.example>"]),
    "long lines": lambda: message(body="x" * 5000 + "\n" + "ü" * 3000 + "\n.\n..\n"),
    "a long subject": lambda: message(subject="Grüße " * 80),
    "a long subject in ascii": lambda: message(subject="word " * 300),
    "many recipients": lambda: message(to=[f"Person {n} <s{n}@example.com>" for n in range(60)]),
    "latin-1 by hand": lambda: with_(message(subject="Grüße", body="Grüße"), encoding="iso-8859-1"),
    # Django 6 sends it unchanged with its NULs, which RFC 2045 §2.8 does not allow.
    **({} if MODERN else {"utf-16 by hand": lambda: with_(message(body="Grüße"), encoding="utf-16")}),
    "line ends of all kinds": lambda: message(body="a\nb\r\nc\rd\n\n"),
    "From at the start of a line": lambda: message(body="From here\n>From there\n"),
    "lazy text": lambda: message(subject=gettext_lazy("Yes"), body=lazystr("lazy ü"), headers={"X-A": lazystr("x")}),
    "iterators": lambda: EmailMultiAlternatives(
        "S",
        "B",
        "h@example.com",
        iter(TO),
        bcc=(one for one in ["b@example.com"]),
        cc={"c@example.com"},
        reply_to=iter(["r@example.com"]),
        attachments=iter([("a.txt", "1", "text/plain")]),
        alternatives=iter([("<p>", "text/html")]),
    ),
    "a subclass that builds itself": lambda: OwnMessage("S", "Büdy", "h@example.com", TO),
    "a subclass that amends": lambda: Amended("S", "B", "h@example.com", TO, alternatives=[("<p>", "text/html")]),
    "nothing in it": lambda: message(subject="", body=""),
}
#: Django 6 makes text of these values. Older versions cannot render them.
TEXT_FROM_DJANGO_6: dict[str, Callable[[], EmailMessage]] = {
    "a number as an attachment": lambda: with_(message(), ("a.bin", 5, "application/pdf")),
    "a number as the body": lambda: with_(message(), body=5),
    "bytes as the body": lambda: with_(message(), body="Grüße".encode()),
}
if MODERN:
    CASES |= TEXT_FROM_DJANGO_6
else:  # an undocumented attribute, which Django 6 refuses
    CASES["another subtype of parts"] = lambda: with_(multi(), inline_image(), mixed_subtype="related")


@pytest.mark.parametrize("case", CASES)
def test_it_arrives_as_django_sends_it(server: SMTPServer, case: str) -> None:
    arrived = arrives_alike(CASES[case], server)
    assert b"secret@" not in arrived.content


def test_a_text_in_utf_16_arrives_encoded(server: SMTPServer) -> None:
    arrived = through_us(with_(message(body="Grüße"), encoding="utf-16"), server)
    assert b"\0" not in arrived.content
    assert arrived.parsed["Content-Transfer-Encoding"] == "base64"
    octets = arrived.parsed.get_payload(decode=True)
    assert isinstance(octets, bytes)
    # From Django 6 on, a line end of one octet follows it.
    assert octets.decode("utf-16", "ignore").strip() == "Grüße"


def test_a_file_that_is_attached_arrives(server: SMTPServer, tmp_path: Path) -> None:
    (tmp_path / "größe.csv").write_text("ü;1\n", encoding="utf-8")

    def build() -> EmailMessage:
        made = message()
        made.attach_file(tmp_path / "größe.csv")
        return made

    arrives_alike(build, server)


def test_a_subclass_that_names_its_sender_keeps_it_where_none_was_given(server: SMTPServer) -> None:
    made = OwnMessage("S", "B", to=TO)
    made.from_email = ""
    arrived = through_us(made, server)
    assert (arrived.mail_from, arrived.parsed["From"]) == ("another@example.org", "another@example.org")


def test_a_large_mail_arrives(server: SMTPServer) -> None:
    arrives_alike(lambda: with_(message(), ("a.bin", bytes(range(256)) * 8000)), server)


# -- arbitrary messages ---------------------------------------------------------------------------------------------

# Characters that a header may contain. Django refuses line breaks, and we refuse other control characters too.
words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=90)
# Django sends a NUL unchanged; we encode it: see tests/attacks/test_11_input.py.
bodies = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300) | st.text(
    "ab.\r\n \t", max_size=1500
)
names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=30)
subtypes = st.sampled_from(["plain", "html", "calendar", "x-amp-html"])
domains = st.sampled_from(["example.com", "bücher.example", "xn--bcher-kva.example", "sub.example.org"])
addresses = st.builds(
    "{}@{}".format,
    st.from_regex(r"[a-z0-9]([a-z0-9.+_-]{0,8}[a-z0-9])?", fullmatch=True).filter(lambda local: ".." not in local),
    domains,
)
attachments = st.one_of(
    st.tuples(names, st.binary(max_size=200), st.sampled_from([None, "application/pdf", "image/png"])),
    st.tuples(names, st.binary(max_size=200).filter(lambda octets: b"\0" not in octets), st.just("text/plain")),
    st.tuples(names, bodies, st.sampled_from(["text/plain", "text/csv"])),
    st.builds(text_part, bodies),
    st.builds(inline_image),
)
headers = st.dictionaries(
    st.sampled_from(["X-Campaign", "List-Id", "Precedence", "Auto-Submitted", "References", "X-Entity"]), words
)
messages = st.fixed_dictionaries(
    {
        "subject": words,
        "body": bodies,
        "to": st.lists(addresses, min_size=1, max_size=3),
        "cc": st.lists(addresses, max_size=2),
        "bcc": st.lists(addresses, max_size=2),
        "reply_to": st.lists(addresses, max_size=2),
        "headers": headers,
        "attachments": st.lists(attachments, max_size=3),
        "alternatives": st.lists(st.tuples(bodies, st.builds("text/{}".format, subtypes)), max_size=3),
    }
)


@given(
    parts=messages,
    content_subtype=st.sampled_from(["plain", "html"]),
    mixed_subtype=st.just("mixed") if MODERN else st.sampled_from(["mixed", "related"]),
    encoding=st.sampled_from([None, None, "utf-8", "iso-8859-1", *([] if MODERN else ["utf-16"]), "us-ascii"]),
    from_email=st.builds("{}".format, addresses) | st.builds("Jürgen <{}>".format, addresses),
)
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_message_arrives_as_django_sends_it(
    server: SMTPServer,
    parts: dict[str, Any],
    content_subtype: str,
    mixed_subtype: str,
    encoding: str | None,
    from_email: str,
) -> None:
    """If Django cannot render it either, the caller gets an exception."""

    def build() -> EmailMessage:
        made = EmailMultiAlternatives(from_email=from_email, **parts)
        made.content_subtype, made.encoding = content_subtype, encoding
        if not MODERN:
            made.mixed_subtype = mixed_subtype
        return made

    try:
        build().message().as_bytes()
    except (ValueError, LookupError):
        with pytest.raises(InvalidMail):
            submit(build())
        return
    arrives_alike(build, server)


# -- Bcc and senders ------------------------------------------------------------------------------------------------


def test_bcc_is_never_visible(server: SMTPServer) -> None:
    arrived = through_us(message(bcc=["secret@example.com"]), server)
    assert arrived.rcpt_tos == ("kim@example.com", "secret@example.com")
    assert b"secret@" not in arrived.content


def test_bounces_go_to_an_envelope_sender_of_its_own(server: SMTPServer) -> None:
    arrived = through_us(message(), server, envelope_sender="Bounces <bounce+1@bücher.example>")
    assert arrived.mail_from == "bounce+1@xn--bcher-kva.example"
    assert arrived.parsed["From"] == "Hanna <h@example.com>"
    assert b"bounce" not in arrived.content


def test_a_null_envelope_sender_gets_no_bounces(server: SMTPServer) -> None:
    for made in (message(), mail()):
        assert through_us(made, server, envelope_sender="<>").mail_from in ("", "<>")


def test_message_ids_are_of_the_projects_own_domain(server: SMTPServer, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "MESSAGE_ID_DOMAIN": "ids.example.org"}
    assert through_us(message(), server).message_id.endswith("@ids.example.org>")
    own = through_us(message(headers={"message-id": "<own@example.com>"}), server)
    assert own.message_id == "<own@example.com>"


# -- local parts beyond ASCII ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [{"to": ["jürgen@bücher.example"]}, {"from_email": "jürgen@bücher.example"}, {"bcc": ["jürgen@example.com"]}],
)
def test_a_local_part_beyond_ascii_goes_where_smtputf8_is_offered(smtp_server: Serve, given: dict[str, Any]) -> None:
    server = smtp_server(security="plain", user=None)
    config_for(server)
    arrived = through_us(message(**given), server)
    assert any(one.startswith("jürgen@") for one in (arrived.mail_from, *arrived.rcpt_tos))


def test_a_local_part_beyond_ascii_fails_for_good_where_it_is_not(smtp_server: Serve) -> None:
    config_for(smtp_server(security="plain", user=None, smtputf8=False))
    result = attempt(submit(message(to=["jürgen@example.com"])).pk)
    assert isinstance(result, Delivery)
    assert (result.status, result.code) == ("failed", None)
    assert result.reason == "the server does not accept addresses with non-ASCII characters (no SMTPUTF8)"


# -- messages that cannot be rendered -------------------------------------------------------------------------------


class Broken(EmailMessage):
    """An attachment that fails when it is rendered."""

    def message(self) -> Any:
        raise self.error

    error: Exception = ValueError("no")


@pytest.mark.parametrize(
    "build",
    [
        lambda: message(subject="a\nBcc: x@example.com"),
        lambda: message(headers={"X-A": "a\r\nb"}),
        lambda: message(reply_to=["a@example.com\n"]),
        lambda: with_(message(), encoding="no-such-charset"),
        lambda: with_(message(), attachments=["no attachment"]),
        lambda: with_(message(), attachments=[("a.txt",)]),
        lambda: with_(message(), extra_headers=[("X-A", "1")]),
        lambda: with_(message(), extra_headers={5: "1"}),
        lambda: with_(message(), to="kim@example.com"),
        lambda: with_(message(), to=[5]),
        lambda: with_(message(), to=None),
        lambda: with_(message(), subject="\ud800"),
        lambda: with_(multi(), alternatives=[("<p>", "html")]),
        lambda: with_(multi(), alternatives=[5]),
        lambda: Broken("S", "B", "h@example.com", TO),
        lambda: with_(Broken("S", "B", "h@example.com", TO), error=KeyError("no")),
        lambda: with_(Broken("S", "B", "h@example.com", TO), error=AttributeError("no")),
        *({} if MODERN else TEXT_FROM_DJANGO_6).values(),
    ],
)
def test_what_cannot_be_rendered_is_refused_in_the_caller(build: Callable[[], EmailMessage]) -> None:
    with pytest.raises(InvalidMail):
        submit(build())
    assert not Delivery.objects.exists()
