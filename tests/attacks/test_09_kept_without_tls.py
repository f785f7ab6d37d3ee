"""A stored secret is never sent with less protection than before: a configuration's editors may not know it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trustme
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.urls import reverse

from email_integration.admin.configs import SMTPConfigAdmin
from email_integration.admin.connection_tests import run_typed
from email_integration.models import SMTPConfig
from email_integration.smtpd import SMTPServer
from tests.integration.admin_site import SECRET, config, form_of, logged_in, url
from tests.mail_settings import of_mail

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fresh_process")]


def authority() -> str:
    return trustme.CA().cert_pem.bytes().decode()


OURS = authority()

OAUTH = {
    "authentication": "oauth",
    "password": "",
    "oauth_endpoint": "https://login.example.com/token",
    "oauth_client_id": "mailer",
    "oauth_client_secret": SECRET,
}

#: Stored values and a change of them that would send the secret to a different party.
LESS = {
    "STARTTLS is switched off": ({}, {"use_tls": False}),
    "TLS is switched off": ({"use_tls": False, "use_ssl": True, "port": 465}, {"use_ssl": False}),
    "STARTTLS is switched off on port 25": ({"port": 25}, {"use_tls": False}),
    "TLS is switched off, and the authority with it": (
        {"ca_certificates": OURS},
        {"use_tls": 0, "ca_certificates": ""},
    ),
    "an authority of one's own is named": ({}, {"ca_certificates": authority()}),
    "another authority is named": ({"ca_certificates": OURS}, {"ca_certificates": authority()}),
    "another authority is added": ({"ca_certificates": OURS}, {"ca_certificates": OURS + authority()}),
    "the system's authorities are trusted instead": ({"ca_certificates": OURS}, {"ca_certificates": ""}),
    "another port": ({}, {"port": 2525}),
    "another host": ({}, {"host": "smtp.example.org"}),
}

#: Stored values and a change of them that keeps the secret as safe as before.
AS_SAFE = {
    "nothing": ({}, {}),
    "TLS is switched on": ({"use_tls": False}, {"use_tls": True}),
    "TLS from the start instead of STARTTLS": ({"port": 2525}, {"use_tls": False, "use_ssl": True}),
    "another name for EHLO": ({}, {"ehlo_name": "mail.example.com"}),
    "another sender and time": ({}, {"from_email": "kim@example.com", "timeout": 20}),
    "the same authority, as a browser sends it": (
        {"ca_certificates": OURS},
        {"ca_certificates": OURS.strip().replace("\n", "\r\n")},
    ),
}


def checked(stored: SMTPConfig, change: dict[str, Any]) -> None:
    """Change the configuration as a program does that validates before it saves."""
    for name, value in change.items():
        setattr(stored, name, value)
    stored.full_clean()


def posted(stored: SMTPConfig, change: dict[str, Any]) -> dict[str, Any]:
    """Return the form fields that a browser sends for the change."""
    more = {
        name: getattr(stored, name)
        for name in ("authentication", "oauth_grant", "oauth_endpoint", "oauth_client_id", "oauth_scope")
    }
    return form_of(stored, **{**more, **{name: None if value is False else value for name, value in change.items()}})


@pytest.mark.parametrize("login", [{}, OAUTH], ids=["password", "token"])
@pytest.mark.parametrize(("before", "change"), LESS.values(), ids=LESS)
def test_a_stored_secret_is_asked_for_again(
    before: dict[str, Any], change: dict[str, Any], login: dict[str, Any]
) -> None:
    """The model, the page and the connection test ask for it; the connection test then does not connect."""
    if login and not (change.get("use_tls", True) and change.get("use_ssl", True)):
        before = {**before, "host": "localhost"}  # a token may be sent unencrypted to this machine only
    stored = config(**{**before, **login})
    field = "oauth_client_secret" if login else "password"
    admin = logged_in(superuser=True)
    page = admin.post(
        url("change", stored.pk), posted(stored, change | {"use_tls": change.get("use_tls", stored.use_tls)})
    )
    assert page.status_code == 200
    assert "again" in str(page.context["errors"])
    test = run_typed(SMTPConfig.objects.get(), posted(stored, change), user=None)
    assert test.report is None
    assert any("again" in problem for problem in test.problems)
    with pytest.raises(ValidationError) as refused:
        checked(SMTPConfig.objects.get(), change)
    assert field in refused.value.message_dict
    now = SMTPConfig.objects.get()
    assert (now.host, now.port, now.use_tls, now.use_ssl) == (stored.host, stored.port, stored.use_tls, stored.use_ssl)
    assert now.ca_certificates == stored.ca_certificates


@pytest.mark.parametrize("login", [{}, OAUTH], ids=["password", "token"])
@pytest.mark.parametrize(("before", "change"), AS_SAFE.values(), ids=AS_SAFE)
def test_a_change_that_leaves_it_as_safe_keeps_it(
    before: dict[str, Any], change: dict[str, Any], login: dict[str, Any]
) -> None:
    if login and before.get("use_tls") is False and not before.get("use_ssl"):
        before = {**before, "host": "localhost"}  # a token may be sent unencrypted to this machine only
    stored = config(**{**before, **login})
    checked(SMTPConfig.objects.get(), change)
    page = logged_in(superuser=True).post(url("change", stored.pk), posted(stored, change))
    assert page.status_code == 302, page.context["errors"]
    assert getattr(SMTPConfig.objects.get(), "oauth_client_secret" if login else "password") == SECRET


@pytest.mark.parametrize(
    "change", [{"use_tls": None, "port": 25}, {"ca_certificates": OURS}], ids=["no TLS", "authority"]
)
def test_with_the_secret_entered_again_it_is_changed(change: dict[str, Any]) -> None:
    stored = config(port=25)
    page = logged_in(superuser=True).post(url("change", stored.pk), form_of(stored, **change, password="another one"))
    assert page.status_code == 302
    assert SMTPConfig.objects.get().password == "another one"


def test_no_server_without_tls_hears_the_stored_password(smtp_server: Callable[..., SMTPServer]) -> None:
    """An attacker who controls a server on the way would use the connection test."""
    server = smtp_server(security="plain", user="user", password=SECRET)
    stored = config(host="localhost", port=server.port)
    admin = logged_in("view_smtpconfig", "change_smtpconfig", "test_smtpconfig")
    page = admin.post(url("test", stored.pk), form_of(stored, use_tls=None))
    assert "again" in page.content.decode()
    assert not [session for session in server.sessions if session.commands]


def test_an_earlier_version_without_tls_takes_the_password_along_for_no_one() -> None:
    """Reverting to an earlier version is a change like any other."""
    stored = config(use_tls=False, port=25, password="")
    plain = stored.history.first()
    stored.use_tls, stored.password = True, SECRET
    stored.save()
    admin = logged_in("view_smtpconfig", "change_smtpconfig")
    page = admin.post(url("simple_history", stored.pk, plain.pk), form_of(stored, use_tls=None))
    assert page.status_code == 200
    now = SMTPConfig.objects.get()
    assert (now.use_tls, now.password) == (True, SECRET)


def test_a_copy_keeps_the_protection_with_the_password() -> None:
    stored = config(ca_certificates=OURS)
    logged_in(superuser=True).post(
        reverse("admin:email_integration_smtpconfig_changelist"), {"action": "duplicate", "_selected_action": stored.pk}
    )
    copy = SMTPConfig.objects.exclude(pk=stored.pk).get()
    assert (copy.password, copy.use_tls, copy.ca_certificates) == (SECRET, True, OURS)
    with pytest.raises(ValidationError):
        checked(copy, {"use_tls": False})


def test_an_import_turns_tls_off_at_no_stored_configuration(settings: Any) -> None:
    config("Imported from settings", from_email="noreply@example.com", timeout=10)
    server = {"host": "smtp.example.com", "port": 587, "username": "user", "password": SECRET, "use_tls": False}
    for name, value in of_mail("email_integration.backends.queued.EmailBackend", **server, timeout=10).items():
        setattr(settings, name, value)
    settings.DEFAULT_FROM_EMAIL = "noreply@example.com"
    with pytest.raises(CommandError, match="use_tls"):
        call_command("import_smtp_settings")
    assert SMTPConfig.objects.get().use_tls


def _renewed(stored: SMTPConfig, change: dict[str, Any]) -> None:
    """Simulate another request, which enters a new secret and may therefore change the host."""
    other = SMTPConfig.objects.get(pk=stored.pk)
    for name, value in change.items():
        setattr(other, name, value)
    setattr(other, "oauth_client_secret" if other.by_token else "password", "another one")
    other.full_clean()
    other.save()


@pytest.mark.parametrize("login", [{}, OAUTH], ids=["password", "token"])
@pytest.mark.parametrize("moves", [False, True], ids=["the secret alone", "the host too"])
def test_a_secret_that_was_replaced_meanwhile_goes_nowhere_else(moves: bool, login: dict[str, Any]) -> None:
    """Of two simultaneous requests, one replaces the stored secret; the other has read the previous one."""
    stored = config(**login)
    read = SMTPConfig.objects.get(pk=stored.pk)
    _renewed(stored, {"host": "smtp.example.org"} if moves else {})
    with pytest.raises(ValidationError, match="again"):
        checked(read, {"host": "smtp.example.org"})


def test_a_test_with_a_secret_that_was_replaced_meanwhile_connects_to_nowhere(
    smtp_server: Callable[..., SMTPServer],
) -> None:
    server = smtp_server(user="user", password=SECRET)
    stored = config(host="smtp.example.com", port=server.port)
    read = SMTPConfig.objects.get(pk=stored.pk)
    _renewed(stored, {})
    test = run_typed(read, posted(read, {"host": "localhost"}), user=None)
    assert test.report is None
    assert any("again" in problem for problem in test.problems)
    assert server.auths == 0


def test_a_page_that_was_read_before_the_secret_was_replaced_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = config()
    loading = SMTPConfigAdmin.get_object

    def load(*args: Any) -> Any:
        found = loading(*args)
        monkeypatch.undo()
        _renewed(stored, {"host": "smtp.example.org"})
        return found

    monkeypatch.setattr(SMTPConfigAdmin, "get_object", load)
    page = logged_in(superuser=True).post(url("change", stored.pk), posted(stored, {"host": "smtp.example.org"}))
    assert page.status_code == 200
    now = SMTPConfig.objects.get()
    assert (now.host, now.password) == ("smtp.example.org", "another one")


def test_a_secret_of_a_configuration_that_was_deleted_meanwhile_goes_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = config()
    loading = SMTPConfigAdmin.get_object

    def load(*args: Any) -> Any:
        found = loading(*args)
        monkeypatch.undo()
        SMTPConfig.objects.get(pk=stored.pk).delete()
        return found

    monkeypatch.setattr(SMTPConfigAdmin, "get_object", load)
    page = logged_in(superuser=True).post(url("change", stored.pk), posted(stored, {"host": "smtp.example.org"}))
    assert page.status_code == 200
    assert not SMTPConfig.objects.exists()
