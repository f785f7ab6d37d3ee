"""Configurations in the admin: adding, changing and activating them."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.test import Client

from config.local.certificates import Certificates
from config.local.valkey import Valkey
from email_integration.models import SMTPConfig
from email_integration.routing import active_relay
from tests.mail_settings import name_server

from .admin_site import SECRET, config, form_of, list_of, logged_in, said, url
from .pages import sent_by

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> Client:
    return logged_in(superuser=True)


def with_setting(settings: Any, **values: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **values}


# -- adding and changing --------------------------------------------------------------------------------------------


def test_a_configuration_is_added_and_its_password_sealed(admin: Client) -> None:
    data = form_of(
        SMTPConfig(name="New", host="smtp.example.com", from_email="noreply@example.com", username="Müller"),
        password="pässword ",
        confirm_secret="on",
    )
    assert admin.post(url("add"), data).status_code == 302
    stored = SMTPConfig.objects.get(name="New")
    assert stored.password == "pässword "
    assert stored.username == "Müller"


BOX = 'type="checkbox" name="confirm_secret"'


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("pässword ", "It begins or ends with a space."),
        (" pässword", "It begins or ends with a space."),
        ("pässword\u00a0", "U+00A0 NO-BREAK SPACE"),
        ("päss\u00a0word", "U+00A0 NO-BREAK SPACE"),
        ("pässword\u200b", "U+200B ZERO WIDTH SPACE"),
        ("\ufeffpässword", "U+FEFF ZERO WIDTH NO-BREAK SPACE"),
        ("pässword\t", "U+0009"),
        ("abcd efgh ijkl mnop", "It looks like an app password"),
        ("abcd\u00a0efgh\u00a0ijkl\u00a0mnop", "U+00A0 NO-BREAK SPACE"),
    ],
)
def test_a_password_that_looks_pasted_is_asked_about(admin: Client, password: str, words: str) -> None:
    """The user may mean it: then the password is entered once more, with a box ticked."""
    data = form_of(SMTPConfig(name="New", host="smtp.example.com", from_email="a@example.com", username="kim"))
    assert BOX not in admin.get(url("add")).content.decode()
    page = unescape(admin.post(url("add"), {**data, "password": password}).content.decode())
    assert words in page
    assert BOX in page
    assert password.strip() not in page
    assert not SMTPConfig.objects.exists()
    page = unescape(admin.post(url("add"), {**data, "confirm_secret": "on"}).content.decode())
    assert "Enter it again, and leave the box ticked" in page
    assert not SMTPConfig.objects.exists()
    assert admin.post(url("add"), {**data, "password": password, "confirm_secret": "on"}).status_code == 302
    assert SMTPConfig.objects.get().password == password


def test_a_box_alone_does_not_keep_the_password_that_was_to_be_replaced(admin: Client) -> None:
    stored = config()
    page = admin.post(url("change", stored.pk), form_of(stored, password="another "))
    assert "It begins or ends with a space." in page.content.decode()
    assert admin.post(url("change", stored.pk), form_of(stored, confirm_secret="on")).status_code == 200
    assert admin.post(url("change", stored.pk), form_of(stored)).status_code == 302
    stored.refresh_from_db()
    assert stored.password == SECRET


@pytest.mark.parametrize("password", ["correct horse battery", "pässword", "abcd-efgh-ijkl-mnop", "a b c d", "one two"])
def test_an_ordinary_password_is_not_asked_about(admin: Client, password: str) -> None:
    data = form_of(SMTPConfig(name="New", host="smtp.example.com", from_email="a@example.com", username="kim"))
    assert admin.post(url("add"), {**data, "password": password}).status_code == 302
    assert SMTPConfig.objects.get().password == password


def test_a_reference_is_not_asked_about(admin: Client, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not a password. A password that only begins like a reference is questioned."""
    with_setting(settings, SECRET_REFERENCES=["env:SMTP PASSWORD\u00a0X"])
    monkeypatch.setenv("SMTP PASSWORD\u00a0X", "s3cret")
    data = form_of(SMTPConfig(name="New", host="smtp.example.com", from_email="a@example.com", username="kim"))
    page = admin.post(url("add"), {**data, "password": "\\env:SMTP PASSWORD\u00a0X"}).content.decode()
    assert "NO-BREAK SPACE" in page
    assert admin.post(url("add"), {**data, "password": "env:SMTP PASSWORD\u00a0X"}).status_code == 302


@pytest.mark.parametrize("name", ["oauth_client_secret", "oauth_refresh_token"])
def test_other_pasted_secrets_are_asked_about_too(admin: Client, name: str) -> None:
    data = {
        **form_of(SMTPConfig(name="New", host="smtp.example.com", from_email="a@example.com", username="kim")),
        "authentication": "oauth",
        "oauth_grant": "refresh_token",
        "oauth_endpoint": "https://login.example.com/token",
        "oauth_client_id": "client",
        name: "s3cret\u00a0",
    }
    page = admin.post(url("add"), data).content.decode()
    assert "U+00A0 NO-BREAK SPACE" in page
    assert admin.post(url("add"), {**data, "confirm_secret": "on"}).status_code == 302


@pytest.mark.parametrize("around", [" ", "\u00a0", "\u200b", "\ufeff", "\u2060 ", "\t"])
def test_what_is_pasted_around_host_and_user_name_is_left_off(admin: Client, around: str) -> None:
    data = form_of(
        SMTPConfig(name="New", host="smtp.example.com", from_email="a@example.com"),
        host=f"{around}smtp.example.com{around}",
        username=f"{around}kim@example.com{around}",
        from_email=f"{around}a@example.com{around}",
        ehlo_name=f"{around}mail.example.com{around}",
        password="pässword",
    )
    assert admin.post(url("add"), data).status_code == 302
    stored = SMTPConfig.objects.get()
    assert (stored.host, stored.username) == ("smtp.example.com", "kim@example.com")
    assert (stored.from_email, stored.ehlo_name) == ("a@example.com", "mail.example.com")


def test_a_user_name_without_a_password_is_saved_with_a_word(admin: Client) -> None:
    """No login is done then, as in Django's own backend. The page says so."""
    words = "There is a username and no password, so mail is sent without logging in."
    data = form_of(SMTPConfig(name="New", host="smtp.example.com", from_email="a@example.com", username="kim"))
    text = said(admin.post(url("add"), {**data, "encryption": "none", "port": "25"}, follow=True))
    assert words in text
    assert "unencrypted" not in text
    stored = SMTPConfig.objects.get()
    assert not stored.logs_in
    assert words not in said(admin.post(url("change", stored.pk), form_of(stored, password="new"), follow=True))
    stored = SMTPConfig.objects.get()
    assert stored.logs_in
    assert words not in said(admin.post(url("change", stored.pk), form_of(stored), follow=True)), (
        "an empty password field changed the password"
    )
    assert SMTPConfig.objects.get().logs_in


def test_a_password_without_a_user_name_is_saved_with_a_word(admin: Client) -> None:
    data = form_of(SMTPConfig(name="New", host="smtp.example.com", from_email="a@example.com"), password="pässword")
    text = said(admin.post(url("add"), data, follow=True))
    assert "There is a password and no username, so mail is sent without logging in." in text


def test_without_either_nothing_is_said_of_a_login(admin: Client) -> None:
    data = form_of(SMTPConfig(name="New", host="smtp.example.com", from_email="a@example.com"))
    assert "logging in" not in said(admin.post(url("add"), data, follow=True))
    stored = SMTPConfig.objects.get()
    page = said(
        admin.post(url("change", stored.pk), form_of(stored, username="kim", authentication="none"), follow=True)
    )
    assert "logging in" not in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"port": 465}, "Port 465 uses TLS from the start"),
        ({"encryption": "tls"}, "Port 587 starts unencrypted"),
        ({"encryption": "ssl"}, "Select a valid choice"),
        ({"host": "https://smtp.example.com"}, "not a URL"),
        ({"host": "kim@example.com"}, "not a mail address"),
        ({"host": "[::1]:587"}, "port in its own field"),
        ({"host": "smtp.\u200bexample.com"}, "U+200B ZERO WIDTH SPACE"),
        ({"username": "kim\u00a0lee"}, "U+00A0 NO-BREAK SPACE"),
        ({"ehlo_name": "web_1.my_net"}, "Enter a full domain name"),
        ({"from_email": "noreply"}, "Enter an address such as"),
        ({"ca_certificates": "Müller"}, "Enter one certificate or several"),
        ({"port": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_work_is_refused_with_words(admin: Client, changes: dict[str, Any], words: str) -> None:
    data = form_of(SMTPConfig(name="New", host="smtp.example.com", from_email="a@example.com"), **changes)
    response = admin.post(url("add"), data)
    assert response.status_code == 200
    assert words in response.content.decode()
    assert not SMTPConfig.objects.exists()


def test_a_private_key_pasted_with_its_certificate_is_refused(admin: Client, certificates: Certificates) -> None:
    """The field and its history must not hold secrets."""
    certificate, key = certificates.authority.read_text(), certificates.key.read_text()
    stored = config()
    page = admin.post(url("change", stored.pk), form_of(stored, ca_certificates=certificate + key))
    assert "Enter one certificate or several" in page.content.decode()
    typed = form_of(stored, ca_certificates=certificate, password=SECRET)
    assert admin.post(url("change", stored.pk), typed).status_code == 302
    assert "PRIVATE KEY" not in repr(list(stored.history.values()))


def test_what_is_doubtful_is_saved_with_a_warning(admin: Client) -> None:
    stored = config()
    response = admin.post(url("change", stored.pk), form_of(stored, use_tls=None, port=25, password="new"), follow=True)
    assert "are sent unencrypted" in said(response)


def test_a_blank_password_keeps_the_stored_one(admin: Client) -> None:
    stored = config()
    admin.post(url("change", stored.pk), form_of(stored, name="Renamed"))
    stored.refresh_from_db()
    assert (stored.name, stored.password) == ("Renamed", SECRET)


@pytest.mark.parametrize("changes", [{"host": "evil.example.com"}, {"port": 2525}, {"username": "other"}])
def test_another_server_or_user_wants_the_password_again(admin: Client, changes: dict[str, Any]) -> None:
    stored = config()
    response = admin.post(url("change", stored.pk), form_of(stored, **changes))
    assert "Enter the password again" in response.content.decode()
    assert admin.post(url("change", stored.pk), form_of(stored, password="new", **changes)).status_code == 302


def test_no_page_shows_a_password(admin: Client) -> None:
    stored = config(is_active=True)
    sealed = str(stored.sealed_password)
    record = stored.history.first()
    pages = [
        admin.get(url("changelist")),
        admin.get(url("change", stored.pk)),
        admin.get(url("history", stored.pk)),
        admin.get(url("simple_history", stored.pk, record.pk)),
        admin.get(url("delete", stored.pk)),
        admin.post(url("change", stored.pk), form_of(stored, password=SECRET, host="")),
        admin.post(url("change", stored.pk), form_of(stored, password=SECRET, is_active=None)),
        admin.post(url("changelist"), {"action": "deactivate", "_selected_action": stored.pk, "index": 0}),
    ]
    for page in pages:
        assert page.status_code == 200
        assert SECRET not in page.content.decode()
        assert sealed not in page.content.decode()


# -- one active configuration ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("A", "B"), ("B", "A")])
def test_the_list_switches_in_one_save_whichever_row_comes_first(admin: Client, first: str, second: str) -> None:
    one, other = config(first, is_active=True), config(second, host="other.example.com")
    response = admin.post(url("changelist"), list_of(other), follow=True)
    assert [item.name for item in SMTPConfig.objects.filter(is_active=True)] == [second]
    assert f"through “{second}” (other.example.com:587) now" in response.content.decode()
    assert [record.event for record in one.history.all()[:1]] == ["deactivated"]
    assert [record.event for record in other.history.all()[:1]] == ["activated"]
    assert one.history.count() == other.history.count() == 2


def test_none_ticked_is_saved_and_said(admin: Client, settings: Any) -> None:
    name_server(settings, host="fallback.example.com", port=2525)
    config("A", is_active=True)
    config("B")
    response = admin.post(url("changelist"), list_of(confirmed="1"), follow=True)
    assert not SMTPConfig.objects.filter(is_active=True).exists()
    assert "by the settings of this project: fallback.example.com:2525" in said(response)


def test_two_ticked_is_refused_with_a_sentence(admin: Client) -> None:
    first, second = config("A", is_active=True), config("B")
    response = admin.post(url("changelist"), list_of(first, second))
    assert response.status_code == 200
    assert "Only one configuration can be active, and “A” and “B” are ticked" in response.content.decode()
    assert [item.name for item in SMTPConfig.objects.filter(is_active=True)] == ["A"]


def test_workers_follow_the_list(admin: Client, django_capture_on_commit_callbacks: Any) -> None:
    config("A", is_active=True)
    other = config("B", username="", password="")
    with django_capture_on_commit_callbacks(execute=True):
        admin.post(url("changelist"), list_of(other))
    assert str(active_relay()) == "B (smtp.example.com:587)"


def test_a_row_that_cannot_work_is_not_activated_from_the_list(admin: Client) -> None:
    broken = config("A", port=465, use_tls=True)
    response = admin.post(url("changelist"), list_of(broken))
    assert "Port 465 uses TLS from the start" in response.content.decode()
    assert not SMTPConfig.objects.filter(is_active=True).exists()


def test_an_untested_row_is_not_activated_when_a_test_is_required(admin: Client, settings: Any) -> None:
    with_setting(settings, REQUIRE_TEST_BEFORE_ACTIVATE=True)
    stored = config("A")
    assert "has not passed a connection test" in admin.post(url("changelist"), list_of(stored)).content.decode()
    page = admin.post(url("change", stored.pk), form_of(stored, is_active="on"))
    assert "has not passed a connection test" in page.content.decode()
    data = {"action": "activate", "_selected_action": stored.pk}
    assert "has not passed" in said(admin.post(url("changelist"), data, follow=True))
    stored.record_test(passed=True, detail="")
    admin.post(url("changelist"), list_of(stored))
    assert SMTPConfig.objects.get().is_active


def test_the_form_asks_before_it_leaves_none_active(admin: Client, settings: Any) -> None:
    name_server(settings, host="fallback.example.com")
    stored = config(is_active=True)
    response = admin.post(url("change", stored.pk), form_of(stored, is_active=None))
    assert response.status_code == 200
    assert "fallback.example.com:25" in response.content.decode()
    assert SMTPConfig.objects.get().is_active
    confirmed = form_of(stored, is_active=None, confirm_none_active="on")
    response = admin.post(url("change", stored.pk), confirmed, follow=True)
    assert not SMTPConfig.objects.get().is_active
    assert "fallback.example.com:25" in said(response)


def test_deleting_and_deactivating_the_active_one_say_where_mail_goes_then(admin: Client) -> None:
    stored = config(is_active=True)
    nowhere = "mail is held"
    assert nowhere in admin.get(url("delete", stored.pk)).content.decode()
    selected = {"_selected_action": stored.pk}
    assert nowhere in admin.post(url("changelist"), {"action": "delete_selected", **selected}).content.decode()
    assert nowhere in admin.post(url("changelist"), {"action": "deactivate", **selected}).content.decode()
    assert SMTPConfig.objects.get().is_active
    response = admin.post(url("changelist"), {"action": "deactivate", "confirmed": "1", **selected}, follow=True)
    assert nowhere in said(response)
    assert not SMTPConfig.objects.get().is_active
    admin.post(url("delete", stored.pk), {"post": "yes"})
    assert not SMTPConfig.objects.exists()


def test_actions_activate_and_duplicate(admin: Client) -> None:
    special = {"ca_certificates": "its authority", "ehlo_name": "a.b", "pipelining": "off", "max_recipients": 7}
    first, second = config("A", is_active=True), config("B", **special)
    admin.post(url("changelist"), {"action": "activate", "_selected_action": second.pk})
    assert SMTPConfig.objects.get(is_active=True) == second
    both = {"action": "activate", "_selected_action": [first.pk, second.pk]}
    assert "Select the one" in said(admin.post(url("changelist"), both, follow=True))
    response = admin.post(url("changelist"), {"action": "duplicate", "_selected_action": second.pk})
    copy = SMTPConfig.objects.get(name="B (copy)")
    assert response.headers["Location"] == url("change", copy.pk)
    assert (copy.is_active, copy.password, copy.tested_at) == (False, SECRET, None)
    assert {name: getattr(copy, name) for name in special} == special


# -- pages loaded before a switch -----------------------------------------------------------------------------------


def active() -> list[str]:
    return [item.name for item in SMTPConfig.objects.filter(is_active=True)]


LEFT = "Meanwhile “B” was activated; this page left that as it is."


@pytest.mark.parametrize("page", ["change", "simple_history"])
def test_an_old_form_does_not_switch_back(admin: Client, page: str) -> None:
    first, second = config("A", is_active=True), config("B")
    address = url(page, first.pk, *([first.history.first().pk] if page == "simple_history" else []))
    data = sent_by(admin.get(address))
    assert (data["is_active"], data["initial-is_active"]) == ("on", "True")
    SMTPConfig.objects.activate(second)
    response = admin.post(address, {**data, "timeout": "25"}, follow=True)
    assert LEFT in said(response)
    assert active() == ["B"]
    first.refresh_from_db()
    assert first.timeout == 25


def test_an_old_form_does_not_turn_off_what_was_turned_on(admin: Client) -> None:
    config("A", is_active=True)
    second = config("B")
    data = sent_by(admin.get(url("change", second.pk)))
    assert "is_active" not in data
    SMTPConfig.objects.activate(second)
    assert LEFT in said(admin.post(url("change", second.pk), data, follow=True))
    assert active() == ["B"]


def test_an_old_form_does_not_turn_on_what_was_turned_off(admin: Client) -> None:
    stored = config("A", is_active=True)
    data = sent_by(admin.get(url("change", stored.pk)))
    SMTPConfig.objects.deactivate()
    response = admin.post(url("change", stored.pk), data, follow=True)
    assert "Meanwhile “A” was deactivated; this page left that as it is." in said(response)
    assert active() == []


def test_an_old_list_does_not_switch_back(admin: Client) -> None:
    config("A", is_active=True)
    second = config("B")
    data = {**sent_by(admin.get(url("changelist"))), "_save": "Save"}
    assert data["initial-form-0-is_active"] == "True"
    SMTPConfig.objects.activate(second)
    assert LEFT in said(admin.post(url("changelist"), data, follow=True))
    assert active() == ["B"]
    assert second.history.count() == 2


def test_an_old_list_turns_off_only_what_it_showed_as_active(admin: Client) -> None:
    config("A", is_active=True)
    second = config("B")
    data = {**sent_by(admin.get(url("changelist"))), "_save": "Save"}
    SMTPConfig.objects.activate(second)
    del data["form-0-is_active"]
    assert LEFT in said(admin.post(url("changelist"), data, follow=True))
    assert active() == ["B"]


def test_what_is_ticked_on_an_old_list_is_activated(admin: Client) -> None:
    config("A", is_active=True)
    second = config("B")
    config("C")
    data = {**sent_by(admin.get(url("changelist"))), "_save": "Save", "form-2-is_active": "on"}
    SMTPConfig.objects.activate(second)
    assert "“A” and “C” are ticked" in admin.post(url("changelist"), data).content.decode()
    del data["form-0-is_active"]
    assert "Meanwhile" not in said(admin.post(url("changelist"), data, follow=True))
    assert active() == ["C"]


def test_a_page_of_now_switches_without_a_remark(admin: Client) -> None:
    first, second = config("A", is_active=True), config("B")
    data = sent_by(admin.get(url("change", second.pk)))
    assert "Meanwhile" not in said(admin.post(url("change", second.pk), {**data, "is_active": "on"}, follow=True))
    assert active() == ["B"]
    record = first.history.last()
    data = sent_by(admin.get(url("simple_history", first.pk, record.pk)))
    assert (data["is_active"], data["initial-is_active"]) == ("on", "False")
    assert "Meanwhile" not in said(admin.post(url("simple_history", first.pk, record.pk), data, follow=True))
    assert active() == ["A"]
    data = sent_by(admin.get(url("change", first.pk)))
    del data["is_active"]
    asking = admin.post(url("change", first.pk), data)
    assert "Yes, leave no configuration active" in asking.content.decode()
    assert admin.post(url("change", first.pk), {**sent_by(asking), "confirm_none_active": "on"}).status_code == 302
    assert active() == []


# -- messages -------------------------------------------------------------------------------------------------------


def test_the_list_says_where_mail_goes_and_why(admin: Client, settings: Any) -> None:
    assert "Mail is being held" in admin.get(url("changelist")).content.decode()
    name_server(settings, host="fallback.example.com")
    page = admin.get(url("changelist")).content.decode()
    assert "fallback.example.com:25 now, by the settings of this project" in page
    config("Primary", is_active=True)
    assert "through “Primary” (smtp.example.com:587) now" in admin.get(url("changelist")).content.decode()


def test_a_lost_key_spoils_one_row_and_says_so(admin: Client, settings: Any) -> None:
    lost = config("Lost", is_active=True)
    with_setting(settings, SMTP_PASSWORD_KEYS=[Fernet.generate_key().decode()])
    config("Fine")
    page = admin.get(url("changelist")).content.decode()
    assert page.count("password unreadable") == 1
    assert "the password of the active configuration, “Lost”, is unreadable" in page
    page = admin.get(url("change", lost.pk)).content.decode()
    assert "cannot be opened with the keys in SMTP_PASSWORD_KEYS" in page
    assert admin.post(url("change", lost.pk), form_of(lost, password="again")).status_code == 302
    assert SMTPConfig.objects.get(name="Lost").password == "again"


def test_a_cache_out_of_reach_is_said_after_a_save(admin: Client, valkey: Valkey) -> None:
    stored = config("A")
    valkey.stop()
    response = admin.post(url("changelist"), list_of(stored), follow=True)
    assert "workers follow this change within 5 seconds" in said(response)
    assert SMTPConfig.objects.get().is_active


def test_a_used_configuration_is_deleted_with_its_name_kept(admin: Client) -> None:
    stored = config("A")
    record = stored.history.first()
    admin.post(url("delete", stored.pk), {"post": "yes"})
    assert record.history_object.name == "A" if record.history_object else True
    page = admin.get(url("history", stored.pk)).content.decode()
    assert "deleted" in page
