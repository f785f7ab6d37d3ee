"""The advice of a connection test when a server differs from the settings: it helps and does not mislead."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from config.local.certificates import Certificates
from email_integration.diagnosis.advice import Advice, advise
from email_integration.diagnosis.connection_test_mail import build_test_mail
from email_integration.smtp import Relay
from email_integration.smtp.connection_test import run_connection_test
from tests.relays import config_for, relay_to
from tests.scripted import Conversation, ScriptedServer

from .validating import validate

Script = Callable[[Conversation], None]


def advised(
    script: Script, *, mail: bool = False, tls_context: ssl.SSLContext | None = None, **changes: Any
) -> tuple[Advice, str, Relay]:
    """Test the server that plays ``script``. Return the advice, the text of the failed stage and the advice, and the
    relay.
    """
    with ScriptedServer(script, tls_context=tls_context) as server:
        relay = relay_to(server, **changes)
        report = run_connection_test(relay, build_test_mail(relay, to="kim@example.com") if mail else None)
    assert report.failure is not None
    found = advise(report.failure, relay)
    return found, f"{report.stages[-1].detail} {found.text}", relay


# -- encryption -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_tls", [False, True])
def test_a_server_that_waits_for_tls_is_not_behind_a_firewall(certificates: Certificates, use_tls: bool) -> None:
    """It sends nothing until the client begins the handshake. The client sends nothing before the greeting."""
    found, text, _ = advised(lambda talk: None, tls_context=certificates.server_context(), use_tls=use_tls, timeout=2)
    assert found.key == "tls-from-the-start"
    assert "Try TLS from the start" in text
    assert "firewall" not in text


def test_a_server_that_hangs_up_on_who_does_not_begin_is_the_same() -> None:
    found, text, _ = advised(lambda talk: None)
    assert found.key == "tls-from-the-start"
    assert "Try TLS from the start" in text


def test_a_server_that_complains_by_tls_is_the_same() -> None:
    found, _, _ = advised(lambda talk: talk.connection.sendall(bytes([0x15, 3, 3, 0, 2, 1, 0])) or None)
    assert found.key == "tls-from-the-start"


@pytest.mark.parametrize("greeting", ["220 localhost ESMTP", "HTTP/1.1 400 Bad Request"])
def test_ssl_to_a_server_that_begins_in_the_clear_is_said_in_words(greeting: str) -> None:

    def script(talk: Conversation) -> None:
        talk.say(greeting)
        talk.connection.recv(4096)

    found, text, relay = advised(script, use_ssl=True)
    assert found.key == "tls-by-starttls"
    assert "Choose STARTTLS" in text
    assert str(relay.port) in text
    assert "WRONG_VERSION" not in text.upper().replace(" ", "_")


ALERTS = [
    (40, "tls-version", "support no common encryption method"),
    (70, "tls-version", "support no common TLS version"),
    (71, "tls-version", "support no common encryption method"),
    (80, "tls-refused", "because of an internal error"),
    (10, "tls-refused", "ended the handshake"),
    (112, "tls-name", "does not know the host name"),
    (116, "tls-client-certificate", "requires a client certificate"),
    (48, "tls-client-certificate", "requires a client certificate"),
]


@pytest.mark.parametrize(("alert", "key", "words"), ALERTS)
@pytest.mark.parametrize("use_ssl", [False, True])
def test_an_alert_is_said_in_words(alert: int, key: str, words: str, use_ssl: bool) -> None:
    """RFC 8446 §6. OpenSSL, for example, calls alert 80 TLSV1_ALERT_INTERNAL_ERROR."""

    def script(talk: Conversation) -> None:
        if not use_ssl:
            talk.say("220 localhost")
            talk.hear()
            talk.say("250-localhost", "250 STARTTLS")
            talk.hear()
            talk.say("220 go on")
        talk.connection.recv(4096)
        talk.connection.sendall(bytes([0x15, 3, 3, 0, 2, 2, alert]))
        talk.connection.recv(4096)

    found, text, _ = advised(script, use_tls=not use_ssl, use_ssl=use_ssl)
    assert found.key == key
    assert words in text
    assert "ALERT" not in text
    assert "TLSV1" not in text


def test_a_certificate_of_ours_is_asked_for_only_after_the_handshake(certificates: Certificates) -> None:
    """In TLS 1.3 the client's handshake is complete by then, and the client gets the alert when it reads."""
    context = certificates.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cafile=str(certificates.authority))
    pem = certificates.authority.read_text()
    found, text, _ = advised(
        lambda talk: talk.answer(), tls_context=context, host="localhost", use_ssl=True, ca_certificates=pem
    )
    assert found.key == "tls-client-certificate"
    assert "requires a client certificate" in text


# -- servers that do not speak SMTP ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "answer"),
    [
        ("* OK [CAPABILITY IMAP4rev1] Dovecot ready.", "IMAP"),
        ("+OK POP3 ready", "POP3"),
        ("SSH-2.0-OpenSSH_9.2p1", "SSH"),
        ("HTTP/1.1 400 Bad Request", "HTTP"),
        ("<html><body>400</body></html>", "HTTP"),
        ("200 news.example.com ready", "“200 news.example.com ready”"),
        ("RFB 003.008", "“RFB 003.008”"),
        ("x" * 100, f"“{'x' * 60}…”"),
    ],
)
@pytest.mark.parametrize("secured", [False, True])
def test_another_kind_of_server_is_called_by_its_name(
    certificates: Certificates, first: str, answer: str, secured: bool
) -> None:
    """Under TLS as well: the ports of IMAP and POP3 with TLS are easily confused with those of SMTP."""
    found, text, relay = advised(
        lambda talk: talk.answer(CONNECT=first),
        tls_context=certificates.server_context() if secured else None,
        host="localhost" if secured else "127.0.0.1",
        use_ssl=secured,
        ca_certificates=certificates.authority.read_text(),
    )
    assert found.key == "not-smtp"
    assert answer in text
    assert str(relay.port) in text
    assert "firewall" not in text


def test_a_greeting_that_never_comes_to_its_end_is_one_of_smtp() -> None:
    """Some servers delay the end of the greeting to detect clients that do not wait."""

    def script(talk: Conversation) -> None:
        talk.say("220-mail.example.com")
        talk.hear()

    assert advised(script, timeout=2)[0].key == "silence"


def test_what_never_ends_its_line_is_called_by_its_first_words() -> None:
    def script(talk: Conversation) -> None:
        talk.connection.sendall(b"J\0\0\0\n5.7.44-log\0mysql_native_password\0"[5:])
        talk.hear()

    found, text, _ = advised(script, timeout=2)
    assert found.key == "not-smtp"
    assert "5.7.44-log mysql_native_password" in text


def test_ftp_greets_like_smtp() -> None:
    found, text, _ = advised(
        lambda talk: talk.answer(CONNECT="220 (vsFTPd 3.0.3)", EHLO="530 Please login", HELO="530 no")
    )
    assert found.key == "not-smtp"
    assert "FTP" in text


@pytest.mark.parametrize(
    ("greeting", "ehlo"),
    [
        ("220 mail.example.com LMTP ready", "500 5.5.1 Unknown command"),
        ("220 mail.example.com LMTP ready", "502 5.5.2 Unknown command"),
        ("220 mail.example.com", "500 5.5.1 LHLO required"),
        ("220 mail.example.com", "502 This is LMTP, not SMTP"),
    ],
)
def test_lmtp_is_called_by_its_name(greeting: str, ehlo: str) -> None:
    found, text, _ = advised(lambda talk: talk.answer(CONNECT=greeting, EHLO=ehlo, HELO="502 5.5.2 Unknown command"))
    assert found.key == "lmtp"
    assert "speaks LMTP" in text


def test_a_server_for_smtp_on_a_host_called_lmtp_or_ftp_is_one_for_smtp() -> None:
    greeting = "220 lmtp.ftp.example.com ESMTP Postfix"
    found, _, _ = advised(lambda talk: talk.answer(CONNECT=greeting, EHLO="501 bad name", HELO="501 bad name"))
    assert found.key == "ehlo-name"


# -- the name -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "replies",
    [
        {"EHLO": "550 5.7.1 rejected", "HELO": "550 5.7.1 rejected"},
        {"EHLO": "501 5.5.4 Invalid domain name", "HELO": "501 5.5.4 Invalid domain name"},
        {"MAIL": "550 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)"},
        {"RCPT": "504 5.5.2 <mail.example.com>: Helo command rejected: need fully-qualified hostname"},
    ],
)
def test_a_name_that_is_refused_is_reported_with_the_field_to_enter_another(replies: dict[str, str]) -> None:
    found, text, _ = advised(lambda talk: talk.answer(**replies), mail=True, ehlo_name="mail.example.com")
    assert found.key == "ehlo-name"
    assert "The name that was sent is mail.example.com." in text
    assert "'EHLO name'" in text


def test_the_automatic_name_is_reported_too() -> None:
    found, _, _ = advised(lambda talk: talk.answer(EHLO="550 no", HELO="550 no"))
    heard: list[str] = []

    def script(talk: Conversation) -> None:
        talk.say("220 localhost")
        heard.append(talk.hear().decode().split()[1])

    advised(script)
    assert f"The name that was sent is {heard[0]}." in str(found.text)


# -- refusals -------------------------------------------------------------------------------------------------------


def test_a_server_that_is_set_up_wrong_does_not_blame_the_sender() -> None:
    reply = "451 4.3.5 <noreply@example.com>: Sender address rejected: Server configuration error"
    found, text, _ = advised(lambda talk: talk.answer(MAIL=reply), mail=True)
    assert found.key == "server-fault"
    assert "The server has an error in its configuration" in text


def test_too_many_connections_may_be_our_own(settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SESSIONS": 7}
    found, text, _ = advised(lambda talk: talk.say("421 4.7.0 Error: too many connections from 127.0.0.1"))
    assert found.key == "connections"
    assert "as many as the setting SESSIONS says" in text
    assert "Now each process may open 7." in text


@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
@pytest.mark.parametrize(
    "reply", ["450 4.2.0 Greylisted, please try again in 300 seconds", "451 4.7.1 Greylisting in action"]
)
def test_greylisting_is_normal(verb: str, reply: str) -> None:
    found, text, _ = advised(lambda talk: talk.answer(**{verb: reply}), mail=True)
    assert found.key == "greylisting"
    assert "the settings are right" in text


OFFERS_LOGIN = "250-localhost\n250 AUTH PLAIN"
DENIED = "554 5.7.1 <unknown[127.0.0.1]>: Client host rejected: Access denied"


@pytest.mark.parametrize("ehlo", [OFFERS_LOGIN, "250-localhost\n250 STARTTLS"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
@pytest.mark.parametrize("changes", [{}, {"username": "kim"}])
@pytest.mark.parametrize("reply", [DENIED, "554 5.7.1 <kim@example.com>: Recipient address rejected: Access denied"])
def test_a_login_that_is_missing_is_named_rather_than_the_address(
    ehlo: str, verb: str, changes: dict[str, Any], reply: str
) -> None:
    """Postfix gives no other reason to clients that have not logged in. Some servers offer the login only under TLS."""
    found, text, _ = advised(lambda talk: talk.answer(EHLO=ehlo, **{verb: reply}), mail=True, **changes)
    assert found.key == "login-needed"
    assert "A login is missing" in text


@pytest.mark.parametrize(
    ("ehlo", "changes", "reply"),
    [
        ("250 localhost", {}, DENIED),
        (OFFERS_LOGIN, {"username": "kim", "password": "s3cret"}, DENIED),
        (OFFERS_LOGIN, {}, "554 5.7.1 Client host [127.0.0.1] blocked using zen.spamhaus.org"),
        (OFFERS_LOGIN, {}, "550 5.7.606 Access denied, banned sending IP [127.0.0.1]"),
    ],
)
def test_an_address_that_is_refused_is_named_where_no_login_would_help(
    ehlo: str, changes: dict[str, Any], reply: str
) -> None:
    found, _, _ = advised(lambda talk: talk.answer(EHLO=ehlo, AUTH="235 ok", RCPT=reply), mail=True, **changes)
    assert found.key == "ip-address"


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("s3cret ", "It begins or ends with a space."),
        ("s3c\u00a0ret", "U+00A0 NO-BREAK SPACE"),
        ("abcd efgh ijkl mnop", "looks like an app password"),
        ("s3cret", ""),
        ("correct horse battery", ""),
    ],
)
def test_a_refused_password_that_looks_pasted_is_called_so(password: str, words: str) -> None:
    refused = "535 5.7.8 Authentication failed"
    found, text, _ = advised(
        lambda talk: talk.answer(EHLO=OFFERS_LOGIN, AUTH=refused), username="kim", password=password
    )
    assert found.key == "password"
    assert words in text
    assert ("may be wrong" in text) == bool(words)
    assert password.strip() not in text


# -- the command gives the same advice ------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_command_gives_the_same_advice(certificates: Certificates) -> None:
    with ScriptedServer(lambda talk: None, tls_context=certificates.server_context()) as server:
        config_for(server, timeout=2)
        code, output = validate()
    assert code == 1
    assert "Try TLS from the start" in output
    assert "firewall" not in output


@pytest.mark.django_db
def test_the_command_says_the_name_and_that_there_is_no_login() -> None:
    with ScriptedServer(lambda talk: talk.answer(EHLO=OFFERS_LOGIN)) as server:
        config_for(server, username="kim", ehlo_name="mail.example.com")
        _, output = validate()
    assert "This machine introduces itself as mail.example.com (EHLO)" in output
    assert "⚠ The user name kim has no password: mail is sent without logging in" in output
    assert "unencrypted" not in output
    assert not [line for line in server.heard if line.startswith(b"AUTH")]


def test_a_report_has_the_name_and_the_failure_what_was_seen() -> None:
    with ScriptedServer(lambda talk: talk.answer(EHLO=OFFERS_LOGIN, MAIL="550 no")) as server:
        relay = replace(relay_to(server), ehlo_name="mail.example.com")
        report = run_connection_test(relay, build_test_mail(relay, to="kim@example.com"))
    assert report.ehlo_name == "mail.example.com"
    assert report.failure is not None
    assert report.failure.seen.ehlo_name == "mail.example.com"
    assert report.failure.seen.capabilities == ("AUTH PLAIN",)
    assert report.failure.seen.first_words.startswith(b"220 ")
