"""What an administrator does with SMTP configurations, in a browser, with a worker running."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet
from playwright.sync_api import Locator, Page, expect

from config.local.smtp_server import Fault, SMTPServer
from email_integration.models import SendingPause, SMTPConfig
from email_integration.tasks import send_email
from tests.stack import Stack

from .accessibility import complaints

Serve = Callable[..., SMTPServer]
Start = Callable[..., Stack]
Shot = Callable[..., None]

LIST = "/admin/email_integration/smtpconfig/"


def stored(server: SMTPServer, name: str, **values: Any) -> SMTPConfig:
    given: dict[str, Any] = {
        "host": "localhost",
        "port": server.port,
        "username": "user",
        "password": "password",
        "from_email": "Hanna <noreply@example.com>",
        **values,
    }
    return SMTPConfig.objects.create(name=name, **given)


def send(subject: str) -> str:
    """Send through the worker; give the status."""
    status = send_email.delay(subject, "Text", to=["bob@example.com"]).get(timeout=20)["status"]
    return str(status)


def subjects(server: SMTPServer) -> list[str]:
    return [message.subject for message in server.messages]


def tick(page: Page, **rows: bool) -> None:
    """Set the active flags of rows in the list, and save."""
    for name, active in rows.items():
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
        row.locator("input[type=checkbox][name$=is_active]").set_checked(active)
    page.get_by_role("button", name="Save").click()


def field(page: Page, label: str) -> Locator:
    """A field of the form, found as people find it."""
    return page.get_by_label(re.compile(f"^{label}:?$"))


def route(page: Page) -> str:
    return page.locator(".email-notices").inner_text()


def test_add_test_activate_send_and_turn_off(
    page: Page, stack: Start, smtp_server: Serve, settings: Any, shot: Shot
) -> None:
    """The whole way of a new configuration, up to the fallback when it is turned off."""
    server, fallback = smtp_server(), smtp_server(security="plain", user=None)
    settings.EMAIL_HOST, settings.EMAIL_PORT = "localhost", fallback.port
    stack(env={"EMAIL_HOST": "localhost", "EMAIL_PORT": str(fallback.port), "DEFAULT_FROM_EMAIL": "a@example.com"})
    assert send("Fallback, at first") == "accepted"

    page.goto(LIST)
    assert "by the settings of this project" in route(page)
    shot(page, "list-empty")
    page.get_by_role("link", name="Add SMTP Configuration").click()
    page.get_by_role("button", name="Gmail").click()
    expect(field(page, "Host")).to_have_value("smtp.gmail.com")
    page.get_by_role("button", name="Custom, SSL").click()
    expect(field(page, "Port")).to_have_value("465")
    expect(field(page, "Use SSL")).to_be_checked()
    expect(field(page, "Use TLS")).not_to_be_checked()
    page.get_by_role("button", name="Custom, TLS").click()
    field(page, "Name").fill("Primary")
    field(page, "From email").fill("Hanna <noreply@example.com>")
    field(page, "Host").fill("localhost")
    field(page, "Port").fill(str(server.port))
    field(page, "Username").fill("user")
    field(page, "Password").fill("wrong")
    assert complaints(page) == []
    shot(page, "form")
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#email-trial-result")).to_contain_text("does not accept the username and password")
    shot(page, "test-failed", of=".email-trial")
    field(page, "Password").fill("password")
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#email-trial-result")).to_contain_text("The connection works.")
    expect(page.locator(".email-steps")).to_contain_text("Certificate for localhost")
    shot(page, "test-passed", of=".email-trial")
    page.get_by_role("button", name="Send test mail").click()
    expect(page.locator("#email-trial-result")).to_contain_text("took the test mail for kim@example.com")
    assert complaints(page) == []
    assert not SMTPConfig.objects.exists()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist")).to_contain_text("was added successfully")
    assert server.messages[0].rcpt_tos == ("kim@example.com",)

    page.get_by_role("link", name="Primary", exact=True).click()
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#email-trial-result")).to_contain_text("The connection works.")
    page.goto(LIST)
    expect(page.locator(".email-check")).to_contain_text("passed")
    assert send("Fallback, still") == "accepted"
    tick(page, Primary=True)
    assert "through “Primary”" in route(page)
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
    assert "no configuration is active" in route(page)
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
    assert "through “Beta”" in route(page)
    assert send("2") == "accepted"
    tick(page, Alpha=True, Beta=False)
    assert "through “Alpha”" in route(page)
    assert send("3") == "accepted"
    assert (subjects(first), subjects(second)) == (["1", "3"], ["2"])

    tick(page, Beta=True)
    expect(page.locator(".errorlist").first).to_contain_text("Only one configuration can be active")
    shot(page, "two-ticked")
    tick(page, Alpha=False, Beta=False)
    expect(page.locator(".messagelist")).to_contain_text("mail goes nowhere and waits")
    shot(page, "list-none-active")


def test_keys_are_rotated_while_mail_flows(
    page: Page, stack: Start, smtp_server: Serve, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newest first, rotate, drop the old one: the page, the worker and the password never notice."""
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
    expect(page.locator("#email-trial-result")).to_contain_text("The connection works.")
    assert send("With the new one") == "accepted"
    config.refresh_from_db()
    assert str(config.sealed_password) != sealed
    assert len(server.messages) == 2


def test_the_history_tells_and_reverts(page: Page, smtp_server: Serve, shot: Shot) -> None:
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
        expect(page.locator("#email-trial-result")).to_have_text("Testing…")
        expect(page.locator("#email-trial-result")).to_contain_text("no answer within 1 s")
        expect(page.locator("#email-trial-result")).to_contain_text("What to do:")
    page.context.clear_cookies()
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#email-trial-result")).to_contain_text("The test could not be made")


def test_the_brake(page: Page, stack: Start, smtp_server: Serve, shot: Shot) -> None:
    server = smtp_server(faults=[Fault(verb="RCPT", reply="550 5.1.1 User unknown", match="nobody")])
    stored(server, "Alpha", is_active=True)
    stack()
    page.goto(LIST)
    page.get_by_role("link", name="Pause all sending").click()
    page.get_by_label("Reason").fill("A restored backup")
    page.get_by_role("button", name="Pause all sending").click()
    expect(page.locator(".email-notices")).to_contain_text("Sending is paused")
    shot(page, "paused")
    waiting = send_email.delay("Waits", "Text", to=["bob@example.com"])
    page.goto("/admin/email_integration/delivery/")
    expect(page.locator(".email-notices")).to_contain_text("Reason: A restored backup.")
    assert server.messages == []
    page.get_by_role("link", name="Resume sending").click()
    page.get_by_role("button", name="Resume sending").click()
    assert waiting.get(timeout=20)["status"] == "accepted"
    assert not SendingPause.objects.exists()
    page.goto("/admin/email_integration/delivery/")
    expect(page.get_by_role("row").filter(has_text=waiting.id)).to_contain_text(re.compile("accepted"))
    assert complaints(page) == []
    shot(page, "deliveries")


def test_the_pages_are_readable_in_the_dark(page: Page, smtp_server: Serve) -> None:
    """Text and background of what is ours differ enough (WCAG 1.4.3)."""
    stored(smtp_server(), "Alpha", is_active=True)
    page.emulate_media(color_scheme="dark")
    page.goto(LIST)
    assert complaints(page) == []
    page.get_by_role("link", name="Alpha", exact=True).click()
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#email-trial-result")).to_contain_text("The connection works.")
    assert complaints(page) == []
