"""The dashboard refreshes itself: what a person sees and hears meanwhile, and how it is stopped."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from playwright.sync_api import Browser, Page, expect

from email_integration.models import Delivery, Status
from tests.deliveries import submitted
from tests.integration.admin_site import config

from .accessibility import complaints
from .steps import DELIVERIES
from .test_dashboard import a_day

pytestmark = pytest.mark.django_db(transaction=True)

DASHBOARD = f"{DELIVERIES}dashboard/"

#: Milliseconds after which the page has asked again, and long after.
AGAIN, LONG_AFTER = 15_100, 600_000


@pytest.fixture
def asked(page: Page) -> list[str]:
    """Return the parts that the page's script has requested: 'now', or 'all'. The clock of the page stands still."""
    requests: list[str] = []
    page.on(
        "request",
        lambda each: (
            requests.append(each.headers.get("x-dashboard-part", "all")) if each.resource_type == "fetch" else None
        ),
    )
    page.clock.install()
    return requests


def opened(page: Page, **asked: str) -> None:
    config(is_active=True)
    page.goto(f"{DASHBOARD}?{'&'.join(f'{key}={value}' for key, value in asked.items())}")
    expect(page.get_by_role("button", name="Pause refreshing")).to_be_visible()


def later(page: Page, milliseconds: int = AGAIN) -> None:
    page.clock.run_for(milliseconds)


def tile(page: Page, name: str) -> Any:
    return page.locator(".email-tiles a").filter(has_text=re.compile(rf"{name}$")).locator("strong")


def test_numbers_change_by_themselves_and_the_state_of_the_page_stays(page: Page, asked: list[str]) -> None:
    """Focus, an open table, and a choice that is not sent yet stay as they are."""
    submitted()
    opened(page, period="hour")
    page.get_by_text("The same figures as a table").click()
    page.get_by_role("combobox", name="priority").select_option("bulk")
    focused = page.get_by_role("link", name="1 queued")
    focused.focus()
    submitted()
    later(page)
    expect(tile(page, "queued")).to_have_text("2")
    expect(page.get_by_role("link", name="2 queued")).to_be_focused()
    assert asked == ["all"]  # of the last hour, all numbers are counted again
    expect(page.locator("details")).to_have_attribute("open", "")
    expect(page.get_by_role("combobox", name="priority")).to_have_value("bulk")
    assert complaints(page) == []


def test_long_ranges_are_counted_less_often(page: Page, asked: list[str]) -> None:
    opened(page, period="week")
    for number in (1, 2):
        submitted()
        later(page)
        expect(tile(page, "queued")).to_have_text(str(number))
    assert asked == ["now", "now"]


def test_a_button_stops_it_and_the_choice_is_remembered(page: Page, asked: list[str]) -> None:
    opened(page)
    page.get_by_role("button", name="Pause refreshing").click()
    expect(page.get_by_text("Not refreshed while paused.")).to_be_visible()
    submitted()
    later(page, LONG_AFTER)
    page.reload()
    later(page, LONG_AFTER)
    assert asked == []
    submitted()
    page.get_by_role("button", name="Refresh automatically").click()
    later(page, 100)
    expect(tile(page, "queued")).to_have_text("2")
    expect(page.get_by_text("Refreshes every 15 s.")).to_be_visible()


def test_it_stops_in_a_hidden_tab(page: Page, asked: list[str]) -> None:
    opened(page)
    turn = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    turn += "document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(turn, True)
    submitted()
    later(page, LONG_AFTER)
    assert asked == []
    page.evaluate(turn, False)
    later(page, 100)
    expect(tile(page, "queued")).to_have_text("1")


def test_a_screen_reader_hears_of_problems_alone(page: Page, asked: list[str]) -> None:
    """A change of other numbers is silent."""
    opened(page)
    status = page.locator("#email-announced")
    expect(status).to_have_attribute("role", "status")
    submitted()
    later(page)
    expect(tile(page, "queued")).to_have_text("1")
    expect(status).to_be_empty()
    Delivery.objects.update(status=Status.IN_DOUBT, next_at=None)
    later(page)
    expect(status).to_have_text("1 in doubt.")
    Delivery.objects.all().delete()
    later(page)
    expect(status).to_have_text("No mail needs attention.")


def test_it_says_that_the_user_is_logged_out(page: Page, asked: list[str]) -> None:
    opened(page)
    page.context.clear_cookies()
    later(page)
    expect(page.get_by_text("You are logged out.")).to_be_visible()
    later(page, LONG_AFTER)
    assert len(asked) == 2  # the page, and the login that it was redirected to


def test_without_javascript_it_is_a_plain_page(chromium: Browser, live_server: Any) -> None:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser(username="kim"))
    a_day()
    context = chromium.new_context(base_url=live_server.url, java_script_enabled=False)
    context.add_cookies([{"name": "sessionid", "value": client.cookies["sessionid"].value, "url": live_server.url}])
    page = context.new_page()
    page.goto(DASHBOARD)
    expect(tile(page, "queued")).to_have_text("3")
    expect(page.get_by_role("link", name="Refresh")).to_be_visible()
    expect(page.get_by_role("button", name="Pause refreshing")).to_be_hidden()
    context.close()
