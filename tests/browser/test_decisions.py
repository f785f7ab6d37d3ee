"""Decisions about many mails, in a browser: the page that asks first, and an action that goes on by itself."""

from __future__ import annotations

import re

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from email_integration.admin import bulk_actions, selections
from email_integration.models import BulkAction, Delivery, Status
from tests.deliveries import submitted

from .accessibility import complaints
from .layout import WIDTHS, broken_addresses, sideways
from .steps import DELIVERIES, press

pytestmark = pytest.mark.django_db(transaction=True)

FAILED = f"{DELIVERIES}?status__exact=failed"


def failed(number: int) -> None:
    for count in range(number):
        submitted(f"a.rather.long.recipient.{count}@customers.example.com", from_email="a@example.com")
    Delivery.objects.update(status=Status.FAILED, finished_at=timezone.now(), next_at=None)
    Delivery.objects.filter(pk=Delivery.objects.values("pk")[:1]).update(has_content=False)


def copies() -> int:
    return Delivery.objects.filter(status=Status.QUEUED).count()


def select_all(page: Page, action: str, *, across: bool = False) -> None:
    page.locator("#action-toggle").check()
    if across:
        page.get_by_role("button", name="Select all mails that match").click()
    page.get_by_label("Action:").select_option(label=action)
    press(page, re.compile("^(Go|Run)"))


def fits(page: Page) -> None:
    """Check the page at two widths, in light and dark mode."""
    assert complaints(page) == []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert sideways(page) == [], width
        assert broken_addresses(page) == [], width
    page.emulate_media(color_scheme="dark")
    assert complaints(page, of_colours=True) == []
    page.emulate_media(color_scheme="light")


def test_a_long_address_has_a_line_of_its_own(page: Page) -> None:
    submitted(f"{'a-long-name.' * 5}x@mail.customers.example.org", from_email="a@example.com")
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(DELIVERIES)
    select_all(page, "Send a copy")
    address = page.locator(".email-mails bdi")
    assert address.evaluate("each => each.getClientRects().length") == 1


def test_a_slip_sends_nothing_and_the_keyboard_alone_confirms(page: Page) -> None:
    failed(12)
    page.goto(FAILED)
    select_all(page, "Send a copy")
    expect(page.get_by_role("heading", name="Send copies of 12 mails?")).to_be_visible()
    expect(page.locator("#content-main")).to_contain_text("1 mail will not be changed: its content has been deleted.")
    expect(page.locator("#content-main")).to_contain_text("a.rather.long.recipient.11@customers.example.com")
    fits(page)
    page.set_viewport_size({"width": 390, "height": 800})
    addresses = page.locator(".email-mails bdi")
    assert addresses.evaluate_all("all => all.map(each => each.getClientRects().length)") == [1] * 10
    page.get_by_role("link", name="No, change nothing").focus()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.url.endswith(FAILED)
    assert copies() == 0

    select_all(page, "Send a copy")
    page.get_by_role("link", name="No, change nothing").focus()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Yes, send 11 copies")).to_be_focused()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.locator(".messagelist")).to_contain_text("Copies of 11 mails are sent.")
    assert page.url.endswith(FAILED)
    assert copies() == 11

    select_all(page, "Send a copy")
    page.get_by_role("button", name="Yes, send 11 copies").dblclick()
    expect(page.locator("#container")).to_contain_text("Copies of 11 mails are sent.")
    assert copies() == 22


def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selections, "LISTED", 50)
    monkeypatch.setattr(bulk_actions, "BATCH", 20)
    monkeypatch.setattr(bulk_actions, "_STEP", 0.0)


def test_all_that_match_are_copied_by_a_page_that_goes_on_by_itself(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_at_a_time(monkeypatch)
    failed(120)
    page.goto(FAILED)
    select_all(page, "Send a copy", across=True)
    expect(page.get_by_role("heading", name="Send copies of 120 mails?")).to_be_visible()
    press(page, "Yes, send 119 copies")
    expect(page.locator("#content-main")).to_contain_text("It is done.")
    expect(page.locator("#content-main")).to_contain_text("Copies of 119 mails are sent.")
    fits(page)
    assert copies() == 119


def test_a_page_that_goes_on_by_itself_can_be_stopped_and_opened_again(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_at_a_time(monkeypatch)
    failed(120)
    page.goto(FAILED)
    page.route("**/bulk_action.js", lambda route: route.fulfill(body=""))  # as without scripts
    select_all(page, "Send a copy", across=True)
    press(page, "Yes, send 119 copies")
    expect(page.get_by_text("20 of 120 mails")).to_be_visible()
    fits(page)
    press(page, "Continue")
    expect(page.get_by_text("40 of 120 mails")).to_be_visible()
    page.goto(FAILED)
    expect(page.locator(".messagelist")).to_contain_text("The action “Send a copy” of kim has not ended.")
    assert complaints(page) == []
    page.get_by_role("link", name="Show", exact=True).click()
    press(page, "Stop")
    expect(page.locator("#content-main")).to_contain_text("It was stopped.")
    assert copies() + 1 == 40
    assert BulkAction.objects.get().is_stopped


def test_an_error_of_the_web_server_pauses_the_page_and_loses_nothing(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_at_a_time(monkeypatch)
    failed(120)
    page.goto(FAILED)
    page.route("**/actions/*-*/", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    select_all(page, "Send a copy", across=True)
    press(page, "Yes, send 119 copies")
    expect(page.get_by_text("The web server did not answer as expected.")).to_be_visible()
    page.unroute("**/actions/*-*/")
    press(page, "Continue")
    expect(page.locator("#content-main")).to_contain_text("It is done.")
    assert copies() == 119
