"""The content of a mail in the admin: permissions, safe display, and audit."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.core.mail import EmailMultiAlternatives
from django.test import Client
from django.urls import reverse

from email_integration.message import content
from email_integration.models import Delivery
from email_integration.queue.submission import submit
from tests.deliveries import RecordingTaskQueue, pretend

from .admin_site import logged_in

pytestmark = pytest.mark.django_db

SEES = ("view_delivery", "view_delivery_content")
PAGES = ("", "_html", "_raw")


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def written(html: str = "<p>Rich <script>alert(1)</script></p>") -> Delivery:
    mail = EmailMultiAlternatives("The subject", "Plain <text>", "a@example.com", ["kim@example.com"])
    mail.attach_alternative(html, "text/html")
    mail.attach("list.pdf", b"%PDF-", "application/pdf")
    return submit(mail)


def page(delivery: Delivery, kind: str = "") -> str:
    return reverse(f"admin:email_integration_delivery_content{kind}", args=[delivery.pk])


def frame_of(client: Client, delivery: Delivery) -> str:
    html = client.get(page(delivery)).content.decode()
    (found,) = re.findall(r'<iframe sandbox src="([^"]+)"', html)
    return unescape(found)


def recorded(client: Client, delivery: Delivery) -> list[str]:
    """Return the history entries of the mail, oldest first."""
    html = client.get(reverse("admin:email_integration_delivery_history", args=[delivery.pk])).content.decode()
    return re.findall(r"Its content was \w+(?: at)?\.", html)


def test_the_page_shows_it_escaped_with_the_html_in_a_frame_and_each_opening_is_recorded() -> None:
    delivery, client = written(), logged_in(*SEES)
    response = client.get(page(delivery))
    html = response.content.decode()
    for words in ("The subject", "kim@example.com", "Plain &lt;text&gt;", "list.pdf", "application/pdf", "5\xa0bytes"):
        assert words in html
    assert "alert(1)" not in html
    assert "no-store" in response.headers["Cache-Control"]
    assert recorded(client, delivery) == ["Its content was viewed."]


def test_the_frame_has_the_html_as_it_is_and_a_policy_that_lets_it_do_nothing() -> None:
    delivery, client = written(), logged_in(*SEES)
    response = client.get(frame_of(client, delivery))
    assert "<script>alert(1)</script>" in response.content.decode()
    policy = response.headers["Content-Security-Policy"].split("; ")
    for rule in ("sandbox", "default-src 'none'", "img-src data:", "form-action 'none'", "frame-ancestors 'self'"):
        assert rule in policy
    assert response.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_frame_opens_only_for_a_user_whose_access_was_recorded() -> None:
    """Its address is valid for one mail and one user."""
    delivery, other, client = written(), written(), logged_in(*SEES)
    key = frame_of(client, delivery).partition("?")[2]
    assert client.get(page(delivery, "_html")).status_code == 403
    assert client.get(f"{page(delivery, '_html')}?{key}x").status_code == 403
    assert client.get(f"{page(other, '_html')}?{key}").status_code == 403
    assert logged_in(*SEES, name="lee").get(f"{page(delivery, '_html')}?{key}").status_code == 403
    assert client.get(f"{page(delivery, '_html')}?{key}").status_code == 200


def test_the_file_is_the_mail_byte_for_byte_and_recorded() -> None:
    delivery, client = written(), logged_in(*SEES)
    response: Any = client.get(page(delivery, "_raw"))
    assert b"".join(response.streaming_content) == content.read(delivery)
    assert response.headers["Content-Disposition"] == f'attachment; filename="{delivery.pk}.eml"'
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert recorded(client, delivery) == ["Its content was downloaded."]


@pytest.mark.parametrize("kind", PAGES)
@pytest.mark.parametrize("permissions", [("view_delivery",), ("view_delivery_content",), ("change_delivery",)])
def test_it_takes_both_permissions(kind: str, permissions: tuple[str, ...]) -> None:
    delivery = written()
    assert logged_in(*permissions).get(page(delivery, kind)).status_code == 403
    assert Client().get(page(delivery, kind)).status_code == 302


def test_what_is_gone_or_damaged_is_said_and_not_recorded() -> None:
    delivery, client = written(), logged_in(*SEES)
    pretend(delivery, content=b"nonsense")
    assert "the stored content is damaged" in client.get(page(delivery)).content.decode()
    pretend(delivery, **content.NONE)
    assert "its content is kept no longer" in client.get(page(delivery)).content.decode()
    assert client.get(page(delivery, "_raw")).status_code == 404
    assert recorded(client, delivery) == []
    assert client.get(page(Delivery(pk="unknown"))).status_code == 404


def test_nothing_is_changed_by_looking() -> None:
    delivery, client = written(), logged_in(*SEES)
    before = Delivery.objects.filter(pk=delivery.pk).values().get()
    for kind in PAGES:
        assert client.post(page(delivery, kind)).status_code == 403
        client.get(page(delivery, kind))
    assert Delivery.objects.filter(pk=delivery.pk).values().get() == before


@pytest.mark.parametrize("change", [{"content": b""}, {"content": b"damaged"}, {"content": b"", "content_seal": ""}])
def test_the_list_is_there_whatever_has_become_of_a_content(change: dict[str, Any]) -> None:
    """A mail can be accepted, and lose its content, while the list is built."""
    pretend(written(), **change)
    client = logged_in("view_delivery", "view_delivery_content")
    assert client.get(reverse("admin:email_integration_delivery_changelist")).status_code == 200
