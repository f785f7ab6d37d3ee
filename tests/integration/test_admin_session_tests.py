"""REQUIRE_TEST_BEFORE_ACTIVATE: what was tested in this session counts when it is saved unchanged."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from config.local.certificates import make_certificates
from email_integration.admin import session_tests
from email_integration.models import SMTPConfig
from email_integration.smtpd import Fault, SMTPServer

from .admin_site import config, form_of, logged_in, url

pytestmark = pytest.mark.django_db
Serve = Callable[..., SMTPServer]

REFUSED = "has not passed a connection test"


@pytest.fixture(autouse=True)
def _required(settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "REQUIRE_TEST_BEFORE_ACTIVATE": True}


@pytest.fixture
def admin() -> Client:
    return logged_in(superuser=True)


def new(server: SMTPServer, **changes: Any) -> dict[str, Any]:
    """Return what the add form sends for a configuration that works."""
    typed = SMTPConfig(
        name="New", host="localhost", port=server.port, username="user", from_email="a@example.com", timeout=5
    )
    return form_of(typed, **{"password": "password", "is_active": "on", **changes})


def try_out(client: Client, data: dict[str, Any], stored: SMTPConfig | None = None) -> str:
    address = url("test", stored.pk) if stored else url("test_new")
    return client.post(address, data, headers={"X-Requested-With": "fetch"}).content.decode()


def test_test_tick_save_on_the_add_form_activates(admin: Client, smtp_server: Serve) -> None:
    data = new(smtp_server())
    assert "The connection works" in try_out(admin, data)
    assert admin.post(url("add"), data).status_code == 302
    stored = SMTPConfig.objects.get()
    assert stored.is_active
    assert stored.passed_test
    noted = stored.history.first()
    assert (noted.event, noted.history_user.username) == ("tested", "kim")
    assert noted.history_change_reason == "passed, before it was saved"
    assert "passed" in admin.get(url("changelist")).content.decode()


def test_without_a_test_the_add_form_is_refused(admin: Client, smtp_server: Serve) -> None:
    page = admin.post(url("add"), new(smtp_server()))
    assert REFUSED in page.content.decode()
    assert not SMTPConfig.objects.exists()


def test_test_tick_save_on_the_change_form_activates(admin: Client, smtp_server: Serve) -> None:
    """The new password is tested before it is saved; the stored settings never were."""
    server = smtp_server()
    stored = config(host="localhost", port=server.port, password="old", timeout=5)
    data = form_of(stored, password="password", is_active="on")
    assert REFUSED in admin.post(url("change", stored.pk), data).content.decode()
    assert "The connection works" in try_out(admin, data, stored)
    assert admin.post(url("change", stored.pk), data).status_code == 302
    stored.refresh_from_db()
    assert stored.is_active
    assert stored.passed_test


def test_it_counts_for_a_later_activation_too(admin: Client, smtp_server: Serve) -> None:
    data = new(smtp_server(), is_active=None)
    try_out(admin, data)
    admin.post(url("add"), data)
    stored = SMTPConfig.objects.get()
    admin.post(url("changelist"), {"action": "activate", "_selected_action": stored.pk})
    assert SMTPConfig.objects.get().is_active


@pytest.mark.parametrize(
    "change",
    [
        {"host": "127.0.0.1"},
        {"username": "other"},
        {"password": "Password"},
        {"encryption": "none"},
        {"ehlo_name": "mail.example.com"},
        {"ca_certificates": "one"},
        {"port": 2525},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_value_does_not_count(
    admin: Client, smtp_server: Serve, change: dict[str, Any], tmp_path: Any
) -> None:
    data = new(smtp_server())
    assert "The connection works" in try_out(admin, data)
    if "ca_certificates" in change:
        change = {"ca_certificates": make_certificates(tmp_path).authority.read_text()}
    assert REFUSED in admin.post(url("add"), data | change).content.decode()
    assert not SMTPConfig.objects.exists()


def test_a_failed_test_does_not_count(admin: Client, smtp_server: Serve) -> None:
    data = new(smtp_server(), password="wrong")
    assert "does not work" in try_out(admin, data)
    assert REFUSED in admin.post(url("add"), data).content.decode()


def test_a_later_failure_of_the_same_values_takes_it_back(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    data = new(server)
    assert "The connection works" in try_out(admin, data)
    server.faults.add(Fault(verb="AUTH", reply="535 5.7.8 no", times=1))
    assert "does not work" in try_out(admin, data)
    assert REFUSED in admin.post(url("add"), data).content.decode()


def test_the_test_of_another_user_does_not_count(admin: Client, smtp_server: Serve) -> None:
    data = new(smtp_server())
    assert "The connection works" in try_out(admin, data)
    other = logged_in(superuser=True, name="lee")
    assert REFUSED in other.post(url("add"), data).content.decode()


def test_the_test_of_another_user_does_not_count_in_the_same_session(admin: Client, smtp_server: Serve) -> None:
    """A session may be handed over, as by a tool with which support logs in as another user."""
    data = new(smtp_server())
    try_out(admin, data)
    session = admin.session
    (test,) = session[session_tests._KEY].values()
    assert test["user"] == str(get_user_model().objects.get(username="kim").pk)
    test["user"] = "4711"
    session.save()
    assert REFUSED in admin.post(url("add"), data).content.decode()


def test_an_expired_test_does_not_count(admin: Client, smtp_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    data = new(smtp_server())
    assert "The connection works" in try_out(admin, data)
    monkeypatch.setattr(session_tests, "time", Later(session_tests.VALID_FOR + 1))
    assert REFUSED in admin.post(url("add"), data).content.decode()
    monkeypatch.undo()
    assert admin.post(url("add"), data).status_code == 302


class Later:
    """A clock that is ahead."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def time(self) -> float:
        return time.time() + self.seconds


def test_the_session_holds_no_secret_and_few_tests(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    for number in range(session_tests.MOST + 2):
        try_out(admin, new(server, ehlo_name=f"mail{number}.example.com"))
    kept = admin.session[session_tests._KEY]
    assert len(kept) == session_tests.MOST
    for word in ("password", "localhost", "user@", str(server.port)):
        assert word not in repr(kept)
    first, last = (new(server, ehlo_name=f"mail{number}.example.com") for number in (0, session_tests.MOST + 1))
    assert REFUSED in admin.post(url("add"), first).content.decode()
    assert admin.post(url("add"), last).status_code == 302


def test_a_revert_to_what_was_tested_counts(admin: Client, smtp_server: Serve) -> None:
    server = smtp_server()
    stored = config(host="localhost", port=server.port, password="password", timeout=5)
    first = stored.history.first()
    assert "The connection works" in try_out(admin, form_of(stored), stored)
    admin.post(url("change", stored.pk), form_of(stored, ehlo_name="mail.example.com"))
    old = form_of(stored, is_active="on")
    assert admin.post(url("simple_history", stored.pk, first.pk), old).status_code == 302
    assert SMTPConfig.objects.get().is_active


def test_a_test_of_the_stored_settings_by_who_may_not_change_keeps_nothing(smtp_server: Serve) -> None:
    stored = config(host="localhost", port=smtp_server().port, password="password", timeout=5)
    client = logged_in("view_smtpconfig", "test_smtpconfig")
    assert "The connection works" in try_out(client, form_of(stored), stored)
    assert session_tests._KEY not in client.session
