"""View, change, activate, test and pause are separate permissions."""

from __future__ import annotations

import pytest
from django.urls import reverse

from email_integration.models import SendingPause, SMTPConfig

from .admin_site import SECRET, config, form_of, list_of, logged_in, url

pytestmark = pytest.mark.django_db

VIEW, CHANGE, ADD = "view_smtpconfig", "change_smtpconfig", "add_smtpconfig"
ACTIVATE, TEST, DELETE = "activate_smtpconfig", "test_smtpconfig", "delete_smtpconfig"


@pytest.mark.parametrize(
    ("permissions", "password", "active", "test", "tick", "choices"),
    [
        ((VIEW,), False, False, False, False, set()),
        ((VIEW, TEST), False, False, True, False, {"test_connection", "send_test_mail", "send_test_mail_to"}),
        ((VIEW, ACTIVATE), False, False, False, True, {"activate", "deactivate"}),
        ((VIEW, CHANGE), True, False, False, False, set()),
        ((VIEW, CHANGE, ACTIVATE), True, True, False, True, {"activate", "deactivate"}),
        ((VIEW, ADD), False, False, False, False, {"duplicate"}),
        ((VIEW, DELETE), False, False, False, False, {"delete_selected"}),
    ],
)
def test_pages_offer_what_one_may_do(
    permissions: tuple[str, ...], password: bool, active: bool, test: bool, tick: bool, choices: set[str]
) -> None:
    stored = config()
    client = logged_in(*permissions)
    page = client.get(url("change", stored.pk)).content.decode()
    assert ('name="password"' in page) == ('name="ca_certificates"' in page) == password
    assert ('name="is_active"' in page) == active
    assert ("data-email-connection-test" in page) == test
    listing = client.get(url("changelist"))
    assert ('name="form-0-is_active"' in listing.content.decode()) == tick
    form = listing.context["action_form"]
    offered = {value for value, _label in form.fields["action"].choices if value} if form else set()
    assert offered == choices


def test_nothing_without_a_permission() -> None:
    stored = config()
    client = logged_in()
    for address in (url("changelist"), url("change", stored.pk), url("history", stored.pk), url("add")):
        assert client.get(address).status_code == 403


def test_changing_is_not_activating() -> None:
    stored = config()
    client = logged_in(VIEW, CHANGE)
    assert client.post(url("change", stored.pk), form_of(stored, is_active="on", name="New")).status_code == 302
    stored.refresh_from_db()
    assert (stored.name, stored.is_active) == ("New", False)
    assert client.post(url("changelist"), list_of(stored)).status_code == 403


def test_changing_the_active_one_leaves_it_active() -> None:
    stored = config(is_active=True)
    client = logged_in(VIEW, CHANGE)
    client.post(url("change", stored.pk), form_of(stored, is_active=None, name="New"))
    stored.refresh_from_db()
    assert (stored.name, stored.is_active) == ("New", True)


def test_a_revert_does_not_activate_without_the_permission() -> None:
    stored = config(is_active=True)
    record = stored.history.first()
    SMTPConfig.objects.deactivate()
    client = logged_in(VIEW, CHANGE)
    client.post(url("simple_history", stored.pk, record.pk), form_of(stored, is_active="on", name="Reverted"))
    stored.refresh_from_db()
    assert (stored.name, stored.is_active) == ("Reverted", False)


def test_activating_is_not_changing() -> None:
    stored = config()
    client = logged_in(VIEW, ACTIVATE)
    assert client.post(url("change", stored.pk), form_of(stored, name="New")).status_code == 403
    assert client.post(url("changelist"), list_of(stored)).status_code == 302
    stored.refresh_from_db()
    assert stored.is_active


def test_deleting_the_active_one_takes_the_permission_to_activate() -> None:
    stored = config(is_active=True)
    assert logged_in(VIEW, DELETE).post(url("delete", stored.pk), {"post": "yes"}).status_code == 403
    data = {"action": "delete_selected", "_selected_action": stored.pk, "post": "yes"}
    logged_in(VIEW, DELETE, name="lee").post(url("changelist"), data)
    assert SMTPConfig.objects.exists()
    logged_in(VIEW, DELETE, ACTIVATE, name="max").post(url("delete", stored.pk), {"post": "yes"})
    assert not SMTPConfig.objects.exists()


def test_a_copy_has_the_password_only_with_the_permission_to_change_it() -> None:
    stored = config()
    data = {"action": "duplicate", "_selected_action": stored.pk}
    logged_in(VIEW, ADD).post(url("changelist"), data)
    logged_in(VIEW, ADD, CHANGE, name="lee").post(url("changelist"), data)
    assert SMTPConfig.objects.get(name="Primary (copy)").password == ""
    assert SMTPConfig.objects.get(name="Primary (copy 2)").password == SECRET


def test_pausing_is_a_permission() -> None:
    pause, resume = reverse("admin:email_integration_pause"), reverse("admin:email_integration_resume")
    client = logged_in(VIEW, CHANGE, ACTIVATE, TEST)
    for address in (pause, resume):
        assert client.get(address).status_code == 403
        assert client.post(address).status_code == 403
    assert "Pause all sending" not in client.get(url("changelist")).content.decode()
    client = logged_in("pause_sending", name="lee")
    assert client.get(pause).status_code == 200
    assert not SendingPause.objects.exists()
    assert client.post(pause, {"reason": "A restored backup"}).status_code == 302
    assert SendingPause.objects.get().by.username == "lee"
    assert client.post(resume).status_code == 302
    assert not SendingPause.objects.exists()
