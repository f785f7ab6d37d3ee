"""The connection test of the admin: with entered values, with stored values, and by permission."""

from __future__ import annotations

import socket
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.test import Client
from django.utils import translation

from config.local.certificates import make_certificates
from email_integration.fields import UNREADABLE
from email_integration.models import SMTPConfig
from email_integration.smtpd import Fault, SMTPServer
from tests.relays import soon

from .admin_site import config, form_of, logged_in, said, url
from .pages import with_plain_addresses

pytestmark = pytest.mark.django_db
Serve = Callable[..., SMTPServer]
FETCH = {"X-Requested-With": "fetch"}


@pytest.fixture
def admin() -> Client:
    return logged_in(superuser=True)


def stored_for(server: SMTPServer, **values: Any) -> SMTPConfig:
    return config(**{"host": "localhost", "port": server.port, "password": "password", "timeout": 5, **values})


def tried(client: Client, stored: SMTPConfig | None, data: dict[str, Any], **more: Any) -> str:
    address = url("test", stored.pk) if stored else url("test_new")
    response = client.post(address, {**data, **more}, headers=FETCH)
    assert response.status_code == 200
    return with_plain_addresses(response.content.decode())


def test_what_is_typed_is_tested_before_it_is_saved(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    typed = SMTPConfig(host="localhost", port=server.port, username="user")
    page = tried(admin, None, form_of(typed, password="password"))
    assert "The connection works" in page
    assert "TLSv1." in page
    assert "Certificate for localhost" in page
    assert "PLAIN" in page or "LOGIN" in page
    assert "password" not in page.lower().replace("password unreadable", "")
    assert not SMTPConfig.objects.exists()


def test_a_login_that_was_not_done_is_reported(admin: Client, smtp_server: Serve) -> None:
    """The connection works, but sending may fail."""
    server = smtp_server(security="plain", user=None)
    typed = SMTPConfig(host="localhost", port=server.port, username="user", use_tls=False)
    page = tried(admin, None, form_of(typed))
    assert "The connection works" in page
    assert "There is a username and no password, so mail is sent without logging in." in page
    stored = stored_for(server, password="", use_tls=False)
    data = {"action": "test_connection", "_selected_action": stored.pk}
    text = said(admin.post(url("changelist"), data, follow=True))
    assert "works." in text
    assert "“Primary”: There is a username and no password" in text
    assert "logging in" not in tried(admin, stored, form_of(stored, username=""))


def test_a_doubtful_password_is_tested_as_it_is_and_named_when_it_is_refused(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server(password="with a space ")
    typed = SMTPConfig(host="localhost", port=server.port, username="user")
    assert "The connection works" in tried(admin, None, form_of(typed, password="with a space "))
    page = tried(admin, None, form_of(typed, password="another one\u00a0"))
    assert "The password that was tried may be wrong." in page
    assert "U+00A0 NO-BREAK SPACE" in page


def test_the_name_for_ehlo_is_tested_as_typed(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    stored = stored_for(server)
    assert "The connection works" in tried(admin, stored, form_of(stored, ehlo_name="mail.example.com"))
    stored.refresh_from_db()
    assert stored.tested_at is None, "the test of other settings was recorded"
    assert "EHLO name: Enter a full domain name" in tried(admin, stored, form_of(stored, ehlo_name="web"))


def test_a_browser_without_scripts_gets_a_page(admin: Client, smtp_server: Serve) -> None:
    stored = stored_for(smtp_server())
    response = admin.post(url("test", stored.pk), form_of(stored))
    assert "Go back in the browser" in response.content.decode()
    assert "The connection works" in response.content.decode()


def test_a_test_of_the_stored_settings_is_kept(admin: Client, smtp_server: Serve) -> None:
    stored = stored_for(smtp_server())
    tried(admin, stored, form_of(stored))
    stored.refresh_from_db()
    assert stored.passed_test
    assert stored.history.first().event == "tested"
    assert stored.history.first().history_user.username == "kim"
    assert "passed" in admin.get(url("changelist")).content.decode()


def test_a_test_of_other_settings_is_not_kept_but_noted(admin: Client, smtp_server: Serve) -> None:
    first, second = smtp_server(), smtp_server()
    stored = stored_for(first)
    assert "The connection works" in tried(admin, stored, form_of(stored, port=second.port, password="password"))
    stored.refresh_from_db()
    assert stored.tested_at is None
    noted = stored.history.first()
    assert (noted.event, noted.history_user.username, noted.port) == ("tested", "kim", first.port)
    assert noted.history_change_reason == f"unsaved settings: localhost:{second.port}, passed"
    assert not noted.password_changed


def test_a_failed_test_of_another_password_is_noted_without_it(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    stored = stored_for(server)
    tried(admin, stored, form_of(stored, password="typed secret"))
    stored.refresh_from_db()
    assert stored.tested_at is None
    reason = stored.history.first().history_change_reason
    assert reason.startswith(f"unsaved settings: localhost:{server.port}, failed auth: 535")
    assert "typed secret" not in repr(list(stored.history.values()))


def test_a_long_host_leaves_room_for_the_outcome(admin: Client) -> None:
    stored = config()
    tried(admin, stored, form_of(stored, host=f"{'x' * 60}.invalid", password="typed", timeout=5))
    assert ":587, failed connect" in stored.history.first().history_change_reason


def test_a_private_authority_is_trusted_as_typed_and_no_other(
    admin: Client, smtp_server: Serve, tmp_path: Path
) -> None:
    """Without the certificate authority the page says where to paste it. The test result is kept only after the
    configuration is saved.
    """
    private = make_certificates(tmp_path)
    authority = private.authority.read_text()
    stored = stored_for(smtp_server(tls_context=private.server_context()))
    page = unescape(tried(admin, stored, form_of(stored)))
    assert "not trusted" in page
    assert "into the field 'Certificate authority', under 'Advanced'" in page

    page = tried(admin, stored, form_of(stored, ca_certificates=authority.replace("\n", "\r\n"), password="password"))
    assert "The connection works" in page
    stored.refresh_from_db()
    assert stored.test_passed is False
    assert stored.history.first().history_change_reason.endswith(", passed")

    typed = form_of(stored, ca_certificates=authority, password="password")
    assert admin.post(url("change", stored.pk), typed).status_code == 302
    stored.refresh_from_db()
    assert "The connection works" in tried(admin, stored, form_of(stored))
    stored.refresh_from_db()
    assert stored.passed_test
    public = stored_for(smtp_server(), name="Public", ca_certificates=authority)
    assert "not trusted" in tried(admin, public, form_of(public))


@pytest.mark.parametrize(
    "wrong", ["nonsense", "Müller", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_what_is_no_certificate_is_not_tried(admin: Client, wrong: str) -> None:
    page = tried(admin, None, form_of(SMTPConfig(host="localhost"), ca_certificates=wrong))
    assert "Certificate authority: Enter one certificate or several" in page


@pytest.mark.parametrize("changes", [{"host": "127.0.0.1"}, {"port": "other"}, {"username": "other"}])
def test_the_stored_password_is_not_sent_to_another_server_or_user(
    admin: Client, smtp_server: Serve, changes: dict[str, Any]
) -> None:
    server, other = smtp_server(), smtp_server()
    stored = stored_for(server)
    if changes.get("port"):
        changes = {"port": other.port}
    page = tried(admin, stored, form_of(stored, **changes))
    assert "Enter the password again" in page
    assert server.sessions == other.sessions == []


def test_the_test_mail_goes_to_the_user_who_asks(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    stored = stored_for(server)
    assert "took the test mail for kim@example.com" in tried(admin, stored, form_of(stored), send="1")
    assert server.messages[0].rcpt_tos == ("kim@example.com",)


def test_without_an_address_no_test_mail_goes(admin: Client, smtp_server: Serve) -> None:
    from django.contrib.auth import get_user_model

    get_user_model().objects.update(email="")
    stored = stored_for(smtp_server())
    assert "Your account has no mail address" in tried(admin, stored, form_of(stored), send="1")


@pytest.mark.parametrize(
    ("settings_of_app", "address", "sender", "words"),
    [
        ({}, "joerg@", "a@example.com", "Die Adresse joerg@ kann nicht angeschrieben werden"),
        ({"REDIRECT_ALL_TO": ["kim"]}, "kim@example.com", "a@example.com", "ist fehlerhaft"),
        (
            {"ALLOWED_RECIPIENTS": ["example.org"]},
            "kim@example.com",
            "a@example.com",
            "erlaubt keine Mail an kim@example.com",
        ),
        ({}, "kim@example.com", "noreply", "Der Absender ist keine Adresse"),
    ],
)
def test_why_no_test_mail_goes_is_said_in_the_language_of_the_reader(
    admin: Client, settings: Any, settings_of_app: dict[str, Any], address: str, sender: str, words: str
) -> None:
    from django.contrib.auth import get_user_model

    get_user_model().objects.update(email=address)
    stored = config(from_email=sender)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **settings_of_app}
    data = {"action": "send_test_mail", "_selected_action": stored.pk}
    text = said(admin.post(url("changelist"), data, headers={"Accept-Language": "de"}, follow=True))
    assert words in text
    assert stored.history.count() == 1


def test_an_unreadable_password_is_explained_in_the_language_of_the_reader(admin: Client, settings: Any) -> None:
    stored = config()
    keys = [Fernet.generate_key().decode()]
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": keys}
    german = {"Accept-Language": "de"}
    data = {"action": "test_connection", "_selected_action": stored.pk}
    with translation.override("de"):
        words = str(UNREADABLE)
    assert "Schlüssel" in words
    page = admin.post(url("test", stored.pk), form_of(stored), headers={**FETCH, **german}).content.decode()
    assert words in unescape(page)
    assert words in said(admin.post(url("changelist"), data, headers=german, follow=True))


def test_a_failure_says_what_to_do(admin: Client, smtp_server: Serve) -> None:
    stored = stored_for(
        smtp_server(faults=[Fault(verb="AUTH", reply="534 5.7.9 Application-specific password required")])
    )
    page = tried(admin, stored, form_of(stored))
    assert "Application-specific password required" in page
    assert "https://myaccount.google.com/apppasswords" in page
    stored.refresh_from_db()
    assert stored.test_passed is False
    assert stored.test_detail == "auth: 534 5.7.9"


def test_what_a_server_says_is_shown_and_not_run(admin: Client, smtp_server: Serve) -> None:
    stored = stored_for(smtp_server(faults=[Fault(verb="AUTH", reply="535 <script>alert(1)</script>")]))
    page = tried(admin, stored, form_of(stored))
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_a_host_that_hangs_is_given_up_at_the_timeout(admin: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tarpit:
        typed = SMTPConfig(host="127.0.0.1", port=tarpit.getsockname()[1], timeout=1)
        with soon():
            page = tried(admin, None, form_of(typed))
    assert "within 1 s" in page


def test_what_cannot_be_tried_says_why(admin: Client) -> None:
    assert "not a URL" in tried(admin, None, form_of(SMTPConfig(host="https://localhost")))
    page = tried(admin, None, form_of(SMTPConfig(host="localhost"), timeout="soon"))
    assert "Timeout: Enter a whole number." in page


def test_an_unreadable_password_says_so(admin: Client, settings: Any, smtp_server: Serve) -> None:
    server = smtp_server()
    stored = stored_for(server)
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "SMTP_PASSWORD_KEYS": [Fernet.generate_key().decode()],
    }
    assert "SMTP_PASSWORD_KEYS" in tried(admin, stored, form_of(stored))
    assert stored.history.first().history_change_reason.endswith(", failed: the password is unreadable")
    assert "The connection works" in tried(admin, stored, form_of(stored, password="password"))
    assert stored.history.first().history_change_reason.endswith(", passed")
    data = {"action": "test_connection", "_selected_action": stored.pk}
    assert "SMTP_PASSWORD_KEYS" in said(admin.post(url("changelist"), data, follow=True))


def test_actions_test_and_send(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    works, fails = stored_for(server), stored_for(server, name="Wrong", password="wrong")
    both = {"_selected_action": [works.pk, fails.pk]}
    text = said(admin.post(url("changelist"), {"action": "test_connection", **both}, follow=True))
    assert f"“Primary” (localhost:{server.port}) works." in text
    assert "“Wrong”" in text
    assert "does not accept the username and password" in text
    text = said(admin.post(url("changelist"), {"action": "send_test_mail", **both}, follow=True))
    assert "took a test mail for kim@example.com" in text
    assert len(server.messages) == 1


def test_a_user_who_may_not_change_tests_only_the_stored_settings(smtp_server: Serve) -> None:
    """Entered values are ignored, so the stored password goes only to its own server."""
    server, other = smtp_server(), smtp_server()
    stored = stored_for(server)
    client = logged_in("view_smtpconfig", "test_smtpconfig")
    tried(client, stored, form_of(stored, port=other.port))
    assert len(server.sessions) == 1
    assert other.sessions == []


@pytest.mark.parametrize(
    "permissions", [("view_smtpconfig",), ("view_smtpconfig", "change_smtpconfig"), ("test_smtpconfig",)]
)
def test_a_test_without_the_permission_is_refused(smtp_server: Serve, permissions: tuple[str, ...]) -> None:
    server = smtp_server()
    stored = stored_for(server)
    client = logged_in(*permissions)
    assert client.post(url("test", stored.pk), form_of(stored)).status_code == 403
    assert client.post(url("test_new"), form_of(stored)).status_code == 403
    assert server.sessions == []


def test_a_test_wants_a_post_and_a_configuration(admin: Client) -> None:
    assert admin.get(url("test_new")).status_code == 403
    assert admin.post(url("test", 4711), {}).status_code == 404
