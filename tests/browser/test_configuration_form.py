"""The form of a configuration in a browser: presets, encryption and port, two tabs, a test mail to another address."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from email_integration.models import SMTPConfig
from tests.integration.admin_site import config

from .accessibility import complaints
from .layout import WIDTHS, sideways
from .steps import LIST, Serve, field, press, stored

pytestmark = pytest.mark.django_db(transaction=True)

SES = "email-smtp.REGION.amazonaws.com"


def preset(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def expect_no_sideways_scroll(page: Page) -> None:
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert sideways(page) == [], width


# -- presets --------------------------------------------------------------------------------------------------------


def test_custom_after_a_preset_empties_its_host_and_keeps_a_typed_one(page: Page) -> None:
    page.goto(f"{LIST}add/")
    preset(page, "Amazon SES")
    expect(field(page, "Host")).to_have_value(SES)
    preset(page, "Custom, TLS")
    expect(field(page, "Host")).to_have_value("")
    field(page, "Host").fill("mail.example.com")
    preset(page, "Custom, STARTTLS")
    expect(field(page, "Host")).to_have_value("mail.example.com")


def test_custom_after_a_preset_with_oauth_empties_its_endpoint_and_scope(page: Page) -> None:
    page.goto(f"{LIST}add/")
    preset(page, "Microsoft 365, OAuth")
    expect(field(page, "Token endpoint")).to_have_value(re.compile("TENANT"))
    preset(page, "Custom, STARTTLS")
    field(page, "Authentication").select_option("oauth")
    expect(field(page, "Token endpoint")).to_have_value("")
    expect(field(page, "Scope")).to_have_value("")


def test_a_placeholder_is_refused_in_words(page: Page) -> None:
    page.goto(f"{LIST}add/")
    preset(page, "Amazon SES")
    expect(page.locator("#email-preset-hint")).to_contain_text("Replace REGION in the host")
    field(page, "Name").fill("SES")
    field(page, "From email").fill("a@example.com")
    press(page, "Save")
    expect(page.locator(".field-host .errorlist, .field-host ~ .errorlist, .errorlist").first).to_contain_text(
        "Replace REGION with the region of your account"
    )
    field(page, "Host").fill(SES.replace("REGION", "eu-central-1"))
    press(page, "Save")
    expect(page.locator(".messagelist")).to_contain_text("was added successfully")


# -- encryption and port --------------------------------------------------------------------------------------------


def test_the_encryption_suggests_the_port(page: Page) -> None:
    page.goto(f"{LIST}add/")
    expect(field(page, "Encryption")).to_have_value("starttls")
    for encryption, port in (("tls", "465"), ("none", "25"), ("starttls", "587")):
        field(page, "Encryption").select_option(encryption)
        expect(field(page, "Port")).to_have_value(port)


@pytest.mark.parametrize("typed", ["2525", "587"])
def test_a_typed_port_stays(page: Page, typed: str) -> None:
    """Even if it is a usual one."""
    page.goto(f"{LIST}add/")
    field(page, "Port").fill(typed)
    field(page, "Encryption").select_option("tls")
    expect(field(page, "Port")).to_have_value(typed)


def test_a_stored_port_of_ones_own_stays(page: Page) -> None:
    row = config(port=2525)
    page.goto(f"{LIST}{row.pk}/change/")
    field(page, "Encryption").select_option("tls")
    expect(field(page, "Port")).to_have_value("2525")
    preset(page, "Custom, TLS")
    expect(field(page, "Port")).to_have_value("465")
    field(page, "Encryption").select_option("starttls")
    expect(field(page, "Port")).to_have_value("587")


# -- the revert page ------------------------------------------------------------------------------------------------


def test_the_revert_page_shows_the_fields_of_the_login_alone(page: Page) -> None:
    row = config()
    page.goto(f"{LIST}{row.pk}/history/{row.history.first().pk}/")
    expect(field(page, "Password")).to_be_visible()
    for label in ("Grant", "Token endpoint", "Client id", "Client secret", "Refresh token", "Private key", "Scope"):
        expect(field(page, label)).to_be_hidden()
    field(page, "Authentication").select_option("oauth")
    expect(field(page, "Token endpoint")).to_be_visible()
    expect(field(page, "Password")).to_be_hidden()


# -- two tabs -------------------------------------------------------------------------------------------------------


def test_the_second_of_two_tabs_is_refused_and_shows_the_difference(page: Page) -> None:
    row = config(timeout=10)
    address = f"{LIST}{row.pk}/change/"
    page.goto(address)
    second = page.context.new_page()
    second.goto(address)
    field(second, "Name").fill("Renamed")
    field(second, "Timeout").fill("15")
    press(second, "Save")
    field(page, "Timeout").fill("25")
    press(page, "Save")
    expect(page.locator(".errornote")).to_be_visible()
    table = page.locator(".email-differences table")
    expect(table.get_by_role("row").filter(has_text="Name")).to_contain_text("Renamed")
    expect(table.get_by_role("row").filter(has_text="Timeout")).to_contain_text("(both changed it)")
    expect(field(page, "Name")).to_have_value("Renamed")
    assert complaints(page) == []
    expect_no_sideways_scroll(page)
    assert SMTPConfig.objects.get().timeout == 15
    press(page, "Save")
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    row.refresh_from_db()
    assert (row.name, row.timeout) == ("Renamed", 25)


# -- test, tick, save -----------------------------------------------------------------------------------------------


def test_test_tick_and_save_on_the_add_form(page: Page, smtp_server: Serve, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "REQUIRE_TEST_BEFORE_ACTIVATE": True}
    server = smtp_server()
    page.goto(f"{LIST}add/")
    for label, value in {
        "Name": "New",
        "From email": "a@example.com",
        "Host": "localhost",
        "Port": str(server.port),
        "Username": "user",
        "Password": "password",
    }.items():
        field(page, label).fill(value)
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#email-connection-test-result")).to_contain_text("The connection works.")
    field(page, "Active").check()
    press(page, "Save")
    expect(page.locator(".messagelist")).to_contain_text("was added successfully")
    assert SMTPConfig.objects.get().is_active


# -- a test mail to another address ---------------------------------------------------------------------------------


def test_a_test_mail_to_another_address_by_keyboard(page: Page, smtp_server: Serve) -> None:
    """The Enter key in the address field sends the mail, and does not save the form."""
    server = smtp_server()
    row = stored(server, "Alpha", timeout=10)
    page.goto(f"{LIST}{row.pk}/change/")
    field(page, "Timeout").fill("25")
    address = page.get_by_label("Send the test mail to")
    expect(address).to_have_value("kim@example.com")
    address.fill("bob@example.org")
    address.press("Enter")
    expect(page.locator("#email-connection-test-result")).to_contain_text("took the test mail for bob@example.org")
    assert server.messages[0].rcpt_tos == ("bob@example.org",)
    assert SMTPConfig.objects.get().timeout == 10
    assert complaints(page) == []
    expect_no_sideways_scroll(page)


def test_the_action_asks_for_the_address(page: Page, smtp_server: Serve) -> None:
    server = smtp_server()
    stored(server, "Alpha")
    page.goto(LIST)
    page.locator("input.action-select").check()
    page.get_by_label("Action:").select_option(label="Send a test mail to another address…")
    press(page, re.compile("^(Go|Run)"))
    page.get_by_label("Send the test mail to").fill("bob@")
    press(page, "Send test mail")
    expect(page.locator(".errorlist")).to_contain_text("Enter a valid email address.")
    assert complaints(page) == []
    expect_no_sideways_scroll(page)
    page.get_by_label("Send the test mail to").fill("bob@example.org")
    press(page, "Send test mail")
    expect(page.locator(".messagelist")).to_contain_text("took a test mail for bob@example.org")


# -- the list -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "space"), [(390, 180), (1280, 400)])
def test_the_list_has_space_to_type_a_search(page: Page, width: int, space: int) -> None:
    config("Primary", is_active=True)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(LIST)
    box = page.get_by_role("search").get_by_role("textbox")
    size = box.bounding_box()
    assert size is not None
    assert size["width"] >= space
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert complaints(page) == []
    box.fill("nothing with this name")
    press(page, "Search")
    expect(page.get_by_role("link", name="Primary", exact=True)).to_have_count(0)
