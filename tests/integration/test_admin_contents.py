"""The content of a mail in the admin: permissions, safe display, and audit."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import unquote

import pytest
from django.contrib.admin.models import LogEntry
from django.core.mail import EmailMultiAlternatives
from django.test import Client
from django.urls import reverse

from email_integration.message import content, previews
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


PDF = b"%PDF-\x00\xff" * 1000


def with_attachments(*, large: int = 0) -> Delivery:
    mail = EmailMultiAlternatives("The subject", "Text", "a@example.com", ["kim@example.com"])
    mail.attach("Rechnung \u202efdp/..\\x.pdf", PDF, "application/pdf")
    mail.attach("page.html", "<script>alert(1)</script>", "text/html")
    mail.attach("", b"\x00\x01", "application/octet-stream")
    if large:
        mail.attach("large.bin", bytes(range(256)) * (large // 256), "application/octet-stream")
    return submit(mail)


def attachment(client: Client, delivery: Delivery, number: int) -> Any:
    return client.get(reverse("admin:email_integration_delivery_content_attachment", args=[delivery.pk, number]))


def test_one_attachment_is_downloaded_and_never_displayed() -> None:
    delivery, client = with_attachments(), logged_in(*SEES)
    html = client.get(page(delivery)).content.decode()
    links = re.findall(r'href="([^"]+/content/attachment/\d+/)"', html)
    found = [client.get(link) for link in links]
    assert [b"".join(response.streaming_content) for response in found] == [
        PDF,
        b"<script>alert(1)</script>",
        b"\x00\x01",
    ]
    for response in found:
        assert response["Content-Type"] == "application/octet-stream"
        assert response["Content-Disposition"].startswith("attachment; filename")
        assert response["X-Content-Type-Options"] == "nosniff"
        assert response["Content-Security-Policy"] == "sandbox; default-src 'none'"
        assert "no-store" in response["Cache-Control"]
    name = unquote(found[0]["Content-Disposition"])
    assert not set("\u202e/\\") & set(name.partition("filename")[2].replace("utf-8''", ""))
    assert "attachment-3" in found[2]["Content-Disposition"]
    history = client.get(reverse("admin:email_integration_delivery_history", args=[delivery.pk])).content.decode()
    for number in (1, 2, 3):
        assert f"Attachment {number} was downloaded." in history
    assert "Rechnung" not in history


def test_attachments_take_the_permission_and_exist() -> None:
    delivery = with_attachments()
    assert attachment(logged_in("view_delivery"), delivery, 1).status_code == 403
    assert attachment(logged_in("view_delivery_content", name="lee"), delivery, 1).status_code == 403
    client = logged_in(*SEES, name="max")
    for number in (0, 4, 100, 10**20):
        assert attachment(client, delivery, number).status_code == 404
    address = reverse("admin:email_integration_delivery_content_attachment", args=[delivery.pk, 1])
    assert client.post(address).status_code == 403
    pretend(delivery, has_content=False, content=b"")
    assert attachment(client, delivery, 1).status_code == 404
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("encrypted", [True, False])
def test_an_attachment_larger_than_the_preview_is_downloaded_whole(settings: Any, encrypted: bool) -> None:
    """It is decoded while it is sent, and never in memory as a whole."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "ENCRYPT_CONTENT": encrypted}
    size = 3 * previews.LOOKED_AT // 256 * 256
    delivery = with_attachments(large=size)
    response = attachment(logged_in(*SEES), delivery, 4)
    pieces = list(response.streaming_content)
    assert b"".join(pieces) == bytes(range(256)) * (size // 256)
    assert max(map(len, pieces)) < size // 2


def test_an_attachment_that_is_cut_and_not_base64_is_not_offered_alone() -> None:
    mail = EmailMultiAlternatives("The subject", "Text", "a@example.com", ["kim@example.com"])
    mail.attach("long.txt", "x" * 70 * 100 + "\n" + ("y" * 70 + "\n") * (previews.LOOKED_AT // 70), "text/plain")
    delivery, client = submit(mail), logged_in(*SEES)
    html = client.get(page(delivery)).content.decode()
    assert "long.txt" in html
    assert b"base64" not in content.read(delivery)
    assert "/content/attachment/" not in html
    assert attachment(client, delivery, 1).status_code == 404
