"""A day of an operator who has no mouse and no shell."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from playwright.sync_api import Page, expect

from config.local.processes import wait_until
from email_integration.admin.deliveries import DeliveryAdmin
from email_integration.admin.filters import shown_id
from email_integration.models import Delivery, SMTPConfig, Status
from email_integration.smtpd import Fault
from email_integration.tasks import send_email

from .keyboard import Keyboard
from .steps import Serve, Start, stored, subjects

PASSWORD = "correct horse battery"

#: Seconds. The day does not wait for a retry: what the operator does not do, does not happen.
NEVER = dict.fromkeys(("RETRY_FIRST", "RETRY_MAX", "BREAKER_PROBE_FIRST", "BREAKER_PROBE_MAX"), "3600")


UNFINISHED = (Status.QUEUED, Status.SENDING, Status.DEFERRED)


def count_of(**values: Any) -> int:
    return Delivery.objects.filter(**values).count()


def test_a_day_is_done_by_keyboard_alone(
    page: Page, stack: Start, smtp_server: Serve, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server dies, is repaired; failed mail is retried by filter, a doubt decided, a copy sent, a list exported."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    monkeypatch.setattr(DeliveryAdmin, "list_per_page", 2)  # so that the filter matches more than its first page
    kim = get_user_model().objects.get()
    kim.set_password(PASSWORD)
    kim.save()
    page.context.clear_cookies()
    old = smtp_server()
    new = smtp_server(
        faults=[
            Fault(verb="RCPT", reply="550 5.1.1 User unknown", match="customer", times=3),
            Fault(verb="DOT", drop_after_accept=True, match="Subject: Invoice", times=1),
        ]
    )
    stored(old, "Primary", is_active=True)
    stack(env=NEVER)
    old.stop()
    for number in range(3):
        send_email.delay(f"Order {number}", "Text", to=[f"customer{number}@example.com"])
    send_email.delay("Invoice", "Text", to=["bob@example.com"], in_doubt="hold")
    send_email.delay("Hello", "Text", to=["hanna@example.com"])
    wait_until(lambda: count_of(waits_for_relay=True) == 5, what="the mail held")

    # The operator logs in, and sees on the dashboard what is the matter.
    page.goto("/admin/")
    keys = Keyboard(page)
    keys.type("Username:", "kim")
    keys.type("Password:", PASSWORD)
    with page.expect_navigation():
        page.keyboard.press("Enter")
    keys.enter("link", "Dashboard", within="#content")
    for words in ("The server is not working: ", "mails held for it: 5."):
        expect(page.locator(".email-notices")).to_contain_text(words)
    expect(page.get_by_role("link", name="5 deferred")).to_be_visible()

    # The server has moved: its new port is tested, and saved.
    keys.enter("link", "SMTP Configurations")
    keys.enter("link", "Primary", within="#result_list")
    keys.type("Port:", str(new.port), role="spinbutton")
    keys.type("Password:", "password")
    keys.press("button", "Test connection", "Enter")
    expect(page.locator("#email-connection-test-result")).to_contain_text("The connection works.")
    keys.enter("button", "Save")
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    assert SMTPConfig.objects.get().port == new.port
    wait_until(lambda: not count_of(status__in=UNFINISHED), what="all mail tried at the new server")
    assert sorted(subjects(new)) == ["Hello", "Invoice"]
    assert count_of(status=Status.FAILED) == 3

    # Three mailboxes did not exist yet. The mail for them is sent again, by its filter.
    keys.enter("link", "Deliveries")
    keys.press("summary", "Status:", "Enter")
    keys.enter("link", "failed")
    expect(page.locator("#result_list tbody tr")).to_have_count(2)
    keys.press("checkbox", re.compile("^Select all"), "Space")
    keys.press("button", "Select all mails that match", "Enter", back=True)
    keys.choose("Action:", "Send a copy", back=True)
    keys.enter("button", re.compile("^(Go|Run)"))
    expect(page.get_by_role("heading", name="Send copies of 3 mails?")).to_be_visible()
    keys.enter("button", "Yes, send 3 copies")
    expect(page.locator("#container")).to_contain_text("Copies of 3 mails are sent.")
    wait_until(lambda: sorted(subjects(new))[2:] == [f"Order {number}" for number in range(3)], what="the copies")

    # Of one mail it is not known whether it arrived. It did: it is not sent again.
    keys.enter("link", "Dashboard", within="#content")
    keys.enter("link", "1 in doubt")
    doubtful = Delivery.objects.get(status=Status.IN_DOUBT)
    expect(page.locator("#result_list tbody tr")).to_contain_text("Invoice")
    keys.enter("link", shown_id(doubtful.pk), within="#result_list")
    expect(page.locator(".email-now")).to_contain_text("A person must decide.")
    keys.enter("button", "Discard")
    keys.enter("button", "Yes, discard 1 mail")
    expect(page.locator(".messagelist")).to_contain_text("1 mail was discarded.")

    # Its recipient asks for another copy.
    keys.enter("button", "Send a copy")
    keys.enter("button", "Yes, send 1 copy")
    wait_until(lambda: subjects(new).count("Invoice") == 2, what="the copy")
    wait_until(lambda: not count_of(status__in=UNFINISHED), what="all mail finished")

    # All mail of the day is exported.
    keys.enter("link", "Deliveries")
    keys.to("link", "Export as CSV")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    exported = list(csv.DictReader(io.StringIO(download.value.path().read_text("utf-8-sig"))))
    orders = [(f"Order {number}", f"customer{number}@example.com") for number in range(3)]
    others = [("Invoice", "bob@example.com", "accepted"), ("Hello", "hanna@example.com", "accepted")]
    expected = [
        *((*order, status) for order in orders for status in ("accepted", "failed")),
        *others,
        ("Invoice", "bob@example.com", "failed"),
    ]
    assert sorted((row["subject"], row["to"], row["status"]) for row in exported) == sorted(expected)
    assert {row["id"] for row in exported} == set(Delivery.objects.values_list("pk", flat=True))
    assert {row["configuration"] for row in exported} == {"Primary"}
