"""Our own assembly produces the same bytes as Django, or leaves the mail to Django."""

from __future__ import annotations

import contextlib
import email.headerregistry
import logging
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from django.core.mail import EmailAlternative, EmailMessage, EmailMultiAlternatives
from django.db import OperationalError
from django.template import Context, Template
from django.utils.functional import lazystr
from django.utils.safestring import SafeString
from hypothesis import event, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from email_integration.exceptions import InvalidMail
from email_integration.message import assembly, limits, rendering
from email_integration.message.attachments import LARGE
from email_integration.message.rendering import Rendered, render
from tests.made_up import made_up_alike

DEFAULT = "Default <default@example.com>"

MessageFactory = Callable[[], EmailMessage]


@pytest.fixture(autouse=True)
def _in_a_new_process(settings: Any) -> Iterator[None]:
    settings.DEFAULT_FROM_EMAIL = DEFAULT
    with mock.patch.dict(assembly._seen, clear=True):
        yield


def message(**given: Any) -> EmailMessage:
    return EmailMessage(
        **{"subject": "S", "body": "B", "from_email": "a@example.com", "to": ["kim@example.com"], **given}
    )


def multi(html: Any = "<p>B</p>", **given: Any) -> EmailMultiAlternatives:
    made = EmailMultiAlternatives(
        **{"subject": "S", "body": "B", "from_email": "a@example.com", "to": ["kim@example.com"], **given}
    )
    made.attach_alternative(html, "text/html")
    return made


def with_(made: EmailMessage, **attributes: Any) -> EmailMessage:
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def is_taken(made: EmailMessage) -> bool:
    return assembly.draft(made, made.from_email) is not None


@contextlib.contextmanager
def only_by_django() -> Iterator[None]:
    with named_alike(), mock.patch.object(assembly, "draft", return_value=None):
        yield


@contextlib.contextmanager
def by_us_if_taken() -> Iterator[None]:
    with named_alike(), mock.patch.object(assembly, "is_proven", return_value=True):
        yield


@contextlib.contextmanager
def named_alike() -> Iterator[None]:
    """Use fixed made-up values, also for the Message-ID that we add if there is none."""
    with made_up_alike(), mock.patch.object(rendering, "make_msgid", return_value="<2@example.com>"):
        yield


def outcome(made: EmailMessage, **how: Any) -> Rendered | str:
    try:
        return render(made, **how)
    except InvalidMail as error:
        return str(error)


def comes_out_alike(build: MessageFactory, **how: Any) -> Rendered | str:
    with only_by_django():
        expected = outcome(build(), **how)
    with by_us_if_taken():
        assert outcome(build(), **how) == expected
    return expected


# -- mails that we assemble -----------------------------------------------------------------------------------------

LONG = "This line is longer than the seventy-eight characters that a line should have, as it is in HTML.\n"

TAKEN: dict[str, MessageFactory] = {
    "text": message,
    "empty text": lambda: message(body=""),
    "html": lambda: with_(message(body="<p>B</p>"), content_subtype="html"),
    "text and html": multi,
    "text of a class that could have html": lambda: EmailMultiAlternatives(
        "S", "B", "a@example.com", ["k@example.com"]
    ),
    "text in 8bit": lambda: message(body="Grüße\nJ."),
    "text of long lines": lambda: message(body=LONG * 20),
    "text of long lines that are encoded": lambda: message(body=("Grüße " * 30 + "\n") * 20),
    "text that is not latin": lambda: message(body="日本語" * 40),
    "html of long lines": lambda: multi(html=LONG * 20, body="Grüße"),
    "line ends of all kinds": lambda: multi(html="a\nb\r\nc\rd\r\r\n\n", body="a\r\n\r\rb\n\rc"),
    "other line ends": lambda: message(body="a\x0bb\x0cc\x1cd\x85e\u2028f\n"),
    "From at the start of a line": lambda: message(body="From here\n>From there\n.\n..\n"),
    "from a template": lambda: multi(html=Template("<p>{{ a }}</p>").render(Context({"a": "ü"}))),
    "subject beyond ascii": lambda: message(subject="Grüße aus Köln"),
    "subject that is long": lambda: message(subject="word " * 40 + "end"),
    "subject that looks encoded": lambda: message(subject="=?utf-8?q?a?="),
    "subject with blanks": lambda: message(subject=" a  b\tc "),
    "no subject": lambda: message(subject=""),
    "names": lambda: message(
        from_email="Hanna Muster <h@example.com>", to=["Kim <kim@example.com>", "Lee O'Neil <lee@example.com>"]
    ),
    "addresses without a domain": lambda: message(from_email="root", to=["root", "Root <kim>"]),
    "local parts that are long or quoted": lambda: message(to=["x" * 70 + "@example.com", '"k m"@example.com']),
    "controls in headers": lambda: message(subject="a\x1b[1m", headers={"X-A": "\x01b"}, reply_to=["\x7f"]),
    "any reply to": lambda: message(reply_to=["anyone", "a@example.com, b@example.com"]),
    "safe text": lambda: message(subject=SafeString("S"), to=[SafeString("kim@example.com")]),
    "names in quotes": lambda: message(from_email='"Doe, J." <j@example.com>', cc=['"Roe (R.)" <r@example.com>']),
    "names beyond ascii": lambda: message(from_email="Jürgen <j@example.com>", to=["名前 <n@example.com>"]),
    "names with a dot": lambda: message(to=["J. R. Doe <j@example.com>"]),
    "many recipients": lambda: message(to=[f"Person {n} <s{n}@example.com>" for n in range(60)]),
    "cc, bcc and reply to": lambda: message(
        cc=["c@example.com"], bcc=["secret@example.com"], reply_to=["Jürgen <r@example.com>", "s@example.com"]
    ),
    "headers": lambda: message(
        headers={
            "List-Unsubscribe": "<https://example.com/unsubscribe/0123456789/0123456789/0123456789/0123456789>",
            "Precedence": "bulk",
            "X-Umlaut": "Grüße",
            "In-Reply-To": "<1@example.com>",
            "References": "<1@example.com> <2@example.com>",
        }
    ),
    "an id of its own": lambda: message(headers={"message-id": "<own@example.com>", "X-A": "b"}),
}


# Django 5 encodes the domain in the function that we call, and Django 6 only in a later step.
of_a_domain: dict[str, MessageFactory] = {"a domain beyond ascii": lambda: message(to=["kim@bücher.example"])}
if not assembly._IS_MODERN:
    TAKEN |= of_a_domain


@pytest.mark.parametrize("kind", TAKEN)
def test_common_mails_are_taken_and_come_out_alike(kind: str) -> None:
    assert is_taken(TAKEN[kind]())
    assert isinstance(comes_out_alike(TAKEN[kind]), Rendered)


@pytest.mark.parametrize("default_from_is_open", [True, False])
@pytest.mark.parametrize("sender", ["", DEFAULT, "other@example.com"])
def test_a_sender_left_open_comes_out_alike(sender: str, default_from_is_open: bool) -> None:
    for build in (message, multi):
        rendered = comes_out_alike(
            lambda build=build: with_(build(), from_email=sender), default_from_is_open=default_from_is_open
        )
        assert isinstance(rendered, Rendered)
        assert (rendered.from_at is not None) == (sender == "" or (sender == DEFAULT and default_from_is_open))


@pytest.mark.parametrize(
    "default",
    [
        "Jürgen <j@example.com>",
        '"Doe, J." <j@example.com>',
        "=?utf-8?q?a=0Ab?= <j@example.com>",
        "no address",
        "a@bü.de",
    ],
)
def test_any_default_sender_comes_out_alike(settings: Any, default: str) -> None:
    settings.DEFAULT_FROM_EMAIL = default
    comes_out_alike(lambda: message(from_email=None), default_from_is_open=True)


def test_message_ids_have_the_projects_own_domain(settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "MESSAGE_ID_DOMAIN": "ids.example.org"}
    for _ in range(2):
        rendered = render(message())
        assert rendered.message_id.endswith("@ids.example.org>")
        assert f"\r\nMessage-ID: {rendered.message_id}\r\n".encode() in rendered.content


def test_no_boundary_is_in_a_part() -> None:
    taken = f"{'=' * 15}{0:019d}=="
    with made_up_alike():
        drafted = assembly.draft(multi(body=f"{taken}\n{taken}.0\n"), "a@example.com")
        assert drafted is not None
        assert drafted.new_boundary() == f"{taken}.1"


def test_nothing_of_a_mail_is_shown() -> None:
    made = multi(subject="secret", body="secret", html="secret", headers={"X-A": "secret", "Message-ID": "<secret@x>"})
    assert "secret" not in repr(assembly.draft(made, "secret@example.com"))


# -- mails left to Django -------------------------------------------------------------------------------------------


class Own(EmailMessage):
    pass


LEFT: dict[str, MessageFactory] = {
    "a subclass": lambda: Own("S", "B", "a@example.com", ["kim@example.com"]),
    "an override": lambda: with_(message(), message=lambda **_given: message().message()),
    "an unknown attribute": lambda: with_(message(), mixed_subtype="mixed"),
    "an encoding": lambda: with_(message(), encoding="iso-8859-1"),
    "another subtype": lambda: with_(message(), content_subtype="calendar"),
    "an attachment": lambda: message(attachments=[("a.txt", "1", "text/plain")]),
    "two alternatives": lambda: with_(multi(), alternatives=multi().alternatives * 2),
    "another alternative": lambda: EmailMultiAlternatives("S", "B", alternatives=[("a", "text/calendar")]),
    "an alternative of bytes": lambda: multi(html=b"<p>"),
    "an alternative that Django did not make": lambda: with_(multi(), alternatives=[("<p>", "text/html")]),
    "html without text": lambda: multi(body=""),
    "lazy text": lambda: message(body=lazystr("B")),
    "a lazy subject": lambda: message(subject=lazystr("S")),
    "no subject at all": lambda: message(subject=None),
    "a NUL": lambda: message(body="\0"),
    "a NUL in html": lambda: multi(html="\0"),
    "a header that is not text": lambda: message(headers={"X-A": 5}),
    "a lazy header": lambda: message(headers={"X-A": lazystr("v")}),
    "a lazy sender": lambda: message(from_email=lazystr("a@example.com")),
    "a lazy recipient": lambda: message(to=[lazystr("a@example.com")]),
    "a recipient of octets": lambda: message(cc=[b"a@example.com"]),
    "a name and an address": lambda: message(to=[("Kim", "kim@example.com")]),
    "a reply to that is no text": lambda: message(reply_to=[5]),
    "a lazy subtype": lambda: with_(message(), content_subtype=lazystr("plain")),
    "an id that is none": lambda: message(headers={"Message-ID": "none"}),
    "two ids": lambda: message(headers={"Message-ID": "<1@example.com>", "message-id": "<2@example.com>"}),
    **{
        f"a header {name}": lambda name=name: message(headers={name: "a@example.com"})  # type: ignore[misc]
        for name in (
            "From",
            "from",
            "To",
            "Cc",
            "Reply-To",
            "Subject",
            "Sender",
            "MIME-Version",
            "Content-Type",
            "Date",
        )
    },
}


if assembly._IS_MODERN:
    LEFT |= of_a_domain


@pytest.mark.parametrize("kind", LEFT)
def test_anything_else_is_left_to_django(kind: str) -> None:
    assert not is_taken(LEFT[kind]())


@pytest.mark.parametrize(("name", "value"), [("DEFAULT_CHARSET", "iso-8859-1"), ("EMAIL_USE_LOCALTIME", True)])
def test_with_other_settings_all_is_left_to_django(settings: Any, name: str, value: Any) -> None:
    assert is_taken(message())
    setattr(settings, name, value)
    assert not is_taken(message())


@pytest.mark.parametrize(
    "path",
    ["EmailMessage.message", "EmailMultiAlternatives.message", "SafeMIMEText.set_payload", "sanitize_address"],
)
def test_all_is_left_to_django_while_a_function_of_it_is_replaced(path: str) -> None:
    place = f"django.core.mail.message.{path}"
    with mock.patch(place):
        assert not is_taken(multi())
    assert is_taken(multi())


def test_a_replaced_message_function_is_used() -> None:
    django = EmailMessage.message

    def amended(made: EmailMessage, **given: Any) -> Any:
        mime = django(made, **given)
        mime["X-Amended"] = "yes"
        return mime

    render(message())
    render(message())
    with mock.patch.object(EmailMessage, "message", amended):
        assert b"X-Amended: yes\r\n" in render(message()).content


def test_headers_that_the_standard_library_parses_are_not_taken_for_common() -> None:
    """A newer Python may parse more headers."""
    for name, kind in email.headerregistry._default_header_map.items():  # type: ignore[attr-defined]  # no stub has it
        assert assembly._NOT_COMMON.fullmatch(name) or kind.__name__ == "MessageIDHeader", name


@pytest.mark.parametrize("error", [MemoryError, OperationalError, SoftTimeLimitExceeded])
def test_what_no_mail_is_to_blame_for_is_passed_on(error: type[Exception]) -> None:
    with mock.patch.object(assembly, "_parts", side_effect=error), pytest.raises(error):
        render(message())


# -- compared at the first use --------------------------------------------------------------------------------------


@pytest.fixture
def by_django() -> Iterator[mock.Mock]:
    with mock.patch.object(rendering, "_mime", side_effect=rendering._mime) as spy:
        yield spy


def test_the_first_of_each_shape_is_rendered_by_django(by_django: mock.Mock) -> None:
    shapes: list[MessageFactory] = [
        message,
        multi,
        lambda: message(body="ü"),
        lambda: with_(message(), content_subtype="html"),
        lambda: message(headers={"X-A": "b"}),
        lambda: message(reply_to=["r@example.com"]),
        lambda: message(subject="Grüße"),
    ]
    for number, build in enumerate(shapes, 1):
        for _ in range(3):
            render(build())
            assert by_django.call_count == number


def test_a_shape_that_comes_out_otherwise_is_left_to_django(
    by_django: mock.Mock, caplog: pytest.LogCaptureFixture
) -> None:
    with mock.patch.object(assembly, "_multipart", return_value="Content-Type: multipart/alternative\r\n"):
        for number in range(1, 4):
            assert b'boundary="=' in render(multi(subject="secret")).content
            assert by_django.call_count == number
        for _ in range(2):
            render(message())
        assert by_django.call_count == 4
    (logged,) = caplog.record_tuples
    assert logged[:2] == ("email_integration.message.assembly", logging.WARNING)
    assert "plain in 7bit" in logged[2]
    assert "secret" not in logged[2]


def test_shapes_are_learned_up_to_a_number(by_django: mock.Mock) -> None:
    with mock.patch.object(assembly, "_MOST_SHAPES", 2):
        for name in ("X-1", "X-2", "X-3", "X-1", "X-2", "X-3"):
            render(message(headers={name: "v"}))
    assert by_django.call_count == 4
    assert len(assembly._seen) == 2


# -- any mail -------------------------------------------------------------------------------------------------------

words = st.sampled_from(
    ["a", "Hello", "Grüße", "日本語", "İ", "🙂", "é" * 60, "x" * 30, "y" * 80, "", " ", "\t"]
) | st.sampled_from(
    [
        "-",
        "=",
        "--",
        ".",
        ",",
        ";",
        ":",
        "<",
        ">",
        '"',
        "(",
        "\\",
        "a@example.com",
        "=?utf-8?q?a?=",
        "=?utf-8?q?a=0AX:?=",
        "=?utf-8?q?a=0D=0A_b?=",
        "=?utf-8?q?=E2=80=A8X:?=",
        "=?latin-1?q?=85=00?=",
    ]
)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=90)
lines = st.lists(words, max_size=6).map(" ".join) | st.lists(words, max_size=6).map(" ".join) | texts
#: A header accepts a few of these, and a body all except the last two.
controls = st.sampled_from(["\1", "\x0b", "\x0c", "\x1b", "\x1c", "\x7f", "\x85", "\x9b", "\u2028", "\0", "\ud800"])


def bodies_of(pieces: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    ends = st.sampled_from(["\n", "\r\n", "\r", " ", "", "\x0b", "\x0c", "\x1c", "\x7f", "\x85", "\u2028"])
    return st.lists(st.tuples(pieces, ends), max_size=60).map(lambda found: "".join(map("".join, found)))


bodies = bodies_of(words | st.sampled_from(["line of text " * 3, "z" * 500, "From x"]))
plain = st.sampled_from(
    ["a@example.com", "Kim Lee <kim@example.com>", "x" * 40 + "@example.com", "J-R <a@example.com>"]
)
odd = st.sampled_from(
    [
        '"Doe, J." <j@example.org>',
        "J. Doe <j@example.org>",
        "O'Neil & Co! <o@example.com>",
        "Jörg <j@example.org>",
        "名 前 <n@example.com>",
        "Kİm <a@example.com>",
        "a@münchen.de",
        "a@[127.0.0.1]",
        "a@b",
        '"a b"@example.com',
        "(c) a@example.com",
        "root",
        "Root <root>",
        "root@localhost",
        "x" * 70 + "@example.com",
        "Kim <" + "x" * 70 + "@example.com>",
        "k..m.@example.com",
        '"k@m \\" x"@example.com',
        "a@example_b.com",
        "<@relay.example:a@example.com>",
        "a@example.com ",
        "=?utf-8?q?J?= <j@example.org>",
    ]
)
named = st.builds("{} <a@example.com>".format, st.text("ab-é' 1", min_size=1, max_size=40))
addresses = plain | plain | plain | plain | named | odd
#: Values of other types, and refused values.
others = st.builds(lazystr, plain | odd) | st.sampled_from(
    [
        SafeString("a@example.com"),
        ("Kim", "kim@example.com"),
        b"kim@example.com",
        None,
        5,
        "ü@example.com",
        "Jürgen <root>",
        "'a b'@example.com",
        "a@example.com, b@example.com",
        "Group: a@example.com;",
        "no address",
        "",
        "\ta@example.com",
        "=?utf-8?q?a=0AX:?= <j@example.org>",
    ]
)
names = st.sampled_from(["X-A", "List-Unsubscribe", "References", "In-Reply-To", "x-" + "long-" * 12])
values = lines | lines | addresses | st.just("<1.2@example.com>")
attached = st.sampled_from(
    [
        ("a.bin", b"a\r\n" * LARGE, None),
        ("a.zip", memoryview(b"a" * LARGE), "application/zip"),
        ("a.bin", bytearray(b"a"), "application/octet-stream"),
        ("a.ics", "BEGIN:VCALENDAR\r\n", "text/calendar; method=REQUEST"),
    ]
)

COMMON: dict[str, st.SearchStrategy[Any]] = {
    "subject": lines,
    "body": bodies,
    "from_email": addresses | st.sampled_from(["", DEFAULT]),
    "to": st.lists(addresses, min_size=1, max_size=3),
    "cc": st.lists(addresses, max_size=2),
    "bcc": st.lists(plain, max_size=1),
    "reply_to": st.lists(addresses, max_size=1),
    "headers": st.just({}) | st.dictionaries(names, values, max_size=2),
    "content_subtype": st.sampled_from(["plain", "plain", "html"]),
}
#: Other values that Django's SMTP backend sends or refuses.
UNUSUAL: dict[str, st.SearchStrategy[Any]] = {
    "subject": controls | lines.map(lazystr) | st.none(),
    "body": bodies_of(words | controls) | bodies.map(lazystr) | st.sampled_from([None, b"bytes", 5]),
    "from_email": others | st.sampled_from([lazystr(DEFAULT), lazystr("")]),
    "to": st.lists(addresses | others, min_size=1, max_size=3),
    "cc": st.lists(addresses | others, min_size=1, max_size=2),
    "bcc": st.lists(odd | others, min_size=1, max_size=2),
    "reply_to": st.lists(addresses | others | lines | controls, min_size=1, max_size=2),
    "headers": st.dictionaries(
        names | st.sampled_from(["Message-ID", "Date", "From", "To", "Sender"]),
        values | others | controls | st.integers(),
        max_size=2,
    ),
    "content_subtype": st.sampled_from(["html; x=y", "calendar", lazystr("html")]),
    "attachments": st.lists(attached, min_size=1, max_size=2),
}
mails = st.fixed_dictionaries(COMMON)
unusual = st.one_of([st.fixed_dictionaries({**COMMON, name: given}) for name, given in UNUSUAL.items()])


@given(parts=mails | mails | unusual, html=st.none() | bodies, default_from_is_open=st.booleans())
@hypothesis_settings(max_examples=500, deadline=None)
def test_any_mail_comes_out_alike(parts: dict[str, Any], html: str | None, default_from_is_open: bool) -> None:
    """The content, its recorded properties and the errors are the same."""

    def build() -> EmailMessage:
        given = dict(parts)
        subtype = given.pop("content_subtype")
        made = message(**given) if html is None else multi(html, **given)
        return with_(made, content_subtype=subtype)

    if limits._is_plain(build()):
        event("plain")
        with mock.patch.object(limits, "_is_plain", return_value=False):
            limits.check(build())  # exceeds no limit
    rendered = comes_out_alike(build, default_from_is_open=default_from_is_open)
    event("refused" if isinstance(rendered, str) else "taken" if is_taken(build()) else "left to Django")


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "a\nX: y"},
        {"subject": "a\x7f"},
        {"subject": "é"},
        {"subject": "x" * 1001},
        {"subject": lazystr("a")},
        {"subject": None},
        {"body": "\ud800"},
        {"body": None},
        {"to": "kim@example.com"},
        {"to": ("kim@example.com",)},
        {"to": [5]},
        {"cc": ["a@example.com\x00"]},
        {"bcc": ["a@example.com"] * 100},
        {"reply_to": ["a@example.com"]},
        {"reply_to": ""},
        {"extra_headers": {"X-A": "b"}},
        {"extra_headers": []},
        {"attachments": ()},
        {"content_subtype": "html\r\nX: y"},
        {"mixed_subtype": "mixed\r\nX: y"},
        {"alternative_subtype": "x y"},
        {"alternatives": [("<p>", "text/html")]},
        {"alternatives": [EmailAlternative("é", "text/html")]},
        {"alternatives": [EmailAlternative("<p>", "text/html\r\nX: y")]},
        {"alternatives": [EmailAlternative(b"<p>", "text/html")]},
    ],
    ids=ascii,
)
def test_only_plain_mails_are_not_looked_at_closely(change: dict[str, Any]) -> None:
    made = multi("<p>Hi")
    assert limits._is_plain(made)
    assert not limits._is_plain(with_(made, **change))
