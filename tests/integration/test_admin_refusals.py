"""Refused pages name the missing permission and whom to ask, and nothing else. The page after the login exists."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse

from email_integration.models import SendingPause
from tests.deliveries import RecordingTaskQueue, submitted

from .admin_site import SECRET, config, list_of, logged_in, url

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue, settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def refusal(client: Client, address: str, *, post: bool = False) -> str:
    response = client.post(address) if post else client.get(address)
    assert response.status_code == 403
    return unescape(response.content.decode())


def tokenless(page: str) -> str:
    """Return the page without the token of its form, which is another one each time."""
    return re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", page)


def test_a_refused_page_says_which_permission_is_missing_and_whom_to_ask() -> None:
    stored, delivery = config(), submitted("secret@example.com", subject="hush")
    client = logged_in()
    deliveries = "admin:email_integration_delivery"
    for address, permission, words in (
        (url("changelist"), "view_smtpconfig", "Can view SMTP Configuration"),
        (url("add"), "add_smtpconfig", "Can add SMTP Configuration"),
        (url("change", stored.pk), "view_smtpconfig", "Can view SMTP Configuration"),
        (url("delete", stored.pk), "delete_smtpconfig", "Can delete SMTP Configuration"),
        (reverse("admin:email_integration_dashboard"), "view_delivery", "Can view delivery"),
        (reverse("admin:email_integration_pause"), "pause_sending", "Can pause and resume sending"),
        (reverse("admin:email_integration_try_now"), "change_smtpconfig", "Can change SMTP Configuration"),
        (reverse(f"{deliveries}_change", args=[delivery.pk]), "view_delivery", "Can view delivery"),
        (
            reverse(f"{deliveries}_content", args=[delivery.pk]),
            "view_delivery_content",
            "Can see subjects, addresses and contents of deliveries",
        ),
    ):
        page = refusal(client, address)
        assert f"<code>email_integration.{permission}</code>" in page, address
        assert f"<strong>{words}</strong>" in page, address
        assert "Ask a superuser of this site" in page
        assert 'id="user-tools"' in page  # in the admin's look
        for hidden in ("secret@example.com", "hush", SECRET, stored.host):
            assert hidden not in page


def test_a_refused_page_is_the_same_whether_an_object_exists_or_not() -> None:
    stored, delivery = config(), submitted()
    client = logged_in()
    for known, unknown in (
        (url("change", stored.pk), url("change", stored.pk + 1)),
        (
            reverse("admin:email_integration_delivery_change", args=[delivery.pk]),
            reverse("admin:email_integration_delivery_change", args=["x"]),
        ),
    ):
        found, missing = (refusal(client, address).replace(address, "") for address in (known, unknown))
        assert tokenless(found) == tokenless(missing)


@pytest.mark.parametrize("page", ["test", "consent", "consent_begin", "consent_back"])
@pytest.mark.parametrize("permissions", [(), ("view_smtpconfig",)])
def test_a_refused_action_is_the_same_whether_its_configuration_exists_or_not(
    page: str, permissions: tuple[str, ...]
) -> None:
    stored = config(authentication="oauth", oauth_grant="refresh_token")
    client = logged_in(*permissions)
    found, missing = (refusal(client, url(page, pk), post=True) for pk in (stored.pk, stored.pk + 1))
    assert tokenless(found) == tokenless(missing)


def test_a_permission_that_the_user_has_is_not_named_as_missing() -> None:
    stored, client = config(), logged_in("view_smtpconfig", "change_smtpconfig")
    ticked = client.post(url("changelist"), list_of(stored))  # activates it, which takes another permission
    assert ticked.status_code == 403
    for page in (ticked.content.decode(), refusal(client, reverse("admin:email_integration_try_now"))):
        assert "_smtpconfig</code>" not in page
        assert "cannot be opened in this way" in page


def test_who_is_not_logged_in_to_the_admin_learns_no_permission(rf: Any) -> None:
    from django.contrib.auth.models import AnonymousUser

    from config.admin_auth.refusals import permission_denied
    from email_integration.admin.refusing import MissingPermission

    request = rf.get("/")
    request.user = AnonymousUser()
    page = permission_denied(request, MissingPermission("email_integration.view_delivery")).content.decode()
    assert "view_delivery" not in page
    assert "Ask" not in page


def test_a_form_that_is_too_old_is_refused_in_the_look_of_the_admin() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(get_user_model().objects.create_superuser(username="kim"))
    page = refusal(client, reverse("admin:email_integration_pause"), post=True)
    assert "Go back, reload the page" in page
    assert not SendingPause.objects.exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/admin/email_integration/smtpconfig/?q=x", "/admin/email_integration/smtpconfig/?q=x"),
        ("", "/admin/"),
        ("https://example.com/", "/admin/"),
        ("//example.com/admin/", "/admin/"),
        ("\\\\example.com", "/admin/"),
        ("javascript:alert(1)", "/admin/"),
        ("/accounts/profile/", "/admin/"),
        ("/admin/nothing/here/", "/admin/"),
    ],
)
def test_the_page_after_the_login_exists_and_is_here(given: str, expected: str) -> None:
    get_user_model().objects.create_superuser(username="kim", password=PASSWORD)
    data = {"username": "kim", "password": PASSWORD, "next": given}
    assert Client().post(f"/admin/login/?next={given}", data).url == expected  # type: ignore[attr-defined]
    response = Client().post("/admin/login/", data, follow=True)
    assert response.status_code == 200


def test_an_action_that_the_login_interrupts_leads_back_to_its_page() -> None:
    """The address of the action itself would answer 403 or 404 to a browser that comes from the login."""
    here = f"http://testserver{url('add')}?x=1"
    for address in (reverse("admin:email_integration_try_now"), url("test_new")):
        login = Client().post(address, headers={"Referer": here}).url  # type: ignore[attr-defined]
        assert parse_qs(urlsplit(login).query)["next"] == [f"{url('add')}?x=1"]
        login = Client().post(address, headers={"Referer": "https://example.com/x"}).url  # type: ignore[attr-defined]
        assert parse_qs(urlsplit(login).query)["next"] == ["/admin/"]


def test_pausing_returns_to_the_page_that_it_was_asked_on() -> None:
    client = logged_in(superuser=True)
    dashboard = f"{reverse('admin:email_integration_dashboard')}?period=hour"
    page = client.get(dashboard).content.decode()
    pause = unescape(page.split('class="email-pause"')[1].split('href="')[1].split('"')[0])
    asked = client.get(pause).content.decode()
    assert f'class="closelink" href="{dashboard}"' in asked
    field = asked.split('name="next" value="')[1].split('"')[0]
    assert client.post(pause, {"next": unescape(field), "reason": "x"}).url == dashboard  # type: ignore[attr-defined]
    assert SendingPause.objects.get().reason == "x"
    resume = unescape(
        client.get(dashboard).content.decode().split('class="email-pause"')[1].split('href="')[1].split('"')[0]
    )
    assert client.post(resume, {"next": dashboard}).url == dashboard  # type: ignore[attr-defined]
    assert not SendingPause.objects.exists()


@pytest.mark.parametrize(
    "given",
    [
        "https://example.com/admin/",
        "//example.com/admin/",
        "/\\example.com/admin/",
        "http:///example.com/admin/",
        "/admin/\r\nLocation: https://example.com",
        "javascript:alert(1)",
        "/admin/nothing/here/",
        "/healthz",
    ],
)
def test_no_action_redirects_to_another_site(given: str) -> None:
    client = logged_in(superuser=True)
    for view in ("pause", "resume", "try_now"):
        address = reverse(f"admin:email_integration_{view}")
        response = client.post(address, {"next": given})
        assert response.headers["Location"] == url("changelist"), view
        assert client.post(f"{address}?next={given}").headers["Location"] == url("changelist")


def test_a_login_page_that_is_open_since_before_the_login_leads_to_its_page() -> None:
    client = logged_in("view_smtpconfig")
    for asked, page in ((url("changelist"), url("changelist")), ("//evil.example", reverse("admin:index"))):
        assert client.get(reverse("admin:login"), {"next": asked})["Location"] == page


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/admin/no-such-page/", 404),
        ("/no-such-page", 404),
        ("/admin/email_integration/smtpconfig/99/history/", 404),
        ("/admin/email_integration/delivery/?no_such_filter=1", 400),
        ("/admin/logout/", 405),
    ],
)
def test_a_page_that_is_not_there_has_the_look_of_the_admin_and_a_way_back(address: str, status: int) -> None:
    response = logged_in(superuser=True).get(address)
    page = response.content.decode()
    assert response.status_code == status
    assert 'id="user-tools"' in page
    assert f'<p><a href="{reverse("admin:index")}">Home</a></p>' in page


def test_a_missing_page_reveals_nothing_about_the_admin_without_a_login() -> None:
    page = Client().get("/no-such-page")
    assert page.status_code == 404
    assert 'id="user-tools"' not in page.content.decode()
    assert "email_integration" not in page.content.decode()


def test_a_request_for_another_host_is_refused_in_the_look_of_the_admin() -> None:
    page = Client().get("/admin/", headers={"Host": "other.example"})
    assert page.status_code == 400
    assert ">Home</a>" in page.content.decode()


def test_a_failure_of_the_server_has_a_way_back_and_needs_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError

    client = logged_in(superuser=True)
    client.raise_request_exception = False
    monkeypatch.setattr("email_integration.admin.dashboard.timezone.now", fail)
    response = client.get(reverse("admin:email_integration_dashboard"))
    assert response.status_code == 500
    page = response.content.decode()
    assert "The request has failed" in page
    assert f'<a href="{reverse("admin:index")}">Home</a>' in page
    assert 'id="user-tools"' not in page
