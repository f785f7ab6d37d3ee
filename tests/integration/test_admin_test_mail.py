"""A test mail to another address: from the form and from the list."""

from __future__ import annotations

from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from email_integration.models import SMTPConfig
from email_integration.smtpd import SMTPServer

from .admin_site import config, form_of, logged_in, said, url
from .pages import sent_by, with_plain_addresses

pytestmark = pytest.mark.django_db
Serve = Callable[..., SMTPServer]
OTHER = "bob@example.org"


@pytest.fixture
def admin() -> Client:
    return logged_in(superuser=True)


def stored_for(server: SMTPServer, **values: Any) -> SMTPConfig:
    return config(**{"host": "localhost", "port": server.port, "password": "password", "timeout": 5, **values})


def tried(client: Client, stored: SMTPConfig | None, data: dict[str, Any]) -> str:
    address = url("test", stored.pk) if stored else url("test_new")
    response = client.post(address, data, headers={"X-Requested-With": "fetch"})
    assert response.status_code == 200
    return with_plain_addresses(unescape(response.content.decode()))


def chosen(*configs: SMTPConfig, **more: Any) -> dict[str, Any]:
    return {"action": "send_test_mail_to", "_selected_action": [row.pk for row in configs], **more}


def test_the_form_offers_ones_own_address_and_takes_another(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    stored = stored_for(server)
    assert sent_by(admin.get(url("change", stored.pk)))["test_address"] == "kim@example.com"
    page = tried(admin, stored, form_of(stored, send="1", test_address=OTHER))
    assert f"took the test mail for {OTHER}" in page
    assert [message.rcpt_tos for message in server.messages] == [(OTHER,)]


def test_the_add_form_takes_another_too(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    typed = SMTPConfig(host="localhost", port=server.port, username="user", from_email="a@example.com")
    page = tried(admin, None, form_of(typed, password="password", send="1", test_address=OTHER))
    assert f"took the test mail for {OTHER}" in page
    assert server.messages[0].rcpt_tos == (OTHER,)
    assert not SMTPConfig.objects.exists()


def test_an_address_is_ignored_by_a_test_without_a_mail(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    stored = stored_for(server)
    assert "The connection works" in tried(admin, stored, form_of(stored, test_address=OTHER))
    assert server.messages == []


@pytest.mark.parametrize("wrong", ["bob", "bob@", "a@example.com, b@example.com", "a@example.com\nBcc: b@example.com"])
def test_what_is_no_address_is_refused(admin: Client, smtp_server: Serve, wrong: str) -> None:
    server = smtp_server()
    stored = stored_for(server)
    assert "Enter a valid email address." in tried(admin, stored, form_of(stored, send="1", test_address=wrong))
    page = admin.post(url("changelist"), chosen(stored, test_address=wrong))
    assert "Enter a valid email address." in page.content.decode()
    assert server.sessions == []


def test_the_action_asks_on_a_page_and_then_sends(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    first, second = stored_for(server, name="A"), stored_for(server, name="B")
    page = admin.post(url("changelist"), chosen(first, second, index=0))
    assert page.status_code == 200
    assert "A (localhost:" in page.content.decode()
    assert server.sessions == []
    sent = chosen(first, second, **{name: value for name, value in sent_by(page).items() if name == "action"})
    text = said(admin.post(url("changelist"), sent | {"test_address": OTHER}, follow=True))
    assert text.count(f"took a test mail for {OTHER}") == 2
    assert [message.rcpt_tos for message in server.messages] == [(OTHER,), (OTHER,)]
    first.refresh_from_db()
    assert first.passed_test


def test_the_settings_of_a_staging_system_apply(admin: Client, smtp_server: Serve, settings: Any) -> None:
    server = smtp_server()
    stored = stored_for(server)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "ALLOWED_RECIPIENTS": ["example.com"]}
    refused = f"ALLOWED_RECIPIENTS in the settings of this project allows no mail to {OTHER}."
    assert refused in tried(admin, stored, form_of(stored, send="1", test_address=OTHER))
    assert refused in said(admin.post(url("changelist"), chosen(stored, test_address=OTHER), follow=True))
    assert server.sessions == []
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "REDIRECT_ALL_TO": ["staging@example.com"]}
    tried(admin, stored, form_of(stored, send="1", test_address=OTHER))
    assert [message.rcpt_tos for message in server.messages] == [("staging@example.com",)]


def test_it_is_audited_with_the_domain_alone(admin: Client, smtp_server: Serve) -> None:
    """A history is not erased with a person, so it has no address."""
    server = smtp_server()
    stored = stored_for(server)
    tried(admin, stored, form_of(stored, send="1", test_address=OTHER))
    admin.post(url("changelist"), chosen(stored, test_address=OTHER))
    noted = [record for record in stored.history.all() if "another address" in (record.history_change_reason or "")]
    assert [record.history_change_reason for record in noted] == ["test mail to another address, at example.org"] * 2
    assert {(record.event, record.history_user.username) for record in noted} == {("tested", "kim")}
    assert OTHER not in repr(list(stored.history.values()))


def test_from_the_add_form_it_is_audited_in_the_log_of_the_admin(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    typed = SMTPConfig(host="localhost", port=server.port, username="user", from_email="a@example.com")
    tried(admin, None, form_of(typed, password="password", send="1"))
    assert not LogEntry.objects.exists()
    tried(admin, None, form_of(typed, password="password", send="1", test_address=OTHER))
    entry = LogEntry.objects.get()
    assert entry.user.username == "kim"
    assert entry.object_repr == f"localhost:{server.port}"
    assert entry.change_message == "test mail to another address, at example.org"
    assert "example.org" in admin.get("/admin/").content.decode() or entry.get_change_message()


def test_a_mail_to_oneself_is_no_mail_to_another(admin: Client, smtp_server: Serve) -> None:
    stored = stored_for(smtp_server())
    tried(admin, stored, form_of(stored, send="1", test_address="kim@example.com"))
    assert not [one for one in stored.history.all() if "another address" in (one.history_change_reason or "")]


@pytest.mark.parametrize("permissions", [("view_smtpconfig",), ("view_smtpconfig", "change_smtpconfig")])
def test_it_takes_the_permission_to_test(smtp_server: Serve, permissions: tuple[str, ...]) -> None:
    server = smtp_server()
    stored = stored_for(server)
    client = logged_in(*permissions)
    data = form_of(stored, send="1", test_address=OTHER)
    assert client.post(url("test", stored.pk), data).status_code == 403
    client.post(url("changelist"), chosen(stored, test_address=OTHER))
    assert "test_address" not in client.get(url("change", stored.pk)).content.decode()
    assert server.sessions == []


def test_who_may_not_change_sends_through_the_stored_server_alone(smtp_server: Serve) -> None:
    server, other = smtp_server(), smtp_server()
    stored = stored_for(server)
    client = logged_in("view_smtpconfig", "test_smtpconfig")
    tried(client, stored, form_of(stored, port=other.port, send="1", test_address=OTHER))
    assert [message.rcpt_tos for message in server.messages] == [(OTHER,)]
    assert other.sessions == []
