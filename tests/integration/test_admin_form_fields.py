"""The form of a configuration: encryption as one choice, placeholders of presets, fields that a login does not use."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.test import Client

from email_integration import validators
from email_integration.admin.presets import PRESETS
from email_integration.models import SMTPConfig

from .admin_site import config, form_of, logged_in, said, url
from .pages import sent_by

pytestmark = pytest.mark.django_db

NEW = SMTPConfig(name="New", host="smtp.example.com", from_email="a@example.com")


@pytest.fixture
def admin() -> Client:
    return logged_in(superuser=True)


# -- encryption -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encryption", "port", "columns"),
    [("none", 25, (False, False)), ("starttls", 587, (True, False)), ("tls", 465, (False, True))],
)
def test_one_select_writes_both_columns(admin: Client, encryption: str, port: int, columns: tuple[bool, bool]) -> None:
    page = admin.get(url("add")).content.decode()
    assert 'name="use_tls"' not in page
    assert 'name="use_ssl"' not in page
    assert admin.post(url("add"), form_of(NEW, encryption=encryption, port=port)).status_code == 302
    stored = SMTPConfig.objects.get()
    assert (stored.use_tls, stored.use_ssl) == columns
    page = admin.get(url("change", stored.pk))
    assert page.context["adminform"].form["encryption"].value() == encryption
    assert admin.post(url("change", stored.pk), sent_by(page)).status_code == 302
    stored.refresh_from_db()
    assert (stored.use_tls, stored.use_ssl) == columns


def test_a_new_configuration_begins_with_starttls(admin: Client) -> None:
    assert sent_by(admin.get(url("add")))["encryption"] == "starttls"


def test_the_choices_are_in_the_language_of_the_reader(admin: Client) -> None:
    """Django's own catalogue has a dash for 'None'."""
    page = admin.get(url("add"), headers={"Accept-Language": "de"}).content.decode()
    assert re.search(r'<option value="none">Keine</option>', page)


def test_a_form_without_the_select_keeps_what_is_stored(admin: Client) -> None:
    stored = config(use_tls=False, use_ssl=True, port=465)
    assert admin.post(url("change", stored.pk), form_of(stored, encryption=None, timeout=25)).status_code == 302
    stored.refresh_from_db()
    assert (stored.use_tls, stored.use_ssl, stored.timeout) == (False, True, 25)


def test_a_revert_brings_the_columns_back(admin: Client) -> None:
    stored = config()
    first = stored.history.first()
    admin.post(url("change", stored.pk), form_of(stored, encryption="tls", port=465, password="again"))
    page = admin.get(url("simple_history", stored.pk, first.pk))
    assert sent_by(page)["encryption"] == "starttls"
    sent = sent_by(page) | {"password": "again"}
    assert admin.post(url("simple_history", stored.pk, first.pk), sent).status_code == 302
    stored.refresh_from_db()
    assert (stored.use_tls, stored.use_ssl, stored.port) == (True, False, 587)


@pytest.mark.parametrize("chosen", ["none", "starttls", "tls", "nonsense"])
def test_the_list_names_it_and_filters_by_it(admin: Client, chosen: str) -> None:
    config("Plain", use_tls=False, port=25)
    config("Start")
    config("Whole", use_tls=False, use_ssl=True, port=465)
    page = admin.get(url("changelist"), {"encryption": chosen})
    shown = {row.name for row in page.context["cl"].result_list}
    assert shown == {"none": {"Plain"}, "starttls": {"Start"}, "tls": {"Whole"}}.get(
        chosen, {"Plain", "Start", "Whole"}
    )
    if chosen == "starttls":
        assert re.search(r'<td [^>]*class="field-encryption">STARTTLS</td>', page.content.decode())


def test_links_with_the_columns_still_filter(admin: Client) -> None:
    """Bookmarks from before there was one filter."""
    config("Start")
    config("Whole", use_tls=False, use_ssl=True, port=465)
    page = admin.get(url("changelist"), {"use_ssl__exact": "1"})
    assert [row.name for row in page.context["cl"].result_list] == ["Whole"]


def test_who_may_only_view_reads_it() -> None:
    stored = config()
    page = logged_in("view_smtpconfig").get(url("change", stored.pk)).content.decode()
    assert re.search(r'field-encryption.*?<div class="readonly">STARTTLS</div>', page, re.S)
    assert "stored_values" not in page


# -- placeholders ---------------------------------------------------------------------------------------------------


def in_capitals(text: str) -> list[str]:
    return re.findall(r"\b[A-Z]{3,}\b", text)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: str(preset.label))
def test_no_preset_is_saved_with_its_placeholder(admin: Client, preset: Any) -> None:
    """Whatever a preset leaves to the user is refused, with a sentence on what to enter."""
    typed = {
        "host": preset.host or "smtp.example.com",
        "port": preset.port,
        "encryption": preset.encryption,
        "authentication": preset.authentication,
        "username": "kim@example.com",
    }
    if preset.authentication == "oauth":
        typed |= {"oauth_grant": preset.grant, "oauth_endpoint": preset.endpoint, "oauth_scope": preset.scope}
        typed |= {"oauth_client_id": "client", "oauth_client_secret": "s3cret"}
    left = in_capitals(preset.host) + in_capitals(preset.endpoint)
    assert in_capitals(re.sub(r"SMTP\.Send", "", preset.scope)) == []
    page = unescape(admin.post(url("add"), form_of(NEW, **typed)).content.decode())
    for word in left:
        assert str(validators.PLACEHOLDERS[word]) in page
        assert word in str(preset.hint)
    found = ["TENANT" in left, "REGION" in left]
    assert [str(words) in page for words in validators.PLACEHOLDERS.values()] == found
    if any(found):
        assert not SMTPConfig.objects.exists()


def test_no_preset_has_a_region_or_tenant_of_its_own() -> None:
    """A value of another account that looks finished would be saved unchanged."""
    for preset in PRESETS:
        assert not re.search(r"[a-z]{2}-[a-z]+-\d|[0-9a-f]{8}-[0-9a-f]{4}", preset.host + preset.endpoint)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("host", "email-smtp.REGION.amazonaws.com", "Replace REGION"),
        ("oauth_endpoint", "https://login.microsoftonline.com/TENANT/oauth2/v2.0/token", "Replace TENANT"),
        ("oauth_endpoint", "https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token", "Replace TENANT"),
        ("oauth_authorization_endpoint", "https://login.microsoftonline.com/TENANT/authorize", "Replace TENANT"),
    ],
)
def test_a_placeholder_is_refused_in_each_field_and_not_tested_either(
    admin: Client, name: str, value: str, words: str
) -> None:
    typed = form_of(
        NEW,
        authentication="oauth",
        oauth_grant="refresh_token",
        oauth_endpoint="https://login.example.com/token",
        oauth_client_id="client",
        oauth_client_secret="s3cret",
        username="kim@example.com",
    )
    assert words in admin.post(url("add"), typed | {name: value}).content.decode()
    tested = admin.post(url("test_new"), typed | {name: value}, headers={"X-Requested-With": "fetch"})
    assert words in tested.content.decode()


@pytest.mark.parametrize("part", ["<tenant-id>", "{tenant}"])
def test_a_part_in_brackets_as_providers_write_it_is_refused(admin: Client, part: str) -> None:
    typed = form_of(
        NEW,
        authentication="oauth",
        oauth_grant="client_credentials",
        oauth_endpoint=f"https://login.microsoftonline.com/{part}/oauth2/v2.0/token",
        oauth_client_id="client",
        oauth_client_secret="s3cret",
        username="kim@example.com",
    )
    assert f"Replace {part} with your own value." in unescape(admin.post(url("add"), typed).content.decode())


@pytest.mark.parametrize(
    "name",
    ["Shop\u202epohs", "Shop\u2066", "Shop\a", "Shop\nTwo", "Shop\u2029Two", "Shop\u200b", "\u200d", "\u3000\u200e"],
)
def test_a_name_that_cannot_be_seen_or_turns_its_line_is_refused(admin: Client, name: str) -> None:
    page = admin.post(url("add"), form_of(NEW, name=name)).content.decode()
    assert "invisible character" in page or "Enter a name that can be seen." in page
    assert not SMTPConfig.objects.exists()


def test_a_name_in_any_script_is_taken_and_an_old_one_stays(admin: Client) -> None:
    for name in (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\u05d7\u05e0\u05d5\u05ea 2\u200e",
        "👨\u200d💻 Shop & Söhne",
    ):
        assert admin.post(url("add"), form_of(NEW, name=name)).status_code == 302
    old = config(name="Old\u202ename")
    assert admin.post(url("change", old.pk), form_of(old, timeout=9)).status_code == 302
    old.refresh_from_db()
    assert (old.name, old.timeout) == ("Old\u202ename", 9)


def test_names_that_contain_such_a_word_are_taken(admin: Client) -> None:
    assert admin.post(url("add"), form_of(NEW, host="smtp.region.TENANTS.example.com")).status_code == 302


def test_a_placeholder_stored_by_a_program_is_not_activated(admin: Client) -> None:
    stored = config(host="email-smtp.REGION.amazonaws.com")
    page = admin.post(url("change", stored.pk), form_of(stored, is_active="on"))
    assert "Replace REGION" in page.content.decode()


# -- fields of the login --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["change", "simple_history"])
def test_who_may_only_view_sees_the_fields_of_the_login_alone(page: str) -> None:
    stored = config()
    oauth = config(
        "Token",
        authentication="oauth",
        oauth_endpoint="https://login.example.com/token",
        oauth_client_id="client",
        oauth_client_secret="s3cret",
    )
    client = logged_in("view_smtpconfig")
    shown = []
    for row in (stored, oauth):
        address = url(page, row.pk, *([row.history.first().pk] if page == "simple_history" else []))
        shown.append(client.get(address).content.decode())
    assert "field-oauth_" not in shown[0]
    assert "field-oauth_endpoint" in shown[1]
    assert "field-oauth_authorization_endpoint" not in shown[1]


def test_the_revert_page_has_the_script_that_hides_fields(admin: Client) -> None:
    """What it does there is seen in a browser."""
    stored = config()
    page = admin.get(url("simple_history", stored.pk, stored.history.first().pk)).content.decode()
    assert "email_integration/config_form.js" in page
    assert 'id="historicalsmtpconfig_form"' in page


def test_a_login_without_encryption_is_saved_with_a_warning_that_names_the_choice(admin: Client) -> None:
    data = form_of(NEW, encryption="none", port=2525, username="kim", password="s3cret")
    assert "unencrypted. Choose STARTTLS or TLS." in said(admin.post(url("add"), data, follow=True))
