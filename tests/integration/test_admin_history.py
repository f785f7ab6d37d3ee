"""The History page of a configuration: events, users, old and new values, and reverting."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from config.local.certificates import make_certificates
from email_integration.models import SMTPConfig

from .admin_site import SECRET, config, form_of, logged_in, url

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> Client:
    return logged_in(superuser=True)


def rows(client: Client, stored: SMTPConfig) -> list[str]:
    """Return the lines of the history as text, newest first."""
    page = client.get(url("history", stored.pk)).content.decode()
    found = re.findall(r"<tr>(.*?)</tr>", page.split("<tbody>")[1], re.S)
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in found]


def test_events_are_shown_with_who_and_what(admin: Client) -> None:
    stored = config()
    admin.post(url("change", stored.pk), form_of(stored, timeout=20))
    stored.refresh_from_db()
    admin.post(url("change", stored.pk), form_of(stored, password="new"))
    SMTPConfig.objects.filter(pk=stored.pk).update(is_active=True)
    admin.get(url("change", stored.pk))
    viewed, activated, secret, changed, created = rows(admin, stored)
    assert "viewed kim" in viewed
    assert "activated the shell or code Active: no → became yes" in activated
    assert "changed kim Password: changed" in secret
    assert "changed kim Timeout: 10 → became 20" in changed
    assert "created the shell or code" in created


def test_the_encryption_is_shown_as_the_choice_of_the_form(admin: Client) -> None:
    """Not as the two columns of the model."""
    stored = config()
    admin.post(url("change", stored.pk), form_of(stored, encryption="tls", port=465, password="new"))
    changed, _created = rows(admin, stored)
    assert "Encryption: STARTTLS → became TLS" in changed
    assert "Port: 587 → became 465" in changed
    assert "Use " not in changed


def test_an_authority_is_recorded_by_its_name_and_comes_back_with_a_revert(admin: Client, tmp_path: Path) -> None:
    """The history shows the name and not the PEM text. Another certificate of the same authority has another
    fingerprint.
    """
    one, other = (make_certificates(tmp_path / name).authority.read_text().strip() for name in ("one", "other"))
    stored = config(ca_certificates=one)
    record = stored.history.first()
    admin.post(url("change", stored.pk), form_of(stored, ca_certificates=other, password=SECRET))
    changed = rows(admin, stored)[0]
    assert re.search(r"Certificate authority: .*O=trustme.* → became .*O=trustme", changed)
    first, second = re.findall(r"\(([0-9a-f]{8})\)", changed)
    assert first != second
    page = admin.get(url("simple_history", stored.pk, record.pk))
    assert page.context["adminform"].form["ca_certificates"].value() == one
    typed = form_of(stored, password=SECRET)
    assert admin.post(url("simple_history", stored.pk, record.pk), typed).status_code == 302
    assert SMTPConfig.objects.get().ca_certificates == one


def test_only_viewing_the_page_counts_as_a_view(admin: Client) -> None:
    stored = config()
    admin.get(url("changelist"))
    admin.get(url("history", stored.pk))
    admin.post(url("change", stored.pk), form_of(stored, host="-- no --"))
    assert stored.history.count() == 1
    assert admin.get(url("change", 4711)).status_code == 302


def test_a_revert_brings_the_values_back_and_keeps_the_password(admin: Client) -> None:
    stored = config()
    record = stored.history.first()
    stored.record_test(passed=True, detail="")
    admin.post(url("change", stored.pk), form_of(stored, name="Renamed", timeout=20))
    stored.refresh_from_db()
    page = admin.get(url("simple_history", stored.pk, record.pk))
    assert page.context["adminform"].form["name"].value() == "Primary"
    old = form_of(stored, name="Primary", timeout=10)
    assert admin.post(url("simple_history", stored.pk, record.pk), old).status_code == 302
    stored = SMTPConfig.objects.get()
    assert (stored.name, stored.timeout, stored.password) == ("Primary", 10, SECRET)
    assert stored.passed_test
    assert stored.history.first().event == "changed"


def test_a_revert_to_another_server_wants_its_password(admin: Client) -> None:
    stored = config()
    record = stored.history.first()
    moved = form_of(stored, host="other.example.com", password="other")
    assert admin.post(url("change", stored.pk), moved).status_code == 302
    page = admin.post(url("simple_history", stored.pk, record.pk), form_of(stored))
    assert "Enter the password again" in page.content.decode()
    again = form_of(stored, password=SECRET)
    assert admin.post(url("simple_history", stored.pk, record.pk), again).status_code == 302
    stored = SMTPConfig.objects.get()
    assert (stored.host, stored.password) == ("smtp.example.com", SECRET)


def test_a_revert_that_leaves_none_active_asks(admin: Client) -> None:
    stored = config()
    record = stored.history.first()
    SMTPConfig.objects.activate(stored)
    page = admin.post(url("simple_history", stored.pk, record.pk), form_of(stored, is_active=None))
    assert "Yes, leave no configuration active" in page.content.decode()
    assert SMTPConfig.objects.get().is_active


def test_a_user_who_may_only_view_cannot_revert() -> None:
    stored = config()
    record = stored.history.first()
    client = logged_in("view_smtpconfig")
    assert client.get(url("history", stored.pk)).status_code == 200
    page = client.get(url("simple_history", stored.pk, record.pk))
    assert 'name="password"' not in page.content.decode()
    assert 'name="host"' not in page.content.decode()
    answer = client.post(url("simple_history", stored.pk, record.pk), form_of(stored, name="Reverted"))
    assert answer.status_code == 403
    assert SMTPConfig.objects.get().name == "Primary"


def test_the_history_holds_no_secret(admin: Client, django_assert_max_num_queries: Any) -> None:
    stored = config()
    admin.post(url("change", stored.pk), form_of(stored, password="another secret"))
    held = repr(list(stored.history.values()))
    assert "another secret" not in held
    assert "fernet$" not in held
    with django_assert_max_num_queries(15):
        admin.get(url("history", stored.pk))


@pytest.mark.parametrize("name", ["REVERT_DISABLED", "ENFORCE_HISTORY_MODEL_PERMISSIONS"])
@pytest.mark.parametrize("superuser", [True, False])
def test_settings_of_the_library_break_no_page(name: str, superuser: bool, settings: Any) -> None:
    """With and without the permission to view histories, in a project that has chosen to require it."""
    setattr(settings, f"SIMPLE_HISTORY_{name}", True)
    stored = config()
    client = logged_in("view_smtpconfig", "change_smtpconfig", superuser=superuser)
    allowed = superuser or name == "REVERT_DISABLED"
    record = stored.history.get()
    for page in (url("history", stored.pk), url("simple_history", stored.pk, record.pk)):
        assert client.get(page).status_code == (200 if allowed else 403)
    assert client.get(url("change", stored.pk)).status_code == 200
