"""An administrator's work with SMTP configurations, in a browser, with a worker running."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from playwright.sync_api import Page, expect

from config.local.certificates import make_certificates
from config.local.processes import PATIENCE, wait_until
from email_integration.models import Delivery, SendingPause, SMTPConfig
from email_integration.smtpd import Fault
from email_integration.tasks import send_email
from tests.mail_settings import name_server

from .accessibility import complaints
from .steps import DELIVERIES, LIST, Serve, Shot, Start, expect_route, field, send, stored, subjects, tick

pytestmark = pytest.mark.extra


def test_add_test_activate_send_and_turn_off(
    page: Page, stack: Start, smtp_server: Serve, settings: Any, shot: Shot
) -> None:
    """All steps of a new configuration, up to the fallback when it is turned off."""
    server, fallback = smtp_server(), smtp_server(security="plain", user=None)
    name_server(settings, host="localhost", port=fallback.port)
    stack(env={"EMAIL_HOST": "localhost", "EMAIL_PORT": str(fallback.port), "DEFAULT_FROM_EMAIL": "a@example.com"})
    assert send("Fallback, at first") == "accepted"

    page.goto(LIST)
    expect_route(page, "by the settings of this project")
    shot(page, "list-empty")
    page.get_by_role("link", name="Add SMTP Configuration").click()
    page.get_by_role("button", name="Gmail").click()
    expect(field(page, "Host")).to_have_value("smtp.gmail.com")
    page.get_by_role("button", name="Custom, TLS").click()
    expect(field(page, "Port")).to_have_value("465")
    expect(field(page, "Encryption")).to_have_value("tls")
    page.get_by_role("button", name="Custom, STARTTLS").click()
    expect(field(page, "Encryption")).to_have_value("starttls")
    field(page, "Name").fill("Primary")
    field(page, "From email").fill("Hanna <noreply@example.com>")
    field(page, "Host").fill("localhost")
    field(page, "Port").fill(str(server.port))
    field(page, "Username").fill("user")
    field(page, "Password").fill("wrong")
    assert complaints(page) == []
    shot(page, "form")
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#email-connection-test-result")).to_contain_text("does not accept the username and password")
    shot(page, "test-failed", of=".email-connection-test")
    field(page, "Password").fill("password")
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#email-connection-test-result")).to_contain_text("The connection works.")
    expect(page.locator(".email-stages")).to_contain_text("Certificate for localhost")
    shot(page, "test-passed", of=".email-connection-test")
    page.get_by_role("button", name="Send test mail").click()
    expect(page.locator("#email-connection-test-result")).to_contain_text("took the test mail for kim@example.com")
    assert complaints(page) == []
    assert not SMTPConfig.objects.exists()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist")).to_contain_text("was added successfully")
    assert server.messages[0].rcpt_tos == ("kim@example.com",)

    page.get_by_role("link", name="Primary", exact=True).click()
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#email-connection-test-result")).to_contain_text("The connection works.")
    page.goto(LIST)
    expect(page.locator(".email-check")).to_contain_text("passed")
    assert send("Fallback, still") == "accepted"
    tick(page, Primary=True)
    expect_route(page, "through “Primary”")
    assert complaints(page) == []
    shot(page, "list-active")
    assert send("Primary") == "accepted"

    page.get_by_role("link", name="Primary", exact=True).click()
    field(page, "Active").uncheck()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".errorlist")).to_contain_text(f"by the settings of this project: localhost:{fallback.port}")
    shot(page, "none-active-asks")
    assert SMTPConfig.objects.get().is_active
    page.get_by_label("Yes, leave no configuration active").check()
    page.get_by_role("button", name="Save", exact=True).click()
    expect_route(page, "no configuration is active")
    assert send("Fallback again") == "accepted"
    assert subjects(server)[1:] == ["Primary"]
    assert subjects(fallback) == ["Fallback, at first", "Fallback, still", "Fallback again"]


def test_the_list_switches_both_ways_and_mail_follows(page: Page, stack: Start, smtp_server: Serve, shot: Shot) -> None:
    first, second = smtp_server(), smtp_server()
    stored(first, "Alpha", is_active=True)
    stored(second, "Beta")
    stack(beat=False)
    page.goto(LIST)
    assert send("1") == "accepted"
    tick(page, Alpha=False, Beta=True)
    expect_route(page, "through “Beta”")
    assert send("2") == "accepted"
    tick(page, Alpha=True, Beta=False)
    expect_route(page, "through “Alpha”")
    assert send("3") == "accepted"
    assert (subjects(first), subjects(second)) == (["1", "3"], ["2"])

    tick(page, Beta=True)
    expect(page.locator(".errorlist").first).to_contain_text("Only one configuration can be active")
    shot(page, "two-ticked")
    tick(page, Alpha=False, Beta=False)
    expect(page.locator("#content-main")).to_contain_text("mail is held")
    assert SMTPConfig.objects.get(is_active=True).name == "Alpha"
    page.get_by_role("button", name="Deactivate “Alpha”").click()
    expect(page.locator(".messagelist")).to_contain_text("mail is held")
    shot(page, "list-none-active")


def test_a_server_with_a_private_authority(page: Page, stack: Start, smtp_server: Serve, tmp_path: Path) -> None:
    """The refusal says where to paste the authority's certificate. From then on it is trusted, by workers too."""
    private = make_certificates(tmp_path / "private")
    server = smtp_server(tls_context=private.server_context())
    config = stored(server, "Alpha", is_active=True)
    stack()
    waiting = send_email.delay("Waits", "Text", to=["bob@example.com"])
    page.goto(f"{LIST}{config.pk}/change/")
    page.get_by_role("button", name="Test connection").click()
    result = page.locator("#email-connection-test-result")
    expect(result).to_contain_text("not trusted")
    expect(result).to_contain_text("paste the certificate of its authority into the field 'Certificate authority'")
    page.get_by_text("Advanced", exact=True).click()
    field(page, "Certificate authority").fill("nonsense")
    page.get_by_role("button", name="Test connection").click()
    expect(result).to_contain_text("Certificate authority: Enter one certificate or several")
    field(page, "Certificate authority").fill(private.authority.read_text())
    page.get_by_role("button", name="Test connection").click()
    expect(result).to_contain_text("Enter the password again")
    page.locator("#id_password").fill("password")
    page.get_by_role("button", name="Test connection").click()
    expect(result).to_contain_text("The connection works.")
    assert complaints(page) == []
    assert server.messages == []
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    assert waiting.get(timeout=PATIENCE)["status"] == "accepted"
    assert subjects(server) == ["Waits"]


def test_a_server_at_fault_is_reported_and_tried_now(page: Page, stack: Start, smtp_server: Serve, shot: Shot) -> None:
    """Without the action, the server would be tried again in an hour."""
    server = smtp_server(faults=[Fault(verb="AUTH", reply="535 5.7.8 Authentication credentials invalid", times=1)])
    stored(server, "Primary", is_active=True)
    times = ("RETRY_FIRST", "RETRY_MAX", "BREAKER_PROBE_FIRST", "BREAKER_PROBE_MAX")
    stack(env=dict.fromkeys(times, "3600"))
    waiting = []
    for number in range(1, 4):  # the second is sent when the first has opened the circuit breaker
        waiting.append(send_email.delay(str(number), "Text", to=["bob@example.com"]))
        wait_until(
            lambda: Delivery.objects.filter(waits_for_relay=True).count() == len(waiting), what="the mail deferred"
        )
    assert len(server.sessions) == 1
    page.goto(LIST)
    words = ("The server is not working: the server refused the login", "(535 5.7.8)", "mails held for it: 3.")
    for text in words:
        expect(page.locator(".email-notices")).to_contain_text(text)
    assert complaints(page) == []
    shot(page, "at-fault")
    page.get_by_role("button", name="Try now").click()
    expect(page.locator(".messagelist")).to_contain_text("Retrying mail held for “Primary” now.")
    assert {mail.get(timeout=PATIENCE)["status"] for mail in waiting} == {"accepted"}
    page.goto(LIST)
    expect(page.locator(".email-notices")).not_to_contain_text("at fault")
    expect(page.get_by_role("button", name="Try now")).to_have_count(0)


def test_keys_are_rotated_while_mail_flows(
    page: Page, stack: Start, smtp_server: Serve, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Add the new key in front, rotate, remove the old key: the page, the worker and the password keep working."""
    server = smtp_server()
    config = stored(server, "Alpha", is_active=True)
    sealed = str(config.sealed_password)
    (old,) = settings.EMAIL_INTEGRATION["SMTP_PASSWORD_KEYS"]
    new = Fernet.generate_key().decode()
    both = stack(beat=False, env={"SMTP_PASSWORD_KEYS": f"{new},{old}"})
    assert "1" in both.run("rotate_smtp_passwords").stdout
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [new]}
    assert send("With both keys") == "accepted"
    both.end()
    stack(beat=False, env={"SMTP_PASSWORD_KEYS": new})
    page.goto(LIST)
    expect(page.locator(".email-check")).not_to_contain_text("unreadable")
    page.get_by_role("link", name="Alpha", exact=True).click()
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#email-connection-test-result")).to_contain_text("The connection works.")
    assert send("With the new one") == "accepted"
    config.refresh_from_db()
    assert str(config.sealed_password) != sealed
    assert len(server.messages) == 2


def test_a_way_to_log_in_shows_its_own_fields_and_the_others_are_not_kept(page: Page, smtp_server: Serve) -> None:
    config = stored(smtp_server(), "Alpha")
    page.goto(f"{LIST}{config.pk}/change/")
    expect(field(page, "Password")).to_be_visible()
    expect(field(page, "Token endpoint")).to_be_hidden()
    page.get_by_role("button", name="Microsoft 365, OAuth", exact=True).click()
    expect(field(page, "Token endpoint")).to_have_value(re.compile(r"^https://login\.microsoftonline\.com/"))
    expect(field(page, "Password")).to_be_hidden()
    expect(field(page, "Refresh token")).to_be_hidden()
    field(page, "Grant").select_option("refresh_token")
    expect(field(page, "Refresh token")).to_be_visible()
    expect(field(page, "Private key")).to_be_hidden()
    field(page, "Grant").select_option("jwt_bearer")
    expect(field(page, "Private key")).to_be_visible()
    for other in ("Refresh token", "Client secret", "Client secret expires on"):
        expect(field(page, other)).to_be_hidden()
    field(page, "Grant").select_option("client_credentials")
    field(page, "Token endpoint").fill("https://login.microsoftonline.com/example.com/oauth2/v2.0/token")
    field(page, "Client id").fill("mailer")
    field(page, "Client secret").fill("s3cret")
    assert complaints(page) == []
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    config = SMTPConfig.objects.get()
    assert (config.authentication, config.password, config.oauth_client_secret) == ("oauth", "", "s3cret")
    expect(page.locator(".field-token_state")).to_contain_text("none was fetched yet")
    field(page, "Authentication").select_option("none")
    expect(field(page, "Username")).to_be_hidden()
    expect(page.locator(".field-token_state")).to_be_hidden()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    config = SMTPConfig.objects.get()
    assert (config.username, config.oauth_client_secret, config.oauth_endpoint) == ("", "", "")


def test_the_history_shows_and_reverts(page: Page, smtp_server: Serve, shot: Shot) -> None:
    server = smtp_server()
    config = stored(server, "Alpha")
    page.goto(f"{LIST}{config.pk}/change/")
    field(page, "Timeout").fill("25")
    field(page, "Password").fill("another")
    field(page, "Password").press("Enter")
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    tick(page, Alpha=True)
    page.goto(f"{LIST}{config.pk}/history/")
    table = page.locator(".email-history")
    for words in ("created", "viewed", "changed", "activated", "Timeout: 10", "Password: changed"):
        expect(table).to_contain_text(words)
    assert complaints(page) == []
    shot(page, "history")
    table.get_by_role("row").last.get_by_role("link").click()
    expect(field(page, "Timeout")).to_have_value("10")
    field(page, "Active").check()
    shot(page, "revert")
    page.get_by_role("button", name="Revert").first.click()
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    config.refresh_from_db()
    assert (config.timeout, config.password, config.is_active) == (10, "another", True)


def test_a_host_that_hangs_is_given_up_and_explained(page: Page) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tarpit:
        page.goto(f"{LIST}add/")
        field(page, "Host").fill("127.0.0.1")
        field(page, "Port").fill(str(tarpit.getsockname()[1]))
        field(page, "Timeout").fill("1")
        page.get_by_role("button", name="Test connection").click()
        expect(page.locator("#email-connection-test-result")).to_have_text("Testing…")
        expect(page.locator("#email-connection-test-result")).to_contain_text("the server did not answer within 1 s")
        expect(page.locator("#email-connection-test-result")).to_contain_text("What to do:")
    page.context.clear_cookies()
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#email-connection-test-result")).to_contain_text("The test could not be made")


def test_pausing_and_resuming(page: Page, stack: Start, smtp_server: Serve, shot: Shot) -> None:
    server = smtp_server(faults=[Fault(verb="RCPT", reply="550 5.1.1 User unknown", match="unknown")])
    stored(server, "Alpha", is_active=True)
    stack()
    page.goto(LIST)
    page.get_by_role("link", name="Pause all sending").click()
    page.get_by_label("Reason").fill("A restored backup")
    page.get_by_role("button", name="Pause all sending").click()
    expect(page.locator(".email-notices")).to_contain_text("Sending is paused")
    shot(page, "paused")
    waiting = send_email.delay("Waits", "Text", to=["bob@example.com"])
    page.goto(DELIVERIES)
    expect(page.locator(".email-notices")).to_contain_text("Reason: A restored backup.")
    assert server.messages == []
    page.get_by_role("link", name="Resume sending").click()
    page.get_by_role("button", name="Resume sending").click()
    assert waiting.get(timeout=PATIENCE)["status"] == "accepted"
    assert not SendingPause.objects.exists()
    page.goto(DELIVERIES)
    expect(page.get_by_role("row").filter(has_text=waiting.id[-8:])).to_contain_text(re.compile("accepted"))
    assert complaints(page) == []


def test_the_pages_are_readable_in_the_dark(page: Page, smtp_server: Serve) -> None:
    """Text and background of this app's parts have enough contrast (WCAG 1.4.3)."""
    stored(smtp_server(), "Alpha", is_active=True)
    page.emulate_media(color_scheme="dark")
    page.goto(LIST)
    assert complaints(page) == []
    page.get_by_role("link", name="Alpha", exact=True).click()
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#email-connection-test-result")).to_contain_text("The connection works.")
    assert complaints(page) == []
