"""What an administrator decides about single mails, in a browser, with a worker running."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from config.local.processes import wait_until
from config.local.smtp_server import Fault
from email_integration.models import Delivery, Status
from email_integration.tasks import send_email

from .accessibility import complaints
from .steps import DELIVERIES, Serve, Shot, Start, stored, subjects


def row(page: Page, delivery_id: str) -> Locator:
    return page.get_by_role("row").filter(has_text=delivery_id)


def choose(page: Page, action: str, *ids: str) -> None:
    """Have ``action`` done to these rows of the list."""
    for delivery_id in ids:
        row(page, delivery_id).locator("input.action-select").check()
    page.get_by_label("Action:").select_option(label=action)
    page.get_by_role("button", name=re.compile("^(Go|Run)")).click()


def test_of_two_mails_in_doubt_one_is_released_and_one_discarded(
    page: Page, stack: Start, smtp_server: Serve, shot: Shot
) -> None:
    """The server took both and said so to nobody: it gets the one again, the same bytes, and never the other."""
    server = smtp_server(faults=[Fault(verb="DOT", drop_after_accept=True, times=2)])
    stored(server, "Primary", is_active=True)
    stack()
    mails = [send_email.delay(name, "Text", to=["bob@example.com"], in_doubt="hold") for name in ("one", "two")]
    wait_until(
        lambda: Delivery.objects.filter(status=Status.IN_DOUBT).count() == len(mails), seconds=20, what="both in doubt"
    )
    one, two = mails
    before = Delivery.objects.get(pk=one.id).message_id

    page.goto(DELIVERIES)
    expect(row(page, one.id)).to_contain_text("in doubt")
    page.get_by_role("link", name=one.id).click()
    for words in ("hold it for a person", "bytes, kept", "bob@example.com: pending", "TLSv1."):
        expect(page.locator("#content-main")).to_contain_text(words)
    assert "Text" not in page.locator("#content-main").inner_text()
    shot(page, "delivery")
    page.goto(DELIVERIES)
    choose(page, "Release: send again (in doubt)", one.id)
    expect(page.locator(".messagelist")).to_contain_text("1 mail is sent again.")
    assert one.get(timeout=20)["status"] == "accepted"
    choose(page, "Discard: never send again (in doubt)", one.id, two.id)
    expect(page.locator(".messagelist")).to_contain_text("1 mail was discarded.")
    expect(page.locator(".messagelist")).to_contain_text("1 mail stayed as it was: accepted.")
    expect(row(page, two.id)).to_contain_text("given up by a person")
    assert complaints(page) == []
    assert sorted(subjects(server)) == ["one", "one", "two"]
    first, second = (message.content for message in server.messages if message.subject == "one")
    assert first == second
    assert Delivery.objects.get(pk=one.id).message_id == before

    choose(page, "Send a copy", one.id, two.id)
    expect(page.locator(".messagelist")).to_contain_text("its content is kept no longer")
    expect(page.locator(".messagelist")).to_contain_text("A copy of 1 mail is sent.")
    wait_until(lambda: subjects(server).count("two") == 2, seconds=20, what="the copy")
    page.goto(f"{DELIVERIES}{two.id}/history/")
    for words in ("Discarded.", "A copy was sent.", "kim"):
        expect(page.locator("#change-history")).to_contain_text(words)
