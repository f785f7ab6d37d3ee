"""Code for Django's SMTP backend keeps working: both of our backends send all mail that it sends."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable
from email.mime.image import MIMEImage
from typing import Any

import pytest
from django.core.mail import EmailMultiAlternatives
from django.core.mail.backends.smtp import EmailBackend as DjangosBackend
from django.utils.functional import lazystr
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from email_integration.backends import direct, queued
from email_integration.exceptions import InvalidMail
from email_integration.models import Delivery
from email_integration.smtpd import Message, SMTPServer
from email_integration.tasks import send_email
from tests.deliveries import RecordingTaskQueue, attempt
from tests.made_up import made_up_alike
from tests.mime_parts import MODERN
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

MessageFactory = Callable[[], EmailMultiAlternatives]


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


@pytest.fixture
def server(smtp_server: Callable[..., SMTPServer]) -> SMTPServer:
    server = smtp_server(security="plain", user=None)
    config_for(server)
    return server


def arrived(build: MessageFactory, server: SMTPServer, send: Callable[[EmailMultiAlternatives], object]) -> Message:
    server.messages.clear()
    with made_up_alike():
        send(build())
    (found,) = server.messages
    return found


def by_django(message: EmailMultiAlternatives, server: SMTPServer) -> None:
    # Django 6.1 requires the alias of an entry in MAILERS.
    DjangosBackend(alias="djangos", host=server.host, port=server.port).send_messages([message])


def by_queue(message: EmailMultiAlternatives) -> None:
    assert queued.EmailBackend().send_messages([message]) == 1
    result = attempt(Delivery.objects.latest("created_at").pk)
    assert isinstance(result, Delivery)
    assert result.status == "accepted"


def at_once(message: EmailMultiAlternatives) -> None:
    assert direct.EmailBackend().send_messages([message]) == 1


def arrives_as_by_django(build: MessageFactory, server: SMTPServer) -> None:
    expected = arrived(build, server, lambda message: by_django(message, server))
    for send in (by_queue, at_once):
        found = arrived(build, server, send)
        assert found.content == expected.content
        assert (found.mail_from, found.rcpt_tos) == (expected.mail_from, expected.rcpt_tos)


def made(**given: Any) -> EmailMultiAlternatives:
    """Build a message. ``attach``, ``attachment`` and ``alternative`` are added to it afterwards, and ``attributes``
    are set on it.
    """
    attached, appended, alternative = (given.pop(name, None) for name in ("attach", "attachment", "alternative"))
    attributes = given.pop("attributes", {})
    arguments = {"subject": "S", "body": "B", "from_email": "a@example.com", "to": ["lee@example.com"], **given}
    message = EmailMultiAlternatives(**arguments)
    for name, value in attributes.items():
        setattr(message, name, value)
    if attached is not None:
        message.attach(*attached)
    if appended is not None:
        message.attachments.append(appended)
    if alternative is not None:
        message.attach_alternative(*alternative)
    return message


# -- addresses ------------------------------------------------------------------------------------------------------

#: Values that every Django version sends, but that are no valid or no common addresses by RFC 5321.
ADDRESSES = [
    "a" * 65 + "@example.com",
    f"Kim <{'a' * 300}@example.com>",
    '"john doe"@example.com',
    '"a@b"@example.com',
    '"plain"@example.com',
    '"a\\"b"@example.com',
    "root",
    "root ",
    "Root <root>",
    "<root>",
    *(["Jürgen <root>"] if MODERN else []),
    lazystr("root"),
    "kim(work)@example.com",
    "kim @example.com",
    "kim@ example.com",
    "kim@exa!mple.com",
    "kim@[x]",
    "'kim@example.com'",
    "kim@" + ".".join(["b" * 60] * 5),
    *([] if MODERN else ["b..c@example.com", ".b@example.com", "Kim <b.@example.com>", "b..c@bücher.example"]),
    *([] if MODERN else ["Kim\x07Smith <kim@example.com>", "Kim\x1b <root>"]),
    *([] if MODERN else ["kim smith@example.com", "<@a.example,@b.example:kim@example.com>"]),
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("argument", ["from_email", "to", "cc", "bcc", "reply_to"])
def test_an_address_that_django_sends_to_is_taken(argument: str, address: str, server: SMTPServer) -> None:
    arrives_as_by_django(lambda: made(**{argument: address if argument == "from_email" else [address]}), server)


@pytest.mark.parametrize("address", ["b..c@example.com", ".b@example.com", "Kim <b.@example.com>"])
def test_dots_in_a_row_are_taken_on_each_django(address: str, server: SMTPServer) -> None:
    """They are sent as the equivalent quoted string (RFC 5321 §4.1.2). Django 6 no longer sends such addresses."""
    message = arrived(lambda: made(bcc=[address]), server, by_queue)
    assert message.rcpt_tos[1] in address


@pytest.mark.parametrize("address", [b"kim@example.com", "kim@example.com\n", "\r\nkim@example.com "])
def test_an_address_as_it_is_read_from_a_file_is_taken(address: Any, server: SMTPServer) -> None:
    assert arrived(lambda: made(bcc=[address]), server, by_queue).rcpt_tos == ("lee@example.com", "kim@example.com")


REPLY_TO: list[Any] = [
    ["kim@example.com, lee@example.com"],
    [", ".join(f"user{number}@mail.example.com" for number in range(60))],
    ["Jürgen <jurgen@example.com>, Kim <kim@example.com>"],
    ["a" * 400 + "@example.com", "root"],
    ["", "kim@example.com"],
    ["kim smith"],
    ["kim@example..com"],
    ["undisclosed:;"],
]


@pytest.mark.parametrize("reply_to", REPLY_TO)
def test_a_reply_to_that_django_writes_is_taken(reply_to: list[str], server: SMTPServer) -> None:
    """No server checks it, so it must not stop a mail."""
    arrives_as_by_django(lambda: made(reply_to=reply_to), server)


@pytest.mark.parametrize("reply_to", [None, ("kim@example.com",), {"kim@example.com"}])
def test_a_reply_to_of_another_kind_is_taken(reply_to: object, server: SMTPServer) -> None:
    arrives_as_by_django(lambda: made(attributes={"reply_to": reply_to}), server)


@pytest.mark.parametrize("header", ["kim@example.com, lee@example.com", "root", "Kim", "Kim <root>"])
def test_any_from_header_goes_with_the_default_sender(header: str, server: SMTPServer, settings: Any) -> None:
    settings.DEFAULT_FROM_EMAIL = "Shop <shop@example.com>"
    arrives_as_by_django(lambda: made(from_email=None, headers={"From": header}), server)


_ATOM = st.text("abcXYZ019!#$%&'*+/=?^_`{|}~-", min_size=1, max_size=6)
_LOCAL = st.lists(_ATOM, min_size=1, max_size=30).map(".".join) | st.text(
    " abc.@!(),:;<>[]'", min_size=1, max_size=8
).map(lambda text: f'"{text}"')
_DOMAIN = st.lists(_ATOM, min_size=1, max_size=4).map(".".join) | st.sampled_from(
    ["[127.0.0.1]", "[x]", "bücher.example"]
)
_BARE = st.builds(lambda local, domain: f"{local}@{domain}", _LOCAL, _DOMAIN) | _ATOM
_ADDRESS = _BARE | st.builds(
    lambda name, bare, comment: f"{name} <{bare}>{comment}",
    st.text("abcü ", max_size=8) | st.just('"Lee, Kim"'),
    _BARE,
    st.sampled_from(["", " ", " (at home)"]),
)


@given(address=_ADDRESS)
@example(address='"<"@example.com')
@example(address="root")
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_any_address_that_django_sends_to_is_taken(address: str, server: SMTPServer) -> None:
    server.messages.clear()
    try:
        by_django(made(bcc=[address]), server)
    except Exception:  # Django raises many different ones
        return
    (expected,) = server.messages
    # smtplib reduces some of them to nothing, and we refuse those.
    assert set(expected.rcpt_tos) <= set(arrived(lambda: made(bcc=[address]), server, at_once).rcpt_tos)


# -- other values ---------------------------------------------------------------------------------------------------

MESSAGES: dict[str, dict[str, Any]] = {
    "a memoryview": {"attach": ("a.pdf", memoryview(b"%PDF"), "application/pdf")},
    "a bytearray": {"attach": ("a.pdf", bytearray(b"%PDF"), "application/pdf")},
    "a NUL in a memoryview": {"attach": ("a.bin", memoryview(b"a\0b"), None)},
    "text for octets": {"attach": ("a.pdf", "abc", "application/pdf")},
    "an invitation": {"alternative": ("BEGIN:VCALENDAR", "text/calendar; method=REQUEST; charset=UTF-8")},
    "an invitation attached": {"attach": ("i.ics", "BEGIN:VCALENDAR", 'text/calendar; method="REQUEST"')},
    "a charset": {"attach": ("a.txt", "ä", "text/plain; charset=utf-8")},
    "a name in the type": {"attach": ("a.pdf", b"a", 'application/pdf; name="a b.pdf"')},
    "no parameter": {"attach": ("a.pdf", b"a", "application/pdf;")},
    "a blank after a type": {"attach": ("a.pdf", b"a", "application/pdf ")},
    "a type late": {"attach": ("a.pdf", b"a", lazystr("application/pdf"))},
    "a subtype with a parameter": {"attributes": {"content_subtype": "html; x=y"}},
    "a header translated late": {"headers": {"X-A": lazystr("a")}},
    "a moment": {"headers": {"X-A": dt.datetime(2030, 1, 1, tzinfo=dt.UTC).isoformat()}},
    "a sender translated late": {"from_email": lazystr("Kim <kim@example.com>")},
    "a subject that is a number": {"subject": 5},
    "a subject with an old control character": {"subject": "a\x07b\x1b"},
    "a header with one": {"headers": {"X-A": "a\x07b"}},
    "a name translated late": {"attach": (lazystr("a.pdf"), b"a", "application/pdf")},
    "recipients in sets": {"to": {"kim@example.com"}, "bcc": frozenset({"sam@example.com"})},
    "no recipient in between": {"to": ["", "kim@example.com", None]},
}
if MODERN:  # as at the end of a template; Django 5 refuses each
    MESSAGES |= {
        f"{end!r} at the end of a {what}": made_of(f"a{end}")
        for end in ("\n", "\r\n", "\u2028")
        for what, made_of in {
            "subject": lambda text: {"subject": text},
            "header": lambda text: {"headers": {"X-A": text}},
            "message's id": lambda text: {"headers": {"Message-ID": f"<{text[0]}@b.example>{text[1:]}"}},
        }.items()
    }
else:  # Django 6 refuses both
    MESSAGES["numbers"] = {"headers": {"X-Priority": 1, "X-A": 1.5, "X-B": decimal.Decimal("2.0"), "X-C": True}}
    MESSAGES["a related part"] = {
        "attributes": {"mixed_subtype": "related; type=x"},
        "attachment": MIMEImage(b"a", "png"),
    }


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_django_sends_is_taken(name: str, server: SMTPServer) -> None:
    arrives_as_by_django(lambda: made(**MESSAGES[name]), server)


@pytest.mark.parametrize(
    "arguments",
    [
        *({"to": [address]} for address in ADDRESSES[:-2]),
        *({"reply_to": reply_to} for reply_to in REPLY_TO),
        {"from_email": lazystr("Kim <kim@example.com>")},
        {"from_email": "root"},
        {"to": [lazystr("kim@example.com")]},
        {"headers": {"X-Priority": 1, "X-A": lazystr("a")}},
        {"attachments": [("a.pdf", memoryview(b"%PDF"), "application/pdf"), ("b", bytearray(b"%PDF"))]},
        {"attachments": [("i.ics", "BEGIN:VCALENDAR", "text/calendar; method=REQUEST")]},
        {"attachments": [(lazystr("a.pdf"), b"a")]},
    ],
)
def test_the_task_takes_what_can_go(arguments: dict[str, Any], server: SMTPServer) -> None:
    result = send_email.delay(**{"subject": "S", "body": "B", "to": ["lee@example.com"], **arguments})
    done = attempt(result.delivery_id)
    assert isinstance(done, Delivery)
    assert done.status == "accepted"
    assert len(server.messages) == 1


NO_ADDRESSES = [
    "kim@",
    "@example.com",
    "<>",
    " ",
    "a@example.com, b@example.com",
    "Lee, Kim <kim@example.com>",
    "kim@example..com",
    "kim@example.com> SIZE=1",
    "kim@" + "b" * 64 + ".example",
    '""@example.com',
    "kim.\u2028@example.com",
]


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_an_address_that_no_server_can_be_given_is_refused(address: str, server: SMTPServer) -> None:
    for send in (by_queue, at_once):
        with pytest.raises(InvalidMail):
            send(made(to=[address]))
    with pytest.raises(InvalidMail):
        send_email.delay("S", "B", to=[address])
