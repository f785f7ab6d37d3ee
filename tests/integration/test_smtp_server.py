"""The SMTP server of these tests: the client's view of each fault, and the server's records afterwards."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from config.local.maildir import read_maildir, write_to_maildir
from config.local.processes import wait_until
from email_integration.smtpd import Fault, Security, SMTPServer, Verb

CONTENT = "Subject: a subject\r\nMessage-ID: <1@example.com>\r\n\r\n..dotted\r\n"


def send(
    server: SMTPServer,
    *,
    to: tuple[str, ...] = ("bob@example.com",),
    content: str = CONTENT,
    password: str = "password",
    timeout: float = 5,
) -> dict[str, tuple[int, bytes]]:
    """Send one message with smtplib and return the result of ``sendmail``."""
    trusted = ssl.create_default_context()
    client = (
        smtplib.SMTP_SSL(server.host, server.port, timeout=timeout, context=trusted)
        if server.security == "tls"
        else smtplib.SMTP(server.host, server.port, timeout=timeout)
    )
    with client:
        if server.security == "starttls":
            client.starttls(context=trusted)
        if server.user is not None:
            client.login(server.user, password)
        return client.sendmail("alice@example.com", list(to), content)


Start = Callable[..., SMTPServer]


@pytest.mark.parametrize("security", ["starttls", "tls", "plain"])
def test_a_message_is_kept_with_its_envelope(smtp_server: Start, tmp_path: Path, security: Security) -> None:
    server = smtp_server(security=security, on_message=partial(write_to_maildir, tmp_path / "mail"))
    send(server, to=("bob@example.com", "carol@example.com"))
    [message] = server.messages
    assert message.mail_from == "alice@example.com"
    assert message.rcpt_tos == ("bob@example.com", "carol@example.com")
    assert message.content == b"Subject: a subject\r\nMessage-ID: <1@example.com>\r\n\r\n..dotted\r\n"
    assert (message.subject, message.message_id) == ("a subject", "<1@example.com>")
    assert server.received("carol@example.com") == [message]
    [session] = server.sessions
    assert (session.tls, session.user, session.transactions) == (security != "plain", "user", 1)
    [stored] = read_maildir(tmp_path / "mail")
    assert stored["Return-Path"] == "<alice@example.com>"
    assert stored.get_all("Delivered-To") == ["bob@example.com", "carol@example.com"]


def test_a_wrong_password_is_refused_and_counted(smtp_server: Start) -> None:
    server = smtp_server()
    with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
        send(server, password="wrong")
    assert refused.value.smtp_code == 535
    assert (server.auths, server.failed_auths) == (0, 2)  # smtplib tries PLAIN, then LOGIN


def test_login_and_tls_are_required_and_a_catcher_requires_nothing(smtp_server: Start) -> None:
    strict, catcher = smtp_server(), smtp_server(security="plain", any_auth=True)
    with smtplib.SMTP(strict.host, strict.port, timeout=5) as client:
        assert client.docmd("MAIL FROM:<a@example.com>")[0] == 530
        client.starttls(context=ssl.create_default_context())
        client.ehlo()
        assert client.docmd("MAIL FROM:<a@example.com>")[0] == 530
    send(catcher, password="anything")
    with smtplib.SMTP(catcher.host, catcher.port, timeout=5) as client:
        client.sendmail("a@example.com", ["b@example.com"], CONTENT)
    assert len(catcher.messages) == 2


@pytest.mark.parametrize(
    ("verb", "error"),
    [
        ("CONNECT", smtplib.SMTPConnectError),
        ("EHLO", smtplib.SMTPHeloError),
        ("STARTTLS", smtplib.SMTPResponseException),
        ("AUTH", smtplib.SMTPAuthenticationError),
        ("MAIL", smtplib.SMTPSenderRefused),
        ("RCPT", smtplib.SMTPRecipientsRefused),
        ("DATA", smtplib.SMTPDataError),
        ("DOT", smtplib.SMTPDataError),
    ],
)
def test_a_reply_can_be_replaced_at_each_verb(smtp_server: Start, verb: Verb, error: type[Exception]) -> None:
    server = smtp_server(faults=[Fault(verb=verb, reply="454 4.3.0 Not\nnow")])
    # After a refused EHLO, smtplib sends HELO, which a server that requires STARTTLS refuses.
    shown = {"EHLO": "530"}.get(verb, "454.*Not")
    with pytest.raises(error, match=shown):
        send(server)
    assert server.messages == []


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "CONTENT", "DOT"])
def test_the_connection_is_closed_after_421(smtp_server: Start, verb: Verb) -> None:
    server = smtp_server(faults=[Fault(verb=verb, reply="421 4.3.2 Shutting down", times=1)])
    with pytest.raises(smtplib.SMTPException):
        send(server)
    wait_until(lambda: not server.sessions[0].is_open, what="the end of the session")
    assert server.messages == []
    assert send(server) == {}


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "CONTENT", "DOT"])
def test_the_connection_can_be_dropped_at_each_verb(smtp_server: Start, verb: Verb) -> None:
    server = smtp_server(faults=[Fault(verb=verb, drop=True, times=1)])
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(server)
    assert server.messages == []
    assert send(server) == {}
    assert len(server.messages) == 1


@pytest.mark.parametrize(
    "fault", [Fault(verb="DOT", drop_after_accept=True), Fault(verb="DOT", hang_after_accept=True)]
)
def test_a_message_can_be_accepted_without_a_word(smtp_server: Start, fault: Fault) -> None:
    server = smtp_server(faults=[fault])
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(server, timeout=0.5)
    wait_until(lambda: len(server.messages) == 1, what="the mail at the server")


@pytest.mark.parametrize("verb", ["CONNECT", "MAIL", "CONTENT", "DOT"])
def test_a_server_can_hang(smtp_server: Start, verb: Verb) -> None:
    server = smtp_server(faults=[Fault(verb=verb, hang=True)])
    with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
        send(server, timeout=0.5)
    assert server.messages == []


def test_a_fault_can_be_for_one_recipient(smtp_server: Start) -> None:
    server = smtp_server(faults=[Fault(verb="RCPT", reply="450 4.2.0 Mailbox busy", times=1, match="bob@")])
    refused = send(server, to=("bob@example.com", "carol@example.com"))
    assert refused == {"bob@example.com": (450, b"4.2.0 Mailbox busy")}
    assert server.messages[0].rcpt_tos == ("carol@example.com",)
    assert send(server) == {}


def test_faults_can_be_changed_while_the_server_runs(smtp_server: Start) -> None:
    server = smtp_server()
    server.inject(Fault(verb="MAIL", reply="451 4.3.0 Later"))
    for _ in range(3):
        with pytest.raises(smtplib.SMTPSenderRefused):
            send(server)
    server.clear_faults()
    assert send(server) == {}


def test_a_connection_is_dropped_while_content_still_flows(smtp_server: Start) -> None:
    server = smtp_server(faults=[Fault(verb="CONTENT", drop=True, times=1)])
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        send(server, content="Subject: long\r\n\r\n" + ("x" * 70 + "\r\n") * 200_000)
    assert server.messages == []


@pytest.mark.parametrize("security", ["starttls", "tls", "plain"])
def test_a_polite_stop_says_421_and_refuses_connections_until_the_start(smtp_server: Start, security: Security) -> None:
    server = smtp_server(security=security)
    trusted = ssl.create_default_context()
    client = (
        smtplib.SMTP_SSL(server.host, server.port, timeout=5, context=trusted)
        if security == "tls"
        else smtplib.SMTP(server.host, server.port, timeout=5)
    )
    if security == "starttls":
        client.starttls(context=trusted)
    client.ehlo()
    server.stop_politely()
    assert client.docmd("NOOP")[0] == 421
    client.close()
    with pytest.raises(ConnectionRefusedError):
        send(server)
    server.start()
    assert send(server) == {}


def test_a_server_without_a_port_has_that_of_its_first_start() -> None:
    server = SMTPServer(security="plain", user=None)
    assert server.port == 0
    with server:
        port = server.port
        assert send(server) == {}
    assert server.port == port > 0


def test_a_port_that_is_taken_is_an_error(smtp_server: Start) -> None:
    taken = smtp_server(security="plain", user=None)
    before = set(threading.enumerate())
    with pytest.raises(OSError, match="address already in use"):
        SMTPServer(port=taken.port, security="plain", user=None).start()
    assert set(threading.enumerate()) == before
    assert send(taken) == {}


def test_open_connections_can_be_broken_with_the_server_still_listening(smtp_server: Start) -> None:
    server = smtp_server(security="plain")
    with smtplib.SMTP(server.host, server.port, timeout=5) as client:
        client.ehlo()
        server.drop_connections()
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.docmd("NOOP")
    assert send(server) == {}
    wait_until(lambda: not any(session.is_open for session in server.sessions), what="closed sessions")


def test_a_client_that_connects_during_the_stop_does_not_wait() -> None:
    """It is neither accepted by a stopped server nor left waiting: the connection is closed."""
    for _ in range(40):
        with SMTPServer(security="plain", user=None) as server:
            clients = [socket.create_connection((server.host, server.port), timeout=5) for _ in range(3)]
        assert not any(session.is_open for session in server.sessions)
        for client in clients:
            with client, contextlib.suppress(ConnectionResetError):
                while client.recv(100):
                    pass
