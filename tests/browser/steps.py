"""Steps that several tests share: a stored configuration, a mail through the worker, fields and rows of a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page, expect

from config.local.processes import PATIENCE
from email_integration.models import SMTPConfig
from email_integration.smtpd import SMTPServer
from email_integration.tasks import send_email
from tests.stack import Stack

Serve = Callable[..., SMTPServer]
Start = Callable[..., Stack]
Shot = Callable[..., None]

LIST = "/admin/email_integration/smtpconfig/"
DELIVERIES = "/admin/email_integration/delivery/"


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
    """Send a mail through the worker; return its status."""
    status = send_email.delay(subject, "Text", to=["bob@example.com"]).get(timeout=PATIENCE)["status"]
    return str(status)


def subjects(server: SMTPServer) -> list[str]:
    return [message.subject for message in server.messages]


def tick(page: Page, **rows: bool) -> None:
    """Set the active flags of rows in the list, and save."""
    for name, active in rows.items():
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
        row.locator("input[type=checkbox][name$=is_active]").set_checked(active)
    press(page, "Save")


def press(page: Page, button: str | re.Pattern[str]) -> None:
    """Press a button that leads to another page, and wait until that page has loaded."""
    with page.expect_navigation():
        page.get_by_role("button", name=button, exact=isinstance(button, str)).click()


def field(page: Page, label: str) -> Locator:
    """Return a field of the form, found by its label."""
    return page.get_by_label(re.compile(f"^{label}:?$"))


def expect_route(page: Page, words: str) -> None:
    """Check that the list shows this route for mail."""
    expect(page.locator(".email-notices")).to_contain_text(words)
