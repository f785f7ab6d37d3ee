"""An administrator's decisions about single mails, in a browser, with a worker running."""

from __future__ import annotations

import base64
import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.mail import EmailMultiAlternatives
from playwright.sync_api import Browser, Locator, Page, expect

from config.local.processes import PATIENCE, wait_until
from email_integration.delivery import submit
from email_integration.models import Delivery, Status
from email_integration.smtpd import Fault
from email_integration.tasks import send_email
from tests.mime_parts import image_part

from .accessibility import complaints
from .steps import DELIVERIES, Serve, Shot, Start, press, stored, subjects


def row(page: Page, delivery_id: str) -> Locator:
    return page.get_by_role("row").filter(has=page.locator(f"span[title='{delivery_id}']"))


def choose(page: Page, action: str, *ids: str) -> None:
    """Apply ``action`` to these rows of the list, and confirm it."""
    for delivery_id in ids:
        row(page, delivery_id).locator("input.action-select").check()
    page.get_by_label("Action:").select_option(label=action)
    press(page, re.compile("^(Go|Run)"))
    press(page, re.compile("^Yes, "))


def test_of_two_mails_in_doubt_one_is_released_and_one_discarded(
    page: Page, stack: Start, smtp_server: Serve, shot: Shot
) -> None:
    """The server accepted both without a reply.

    It receives the released mail again, byte for byte, and never the other.
    """
    server = smtp_server(faults=[Fault(verb="DOT", drop_after_accept=True, times=2)])
    stored(server, "Primary", is_active=True)
    stack()
    mails = [send_email.delay(name, "Text", to=["bob@example.com"], in_doubt="hold") for name in ("one", "two")]
    wait_until(
        lambda: Delivery.objects.filter(status=Status.IN_DOUBT).count() == len(mails), what="both mails in doubt"
    )
    one, two = mails
    before = Delivery.objects.get(pk=one.id).message_id

    page.goto(DELIVERIES)
    for words in ("in doubt", "one", "bob@example.com", "Primary", "normal"):
        expect(row(page, one.id)).to_contain_text(words)
    shot(page, "deliveries", dark=True)
    row(page, one.id).get_by_role("link").first.click()
    for words in ("hold it until a person decides", "bytes, kept", "bob@example.com: pending"):
        expect(page.locator("#content-main")).to_contain_text(words)
    for words in ("Submitted", "Attempt 1: in doubt", "the connection was lost", "up to: Final dot", "TLSv1."):
        expect(page.locator(".email-timeline")).to_contain_text(words)
    assert "Text" not in page.locator("#content-main").inner_text()
    assert complaints(page) == []
    shot(page, "delivery", dark=True)
    page.goto(DELIVERIES)
    choose(page, "Release: send again (in doubt)", one.id)
    expect(page.locator(".messagelist")).to_contain_text("1 mail is sent again.")
    assert one.get(timeout=PATIENCE)["status"] == "accepted"
    choose(page, "Discard: never send again (in doubt)", one.id, two.id)
    expect(page.locator(".messagelist")).to_contain_text("1 mail was discarded.")
    expect(page.locator(".messagelist")).to_contain_text("1 mail was not changed: the server has accepted it.")
    expect(row(page, two.id)).to_contain_text("discarded by a user")
    assert complaints(page) == []
    assert sorted(subjects(server)) == ["one", "one", "two"]
    first, second = (message.content for message in server.messages if message.subject == "one")
    assert first == second
    assert Delivery.objects.get(pk=one.id).message_id == before

    choose(page, "Send a copy", one.id, two.id)
    expect(page.locator(".messagelist")).to_contain_text("its content has been deleted")
    expect(page.locator(".messagelist")).to_contain_text("A copy of 1 mail is sent.")
    wait_until(lambda: subjects(server).count("two") == 2, what="the copy")
    page.goto(f"{DELIVERIES}{two.id}/history/")
    for words in ("Discarded.", "A copy was sent.", "kim"):
        expect(page.locator("#change-history")).to_contain_text(words)


#: Every attempt of a mail to reach the network or the page around it.
HOSTILE = """<html><head><meta http-equiv="refresh" content="0;url=ELSEWHERE/refresh">
<link rel="stylesheet" href="ELSEWHERE/style.css">
<style>@import "ELSEWHERE/import.css"; h1 { color: #417690 }
body { background: url(ELSEWHERE/background.png); font-family: sans-serif }</style></head>
<body onload="parent.document.title = 'taken over'">
<h1>Thank you for your order</h1><p><img src="cid:logo" width="96" height="32" alt="Logo"></p>
<p>Dear Bob, your books leave us <b>today</b>. <a href="ELSEWHERE/link">Follow them</a>.</p>
<img src="ELSEWHERE/pixel.png" alt="" width="1" height="1"><iframe src="ELSEWHERE/"></iframe>
<script>parent.document.title = "taken over"; fetch("ELSEWHERE/script")</script>
<form action="ELSEWHERE/form"><button>Confirm</button></form></body></html>"""

HTML = """<h1 style="color: #2b5d34">Thank you for your order</h1>
<p><img src="cid:logo" width="96" height="8" alt=""></p>
<p>Dear Bob, your books leave us <b>today</b>. <a href="https://example.com/orders/42">Follow them</a>.</p>"""

LOGO = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@contextlib.contextmanager
def another_site() -> Iterator[tuple[str, list[str]]]:
    """Run a server of another site; yield its address and the paths that are requested from it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def written(html: str = "<p>Rich</p>") -> Delivery:
    mail = EmailMultiAlternatives("Your order", "Dear Bob, your books leave us today.", "", ["bob@example.com"])
    mail.from_email = "Hanna <noreply@example.com>"
    mail.attach_alternative(html, "text/html")
    mail.attach(image_part(LOGO, content_id="<logo>"))
    mail.attach("invoice.pdf", b"%PDF-" + bytes(20_000), "application/pdf")
    return submit(mail)


def content_page(delivery: Delivery) -> str:
    return f"{DELIVERIES}{delivery.pk}/content/"


@pytest.mark.django_db(transaction=True)
def test_a_hostile_mail_is_shown_and_reaches_nothing(page: Page, shot: Shot, chromium: Browser) -> None:
    """A browser that shows it like any page requests much from the other site; the admin requests nothing."""
    with another_site() as (address, asked), chromium.new_page() as careless:
        careless.set_content(HOSTILE.replace("ELSEWHERE", address))
        wanted = {"/style.css", "/pixel.png", "/script"}
        wait_until(lambda: wanted <= set(asked), what="all requests of a browser without protection")
    # A new server: late requests of the careless browser do not reach it.
    with another_site() as (address, asked):
        _show_hostile_mail(page, address)
    assert asked == []


def _show_hostile_mail(page: Page, address: str) -> None:
    delivery = written(HOSTILE.replace("ELSEWHERE", address))
    page.goto(f"{DELIVERIES}{delivery.pk}/change/")
    page.get_by_role("link", name="Show the content").click()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Thank you for your order")).to_be_visible()
    for words in ("Your order", "Hanna <noreply@example.com>", "Dear Bob, your books leave us today.", "invoice.pdf"):
        expect(page.locator("#content-main")).to_contain_text(words)
    frame.get_by_role("link", name="Follow them").click()
    page.wait_for_function("document.readyState === 'complete'")
    assert not any(frame.url.startswith(address) for frame in page.frames)
    assert page.title().startswith("Content of the mail")
    assert complaints(page) == []
    page.goto(content_page(delivery))
    with page.expect_download() as download:
        page.get_by_role("link", name="Download (.eml)").click()
    assert download.value.suggested_filename == f"{delivery.pk}.eml"
    page.goto(f"{DELIVERIES}{delivery.pk}/history/")
    expect(page.locator("#change-history")).to_contain_text("Its content was downloaded.")


@pytest.mark.django_db(transaction=True)
def test_contents_are_shown_in_light_and_dark(page: Page, shot: Shot) -> None:
    delivery = written(HTML)
    for scheme, suffix in (("light", ""), ("dark", "-dark")):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(content_page(delivery))
        expect(page.frame_locator("iframe").get_by_role("heading")).to_be_visible()
        assert complaints(page) == []
        shot(page, f"content{suffix}")
        for address in (DELIVERIES, f"{DELIVERIES}{delivery.pk}/change/"):
            page.goto(address)
            assert complaints(page) == []


@pytest.mark.django_db(transaction=True)
def test_without_the_permission_nothing_of_the_content_is_there(page: Page) -> None:
    """Not in the list, the mail's page or search results, and not at the address of the content."""
    delivery = written()
    User.objects.filter(username="kim").update(is_superuser=False, is_staff=True)
    kim: Any = User.objects.get(username="kim")
    kim.user_permissions.set(Permission.objects.filter(codename__in=("view_delivery", "view_deliveryattempt")))
    for address in (DELIVERIES, f"{DELIVERIES}{delivery.pk}/change/"):
        page.goto(address)
        shown = page.content()
        for secret in ("Your order", "bob@example.com", "noreply@example.com", "Show the content"):
            assert secret not in shown
    for words, found in (("bob@example.com", 0), ("order", 0), (delivery.pk, 1)):
        page.goto(DELIVERIES)
        page.get_by_role("search").get_by_role("textbox").fill(words)
        press(page, "Search")
        expect(row(page, delivery.pk)).to_have_count(found)
    reply = page.goto(content_page(delivery))
    assert reply is not None
    assert reply.status == 403
