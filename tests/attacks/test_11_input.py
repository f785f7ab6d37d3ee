"""Any input is a mail that can be sent, or raises ``InvalidMail`` with the reason before anything is stored.

Work is counted in calls, because their number does not depend on how busy the machine is.
"""

from __future__ import annotations

import datetime as dt
import email
import email.policy
import re
import sys
from collections.abc import Callable
from email.message import MIMEPart
from email.mime.base import MIMEBase
from email.mime.text import MIMEText
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from celery.exceptions import SoftTimeLimitExceeded
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.utils.functional import lazy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from email_integration import aio
from email_integration.addresses import envelope_address
from email_integration.backends import direct, queued
from email_integration.delivery import cancel, erase_recipient, release, resend
from email_integration.exceptions import InvalidMail
from email_integration.message import content
from email_integration.models import Delivery
from email_integration.queue.submission import submit
from email_integration.sending.messages import OutgoingMail, PreparedMessage
from email_integration.smtp import Relay
from email_integration.tasks import send_email
from email_integration.tasks.bulk import submit_many
from tests.deliveries import RecordingTaskQueue, submitted
from tests.mime_parts import MODERN, bytes_part, text_part

pytestmark = pytest.mark.django_db

TO = ["kim@example.com"]
RELAY = Relay(name="test", host="smtp.example.com", from_email="noreply@example.com")
#: Naive datetimes, as an application may have them.
FIRST, LAST = dt.datetime.min, dt.datetime.max  # noqa: DTZ901
NAMES_OF_OPTIONS = ("envelope_sender", "due_at", "expires_at", "priority", "in_doubt")


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def _named(value: object) -> str:
    """Return an id that is the same in each process that collects the tests."""
    return re.sub(r" at 0x\w+", "", ascii(value))


def calls(function: Callable[[], object]) -> int:
    """Return the number of function calls until it ends, with a mail or with ``InvalidMail``."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(trace)
    try:
        function()
    except InvalidMail:
        pass
    finally:
        sys.setprofile(None)
    return count


# -- the ways to submit ---------------------------------------------------------------------------------------------


def _message(**given: Any) -> EmailMessage:
    named = {name: given.pop(name) for name in ("html_body", "attachments") if name in given}
    message = EmailMultiAlternatives(**{"subject": "S", "body": "B", "from_email": "a@example.com", "to": TO, **given})
    if "html_body" in named:
        message.attach_alternative(named["html_body"], "text/html")
    for attachment in named.get("attachments", ()):
        if isinstance(attachment, MIMEBase | MIMEPart):
            message.attach(attachment)
        else:
            message.attach(*attachment)
    return message


def _split(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    options = {name: given[name] for name in NAMES_OF_OPTIONS if name in given}
    return {name: value for name, value in given.items() if name not in options}, options


def _by_task(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **given: call(**{"subject": "S", "body": "B", "from_email": "a@example.com", "to": TO, **given})


def _by_submit(**given: Any) -> Any:
    given, options = _split(given)
    return submit(_message(**given), **options)


def _by_submit_many(**given: Any) -> Any:
    given, options = _split(given)
    return submit_many([_message(**given)], **options)


def _by_async(**given: Any) -> Any:
    given, options = _split(given)
    return async_to_sync(aio.asubmit)(_message(**given), **options)


def _by_async_many(**given: Any) -> Any:
    given, options = _split(given)

    async def messages() -> Any:
        yield _message(**given)

    return async_to_sync(aio.asubmit_many)(messages(), **options)


def _by_backend(**given: Any) -> Any:
    given, options = _split(given)
    return queued.EmailBackend(**options).send_messages([_message(**given)])


def _at_once(**given: Any) -> Any:
    """Send directly; this way takes no options and stores no row."""
    given, options = _split(given)
    if options:
        raise InvalidMail("It takes none.")
    return direct.EmailBackend().send_messages([_message(**given)])


WAYS: dict[str, Callable[..., Any]] = {
    "delay": _by_task(send_email.delay),
    "apply_async": _by_task(lambda **given: send_email.apply_async(kwargs=given)),
    "called": _by_task(send_email),
    "prepare": _by_task(send_email.prepare),
    "asend_email": _by_task(async_to_sync(aio.asend_email)),
    "submit": _by_submit,
    "submit_many": _by_submit_many,
    "asubmit": _by_async,
    "asubmit_many": _by_async_many,
    "backend": _by_backend,
    "direct": _at_once,
}

#: Characters that no address may contain, and addresses that are too long.
ADDRESSES = [
    "(" * 5_000 + "a@example.com",
    "a@example.com " + "(" * 5_000 + ")" * 5_000,
    "a" * 80_000 + "@example.com",
    "a." * 40_000 + "a@example.com",
    '"' * 80_000 + "@example.com",
    "\\" * 80_000 + "@example.com",
    "a@" + "b." * 40_000 + "example",
    ":" * 5_000 + "a@example.com",
    "[" * 5_000 + "a@example.com",
    "<" * 5_000 + "a@example.com",
    f"{'Kim ' * 20_000}<a@example.com>",
    f'"{"ü" * 5_000}" <a@example.com>',
    "a" * 1_000 + "@example.com",
    "a@" + "b" * 64 + ".example",
    "a@" + "é" * 300 + ".example",
    "\ud800@example.com",
    "a@\ud800.example",
    "\udcff <a@example.com>",
    "a@example.com\0",
    "a\x9b@example.com",
    "a@example.com\r\nBcc: b@example.com",
    "a@example.com\u2028",
]

WRONG: list[tuple[str, Any]] = [
    *((name, [address]) for name in ("to", "bcc") for address in ADDRESSES),
    *((name, [address]) for name in ("cc", "reply_to") for address in ADDRESSES[::3]),
    *(("from_email", address) for address in ADDRESSES),
    *(("envelope_sender", address) for address in ADDRESSES[::2]),
    ("bcc", [f"u{number}@example.com" for number in range(20_000)]),
    ("to", [f"{'Kim Lee ' * 10}<u{number}@example.com>" for number in range(9_000)]),
    ("subject", "\ud800"),
    ("subject", "x" * 1_000_000),
    ("subject", "a\0b"),
    ("subject", "a\r\nBcc: b@example.com"),
    ("subject", "a\x85b"),
    ("body", "a \udfff b"),
    ("html_body", "<p>\udc80</p>"),
    ("headers", {"X-A": "\ud800"}),
    ("headers", {"X-\ud800": "a"}),
    ("headers", {"": "a"}),
    ("headers", {"X-A": "a\0"}),
    ("headers", {"X-A": "a\nBcc: b@example.com"}),
    ("headers", {"X-A\r\nX-B": "a"}),
    ("headers", {"X-A": "x" * 1_000_000}),
    ("headers", {f"X-{number}": "x" * 50 for number in range(10_000)}),
    *(("headers", {"From": address}) for address in ADDRESSES[:12]),
    *(("headers", {name: "(" * 5_000}) for name in ("To", "reply-to", "Sender", "Resent-To")),
    ("headers", {"To": "ü " * 20_000}),
    ("headers", {"To": '"' + "ü, " * 10_000 + '" <a@example.com>'}),
    ("headers", {"Message-ID": "<\ud800@example.com>"}),
    ("attachments", [("\ud800.txt", "a", "text/plain")]),
    ("attachments", [("a\0.txt", "a", "text/plain")]),
    ("attachments", [("a\r\nX-Evil: 1", b"a", "application/pdf")]),
    ("attachments", [("x" * 200_000, b"a", "application/pdf")]),
    ("attachments", [("a.txt", "\ud800", "text/plain")]),
    ("attachments", [("a.pdf", b"a", "application/pdf\r\nX-Evil: 1")]),
    ("attachments", [("a.pdf", b"a", "application/pdf\r\n\r\nevil")]),
    ("attachments", [("a.pdf", b"a", "application/\0")]),
    ("attachments", [("a.pdf", b"a", "application/p df")]),
    ("attachments", [("a.pdf", b"a", "é/é")]),
    ("attachments", [(f"{number}-{'x' * 100}", b"a", "application/pdf") for number in range(5_000)]),
    ("due_at", "tomorrow"),
    ("due_at", dt.date(2030, 1, 1)),
    ("due_at", LAST),
    ("due_at", FIRST),
    ("due_at", dt.datetime(9999, 12, 31, tzinfo=dt.UTC)),
    ("due_at", dt.datetime(2030, 1, 1, tzinfo=dt.tzinfo())),
    ("expires_at", 1e400),
    ("expires_at", LAST),
    ("priority", "\ud800"),
    ("priority", ["high"]),
    ("in_doubt", {"hold"}),
]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_wrong_is_refused_before_anything_is_stored(way: str) -> None:
    """The error tells the caller how to fix it, and does not quote an overlong value in full."""
    for argument, value in WRONG:
        with pytest.raises(InvalidMail) as refused:
            WAYS[way](**{argument: value})
        assert len(str(refused.value)) < 700, (argument, str(refused.value)[:300])
        assert refused.value.__cause__ is None or not isinstance(refused.value.__cause__, RecursionError), argument
    assert not Delivery.objects.exists()


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_costs_no_more_for_its_length(address: str) -> None:
    for _number in range(2):  # compile everything that is compiled only once
        count = calls(lambda: envelope_address(address))
    assert count < 3_000


@pytest.mark.parametrize("argument", sorted({name for name, _value in WRONG}))
def test_refusing_costs_little(argument: str) -> None:
    for name, value in WRONG:
        if name == argument:
            # Long lists are walked once or twice; no element is parsed.
            assert calls(lambda name=name, value=value: WAYS["submit"](**{name: value})) < 300_000, value  # type: ignore[misc]


@pytest.mark.parametrize(
    "text", ["(" * 900, ":" * 900, '"' * 900, "\\" * 900, "a." * 450, "@" * 900, "<" * 900, "(a)" * 300, ",a@b.c" * 150]
)
def test_the_longest_that_is_parsed_costs_little(text: str) -> None:
    for whole in (text, f"{text}@example.com", f"{text} <a@example.com>", f"a@example.com {text}"):
        assert calls(lambda whole=whole: envelope_address(whole)) < 30_000, whole[-40:]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "piece"), [("Message-ID", "a."), ("Date", "1 "), ("Content-Type", "; a*0*=''b"), ("MIME-Version", "(")]
)
def test_a_header_that_is_taken_apart_is_no_longer_than_a_line(name: str, piece: str) -> None:
    """Django 6 parses it in quadratic time."""
    with pytest.raises(InvalidMail, match=f"(?i){name}.*at most 998"):
        WAYS["submit"](headers={name: f"<{piece * 2_000}@example.com>"})
    with pytest.raises(InvalidMail, match=f"(?i){name}.*at most 998"):
        WAYS["delay"](headers={name.lower(): f"<{piece * 2_000}@example.com>"})


def test_a_mail_within_is_not_folded_anew() -> None:
    """Folding takes time quadratic in the number of lines, and breaks signatures over them."""
    line = b"Subject: " + b"a " * 2_000
    few, many = (
        calls(
            lambda n=n: WAYS["submit"](
                attachments=[("a.eml", b"Subject: " + b"a " * n + b"\r\n\r\nx", "message/rfc822")]
            )
        )  # type: ignore[misc]
        for n in (5_000, 20_000)
    )
    assert many < 5 * few
    delivery = WAYS["submit"](attachments=[("a.eml", line + b"\r\n\r\nx", "message/rfc822")])
    assert not MODERN or line.rstrip() in content.read(delivery)


def test_a_refusal_names_what_who_and_the_way_out() -> None:
    for argument, value, words in (
        ("to", ["a" * 80_000 + "@example.com"], r"^to: .*aaa….*80012 characters.*at most 1000"),
        ("subject", "ab\ud800", r"^subject: .*U\+D800 at position 2.*errors='replace'"),
        ("body", "\ud800", r"^body: .*U\+D800 at position 0"),
        ("html_body", "\ud800", r"^alternative 1: .*U\+D800"),
        ("attachments", [("a.txt", "\ud800", "text/plain")], r"^attachment 1: .*U\+D800"),
        ("attachments", [("\ud800", "a", "text/plain")], r"^attachment 1: its name.*U\+D800"),
        ("attachments", [("a", b"a", "x/y\r\nZ: z")], r"^attachment 1: .*MIME type"),
        ("bcc", [f"u{number}@example.com" for number in range(20_000)], r"20001 recipients.*at most 10000"),
        ("to", [f"{'Kim Lee ' * 10}<u{number}@example.com>" for number in range(9_000)], r"^to, cc.*at most 100000"),
        ("headers", {"X-A": "x" * 1_000_000}, r"headers.* at most 262144"),
    ):
        with pytest.raises(InvalidMail, match=words):
            WAYS["submit"](**{argument: value})


# -- ids and keys ---------------------------------------------------------------------------------------------------

IDS: list[Any] = [
    "",
    "\ud800",
    "a\udcff",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "a\x85b",
    "\u2028",
    "\x9b1m",
    "x" * 256,
    7,
    b"a",
    ["a"],
    1.5,
]


@pytest.mark.parametrize("value", IDS, ids=ascii)
def test_ids_and_keys_that_are_none(value: Any) -> None:
    message, arguments = _message(), {"subject": "S", "body": "B", "to": TO}
    for call in (
        lambda: send_email.apply_async(kwargs=arguments, task_id=value),
        lambda: send_email.delay(**arguments, idempotency_key=value),
        lambda: send_email.prepare(**arguments, idempotency_key=value),
        lambda: submit(message, delivery_id=value),
        lambda: submit(message, idempotency_key=value),
        lambda: submit_many([message], idempotency_key=lambda _message: value),
        lambda: async_to_sync(aio.asubmit)(message, delivery_id=value),
        lambda: async_to_sync(aio.asend_email)("S", "B", to=TO, idempotency_key=value),
    ):
        with pytest.raises(InvalidMail, match="must be text of 1 to 255 characters"):
            call()
    assert not Delivery.objects.exists()


@pytest.mark.parametrize("value", [one for one in IDS if one], ids=ascii)
def test_an_id_of_nothing(value: Any) -> None:
    """Looked up, it finds no mail."""
    submitted(*TO)
    assert not cancel(value)
    assert not release(value)
    with pytest.raises(Delivery.DoesNotExist):
        resend(value)


@pytest.mark.parametrize("value", [one for one in IDS if isinstance(one, str) and one], ids=ascii)
def test_a_prepared_mail_under_an_id_that_is_none(value: str) -> None:
    signature = send_email.prepare("S", "B", to=TO)
    with pytest.raises(InvalidMail):
        signature.apply_async(task_id=value)
    assert Delivery.objects.get().status == "prepared"


@pytest.mark.parametrize(
    "options",
    [
        {"link": object()},
        {"queue": object()},
        {"link_error": [object()]},
        {"eta": "tomorrow"},
        {"eta": "\ud800"},
        {"eta": dt.datetime(2030, 1, 1, tzinfo=dt.tzinfo())},
        {"eta": object()},
        {"countdown": 10**400},
        {"countdown": float("nan")},
        {"countdown": "x"},
        {"countdown": 1e300},
        {"expires": []},
        {"expires": LAST},
        *({name: value} for name in ("queue", "routing_key", "exchange") for value in ("\ud800", "a\0", "x" * 256, 7)),
        *({"priority": value} for value in (256, -1, 10**400, 1.5, float("nan"), [])),
    ],
    ids=_named,
)
def test_options_of_a_call_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidMail):
        send_email.apply_async(kwargs={"subject": "S", "body": "B", "to": TO}, **options)
    assert not Delivery.objects.exists()


# -- not a mail -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 7, "mail", b"mail", {}, object(), MIMEText("a"), EmailMessage])
def test_what_is_no_message(value: Any) -> None:
    for backend in (queued.EmailBackend, direct.EmailBackend):
        with pytest.raises(InvalidMail, match="EmailMessage"):
            backend().send_messages([value])
        assert backend(fail_silently=True).send_messages([value]) == 0
    for call in (submit, lambda one: submit_many([one]), async_to_sync(aio.asubmit)):
        with pytest.raises(InvalidMail, match="EmailMessage"):
            call(value)
    assert not Delivery.objects.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": object()},
        {"body": 7},
        {"body": None},
        {"from_email": object()},
        {"to": [7]},
        {"to": 7},
        {"cc": [None, b"a"]},
        {"extra_headers": {7: "a"}},
        {"extra_headers": 7},
        {"attachments": [("a",)]},
        {"attachments": [7]},
        {"attachments": 7},
        {"alternatives": [("a", "text/html\r\nX: y")]},
        {"alternatives": [(7, "text/html")]},
        {"alternatives": [7]},
        {"content_subtype": "html\r\nX-Evil: 1"},
        {"content_subtype": "\ud800"},
        {"encoding": "martian"},
        {"encoding": "undefined"},
        {"encoding": 7},
        {"mixed_subtype": "x\r\nX-Evil: 1"},
    ],
    ids=_named,
)
def test_messages_that_were_changed_after_they_were_made(changes: dict[str, Any]) -> None:
    """Django checks most attributes only when it renders a message, or never."""
    message = _message(html_body="<p>", attachments=[("a.txt", "a", "text/plain")])
    for name, value in changes.items():
        setattr(message, name, value)
    try:
        delivery = submit(message)
    except InvalidMail:
        assert not Delivery.objects.exists()
    else:
        assert_can_be_sent(delivery)


class Unspeakable:
    """An object that cannot be shown as text, like an object that a template left behind."""

    def __str__(self) -> str:
        raise LookupError(self)

    __repr__ = __str__


def lazy_text(error: Exception) -> Any:
    """Return a text that is computed on use, and whose computation then fails."""

    def fail() -> str:
        raise error

    return lazy(fail, str)()


@pytest.mark.parametrize("argument", ["subject", "body", "html_body", "from_email", "due_at", "priority", "in_doubt"])
def test_a_value_without_a_representation_is_refused(argument: str) -> None:
    for way in ("delay", "submit"):
        with pytest.raises(InvalidMail) as refused:
            WAYS[way](**{argument: Unspeakable()})
        assert len(str(refused.value)) < 700
    for value in (10**5_000, [10**5_000]):
        with pytest.raises(InvalidMail):
            WAYS["delay"](**{argument: value})
    assert not Delivery.objects.exists()


@pytest.mark.parametrize("name", ["x" * 10_000, "/nowhere/" + "x" * 200 + "/" + "y" * 4_000])
def test_a_path_that_is_too_long_is_not_quoted_whole(name: str) -> None:
    with pytest.raises(InvalidMail) as refused:
        WAYS["delay"](attachments=[name])
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize("argument", ["subject", "body", "html_body"])
def test_a_text_that_is_made_late_and_cannot_be(argument: str) -> None:
    with pytest.raises(InvalidMail):
        WAYS["delay"](**{argument: lazy_text(KeyError("a"))})
    message = _message()
    message.subject = message.body = lazy_text(KeyError("a"))
    with pytest.raises(InvalidMail):
        submit(message)
    assert not Delivery.objects.exists()


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded(), MemoryError(), OperationalError("gone")], ids=_named)
def test_an_error_that_the_mail_did_not_cause_is_not_reported_as_invalid_mail(error: Exception) -> None:
    """A task that exceeds its time limit must not be told that its mail is invalid: a retry may send it."""
    for argument in ("subject", "body"):
        for way in ("delay", "submit", "submit_many", "backend", "direct"):
            with pytest.raises(type(error)):
                WAYS[way](**{argument: lazy_text(error)})
    message = _message()
    message.recipients = lambda: lazy_text(error) + ""  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        queued.EmailBackend().send_messages([message])
    assert not Delivery.objects.exists()


def test_a_blank_message_id_is_none() -> None:
    for way in ("delay", "submit"):
        WAYS[way](headers={"Message-ID": " "})
        assert Delivery.objects.latest("created_at").message_id.startswith("<")
        assert_can_be_sent(Delivery.objects.latest("created_at"))


@pytest.mark.parametrize("name", ["Content-Disposition", "Content-Type", "X-A"])
@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "a\r\n\r\nevil", "a\0"])
def test_a_part_with_a_header_too_many(name: str, value: str) -> None:
    """Django does not check a finished part."""
    part = bytes_part(b"%PDF", "pdf")
    del part[name]
    part._headers.append((name, value))  # type: ignore[union-attr]  # as an older Python, or a subclass, allows
    with pytest.raises(InvalidMail):
        WAYS["submit"](attachments=[part])
    with pytest.raises(InvalidMail):
        WAYS["delay"](attachments=[part])
    assert not Delivery.objects.exists()


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": -1}, {"batch_size": "x"}, {"batch_size": None}])
def test_batches_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidMail, match="batch_size"):
        submit_many([_message()], **options)
    assert not Delivery.objects.exists()


@pytest.mark.parametrize("options", [{"idempotency_key": "k"}, {"on_progress": 7}, {"unknown": 1}])
def test_wrong_types_of_other_arguments_are_type_errors(options: dict[str, Any]) -> None:
    """The documentation promises this; the error is raised before anything is stored."""
    with pytest.raises(TypeError):
        submit_many([_message()], **options)
    assert not Delivery.objects.exists()


@pytest.mark.parametrize("column", ["(" * 5_000, "a" * 9_000 + "@example.com", "a@example.com\0", "\x9b@example.com"])
def test_lines_of_a_file_that_are_none(column: str, tmp_path: Path, settings: Any) -> None:
    file = tmp_path / "people.csv"
    file.write_text(f"email\nkim@example.com\n{column}\n")
    (tmp_path / "news.txt").write_text("text")
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    for added in (["--subject", "S"], ["--subject", "\ud800"], ["--subject", "S", "--key", "\ud800 {{ email }}"]):
        with pytest.raises(CommandError, match="Line "):
            call_command("send_bulk", "--csv", str(file), "--template", "news", *added, verbosity=0)
    assert not Delivery.objects.exists()


@pytest.mark.parametrize("address", ADDRESSES)
def test_erasing_an_address_that_is_none(address: str) -> None:
    with pytest.raises(InvalidMail):
        erase_recipient(address)


# -- NUL ------------------------------------------------------------------------------------------------------------


def _with_nul(tmp_path: Path) -> dict[str, dict[str, Any]]:
    raw = text_part("a\0b")
    (tmp_path / "a.txt").write_bytes(b"a\0b")
    return {
        "body": {"body": "a\0b"},
        "a body beyond ASCII": {"body": "ä\0b"},
        "html_body": {"html_body": "<p>a\0b"},
        "attachment": {"attachments": [("a.txt", "a\0b", "text/plain")]},
        "attachment of octets": {"attachments": [("a.txt", b"a\0b", "text/plain")]},
        "finished part": {"attachments": [raw]},
    }


@pytest.mark.parametrize("way", ["delay", "submit", "backend"])
def test_a_nul_goes_out_encoded(way: str, tmp_path: Path) -> None:
    """NUL is not allowed in 7bit and 8bit (RFC 2045 §2.7, §2.8); the mail is encoded instead of rejected."""
    for name, arguments in _with_nul(tmp_path).items():
        WAYS[way](**arguments)
        delivery = Delivery.objects.latest("created_at")
        assert_can_be_sent(delivery)
        found = email.message_from_bytes(content.read(delivery))
        texts = [part.get_payload(decode=True) for part in found.walk() if not part.is_multipart()]
        assert any(b"\0b" in text for text in texts), name


def test_a_file_with_a_nul(tmp_path: Path) -> None:
    """For example UTF-16 without a byte order mark, which Django treats as text."""
    (tmp_path / "a.csv").write_bytes("name".encode("utf-16-le"))
    send_email.delay("S", "B", to=TO, attachments=[tmp_path / "a.csv"])
    assert_can_be_sent(Delivery.objects.get())


# -- any message ----------------------------------------------------------------------------------------------------


def assert_can_be_sent(delivery: Delivery) -> None:
    """Check that the stored content can be parsed and sent to a server as it is."""
    data = b"".join(content.stored(delivery).blocks())
    assert b"\0" not in data
    assert b"X-Evil" not in data.partition(b"\r\n\r\n")[0]
    parsed = email.message_from_bytes(data, policy=email.policy.compat32)
    assert parsed["Message-ID"]
    assert parsed["Date"]
    mail = OutgoingMail(
        from_header=delivery.from_header,
        from_at=delivery.from_at,
        sender=delivery.sender,
        recipients=tuple(item["address"] for item in delivery.recipients),
        content=content.stored(delivery),
    )
    with PreparedMessage(mail, RELAY, mail.recipients) as message:
        assert b"".join(message.blocks)
        envelope = message.opening.envelope
        for address in (envelope.sender, *envelope.recipients):
            assert address == "" or (len(address.encode("utf-8")) <= 320 and min(address) > " "), address


_ANY_TEXT = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(  # type: ignore[arg-type]
    ["\ud800", "\0", "\r\n", "x" * 2_000, "é", "=?utf-8?b?a?=", "(" * 600, "\u2028", "<>", "a@b.c", "%", "\x85", "\x9b"]
)
_ADDRESS = (
    st.sampled_from(
        ["kim@example.com", "Kim <kim@example.com>", '"K, L" <k@example.com>', "ü@bücher.example", "", "<>"]
    )
    | st.builds("{}@{}".format, _ANY_TEXT, _ANY_TEXT)
    | st.builds("{} <kim@example.com>".format, _ANY_TEXT)
    | _ANY_TEXT
)
_JUNK = st.sampled_from([None, 7, b"a", 1.5, [], {}, object(), ["a"], {"a": "b"}, float("nan")])
_ADDRESSES = st.lists(_ADDRESS, max_size=3)
_KINDS = (
    st.sampled_from(["text/plain", "text/html", "image/png", "message/rfc822", "x/y\r\nz", "text/é", None]) | _ANY_TEXT
)
_ATTACHMENT = st.tuples(_ANY_TEXT | st.none(), _ANY_TEXT | st.binary(max_size=20), _KINDS) | _ANY_TEXT | _JUNK
_HEADER_NAMES = st.sampled_from(
    ["X-A", "From", "To", "Message-ID", "Date", "Content-Type", "Sender", "Reply-To", "bcc"]
)
_HEADERS = st.dictionaries(_HEADER_NAMES | _ANY_TEXT, _ADDRESS | _JUNK, max_size=3)
_TIMES = st.datetimes() | st.datetimes(timezones=st.just(dt.UTC)) | st.sampled_from([FIRST, LAST]) | _JUNK
_ARGUMENTS = st.fixed_dictionaries(
    {"subject": _ANY_TEXT | _JUNK, "body": _ANY_TEXT | _JUNK, "to": _ADDRESSES | _JUNK},
    optional={
        "from_email": _ADDRESS | _JUNK,
        "cc": _ADDRESSES | _JUNK,
        "bcc": _ADDRESSES,
        "reply_to": _ADDRESSES | _JUNK,
        "html_body": _ANY_TEXT | _JUNK,
        "attachments": st.lists(_ATTACHMENT, max_size=2) | _JUNK,
        "headers": _HEADERS | _JUNK,
        "idempotency_key": _ANY_TEXT | _JUNK,
        "due_at": _TIMES,
        "expires_at": _TIMES,
        "envelope_sender": _ADDRESS | _JUNK,
        "priority": st.sampled_from(["high", "bulk", "x"]) | _JUNK,
        "in_doubt": st.sampled_from(["hold", "x"]) | _JUNK,
    },
)
_QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@settings(max_examples=300, suppress_health_check=_QUIET)
@given(arguments=_ARGUMENTS, task_id=st.none() | _ANY_TEXT)
def test_any_call_of_the_task(arguments: dict[str, Any], task_id: str | None) -> None:
    try:
        result = send_email.apply_async(kwargs=arguments, task_id=task_id)
    except InvalidMail:
        assert not Delivery.objects.exists()
        return
    assert_can_be_sent(Delivery.objects.get(pk=result.delivery_id))
    Delivery.objects.all().delete()


@settings(max_examples=300, suppress_health_check=_QUIET)
@given(arguments=_ARGUMENTS, way=st.sampled_from([submit, lambda *given, **named: submit_many([*given], **named)]))
def test_any_message(arguments: dict[str, Any], way: Any) -> None:
    """The attributes may have any values."""
    options = {name: arguments[name] for name in NAMES_OF_OPTIONS if name in arguments}
    message = EmailMultiAlternatives(to=TO)
    names = {"headers": "extra_headers"}
    for name, value in arguments.items():
        if name == "html_body":
            message.alternatives = [(value, "text/html")]  # type: ignore[list-item]
        elif name not in options and name != "idempotency_key":
            setattr(message, names.get(name, name), value)
    try:
        way(message, **options)
    except InvalidMail:
        assert not Delivery.objects.exists()
        return
    assert_can_be_sent(Delivery.objects.get())
    Delivery.objects.all().delete()


@settings(max_examples=500)
@given(text=_ADDRESS | st.text('()<>[]:;@\\,."a \t', max_size=400))
def test_any_address(text: str) -> None:
    try:
        found = envelope_address(text)
    except InvalidMail:
        return
    assert len(found.rpartition("@")[0].encode()) <= 64
    assert len(found) <= 320
    assert found.isprintable() or not found.isascii()
