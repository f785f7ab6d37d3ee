"""The fake relay as any SMTP client sees it, and the mails it shows."""

from __future__ import annotations

import smtplib
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives

from config.local.processes import PATIENCE
from email_integration.message import content
from email_integration.message.rendering import render
from email_integration.models import Delivery
from email_integration.testing import FakeRelay, SubmittedMail
from email_integration.testing.mails import submitted_mail
from tests.mime_parts import image_part

KIM, LEE = "kim@example.com", "lee@example.com"
CONTENT = "Subject: Grüße\r\nTo: kim@example.com\r\n\r\nText\r\n.with a dot\r\n".encode()


@pytest.fixture
def relay() -> Iterator[FakeRelay]:
    with FakeRelay() as relay:
        yield relay


@pytest.fixture
def client(relay: FakeRelay) -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP(relay.host, relay.port, timeout=5) as client:
        client.ehlo()
        yield client


def send(client: smtplib.SMTP, *recipients: str) -> dict[str, tuple[int, bytes]]:
    """Send to the recipients, and return the refused ones."""
    return client.sendmail("us@example.com", list(recipients), CONTENT)


def log_in_and_send(relay: FakeRelay, *, timeout: float) -> None:
    with smtplib.SMTP(relay.host, relay.port, timeout=timeout) as client:
        client.login("user", "password")
        send(client, KIM)


def submitted(message: EmailMessage, **changes: Any) -> SubmittedMail:
    """Return the message as the outbox would show it."""
    rendered = render(message)
    row = Delivery(
        from_header=rendered.from_header,
        from_at=rendered.from_at,
        recipients=[{"address": address, "status": "pending"} for address in rendered.recipients],
    )
    content.store(row, rendered.content)
    for name, value in changes.items():
        setattr(row, name, value)
    return submitted_mail(row)


# -- the relay ------------------------------------------------------------------------------------------------------


def test_what_is_sent_arrives_as_it_was_sent(relay: FakeRelay, client: smtplib.SMTP) -> None:
    assert send(client, KIM, LEE) == {}
    (mail,) = relay.messages
    assert (mail.sender, mail.recipients, mail.content) == ("us@example.com", [KIM, LEE], CONTENT)
    assert (mail.subject, mail.body) == ("Grüße", "Text\n.with a dot")
    assert (mail.to, mail.bcc) == ([KIM], [LEE])


def test_it_offers_what_it_understands(relay: FakeRelay, client: smtplib.SMTP) -> None:
    assert set(client.esmtp_features) == {"pipelining", "size", "8bitmime", "smtputf8", "auth", "help"}
    client.login("user", "whatever")
    assert relay.logins == ["user"]
    client.sendmail("us@example.com", ["jürgen@example.com"], CONTENT, ["SMTPUTF8", "BODY=8BITMIME"])
    assert relay.messages[0].recipients == ["jürgen@example.com"]
    code, reply = client.docmd("MAIL", "FROM:<us@example.com> SIZE=99999999999")
    assert (code, reply) == (552, b"Error: message size exceeds fixed maximum message size")


def test_commands_in_one_write_are_answered_one_by_one(relay: FakeRelay) -> None:
    """PIPELINING (RFC 2920): each refused recipient has its own reply, and the others get the mail."""
    relay.fail("RCPT", "550 5.1.1 unknown", match="lee@")
    with socket.create_connection((relay.host, relay.port), timeout=5) as connection, connection.makefile("rb") as said:
        said.readline()
        connection.sendall(b"EHLO here\r\n")
        while said.readline()[3:4] == b"-":
            pass
        connection.sendall(
            b"NOOP\r\nMAIL FROM:<us@example.com>\r\nRCPT TO:<lee@example.com>\r\nRCPT TO:<kim@example.com>\r\nDATA\r\n"
        )
        assert [said.readline()[:3] for _ in range(5)] == [b"250", b"250", b"550", b"250", b"354"]
        connection.sendall(CONTENT + b".\r\nRCPT TO:<kim@example.com>\r\nDATA\r\nXYZZY kim\r\nQUIT\r\n")
        assert [line[:3] for line in said] == [b"250", b"503", b"503", b"500", b"221"]
    assert [mail.recipients for mail in relay.messages] == [[KIM]]


def test_a_fault_waits_for_a_command_that_comes_in_its_turn(relay: FakeRelay, client: smtplib.SMTP) -> None:
    """Commands without a sender or recipient after a refused command are refused anyway, and use up no fault."""
    for verb in ("MAIL", "RCPT", "DATA"):
        relay.fail(verb, "450 4.3.0 later", times=1)  # type: ignore[arg-type]
    group = ("MAIL FROM:<us@example.com>", f"RCPT TO:<{KIM}>", "DATA")
    assert [client.docmd(command)[0] for command in group] == [450, 503, 503]
    assert [client.docmd(command)[0] for command in group] == [250, 450, 503]
    client.rset()
    assert [client.docmd(command)[0] for command in group] == [250, 250, 450]
    client.rset()
    assert send(client, KIM) == {}


def test_a_null_sender_is_empty(relay: FakeRelay, client: smtplib.SMTP) -> None:
    client.sendmail("", [KIM], CONTENT)
    assert relay.messages[0].sender == ""


def test_a_refusal_happens_as_often_as_it_was_asked_for(relay: FakeRelay, client: smtplib.SMTP) -> None:
    relay.fail("RCPT", "450 4.2.1 busy", times=2, match="LEE@")
    for _ in range(2):
        assert send(client, KIM, LEE) == {LEE: (450, b"4.2.1 busy")}
    assert send(client, KIM, LEE) == {}


def test_a_refusal_without_times_stays_until_it_is_cleared(relay: FakeRelay, client: smtplib.SMTP) -> None:
    relay.fail("MAIL", "451 4.3.0 later")
    for _ in range(3):
        with pytest.raises(smtplib.SMTPSenderRefused, match="later"):
            send(client, KIM)
    relay.clear_faults()
    assert send(client, KIM) == {}
    assert len(relay.messages) == 1


@pytest.mark.parametrize(
    ("verb", "act", "error"),
    [
        ("EHLO", lambda client: client.ehlo_or_helo_if_needed(), smtplib.SMTPHeloError),
        ("AUTH", lambda client: client.login("user", "password"), smtplib.SMTPAuthenticationError),
        ("MAIL", lambda client: send(client, KIM), smtplib.SMTPSenderRefused),
        ("RCPT", lambda client: send(client, KIM), smtplib.SMTPRecipientsRefused),
        ("DATA", lambda client: send(client, KIM), smtplib.SMTPDataError),
        ("DOT", lambda client: send(client, KIM), smtplib.SMTPDataError),
    ],
)
def test_each_verb_can_be_refused(
    relay: FakeRelay, verb: Any, act: Callable[[smtplib.SMTP], object], error: type[Exception]
) -> None:
    relay.fail(verb, "550 5.7.1 not like this", times=2 if verb == "EHLO" else 1)
    with smtplib.SMTP(relay.host, relay.port, timeout=5) as client:
        with pytest.raises(error, match="not like this"):
            act(client)
        assert relay.messages == []
        client.rset()
        act(client)  # once, and the connection stays usable


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "DOT"])
def test_each_verb_can_end_the_connection(relay: FakeRelay, verb: Any) -> None:
    relay.drop(verb)
    with pytest.raises(smtplib.SMTPServerDisconnected, match=r"closed$"):
        log_in_and_send(relay, timeout=5)
    assert relay.messages == []


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "DOT"])
def test_each_verb_can_be_met_with_silence(relay: FakeRelay, verb: Any) -> None:
    relay.hang(verb)
    with pytest.raises((smtplib.SMTPServerDisconnected, TimeoutError), match="timed out"):
        log_in_and_send(relay, timeout=0.3)
    assert relay.messages == []


@pytest.mark.parametrize("what", ["drop", "hang"])
def test_a_mail_can_be_taken_without_a_word(relay: FakeRelay, what: str) -> None:
    """RFC 1047: the client cannot know that it was accepted."""
    getattr(relay, what)("DOT", taken=True)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        log_in_and_send(relay, timeout=1)
    assert [mail.recipients for mail in relay.messages] == [[KIM]]


def test_a_421_ends_the_connection(relay: FakeRelay, client: smtplib.SMTP) -> None:
    relay.fail("MAIL", "421 4.3.2 shutting down")
    client.ehlo()
    assert client.mail("us@example.com")[0] == 421
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.noop()


def test_a_greeting_can_be_a_refusal(relay: FakeRelay) -> None:
    relay.fail("CONNECT", "554 5.7.1 go away")
    with pytest.raises(smtplib.SMTPConnectError, match="go away"):
        smtplib.SMTP(relay.host, relay.port, timeout=5)


def test_data_and_dot_match_the_envelope_and_the_dot_the_content(relay: FakeRelay, client: smtplib.SMTP) -> None:
    relay.fail("DATA", "554 5.6.0 data", match="lee@")
    relay.fail("DOT", "554 5.7.1 spam", match="WITH A DOT")
    with pytest.raises(smtplib.SMTPDataError, match="data"):
        send(client, LEE)
    client.rset()
    with pytest.raises(smtplib.SMTPDataError, match="spam"):
        send(client, KIM)


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("fail", {"verb": "RCTP", "reply": "550 no"}, "CONNECT, EHLO, AUTH, MAIL, RCPT, DATA, DOT, not 'RCTP'"),
        ("fail", {"verb": "RCPT", "reply": "no"}, "not 'no'"),
        ("fail", {"verb": "RCPT", "reply": "250 OK"}, "4yz or 5yz"),
        ("fail", {"verb": "RCPT", "reply": "550 a\r\n250 b"}, "4yz or 5yz"),
        ("fail", {"verb": "RCPT", "reply": "550 no", "times": 0}, "at least 1"),
        ("hang", {"verb": "EHLO", "match": "kim@"}, "EHLO comes before any mail"),
        ("drop", {"verb": "MAIL", "taken": True}, "need the verb DOT"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(method: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        getattr(FakeRelay(), method)(**arguments)


def test_it_leaves_neither_threads_nor_a_listener_behind() -> None:
    before = set(threading.enumerate())
    with FakeRelay() as relay:
        port = relay.port
        relay.hang("EHLO")
        connections = [socket.create_connection((relay.host, port), timeout=5) for _ in range(3)]
        for connection in connections:
            connection.recv(100)
            connection.sendall(b"EHLO here\r\n")
        assert relay.connections == 3
    for connection in connections:
        assert connection.recv(100) == b""
        connection.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_several_run_beside_each_other_on_ports_of_their_own() -> None:
    with FakeRelay() as one, FakeRelay() as other:
        assert one.port != other.port
        with smtplib.SMTP(one.host, one.port, timeout=5) as client:
            send(client, KIM)
        assert (len(one.messages), len(other.messages)) == (1, 0)


def test_it_says_that_it_is_not_running() -> None:
    relay = FakeRelay()
    with pytest.raises(RuntimeError, match="with statement"):
        relay.messages  # noqa: B018  # read for the error that it raises
    with relay, pytest.raises(RuntimeError, match="already running"):
        relay.__enter__()


def test_without_the_extra_only_the_start_of_a_relay_fails_and_says_what_to_install() -> None:
    code = """
        import sys
        sys.modules["aiosmtpd"] = None
        import django
        django.setup()
        from email_integration.testing import FakeRelay, capture_mail, eager_mail, outbox, run_deliveries
        relay = FakeRelay()
        relay.fail("RCPT", "550 5.1.1 No such user")
        for starting in (lambda: relay.__enter__(), run_deliveries, lambda: eager_mail().__enter__()):
            try:
                starting()
            except ImportError as error:
                print(error)
        print(relay)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    *errors, relay = done.stdout.splitlines()
    assert len(errors) == 3
    assert all("pip install 'celery-mail-dispatch[testing]'" in error for error in errors)
    assert relay == "<FakeRelay not started>"


# -- the mails ------------------------------------------------------------------------------------------------------


def test_a_mail_has_the_names_of_djangos() -> None:
    message = EmailMultiAlternatives(
        "Grüße",
        "Zeile eins\nZeile zwei",
        "Hanna Öz <h@example.com>",
        ["Kim Ünal <kim@example.com>", LEE],
        bcc=["boss@example.com"],
        cc=["Max <max@example.com>"],
        reply_to=["help@example.com"],
        headers={"X-Campaign": "früh"},
    )
    message.attach_alternative("<p>Zeile</p>", "text/html")
    message.attach("bericht.csv", "a,b\n1,ü\n", "text/csv")
    message.attach("zahlen.bin", b"\x00\xff", "application/octet-stream")
    mail = submitted(message)

    assert (mail.subject, mail.from_email) == ("Grüße", "Hanna Öz <h@example.com>")
    assert (mail.body, mail.html_body) == ("Zeile eins\nZeile zwei", "<p>Zeile</p>")
    assert (mail.to, mail.cc) == (["Kim Ünal <kim@example.com>", LEE], ["Max <max@example.com>"])
    assert (mail.bcc, mail.reply_to) == (["boss@example.com"], ["help@example.com"])
    assert mail.recipients == [KIM, LEE, "max@example.com", "boss@example.com"]
    assert (mail.headers["X-Campaign"], mail.headers["Message-ID"]) == ("früh", mail.message_id)
    assert mail.message_id.startswith("<")
    assert mail.attachments == [
        ("bericht.csv", "a,b\n1,ü\n", "text/csv"),
        ("zahlen.bin", b"\x00\xff", "application/octet-stream"),
    ]
    assert "Grüße" in repr(mail)
    assert KIM in repr(mail)


def test_inline_images_and_attached_messages_are_attachments() -> None:
    message = EmailMultiAlternatives("S", "Text", "us@example.com", [KIM])
    message.attach(image_part(b"\x89PNG", content_id="<logo>"))
    message.attach("inner.eml", EmailMessage("Inner", "Inside", "them@example.com", [LEE]), "message/rfc822")
    png, inner = submitted(message).attachments
    assert (png.content, png.mimetype) == (b"\x89PNG", "image/png")
    assert (inner.content["Subject"], inner.mimetype) == ("Inner", "message/rfc822")


def test_a_mail_of_html_alone_has_no_plain_text() -> None:
    message = EmailMessage("S", "<p>Hi</p>", "us@example.com", [KIM])
    message.content_subtype = "html"
    mail = submitted(message)
    assert (mail.body, mail.html_body, mail.attachments) == ("", "<p>Hi</p>", [])


def test_a_sender_left_open_is_shown_once_it_is_filled_in() -> None:
    message = EmailMessage("S", "B", to=[KIM])
    message.from_email = ""
    assert submitted(message).from_email == ""
    assert submitted(message, from_header="Ours <ours@example.com>").from_email == "Ours <ours@example.com>"
