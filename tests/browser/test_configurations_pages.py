"""The pages of configurations at the widths of a desktop and of a phone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from email_integration.models import SMTPConfig
from tests.integration.admin_site import config

from .accessibility import complaints
from .steps import LIST, press

pytestmark = pytest.mark.django_db(transaction=True)

NAME, HOST = "Main server of the data centre in the south", "mail.a-long-name.customers.example.com"
IS_TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
#: The number of lines of an element's text.
LINES = """one => {
    const range = document.createRange();
    range.selectNodeContents(one);
    return new Set([...range.getClientRects()].map(rect => Math.round(rect.top))).size;
}"""


def at(page: Page, width: int, address: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(address)
    assert not page.evaluate(IS_TOO_WIDE)


@pytest.mark.parametrize("language", ["en", "de"])
def test_the_whole_list_is_visible_on_a_desktop(page: Page, language: str) -> None:
    """The filters are above it and leave it the whole width."""
    config(NAME, host=HOST, is_active=True)
    page.goto(LIST)
    page.context.add_cookies([{"name": "django_language", "value": language, "url": page.url}])
    at(page, 1280, LIST)
    assert page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.results'))") <= 0
    assert complaints(page) == []


def test_the_active_configuration_is_visible_on_a_phone(page: Page) -> None:
    config(NAME, host=HOST, is_active=True)
    at(page, 390, LIST)
    box = page.get_by_role("checkbox", name=f"Active: {NAME}").bounding_box()
    assert box is not None
    assert box["x"] + box["width"] < 375
    assert complaints(page) == []


def test_filters_of_configurations_are_menus(page: Page) -> None:
    config("With STARTTLS"), config("With TLS", use_tls=False, use_ssl=True, port=465)
    at(page, 390, LIST)
    page.locator("summary", has_text="Encryption:").click()
    with page.expect_navigation():
        page.get_by_role("link", name="TLS (465)", exact=True).click()
    expect(page.locator("summary", has_text="Encryption: TLS (465)")).to_be_visible()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)


def test_the_history_breaks_no_word_on_a_phone(page: Page) -> None:
    stored = config(NAME, host=HOST)
    stored.host = f"other.{HOST}"
    stored.save()
    at(page, 390, f"{LIST}{stored.pk}/history/")
    expect(page.locator("#change-history tbody tr")).to_have_count(2)
    for cell in page.locator("#change-history tbody td:nth-child(-n+3)").all():
        assert cell.evaluate(LINES) == 1
    assert complaints(page) == []


def test_the_differences_break_no_host_on_a_phone(page: Page) -> None:
    stored = config("Primary", host="old.mail.example.com")
    at(page, 390, f"{LIST}{stored.pk}/change/")
    changed = SMTPConfig.objects.get(pk=stored.pk)
    changed.host = "new.mail.customers.example.com"
    changed.save()
    page.get_by_label("Host:").fill("mine.mail.example.com")
    press(page, "Save")
    cells = page.locator(".email-differences tbody td")
    expect(cells).to_have_text(["old.mail.example.com", changed.host, "mine.mail.example.com"])
    assert cells.evaluate_all(f"all => all.map({LINES})") == [1, 1, 1]
    assert not page.evaluate(IS_TOO_WIDE)
    assert complaints(page) == []
