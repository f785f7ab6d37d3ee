"""``import_smtp_settings``: from the settings into the database."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from email_integration.models import SMTPConfig
from tests.mail_settings import NO_SERVER, name_server, older_settings

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("import_smtp_settings", *arguments, stdout=out)
    return out.getvalue()


SERVER = {
    "host": "smtp.example.com",
    "port": 587,
    "username": "user",
    "password": "keep-secret",
    "use_tls": True,
    "timeout": 2.5,
}


@pytest.fixture(autouse=True)
def _settings(settings: Any) -> None:
    name_server(settings, **SERVER)
    settings.DEFAULT_FROM_EMAIL = "Example <noreply@example.com>"


def test_it_makes_a_configuration_of_them() -> None:
    """It is inactive unless the option asks for it. The password is sealed and not shown."""
    output = run()

    config = SMTPConfig.objects.get()
    assert str(config) == "Imported from settings - smtp.example.com:587 (Inactive)"
    assert (config.username, config.password, config.use_tls, config.use_ssl) == ("user", "keep-secret", True, False)
    assert (config.from_email, config.timeout) == ("Example <noreply@example.com>", 3)
    assert "password: set" in output
    assert "keep-secret" not in output
    [entry] = config.history.all()
    assert (entry.event, entry.password_changed) == ("created", True)


def test_a_second_run_changes_nothing_and_says_so() -> None:
    """The second run has the same arguments, and the third has ``--activate`` alone."""
    for arguments in (["--name", "Main", "--activate"], ["--name", "Main", "--activate"], ["--activate"]):
        output = run(*arguments)

    config = SMTPConfig.objects.get()
    assert config.is_active
    assert config.history.count() == 2  # created, activated
    assert "“Main” already has these settings." in output
    assert "“Main” is already active." in output


def test_activate_takes_the_place_of_the_active_one() -> None:
    """Also when the configuration was imported earlier."""
    other = SMTPConfig.objects.create(name="Other", host="h", from_email="a@example.com", is_active=True)
    run("--name", "Main")

    assert "Activated “Main”." in run("--name", "Main", "--activate")

    other.refresh_from_db()
    assert not other.is_active
    assert SMTPConfig.objects.get(name="Main").is_active


def test_a_dry_run_does_nothing() -> None:
    """The output says what would be done."""
    output = run("--name", "Main", "--activate", "--dry-run")

    assert "Would create “Main”:" in output
    assert "host: smtp.example.com" in output
    assert "Would activate “Main”." in output
    assert not SMTPConfig.objects.exists()


def test_a_configuration_of_that_name_is_not_overwritten() -> None:
    """A user may have changed it since."""
    run("--name", "Main")
    SMTPConfig.objects.filter(name="Main").update(host="better.example.com", timeout=30)

    with pytest.raises(CommandError, match=r"“Main” exists and has other settings \(host, timeout\)"):
        run("--name", "Main")

    assert SMTPConfig.objects.get().host == "better.example.com"


def test_a_changed_password_in_the_settings_is_noticed(settings: Any) -> None:
    """The output shows neither the old nor the new password."""
    run()
    name_server(settings, **{**SERVER, "password": "another"})

    with pytest.raises(CommandError, match=r"other settings \(password\)") as refused:
        run()

    assert "another" not in str(refused.value).replace("another --name", "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"password": ""}, "⚠ There is a username and no password, so mail is sent without logging in."),
        ({"username": ""}, "⚠ There is a password and no username, so mail is sent without logging in."),
        ({"password": "keep-secret "}, "⚠ The password: It begins or ends with a space."),
        ({"password": "keep\u00a0secret"}, "⚠ The password: It contains an invisible character, U+00A0"),
    ],
)
def test_what_may_not_be_meant_is_imported_with_a_warning(changes: dict[str, Any], words: str, settings: Any) -> None:
    """A login needs both user name and password, as in Django's own backend."""
    name_server(settings, **{**SERVER, **changes})

    assert words in run("--dry-run")
    assert "keep-secret" not in run()

    config = SMTPConfig.objects.get()
    assert (config.username, config.password) == tuple({**SERVER, **changes}[name] for name in ("username", "password"))
    assert config.logs_in == all(changes.get(name, "set") for name in ("username", "password"))
    assert "already has these settings" in run()


def test_what_is_in_order_is_imported_without_a_warning() -> None:
    """These settings are unambiguous."""
    assert "⚠" not in run()


def test_nothing_to_import_is_said(settings: Any) -> None:
    """Without a host, no configuration is created."""
    name_server(settings, **{**SERVER, "host": ""})

    with pytest.raises(CommandError, match=f"nothing to import.*{NO_SERVER}"):
        run()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"port": 465}, "use_tls: Port 465"),
        ({"host": "smtp://smtp.example.com"}, "host: Enter the host name alone"),
        ({"username": "user\u00a0"}, r"username: The text contains an invisible character, U\+00A0"),
        ({}, "from_email: "),
    ],
)
def test_settings_that_cannot_work_are_not_imported(wrong: dict[str, Any], says: str, settings: Any) -> None:
    """The messages are those of the admin."""
    name_server(settings, **{**SERVER, **wrong})
    if not wrong:
        settings.DEFAULT_FROM_EMAIL = "noreply"

    with pytest.raises(CommandError, match=says):
        run()

    assert not SMTPConfig.objects.exists()


def test_mailers_are_imported_too(settings: Any) -> None:
    """MAILERS exists from Django 6.1 on."""
    settings.MAILERS = {
        "default": {
            "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "OPTIONS": {"host": "mailers.example.com", "use_ssl": True, "username": "u", "password": "p"},
        }
    }
    run("--activate")

    config = SMTPConfig.objects.get()
    assert (config.host, config.port, config.use_ssl, config.use_tls) == ("mailers.example.com", 465, True, False)
    assert config.password == "p"
    assert config.is_active


def test_older_settings_are_imported_by_every_django() -> None:
    """EMAIL_* is deprecated in Django 6.1, but projects still have these settings when they migrate."""
    with older_settings(**SERVER):
        run("--activate")

    config = SMTPConfig.objects.get()
    assert (config.host, config.username, config.password) == ("smtp.example.com", "user", "keep-secret")
    assert config.is_active


def test_a_test_that_is_required_stands_in_the_way_of_activating(settings: Any) -> None:
    """The configuration is stored, and can be tested."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "REQUIRE_TEST_BEFORE_ACTIVATE": True}

    with pytest.raises(CommandError, match="has not passed a connection test"):
        run("--activate")

    assert not SMTPConfig.objects.get().is_active


def test_a_lost_key_is_said(settings: Any) -> None:
    """Without the key, the passwords cannot be compared."""
    run()
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "SMTP_PASSWORD_KEYS": ["MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="],
    }

    with pytest.raises(CommandError, match=r"“Imported from settings”: .*SMTP_PASSWORD_KEYS"):
        run()


def test_djangos_own_sender_is_imported_with_a_warning(settings: Any) -> None:
    """It is a default that the project did not choose."""
    settings.DEFAULT_FROM_EMAIL = "webmaster@localhost"

    assert "⚠ Few servers accept mail from this sender" in run()
    assert SMTPConfig.objects.get().from_email == "webmaster@localhost"
