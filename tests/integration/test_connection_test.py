"""A connection test against real servers: its report, and its time limit."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from config.local.processes import free_port
from email_integration.diagnosis.connection_test_mail import build_test_mail
from email_integration.smtp import CannotConnect, ConnectionLost, NotOffered, Phase, Refused, Relay, TLSFailed
from email_integration.smtp.connection_test import Kind, run_connection_test
from email_integration.smtpd import Fault, SMTPServer
from tests.relays import soon

Serve = Callable[..., SMTPServer]


def relay_for(server: SMTPServer) -> Relay:
    return Relay(
        name="Tried",
        host="localhost",
        port=server.port,
        username="user",
        password="password",
        use_tls=server.security == "starttls",
        use_ssl=server.security == "tls",
        from_email="Hanna <noreply@example.com>",
        timeout=5,
    )


@pytest.fixture
def tarpit() -> Iterator[int]:
    """A port that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_each_stage_is_shown_with_starttls(smtp_server: Serve) -> None:
    report = run_connection_test(relay_for(smtp_server()))
    assert report.ok
    assert [stage.kind for stage in report.stages] == [Kind.CONNECT, Kind.TLS, Kind.EHLO, Kind.AUTH]
    assert all(stage.ok and stage.seconds is not None for stage in report.stages)
    assert report.tls_version.startswith("TLSv1.")
    assert report.mechanism in ("PLAIN", "LOGIN")
    assert any(line.startswith("SIZE") for line in report.capabilities)
    assert report.certificate is not None
    assert "localhost" in report.certificate.subject
    assert report.certificate.issuer
    assert report.summary == f"{report.tls_version}, {report.mechanism}"


def test_each_stage_is_shown_with_tls_from_the_start(smtp_server: Serve) -> None:
    report = run_connection_test(relay_for(smtp_server(security="tls")))
    assert report.ok
    assert [stage.kind for stage in report.stages] == [Kind.CONNECT, Kind.TLS, Kind.EHLO, Kind.AUTH]
    assert report.stages[1].seconds is None  # part of connecting
    assert report.certificate is not None


def test_a_server_without_tls_and_login_is_shown_as_such(smtp_server: Serve) -> None:
    report = run_connection_test(replace(relay_for(smtp_server(security="plain", user=None)), username="", password=""))
    assert report.ok
    assert [stage.kind for stage in report.stages] == [Kind.CONNECT, Kind.EHLO]
    assert report.summary == "not encrypted"


def test_the_session_ends_politely(smtp_server: Serve) -> None:
    server = smtp_server()
    run_connection_test(relay_for(server))
    assert server.sessions[0].verbs[-1] == "QUIT"


def test_a_test_mail_goes_on_the_same_session(smtp_server: Serve) -> None:
    server = smtp_server()
    relay = relay_for(server)
    report = run_connection_test(relay, build_test_mail(relay, to="kim@example.com"))
    assert report.ok
    assert report.stages[-1].kind is Kind.SEND
    assert report.stages[-1].detail.startswith("250 ")
    assert len(server.sessions) == 1
    (message,) = server.messages
    assert message.mail_from == "noreply@example.com"
    assert message.rcpt_tos == ("kim@example.com",)
    assert message.parsed["From"] == "Hanna <noreply@example.com>"


def test_a_wrong_password_is_the_server_s_own_words(smtp_server: Serve) -> None:
    report = run_connection_test(replace(relay_for(smtp_server()), password="wrong"))
    assert isinstance(report.failure, Refused)
    assert report.failure.code == 535
    assert report.stages[-1].kind is Kind.AUTH
    assert not report.stages[-1].ok
    assert report.stages[-1].detail.startswith("535 ")
    assert not report.connected


def test_a_refused_recipient_fails_the_test_mail_not_the_connection(smtp_server: Serve) -> None:
    server = smtp_server(faults=[Fault(verb="RCPT", reply="550 5.1.1 User unknown")])
    relay = relay_for(server)
    report = run_connection_test(relay, build_test_mail(relay, to="kim@example.com"))
    assert isinstance(report.failure, Refused)
    assert report.failure.phase is Phase.RCPT
    assert report.connected
    assert server.messages == []


def test_what_the_server_lacks_or_is_not_trusted_for_is_reported(
    smtp_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = smtp_server(security="plain", user=None)
    assert isinstance(run_connection_test(replace(relay_for(plain), use_tls=True)).failure, NotOffered)
    monkeypatch.delenv("SSL_CERT_FILE")
    report = run_connection_test(relay_for(smtp_server()))
    assert isinstance(report.failure, TLSFailed)
    assert report.stages[-1].kind is Kind.TLS


def test_no_listener_is_no_connection() -> None:
    report = run_connection_test(Relay(name="Unreachable", host="127.0.0.1", port=free_port(), timeout=5))
    assert isinstance(report.failure, CannotConnect)


@pytest.mark.parametrize("use_ssl", [False, True])
def test_a_silent_server_is_given_up_after_the_timeout(tarpit: int, use_ssl: bool) -> None:
    with soon():
        report = run_connection_test(
            Relay(name="Tarpit", host="127.0.0.1", port=tarpit, use_tls=False, use_ssl=use_ssl, timeout=0.5)
        )
    assert not report.ok
    assert "the server did not answer within 0.5 s" in report.stages[-1].detail or "in time" in report.stages[-1].detail


def test_a_server_that_drags_every_stage_is_given_up_after_the_timeout_in_all(smtp_server: Serve) -> None:
    """Each reply arrives within the timeout of one command, but all replies together take longer."""
    server = smtp_server(faults=[Fault(verb=name, delay=0.4) for name in ("CONNECT", "EHLO", "STARTTLS", "AUTH")])
    with soon():
        report = run_connection_test(replace(relay_for(server), timeout=1.0))
    assert isinstance(report.failure, ConnectionLost)
    assert "the server did not answer within 1 s" in report.stages[-1].detail


def test_a_final_dot_without_answer_may_have_been_taken(smtp_server: Serve) -> None:
    server = smtp_server(faults=[Fault(verb="DOT", hang_after_accept=True)])
    relay = replace(relay_for(server), timeout=3)
    report = run_connection_test(relay, build_test_mail(relay, to="kim@example.com"))
    assert isinstance(report.failure, ConnectionLost)
    assert report.failure.phase is Phase.FINAL_DOT
    assert report.connected
