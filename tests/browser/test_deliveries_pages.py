"""The list of deliveries and the page of one mail at the widths of a desktop and of a phone, and by keyboard."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import pytest
from django.core.mail import EmailMultiAlternatives
from django.utils import timezone
from playwright.sync_api import Page, expect

from email_integration.delivery import submit
from email_integration.models import Status
from tests.deliveries import pretend, submitted

from .accessibility import complaints
from .layout import WIDTHS, sideways
from .pages import mails
from .steps import DELIVERIES

pytestmark = pytest.mark.django_db(transaction=True)


def lines_of(page: Page, texts: Sequence[str]) -> list[int]:
    """Return the number of lines of each element that contains one of ``texts`` alone."""
    return page.evaluate(  # type: ignore[no-any-return]  # Playwright returns what the script returns
        """texts => [...document.querySelectorAll("bdi")]
            .filter(one => texts.some(text => one.title === text || one.textContent === text))
            .map(one => new Set([...one.getClientRects()].map(rect => Math.round(rect.top))).size)""",
        list(texts),
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_the_list_is_readable(page: Page, width: int) -> None:
    """Nothing scrolls sideways, no address is broken, a reason has one line, and there is space to type a search."""
    made = mails()
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(DELIVERIES)
    assert sideways(page) == []
    stored = [item["address"] for one in made for item in one.recipients]
    assert lines_of(page, stored) == [1] * len(made)
    reasons = page.locator(".email-reason")
    expect(reasons).to_have_count(len(made))
    heights = reasons.evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")
    assert max(heights) < 25
    box = page.get_by_role("search").get_by_role("textbox").bounding_box()
    assert box is not None
    assert box["width"] >= (500 if width > 1000 else 180)
    assert complaints(page) == []


@pytest.mark.parametrize("controls", ["\u202e", "\u2069\u202e", "\u2066", "\u2066\u2069\u2069\u202e"])
def test_an_address_cannot_turn_the_words_after_it(page: Page, controls: str) -> None:
    """The status and the reply stay to the right of the address, in this order."""
    item = {"address": f"kim{controls}mik@example.com", "status": "failed", "code": 550, "reply": f"No {controls}on"}
    delivery = pretend(submitted("kim@example.com"), status=Status.FAILED, recipients=[item])
    page.goto(f"{DELIVERIES}{delivery.pk}/change/")
    field = page.locator(".field-recipients_and_replies .readonly")
    ends = field.evaluate(
        """field => [": failed", "(550", ")"].map(words => {
            for (const node of field.childNodes) {
                const at = node.nodeType === Node.TEXT_NODE ? node.data.indexOf(words) : -1;
                if (at >= 0) {
                    const range = document.createRange();
                    range.setStart(node, at);
                    range.setEnd(node, at + words.length);
                    return range.getBoundingClientRect().left;
                }
            }
            return field.querySelectorAll("bdi")[words === "(550" ? 1 : 0].getBoundingClientRect().left;
        })"""
    )
    assert ends == sorted(ends)
    assert len(set(ends)) == len(ends)


def test_filters_open_and_apply_by_keyboard(page: Page) -> None:
    made = mails()
    page.goto(DELIVERIES)
    status = page.locator("summary", has_text="Status:")
    expect(page.get_by_role("link", name="quarantined")).not_to_be_visible()
    status.focus()
    page.keyboard.press("Enter")
    page.get_by_role("link", name="quarantined").focus()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.locator("summary", has_text="Status: quarantined")).to_be_visible()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    page.locator("summary", has_text="Submitted at:").focus()
    page.keyboard.press("Enter")
    page.get_by_label("From day").fill((timezone.now() + dt.timedelta(days=2)).date().isoformat())
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.locator("#result_list tbody tr")).to_have_count(0)
    with page.expect_navigation():
        page.get_by_role("link", name="Clear all filters").press("Enter")
    expect(page.locator("#result_list tbody tr")).to_have_count(len(made))


def test_a_mail_is_decided_by_keyboard_on_its_page(page: Page) -> None:
    """What is not possible cannot be focused, and its reason is beside it."""
    mail = pretend(submitted(subject="Your order"), status=Status.IN_DOUBT, next_at=None)
    page.goto(f"{DELIVERIES}{mail.pk}/change/")
    assert page.title().strip("\u2068\u2069").startswith("Your order")
    expect(page.locator(".email-now")).to_contain_text("A person must decide.")
    expect(page.get_by_role("button", name="Send now")).to_be_disabled()
    expect(page.get_by_role("button", name="Send now")).to_have_accessible_description(
        "Not possible: It is in doubt: use “Send again”."
    )
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.value") == "discard":
            break
    with page.expect_navigation():
        page.keyboard.press("Enter")
    with page.expect_navigation():
        page.get_by_role("button", name="Yes, discard 1 mail").press("Enter")
    expect(page.locator(".messagelist")).to_contain_text("1 mail was discarded.")
    expect(page.locator(".email-badge")).to_contain_text("failed")
    with page.expect_navigation():
        page.get_by_role("button", name="Send a copy").press("Enter")
    with page.expect_navigation():
        page.get_by_role("button", name="Yes, send 1 copy").press("Enter")
    with page.expect_navigation():
        page.locator(".email-now ul a").press("Enter")
    with page.expect_navigation():
        page.get_by_role("link", name=mail.pk).press("Enter")
    expect(page.locator(".email-badge")).to_contain_text("failed")


def test_an_attachment_and_the_list_are_downloaded_as_files(page: Page) -> None:
    mail = EmailMultiAlternatives("Your order", "Text", "a@example.com", ["kim@example.com"])
    mail.attach("page.html", "<script>document.title = 'taken over'</script>", "text/html")
    delivery = submit(mail)
    page.goto(f"{DELIVERIES}{delivery.pk}/content/")
    with page.expect_download() as download:
        page.get_by_role("link", name="page.html").click()
    assert download.value.suggested_filename == "page.html"
    page.goto(f"{DELIVERIES}?status__exact=queued")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as CSV").click()
    assert download.value.suggested_filename.endswith(".csv")
    assert delivery.pk in download.value.path().read_text()
