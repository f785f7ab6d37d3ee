"""Each way to leave no configuration active asks first, and says where mail goes then."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest
from django.test import Client

from email_integration.models import SMTPConfig
from tests.mail_settings import name_server

from .admin_site import config, form_of, list_of, logged_in, said, url
from .pages import sent_by

pytestmark = pytest.mark.django_db

THEN = "With no configuration active, mail goes by the settings of this project: fallback.example.com:2525"


@pytest.fixture
def admin() -> Client:
    return logged_in(superuser=True)


@pytest.fixture(autouse=True)
def _fallback(settings: Any) -> None:
    name_server(settings, host="fallback.example.com", port=2525)


def active() -> list[str]:
    return [item.name for item in SMTPConfig.objects.filter(is_active=True)]


def asked(client: Client, way: str, stored: SMTPConfig) -> tuple[str, Any]:
    """Turn ``stored`` off in one way; return the address and the response."""
    record = stored.history.first()
    address, data = {
        "action": (url("changelist"), {"action": "deactivate", "_selected_action": stored.pk, "index": 0}),
        "list": (url("changelist"), list_of()),
        "form": (url("change", stored.pk), form_of(stored, is_active=None)),
        "revert": (url("simple_history", stored.pk, record.pk), form_of(stored, is_active=None)),
    }[way]
    return address, client.post(address, data)


@pytest.mark.parametrize("way", ["action", "list", "form", "revert"])
def test_each_way_asks_and_says_where_mail_goes_then(admin: Client, way: str) -> None:
    stored = config("A", is_active=True)
    config("B")
    address, page = asked(admin, way, stored)
    assert page.status_code == 200
    assert THEN in unescape(page.content.decode())
    assert active() == ["A"]
    confirmed = sent_by(page) | ({"confirm_none_active": "on"} if way in ("form", "revert") else {})
    if way == "action":
        confirmed["_selected_action"] = str(stored.pk)
    response = admin.post(address, confirmed, follow=True)
    assert THEN in said(response)
    assert active() == []
    assert [record.event for record in stored.history.all()[:1]] == ["deactivated"]


@pytest.mark.parametrize("way", ["action", "list"])
def test_the_list_has_one_page_for_both_ways(admin: Client, way: str) -> None:
    stored = config("A", is_active=True)
    page = asked(admin, way, stored)[1]
    assert "email_integration/confirm_deactivate.html" in [template.name for template in page.templates]
    assert "Deactivate “A”" in page.content.decode()


def test_the_page_is_not_shown_when_another_is_ticked(admin: Client) -> None:
    config("A", is_active=True)
    assert admin.post(url("changelist"), list_of(config("B"))).status_code == 302
    assert active() == ["B"]


def test_the_page_keeps_the_filters_of_the_list(admin: Client) -> None:
    config("A", is_active=True)
    address = f"{url('changelist')}?q=A"
    page = admin.post(address, list_of())
    response = admin.post(address, sent_by(page))
    assert response.headers["Location"] == address
    assert active() == []


def test_a_switch_while_the_page_asks_is_not_undone(admin: Client) -> None:
    """Another user has activated B: what A's page confirms is no longer true."""
    config("A", is_active=True)
    other = config("B")
    data = sent_by(admin.get(url("changelist"))) | {"_save": "Save"}
    del data["form-0-is_active"]
    page = admin.post(url("changelist"), data)
    SMTPConfig.objects.activate(other)
    admin.post(url("changelist"), sent_by(page))
    assert active() == ["B"]


def test_who_may_not_activate_is_not_asked_but_refused() -> None:
    config("A", is_active=True)
    client = logged_in("view_smtpconfig", "change_smtpconfig")
    assert client.post(url("changelist"), list_of(confirmed="1")).status_code == 403
    assert active() == ["A"]
