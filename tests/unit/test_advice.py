"""What is said about a failure fits what the large providers really answer."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from email_integration.diagnosis.advice import ADVICE, advice
from email_integration.smtp import (
    CannotConnect,
    ConnectionLost,
    NotOffered,
    NoToken,
    Phase,
    Refused,
    Relay,
    Reply,
    TLSFailed,
)
from email_integration.smtp.auth import TOKEN_REFUSED

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
    ("too-many-logins", Phase.AUTH, 454, "4.7.0 Too many login attempts, please try again later."),
    ("later", Phase.AUTH, 454, "4.7.0 Temporary authentication failure"),
    ("locked", Phase.AUTH, 550, "5.7.13 User account disabled"),
    ("token", Phase.AUTH, 535, f"{TOKEN_REFUSED} (status 401)\n5.7.3 Authentication unsuccessful"),
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
]


@pytest.mark.parametrize(("key", "phase", "code", "text"), REPLIES)
def test_a_reply_is_told_by_what_it_says(key: str, phase: Phase, code: int, text: str) -> None:
    assert advice(Refused(phase, "", Reply.parse(code, text)), RELAY).key == key


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
        ("tls-version", "TLS failed: UNSUPPORTED_PROTOCOL"),
        ("port-and-encryption", "TLS failed: WRONG_VERSION_NUMBER"),
    ],
)
def test_a_certificate_is_told_by_what_is_wrong_with_it(key: str, detail: str) -> None:
    assert advice(TLSFailed(Phase.STARTTLS, detail), RELAY).key == key


def test_what_has_no_reply_is_told_by_where_it_happened() -> None:
    assert advice(NotOffered(Phase.STARTTLS), RELAY).key == "starttls"
    assert advice(NotOffered(Phase.AUTH), RELAY).key == "login-not-offered"
    assert advice(NotOffered(Phase.AUTH), replace(RELAY, tokens=mock.Mock())).key == "token-not-offered"
    assert advice(NoToken(Phase.AUTH), RELAY).key == "token-endpoint"
    assert advice(ConnectionLost(Phase.GREETING), replace(RELAY, port=465)).key == "port-and-encryption"
    assert advice(ConnectionLost(Phase.GREETING, "no answer within 10 s"), RELAY).key == "timeout"
    assert advice(ConnectionLost(Phase.AUTH), RELAY).key == "silence"
    assert advice(ConnectionLost(Phase.FINAL_DOT), RELAY).key == "in-doubt"
    assert advice(CannotConnect(Phase.CONNECT, "no answer within 10 s"), RELAY).key == "timeout"
    assert advice(CannotConnect(Phase.CONNECT, "No route to host"), RELAY).key == "unreachable"


@pytest.mark.parametrize("key", ADVICE)
def test_every_advice_can_be_filled_in(key: str) -> None:
    text = str(ADVICE[key]).format(host="h", port=1, timeout="10", username="u")
    assert "{" not in text


def test_the_advice_names_the_server() -> None:
    assert "smtp.example.com" in str(advice(CannotConnect(Phase.CONNECT, "no answer within 10 s"), RELAY).text)


@pytest.mark.parametrize("key", ADVICE)
def test_every_advice_has_its_place_in_the_guide(key: str) -> None:
    assert f'<a id="{key}"></a>' in (ROOT / "docs" / "configuration.md").read_text()


def test_the_guide_has_the_words_of_the_servers() -> None:
    """Whoever searches for the numbers in a reply finds them."""
    guide = (ROOT / "docs" / "configuration.md").read_text()
    for enhanced in ("5.7.8", "5.7.9", "5.7.14", "5.7.139", "5.7.30", "5.7.3", "5.7.13", "5.7.57", "5.7.606", "5.7.60"):
        assert enhanced in guide
    for image in re.findall(r"\(images/([\w-]+\.png)\)", guide):
        assert (ROOT / "docs" / "images" / image).exists(), image
