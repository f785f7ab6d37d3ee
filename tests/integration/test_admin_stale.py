"""Two users, or two tabs, at one configuration: nothing that one did is undone by the other unseen."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.test import Client

from email_integration.admin import stale
from email_integration.admin.configs import SMTPConfigAdmin
from email_integration.models import SMTPConfig
from email_integration.models.rotation import rotate

from .admin_site import SECRET, config, form_of, list_of, logged_in, said, url
from .pages import sent_by

pytestmark = pytest.mark.django_db

CHANGED = "Not saved: this configuration was changed while the page was open."
DELETED = "was deleted while the page was open"


@pytest.fixture
def admin() -> Client:
    return logged_in(superuser=True)


@pytest.fixture
def other() -> Client:
    return logged_in(superuser=True, name="lee")


def table(page: Any) -> dict[str, tuple[str, str, str]]:
    """Return the differences on a page: label, then value when opened, stored value and the user's value."""
    html = page.content.decode().split('class="email-differences', 1)
    if len(html) == 1:
        return {}
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", html[1].split("</table>")[0], re.S)
    cells = {
        " ".join(re.sub(r"<[^>]+>", " ", unescape(label)).split()): re.findall(r"<td[^>]*>(.*?)</td>", rest, re.S)
        for label, rest in rows
    }
    return {label: (found[0], found[1], found[2]) for label, found in cells.items()}


def fields(page: Any) -> dict[str, Any]:
    """Return the values that the form of the page shows."""
    form = page.context["adminform"].form
    return {name: form[name].value() for name in ("host", "port", "timeout", "encryption", "name")}


def opened(client: Client, stored: SMTPConfig) -> dict[str, str]:
    """Open the page of a configuration, and return what its form sends."""
    return sent_by(client.get(url("change", stored.pk)))


def test_the_second_tab_is_refused_and_shows_what_differs(admin: Client, other: Client) -> None:
    stored = config(timeout=10)
    data = opened(admin, stored)
    saved = other.post(url("change", stored.pk), opened(other, stored) | {"ehlo_name": "mail.example.com"})
    assert saved.status_code == 302
    page = admin.post(url("change", stored.pk), data | {"timeout": "25"})
    assert page.status_code == 200
    assert CHANGED in page.content.decode()
    assert table(page) == {"EHLO name": ("–", "mail.example.com", "unchanged"), "Timeout": ("10", "10", "25")}
    stored.refresh_from_db()
    assert (stored.ehlo_name, stored.timeout) == ("mail.example.com", 10)


def test_after_looking_it_is_saved_and_keeps_what_the_other_changed(admin: Client, other: Client) -> None:
    stored = config()
    data = opened(admin, stored)
    other.post(url("change", stored.pk), opened(other, stored) | {"ehlo_name": "mail.example.com"})
    refused = admin.post(url("change", stored.pk), data | {"timeout": "25"})
    assert fields(refused)["timeout"] == "25"
    assert admin.post(url("change", stored.pk), sent_by(refused)).status_code == 302
    stored.refresh_from_db()
    assert (stored.ehlo_name, stored.timeout) == ("mail.example.com", 25)


def test_the_same_field_is_marked_and_the_own_value_saved_on_purpose(admin: Client, other: Client) -> None:
    stored = config(timeout=10)
    data = opened(admin, stored)
    other.post(url("change", stored.pk), opened(other, stored) | {"timeout": "15"})
    refused = admin.post(url("change", stored.pk), data | {"timeout": "25"})
    assert table(refused) == {"Timeout (both changed it)": ("10", "15", "25")}
    assert SMTPConfig.objects.get().timeout == 15
    assert admin.post(url("change", stored.pk), sent_by(refused)).status_code == 302
    assert SMTPConfig.objects.get().timeout == 25


def test_the_old_value_can_be_put_back_on_purpose(admin: Client, other: Client) -> None:
    stored = config(timeout=10)
    data = opened(admin, stored)
    other.post(url("change", stored.pk), opened(other, stored) | {"timeout": "15"})
    refused = admin.post(url("change", stored.pk), data)
    assert fields(refused)["timeout"] == "15"
    assert admin.post(url("change", stored.pk), sent_by(refused) | {"timeout": "10"}).status_code == 302
    assert SMTPConfig.objects.get().timeout == 10


def test_a_third_change_after_looking_is_refused_again(admin: Client, other: Client) -> None:
    stored = config(timeout=10)
    data = opened(admin, stored)
    other.post(url("change", stored.pk), opened(other, stored) | {"timeout": "15"})
    refused = admin.post(url("change", stored.pk), data | {"timeout": "25"})
    other.post(url("change", stored.pk), opened(other, stored) | {"timeout": "20"})
    again = admin.post(url("change", stored.pk), sent_by(refused))
    assert table(again) == {"Timeout (both changed it)": ("15", "20", "25")}
    assert SMTPConfig.objects.get().timeout == 20


def test_an_old_page_sent_twice_is_refused_twice(admin: Client, other: Client) -> None:
    """As a double click sends it."""
    stored = config()
    data = opened(admin, stored) | {"timeout": "25"}
    other.post(url("change", stored.pk), opened(other, stored) | {"ehlo_name": "mail.example.com"})
    for _ in range(2):
        assert CHANGED in admin.post(url("change", stored.pk), data).content.decode()


def test_a_secret_is_never_shown_only_that_it_changed(admin: Client, other: Client) -> None:
    stored = config()
    data = opened(admin, stored)
    other.post(url("change", stored.pk), opened(other, stored) | {"password": "theirs"})
    page = admin.post(url("change", stored.pk), data | {"password": "mine, secret", "timeout": "25"})
    assert table(page)["Password (both changed it)"] == ("–", "changed", "entered")
    text = page.content.decode()
    stored.refresh_from_db()
    for secret in (SECRET, "theirs", "mine, secret", str(stored.sealed_password)):
        assert secret not in text
    assert "Enter it again" in text
    assert stored.password == "theirs"


def test_the_hidden_field_holds_nothing_of_a_secret(admin: Client) -> None:
    """Only a digest of the sealed form, which is random, so that it tells nothing about the password."""
    values = []
    for name in ("A", "B"):
        stored = config(name)
        assert SECRET not in opened(admin, stored)["stored_values"]
        values.append(stale.stored_values(stored)["password"])
    assert values[0] != values[1]


def test_a_blank_password_keeps_the_one_that_was_stored_meanwhile(admin: Client, other: Client) -> None:
    stored = config()
    data = opened(admin, stored)
    other.post(url("change", stored.pk), opened(other, stored) | {"password": "theirs"})
    refused = admin.post(url("change", stored.pk), data | {"timeout": "25"})
    assert table(refused)["Password"] == ("–", "changed", "unchanged")
    assert admin.post(url("change", stored.pk), sent_by(refused)).status_code == 302
    stored.refresh_from_db()
    assert (stored.password, stored.timeout) == ("theirs", 25)


def test_a_change_without_this_page_is_noticed_too(admin: Client) -> None:
    """By code, by a query, by a command."""
    stored = config()
    data = opened(admin, stored)
    SMTPConfig.objects.filter(pk=stored.pk).update(port=2525)
    page = admin.post(url("change", stored.pk), data | {"timeout": "25"})
    assert table(page)["Port"] == ("587", "2525", "unchanged")
    assert fields(page)["port"] == "2525"


def test_the_encryption_is_one_field_of_the_table(admin: Client) -> None:
    stored = config()
    data = opened(admin, stored)
    SMTPConfig.objects.filter(pk=stored.pk).update(use_tls=False, use_ssl=True, port=465)
    page = admin.post(url("change", stored.pk), data | {"timeout": "25"})
    assert table(page)["Encryption"] == ("STARTTLS (587)", "TLS (465)", "unchanged")
    assert fields(page)["encryption"] == "tls"


@pytest.mark.parametrize("event", ["viewed", "tested", "switched", "saved unchanged"])
def test_what_changes_no_setting_is_no_conflict(admin: Client, other: Client, event: str) -> None:
    stored = config()
    data = opened(admin, stored)
    if event == "viewed":
        opened(other, stored)
    elif event == "tested":
        stored.record_test(passed=True, detail="")
    elif event == "switched":
        SMTPConfig.objects.activate(stored)
    else:
        assert other.post(url("change", stored.pk), opened(other, stored)).status_code == 302
    assert admin.post(url("change", stored.pk), data | {"timeout": "25"}).status_code == 302
    assert SMTPConfig.objects.get().timeout == 25


def test_line_ends_that_a_browser_changes_are_no_change(admin: Client) -> None:
    """A certificate is stored with the line ends of the person who pasted it."""
    stored = config()
    SMTPConfig.objects.filter(pk=stored.pk).update(ca_certificates="a\nb")
    data = opened(admin, stored) | {"ca_certificates": "a\r\nb"}
    SMTPConfig.objects.filter(pk=stored.pk).update(timeout=15)
    assert set(table(admin.post(url("change", stored.pk), data))) == {"Timeout"}


@pytest.mark.parametrize("sent", ["nonsense", "", "eyJhIjogMX0:forged"])
def test_a_hidden_field_that_is_not_ours_breaks_nothing(admin: Client, sent: str) -> None:
    """Without the field, nothing is compared, as a program that sends the form would leave it out."""
    stored = config()
    page = admin.post(url("change", stored.pk), form_of(stored, timeout=25, stored_values=sent))
    assert page.status_code == (200 if sent else 302)


def test_a_change_between_the_check_and_the_lock_is_refused(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process saves in this gap."""
    stored = config()
    data = opened(admin, stored) | {"timeout": "25"}
    original = SMTPConfigAdmin.save_form

    def saved_elsewhere(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(SMTPConfigAdmin, "save_form", original)
        SMTPConfig.objects.filter(pk=stored.pk).update(ehlo_name="mail.example.com")
        return original(*args, **kwargs)

    monkeypatch.setattr(SMTPConfigAdmin, "save_form", saved_elsewhere)
    page = admin.post(url("simple_history", stored.pk, stored.history.last().pk), data)
    assert table(page)["EHLO name"] == ("–", "mail.example.com", "unchanged")
    assert SMTPConfig.objects.get().timeout == 10


def test_rotated_keys_lose_no_password(admin: Client) -> None:
    """At worst, the page that was open is shown again."""
    stored = config()
    data = opened(admin, stored) | {"timeout": "25"}
    rotate()
    page = admin.post(url("change", stored.pk), data)
    if page.status_code == 200:
        page = admin.post(url("change", stored.pk), sent_by(page))
    assert page.status_code == 302
    assert SMTPConfig.objects.get().password == SECRET


# -- deleted meanwhile ----------------------------------------------------------------------------------------------


def test_a_deleted_configuration_is_not_added_again_by_its_old_page(admin: Client) -> None:
    stored = config()
    data = opened(admin, stored)
    pk = stored.pk
    stored.delete()
    response = admin.post(url("change", pk), data, follow=True)
    assert f"“Primary” {DELETED}" in said(response)
    assert response.redirect_chain[-1][0] == url("history", pk)
    assert not SMTPConfig.objects.exists()


def test_a_row_deleted_between_the_check_and_the_lock_is_not_added_again(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = config()
    pk, data = stored.pk, opened(admin, stored)
    original = SMTPConfigAdmin.save_form

    def deleted_elsewhere(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(SMTPConfigAdmin, "save_form", original)
        SMTPConfig.objects.filter(pk=pk).delete()
        return original(*args, **kwargs)

    monkeypatch.setattr(SMTPConfigAdmin, "save_form", deleted_elsewhere)
    page = admin.post(url("simple_history", pk, stored.history.last().pk), data)
    assert page.status_code == 200
    assert DELETED in page.content.decode()
    assert not SMTPConfig.objects.exists()


def test_a_page_of_what_never_was_says_so(admin: Client) -> None:
    response = admin.post(url("change", 4711), form_of(SMTPConfig(name="A", host="a")), follow=True)
    assert "does not exist" in said(response)


def test_who_may_only_view_learns_nothing_about_what_was_deleted() -> None:
    stored = config()
    pk = stored.pk
    stored.delete()
    data = form_of(SMTPConfig(name="A", host="a"))
    answer = logged_in("view_smtpconfig").post(url("change", pk), data, follow=True)
    assert "Primary" not in answer.content.decode()
    assert not SMTPConfig.objects.exists()


# -- the revert page ------------------------------------------------------------------------------------------------


def test_a_revert_is_refused_if_the_row_has_changed_since_the_page_was_opened(admin: Client, other: Client) -> None:
    stored = config(timeout=10)
    first = stored.history.first()
    other.post(url("change", stored.pk), opened(other, stored) | {"timeout": "15"})
    revert = url("simple_history", stored.pk, first.pk)
    data = sent_by(admin.get(revert))
    assert data["timeout"] == "10"
    other.post(url("change", stored.pk), opened(other, stored) | {"ehlo_name": "mail.example.com"})
    page = admin.post(revert, data)
    assert CHANGED in page.content.decode()
    assert table(page) == {"EHLO name": ("–", "mail.example.com", "unchanged"), "Timeout": ("15", "15", "10")}
    assert SMTPConfig.objects.get().timeout == 15
    assert admin.post(revert, sent_by(page)).status_code == 302
    stored.refresh_from_db()
    assert (stored.timeout, stored.ehlo_name) == (10, "mail.example.com")


def test_a_revert_of_what_was_deleted_meanwhile_asks(admin: Client) -> None:
    stored = config()
    pk = stored.pk
    revert = url("simple_history", pk, stored.history.first().pk)
    data = sent_by(admin.get(revert))
    stored.delete()
    page = admin.post(revert, data)
    assert DELETED in page.content.decode()
    assert not SMTPConfig.objects.exists()
    assert admin.post(revert, sent_by(page)).status_code == 302
    back = SMTPConfig.objects.get()
    assert (back.pk, back.host, back.password) == (pk, "smtp.example.com", "")


# -- the list -------------------------------------------------------------------------------------------------------


def test_an_action_on_a_deleted_row_says_so(admin: Client) -> None:
    stored, gone = config("A"), config("B")
    pk = gone.pk
    gone.delete()
    for action in ("activate", "deactivate", "duplicate", "test_connection", "delete_selected"):
        data = {"action": action, "_selected_action": [stored.pk, pk], "index": 0}
        text = said(admin.post(url("changelist"), data, follow=True))
        assert "Nothing was done: 1 configuration of the list was deleted" in text, action
    assert [item.name for item in SMTPConfig.objects.all()] == ["A"]


def test_a_list_with_a_deleted_row_is_not_saved(admin: Client) -> None:
    stored, gone = config("A"), config("B")
    data = list_of(stored)
    gone.delete()
    assert "Nothing was done" in said(admin.post(url("changelist"), data, follow=True))
    assert not SMTPConfig.objects.filter(is_active=True).exists()


@pytest.mark.parametrize("way", ["action", "tick"])
@pytest.mark.parametrize("change", [{"host": "other.example.com"}, {"password": "theirs"}, {"use_tls": False}])
def test_a_row_that_was_changed_is_not_activated_from_an_old_list(
    admin: Client, way: str, change: dict[str, Any]
) -> None:
    """The list showed another host, or the same with another password."""
    stored = config("A", port=25)
    data = sent_by(admin.get(url("changelist")))
    assert int(data["seen"]) >= stored.history.first().pk
    act = {"action": "activate", "_selected_action": str(stored.pk)}
    data |= act if way == "action" else {"_save": "Save", "form-0-is_active": "on"}
    SMTPConfig.objects.filter(pk=stored.pk).update(**change)
    response = admin.post(url("changelist"), data, follow=True)
    assert "“A” was changed while the page was open" in response.content.decode()
    assert not SMTPConfig.objects.filter(is_active=True).exists()
    data["seen"] = sent_by(admin.get(url("changelist")))["seen"]
    admin.post(url("changelist"), data)
    assert SMTPConfig.objects.filter(is_active=True).exists()


@pytest.mark.parametrize("seen", ["", "nonsense", "-1", "9" * 30, "²"])
def test_a_list_without_a_usable_mark_activates_as_before(admin: Client, seen: str) -> None:
    stored = config("A")
    admin.post(url("changelist"), {"action": "activate", "_selected_action": stored.pk, "seen": seen})
    assert SMTPConfig.objects.filter(is_active=True).exists()


@pytest.mark.parametrize("way", ["page", "action"])
@pytest.mark.parametrize("meanwhile", ["activated", "changed", "viewed", "deactivated"])
def test_a_deletion_is_refused_if_the_page_that_asked_showed_another_state(
    admin: Client, way: str, meanwhile: str
) -> None:
    stored = config(is_active=meanwhile == "deactivated")
    selected: dict[str, Any] = {"action": "delete_selected", "_selected_action": stored.pk}
    address = url("delete", stored.pk) if way == "page" else url("changelist")
    sent = sent_by(admin.get(address) if way == "page" else admin.post(address, selected))
    assert sent["post"] == "yes"
    if meanwhile == "activated":
        SMTPConfig.objects.activate(stored)
    elif meanwhile == "deactivated":
        SMTPConfig.objects.deactivate()
    elif meanwhile == "changed":
        SMTPConfig.objects.filter(pk=stored.pk).update(host="other.example.com")
    else:
        admin.get(url("change", stored.pk))
    page = admin.post(address, selected | sent if way == "action" else sent, follow=True)
    is_refused = meanwhile in ("activated", "changed")
    assert SMTPConfig.objects.filter(pk=stored.pk).exists() == is_refused
    assert ("changed or activated while the page was open" in page.content.decode()) == is_refused
