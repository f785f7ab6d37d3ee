"""The advice about a failure matches the real replies of the large providers."""

from __future__ import annotations

import re
import ssl
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from email_integration.diagnosis.advice import ADVICE, advise
from email_integration.smtp import (
    CannotConnect,
    ConnectionLost,
    NotOffered,
    NoToken,
    Phase,
    Refused,
    Relay,
    Reply,
    SMTPFailure,
    TLSFailed,
    tls,
)

ROOT = Path(__file__).resolve().parents[2]
RELAY = Relay(name="Relay", host="smtp.example.com", username="user", password="secret")

REPLIES = [
    (
        "app-password",
        Phase.AUTH,
        535,
        "5.7.8 Username and Password not accepted. For more information, go to\n5.7.8  "
        "https://support.google.com/mail/?p=BadCredentials x - gsmtp",
    ),
    (
        "app-password",
        Phase.AUTH,
        534,
        "5.7.9 Application-specific password required. For more information, go to\n5.7.9  "
        "https://support.google.com/mail/?p=InvalidSecondFactor",
    ),
    (
        "locked",
        Phase.AUTH,
        534,
        "5.7.14 <https://accounts.google.com/signin/continue> Please log in via your web\n5.7.14 "
        "browser and then try again.",
    ),
    (
        "basic-auth",
        Phase.AUTH,
        535,
        "5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the "
        "Tenant. Visit https://aka.ms/smtp_auth_disabled for more information.",
    ),
    ("basic-auth", Phase.AUTH, 535, "5.7.139 Authentication unsuccessful, basic authentication is disabled."),
    ("basic-auth", Phase.FINAL_DOT, 550, "5.7.30 Basic authentication is not supported for Client Submission."),
    (
        "locked",
        Phase.AUTH,
        535,
        "5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy.",
    ),
    ("password", Phase.AUTH, 535, "5.7.139 Authentication unsuccessful, the user credentials were incorrect."),
    ("password", Phase.AUTH, 535, "5.7.3 Authentication unsuccessful"),
    ("password", Phase.AUTH, 535, "Authentication Credentials Invalid"),
    ("password", Phase.AUTH, 535, "5.7.8 Error: authentication failed: UGFzc3dvcmQ6"),
    ("password", Phase.AUTH, 501, "5.5.2 Cannot decode"),
    ("login-not-offered", Phase.AUTH, 504, "5.5.4 Unrecognized authentication type"),
    ("login-not-offered", Phase.AUTH, 502, "5.5.1 Command not implemented"),
    ("login-not-offered", Phase.AUTH, 534, "5.7.9 Authentication mechanism is too weak"),
    ("starttls-first", Phase.AUTH, 538, "5.7.11 Encryption required for requested authentication mechanism"),
    ("too-many-logins", Phase.AUTH, 454, "4.7.0 Too many login attempts, please try again later."),
    ("later", Phase.AUTH, 454, "4.7.0 Temporary authentication failure"),
    ("later", Phase.AUTH, 535, "5.7.139 Authentication unsuccessful, federated STS service was unreachable."),
    ("locked", Phase.AUTH, 550, "5.7.13 User account disabled"),
    ("ip-address", Phase.AUTH, 525, "5.7.13 Unauthorized IP address"),
    (
        "ip-address",
        Phase.MAIL,
        550,
        "5.7.1 Invalid credentials for relay [192.0.2.1]. The IP address you've registered",
    ),
    ("ip-address", Phase.GREETING, 554, "5.7.1 You are not allowed to connect"),
    (
        "ip-address",
        Phase.RCPT,
        554,
        "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
    ),
    ("ip-address", Phase.RCPT, 550, "5.7.606 Access denied, banned sending IP [192.0.2.1]"),
    ("relaying", Phase.RCPT, 554, "5.7.1 <kim@example.com>: Relay access denied"),
    ("relaying", Phase.RCPT, 550, "5.7.54 SMTP; Unable to relay recipient in non-accepted domain"),
    ("starttls-first", Phase.MAIL, 530, "5.7.0 Must issue a STARTTLS command first"),
    ("login-needed", Phase.MAIL, 530, "5.7.57 Client not authenticated to send mail."),
    ("login-needed", Phase.MAIL, 530, "5.7.0 Authentication required"),
    (
        "sender",
        Phase.FINAL_DOT,
        554,
        "Message rejected: Email address is not verified. The following identities failed",
    ),
    (
        "sender",
        Phase.FINAL_DOT,
        554,
        "5.2.252 SendAsDenied; noreply@example.com not allowed to send as kim@example.com",
    ),
    ("sender", Phase.FINAL_DOT, 550, "5.7.60 SMTP; Client does not have permissions to send as this sender"),
    ("sender", Phase.RCPT, 553, "5.7.1 <kim@example.com>: Sender address rejected: not owned by user lee"),
    ("sender", Phase.MAIL, 550, "No"),
    ("recipient", Phase.RCPT, 550, "5.1.1 User unknown"),
    ("later", Phase.FINAL_DOT, 454, "Throttling failure: Maximum sending rate exceeded."),
    ("other", Phase.FINAL_DOT, 552, "5.3.4 Too big"),
    (
        "server-fault",
        Phase.MAIL,
        451,
        "4.3.5 <noreply@example.com>: Sender address rejected: Server configuration error",
    ),
    ("server-fault", Phase.MAIL, 451, "4.3.5 Server configuration error"),
    (
        "server-fault",
        Phase.RCPT,
        451,
        "4.3.5 <kim@example.com>: Recipient address rejected: Server configuration error",
    ),
    ("server-fault", Phase.RCPT, 451, "4.3.5 <web>: Helo command rejected: Server configuration error"),
    ("server-fault", Phase.MAIL, 554, "5.3.5 Local configuration error"),
    ("server-fault", Phase.MAIL, 451, "Server configuration problem"),
    ("server-fault", Phase.RCPT, 451, "4.3.0 <kim@example.com>: Temporary lookup failure"),
    ("server-fault", Phase.MAIL, 452, "4.3.1 Insufficient system storage"),
    ("server-fault", Phase.RCPT, 451, "Requested action aborted: local error in processing"),
    ("other", Phase.FINAL_DOT, 550, "5.3.0 Rejected"),
    ("sender", Phase.MAIL, 550, "5.1.8 <noreply@example.com>: Sender address rejected: Domain not found"),
    ("connections", Phase.GREETING, 421, "4.7.0 smtp.example.com Error: too many connections from 192.0.2.1"),
    ("connections", Phase.GREETING, 421, "Too many concurrent SMTP connections; please try again later."),
    ("connections", Phase.GREETING, 421, "mail.example.com Too many connected clients, try again in a moment"),
    ("connections", Phase.GREETING, 421, "4.3.2 The maximum number of concurrent connections has exceeded a limit"),
    (
        "connections",
        Phase.MAIL,
        432,
        "4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending",
    ),
    ("connections", Phase.FINAL_DOT, 432, "4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded"),
    ("connections", Phase.AUTH, 421, "4.7.0 Connection limit reached for this account"),
    ("later", Phase.MAIL, 421, "4.4.2 Connection timeout exceeded"),
    ("later", Phase.MAIL, 452, "4.5.3 Too many recipients: Too many messages sent"),
    ("greylisting", Phase.RCPT, 450, "4.2.0 <kim@example.com>: Recipient address rejected: Greylisted, see http://x"),
    ("greylisting", Phase.RCPT, 451, "4.7.1 Greylisting in action, please come back later"),
    ("greylisting", Phase.MAIL, 451, "Graylisted, try again in 5 minutes"),
    ("greylisting", Phase.RCPT, 450, "4.7.1 Try again later"),
    ("recipient", Phase.RCPT, 550, "5.1.1 <greylist@example.com>: User unknown"),
    ("ehlo-name", Phase.EHLO, 550, "5.7.1 I do not like it"),
    ("ehlo-name", Phase.EHLO, 501, "5.5.4 Invalid domain name"),
    ("ehlo-name", Phase.EHLO, 501, "Syntactically invalid EHLO argument(s)"),
    ("ehlo-name", Phase.EHLO, 501, "5.5.4 Domain name or IP address required"),
    ("ehlo-name", Phase.RCPT, 504, "5.5.2 <web_1>: Helo command rejected: need fully-qualified hostname"),
    ("ehlo-name", Phase.RCPT, 450, "4.7.1 <web.example>: Helo command rejected: Host not found"),
    ("ehlo-name", Phase.MAIL, 550, "Access denied - Invalid HELO name (See RFC2821 4.1.1.1)"),
    ("ehlo-name", Phase.EHLO, 421, "4.7.0 Try again later, closing connection. (EHLO) x - gsmtp"),
    ("starttls-first", Phase.EHLO, 530, "5.7.0 Must issue a STARTTLS command first"),
    (
        "ip-address",
        Phase.EHLO,
        554,
        "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
    ),
    ("ip-address", Phase.EHLO, 550, "Your IP is not allowed"),
    ("recipient", Phase.RCPT, 550, "5.1.1 <helo@example.com>: User unknown"),
    ("other", Phase.MAIL, 503, "5.5.1 Error: send HELO/EHLO first"),
    ("lmtp", Phase.EHLO, 500, "5.5.1 LHLO required"),
    ("lmtp", Phase.EHLO, 502, "Command not recognized: this is LMTP"),
    ("not-smtp", Phase.EHLO, 502, "5.5.2 Error: command not recognized"),
    ("not-smtp", Phase.GREETING, 200, "news.example.com NNTP ready"),
]


@pytest.mark.parametrize(("key", "phase", "code", "text"), REPLIES)
def test_a_reply_is_recognised_by_what_it_says(key: str, phase: Phase, code: int, text: str) -> None:
    assert advise(Refused(phase, "", Reply.parse(code, text)), RELAY).key == key


@pytest.mark.parametrize(
    ("key", "detail"),
    [
        ("certificate", "the server's certificate is not trusted: self-signed certificate"),
        ("certificate", "the server's certificate is not trusted: unable to get local issuer certificate"),
        ("certificate-expired", "the server's certificate is not trusted: certificate has expired"),
        (
            "certificate-name",
            "the server's certificate is not trusted: Hostname mismatch, not valid for 'smtp.example.com'.",
        ),
        ("certificate", "the CA certificates of this configuration are not valid PEM"),
    ],
)
def test_a_certificate_is_recognised_by_what_is_wrong_with_it(key: str, detail: str) -> None:
    assert advise(TLSFailed(Phase.STARTTLS, detail), RELAY).key == key


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("port-and-encryption", "WRONG_VERSION_NUMBER"),
        ("port-and-encryption", "RECORD_LAYER_FAILURE"),
        ("port-and-encryption", "HTTP_REQUEST"),
        ("tls-version", "UNSUPPORTED_PROTOCOL"),
        ("tls-version", "TLSV1_ALERT_PROTOCOL_VERSION"),
        ("tls-version", "SSLV3_ALERT_HANDSHAKE_FAILURE"),
        ("tls-version", "TLSV1_ALERT_INSUFFICIENT_SECURITY"),
        ("tls-version", "DH_KEY_TOO_SMALL"),
        ("tls-name", "TLSV1_UNRECOGNIZED_NAME"),
        ("tls-client-certificate", "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
        ("tls-client-certificate", "SSLV3_ALERT_BAD_CERTIFICATE"),
        ("tls-client-certificate", "TLSV1_ALERT_UNKNOWN_CA"),
        ("tls-refused", "TLSV1_ALERT_INTERNAL_ERROR"),
        ("tls-refused", "TLSV1_ALERT_DECODE_ERROR"),
        ("tls-refused", "SSLV3_ALERT_UNEXPECTED_MESSAGE"),
        ("tls-refused", "UNEXPECTED_EOF_WHILE_READING"),
        ("tls-refused", "SOMETHING_NEW"),
        ("tls-refused", None),
    ],
)
def test_a_failed_handshake_is_explained_in_words(key: str, reason: str | None) -> None:
    """No OpenSSL constant is left in the text."""
    error = ssl.SSLError()
    error.reason = reason  # type: ignore[assignment]  # None if OpenSSL has no name for it
    said = tls.words(error)
    assert advise(TLSFailed(Phase.STARTTLS, said), RELAY).key == key
    assert "_" not in said
    assert not re.search("[A-Z]{5}", said)


def test_a_refused_token_is_explained_as_such() -> None:
    answer = replace(Reply.parse(535, "5.7.3 Authentication unsuccessful"), to_token=True)
    assert advise(Refused(Phase.AUTH, "", answer), RELAY).key == "token"


def test_no_way_to_show_a_token_is_explained_as_such() -> None:
    refused = Refused(
        Phase.AUTH, "", replace(Reply.parse(504, "5.5.4 Unrecognized authentication type"), to_token=True)
    )
    assert advise(refused, replace(RELAY, tokens=mock.Mock())).key == "token-not-offered"


def test_tls_to_a_server_that_begins_in_the_clear_is_recognised_by_its_phase() -> None:
    failure = TLSFailed(Phase.CONNECT, f"TLS failed: {tls.IN_THE_CLEAR}")
    found = advise(failure, replace(RELAY, use_tls=False, use_ssl=True, port=2525))
    assert found.key == "tls-by-starttls"
    assert "2525" in str(found.text)


def silence(kind: type[SMTPFailure], phase: Phase) -> SMTPFailure:
    failure = kind(phase, "the server did not answer within 10 s")
    failure.__cause__ = TimeoutError()
    return failure


def test_what_has_no_reply_is_recognised_by_where_it_happened() -> None:
    assert advise(NotOffered(Phase.STARTTLS), RELAY).key == "starttls"
    assert advise(NotOffered(Phase.AUTH), RELAY).key == "login-not-offered"
    assert advise(NotOffered(Phase.AUTH), replace(RELAY, tokens=mock.Mock())).key == "token-not-offered"
    assert advise(NoToken(Phase.AUTH), RELAY).key == "token-endpoint"
    assert advise(ConnectionLost(Phase.GREETING), replace(RELAY, port=465)).key == "port-and-encryption"
    assert advise(silence(ConnectionLost, Phase.GREETING), RELAY).key == "tls-from-the-start"
    assert advise(ConnectionLost(Phase.GREETING), replace(RELAY, use_ssl=True)).key == "silence"
    assert advise(silence(ConnectionLost, Phase.CONNECT), replace(RELAY, use_ssl=True)).key == "silence"
    assert advise(silence(ConnectionLost, Phase.EHLO), RELAY).key == "timeout"
    assert advise(ConnectionLost(Phase.AUTH), RELAY).key == "silence"
    assert advise(ConnectionLost(Phase.FINAL_DOT), RELAY).key == "in-doubt"
    assert advise(silence(CannotConnect, Phase.CONNECT), RELAY).key == "timeout"
    assert advise(CannotConnect(Phase.CONNECT, "No route to host"), RELAY).key == "unreachable"


@pytest.mark.parametrize("key", ADVICE)
def test_every_advice_can_be_filled_in(key: str) -> None:
    text = str(ADVICE[key]).format(host="h", port=1, timeout="10", username="u")
    assert "{" not in text


def test_the_advice_names_the_server() -> None:
    assert "smtp.example.com" in str(advise(silence(CannotConnect, Phase.CONNECT), RELAY).text)


@pytest.mark.parametrize("key", ADVICE)
def test_every_advice_has_its_place_in_the_guide(key: str) -> None:
    assert f'<a id="{key}"></a>' in (ROOT / "docs" / "configuration.md").read_text()


def test_the_guide_has_the_words_of_the_servers() -> None:
    """A reader who searches for the numbers in a reply finds them."""
    guide = (ROOT / "docs" / "configuration.md").read_text()
    for enhanced in ("5.7.8", "5.7.9", "5.7.14", "5.7.139", "5.7.30", "5.7.3", "5.7.13", "5.7.57", "5.7.606", "5.7.60"):
        assert enhanced in guide
    for image in re.findall(r"\(images/([\w-]+\.png)\)", guide):
        assert (ROOT / "docs" / "images" / image).exists(), image
