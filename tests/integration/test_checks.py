"""The system checks: every key of the setting, and proof that the checks run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection, models, transaction

from email_integration import conf
from email_integration.models import SMTPConfig
from tests.mail_settings import CORRECT, HAS_MAILERS, QUEUED, name_server

from .validating import validate

Found = Callable[..., dict[str, str]]
ADDRESS = "kim@example.com"


@pytest.fixture
def found(settings: Any) -> Found:
    """Return the messages of the checks by id, with these keys of the setting changed."""

    def found(*, deploy: bool = False, **keys: Any) -> dict[str, str]:
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **keys}
        # From Django 6.1 on, its own checks of models query the database.
        messages = checks.run_checks(tags=["email_integration", checks.Tags.security], include_deployment_checks=deploy)
        return {
            str(message.id).removeprefix("email_integration."): str(message.msg)
            for message in messages
            if str(message.id).startswith("email_integration.")
        }

    return found


def test_the_settings_of_this_project_are_fine(found: Found) -> None:
    """Correct settings produce no messages."""
    assert found() == {}


def test_the_defaults_are_fine(found: Found, settings: Any) -> None:
    """Only the keys are missing, which every project must create itself."""
    settings.EMAIL_INTEGRATION = {}
    settings.DEBUG = False

    assert list(found()) == ["E005"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, "yes") for key, default in conf.DEFAULTS.items() if isinstance(default, bool)],
        *[
            (key, value)
            for key, default in conf.DEFAULTS.items()
            if isinstance(default, int) and not isinstance(default, bool)
            for value in (*(() if key in conf.MAY_BE_ZERO else (0,)), -1, 1.5, "5", True, None)
        ],
        *[
            (key, value)
            for key, default in conf.DEFAULTS.items()
            if isinstance(default, float)
            for value in (-1, "5", True, None, float("nan"), float("inf"))
        ],
        *[(key, 0) for key in ("SWEEP_INTERVAL", "LEASE", "RETRY_MAX", "BROKER_TIMEOUT")],
        *[(key, "text") for key, default in conf.DEFAULTS.items() if isinstance(default, list | dict)],
        *[(key, None) for key, default in conf.DEFAULTS.items() if isinstance(default, str)],
    ],
)
def test_a_value_of_the_wrong_kind_is_named(found: Found, key: str, value: Any) -> None:
    """The checks themselves do not fail on such a value."""
    assert f"EMAIL_INTEGRATION['{key}'] must be" in found(**{key: value})["E007"]


@pytest.mark.parametrize(
    "keys",
    [
        {"CONFIG_CACHE_TTL": 0},
        {"SESSION_MAX_IDLE": 0.0},
        {"LEASE": 200, "REPLY_TIMEOUT": 60},
        {"CONNECT_TRIES": 1},
        {"SESSIONS": 1, "IN_DOUBT_WINDOW": 1},
        {"JOURNAL_DIR": Path("/var/lib/mail")},
    ],
)
def test_what_has_a_meaning_is_let_through(found: Found, keys: dict[str, Any]) -> None:
    """Some times may be zero, every time may be an integer, and a folder may be a path object."""
    assert found(**keys) == {}


@pytest.mark.parametrize(
    ("keys", "expected", "says"),
    [
        ({"TYPING_ERROR": 1}, "E002", "'TYPING_ERROR', which is not a valid key"),
        ({"LEASE": 100.0, "REPLY_TIMEOUT": 100.0}, "E003", "longer than REPLY_TIMEOUT"),
        ({"IN_DOUBT": "perhaps"}, "E004", "'resend' or 'hold'"),
        ({"SMTP_PASSWORD_KEYS": ["nonsense"]}, "E005", "not a Fernet key"),
        ({"CACHE": "nowhere"}, "E006", "CACHES has no 'nowhere'"),
        ({"RETRY_FIRST": 10.0, "RETRY_MAX": 5.0}, "E008", "RETRY_MAX"),
        ({"BREAKER_PROBE_FIRST": 10.0, "BREAKER_PROBE_MAX": 5.0}, "E008", "BREAKER_PROBE_MAX"),
        ({"REDIRECT_ALL_TO": ["example.com"]}, "E009", "entry 1 of 1 is not a mail address"),
        ({"ALLOWED_RECIPIENTS": [ADDRESS, "*"]}, "E009", "entry 2 of 2"),
        ({"REDIRECT_ALL_TO": [ADDRESS], "ALLOWED_RECIPIENTS": ["example.org"]}, "E010", ADDRESS),
    ],
)
def test_what_does_not_fit_together_is_found(found: Found, keys: dict[str, Any], expected: str, says: str) -> None:
    """Each message has an id that can be silenced."""
    assert says in found(**keys)[expected]


def test_a_redirection_within_what_is_allowed_is_fine(found: Found) -> None:
    """Upper and lower case do not matter."""
    assert found(REDIRECT_ALL_TO=["Kim@Example.com"], ALLOWED_RECIPIENTS=["example.COM"]) == {}


def test_a_setting_that_is_no_dictionary_is_found(found: Found, settings: Any) -> None:
    """The check reports it as E001."""
    settings.EMAIL_INTEGRATION = ["LEASE"]
    messages = checks.run_checks(tags=["email_integration"])

    assert "email_integration.E001" in [message.id for message in messages]


@pytest.mark.parametrize(
    ("debug", "encrypt", "level"),
    [
        (True, False, checks.WARNING),
        (True, True, checks.ERROR),
        (False, False, checks.ERROR),
        (False, True, checks.ERROR),
    ],
)
def test_missing_keys_are_an_error_unless_one_is_only_beginning(
    debug: bool, encrypt: bool, level: int, settings: Any
) -> None:
    """Only with DEBUG and without encryption of contents, missing keys are a warning."""
    settings.DEBUG = debug
    keys = {"SMTP_PASSWORD_KEYS": [], "ENCRYPT_CONTENT": encrypt}
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **keys}

    [message] = checks.run_checks(tags=["email_integration"])

    assert (message.id, message.level) == ("email_integration.E005", level)


def storage(settings: Any, backend: str = "FileSystemStorage", **options: Any) -> None:
    """Configure this storage for contents."""
    backend = backend if "." in backend else f"django.core.files.storage.{backend}"
    settings.STORAGES = {**settings.STORAGES, "email_integration": {"BACKEND": backend, "OPTIONS": options}}


@pytest.mark.parametrize("name", ["MEDIA_ROOT", "STATIC_ROOT"])
@pytest.mark.parametrize(
    ("ours", "theirs", "is_served"),
    [
        ("served", "served", True),
        ("served/mails", "served", True),
        (".", "served", True),
        ("a/../served/mails", "served", True),
        ("link/mails", "served", True),
        ("served-not", "served", False),
        ("mails", "served", False),
        ("mails", "", False),
    ],
)
def test_contents_that_others_can_read_are_found(
    name: str, ours: str, theirs: str, is_served: bool, found: Found, settings: Any, tmp_path: Path
) -> None:
    """A web server serves these folders to everyone who knows or guesses an address."""
    (tmp_path / "served").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "served")
    storage(settings, location=tmp_path / ours)
    setattr(settings, name, tmp_path / theirs if theirs else "")

    if is_served:
        assert f"and {name} are the same folder" in found()["E014"]
    else:
        assert found() == {}


def test_a_storage_that_lies_in_media_root_by_default_is_found(found: Found, settings: Any, tmp_path: Path) -> None:
    settings.MEDIA_ROOT = tmp_path
    storage(settings)
    assert "MEDIA_ROOT" in found()["E014"]
    assert "MEDIA_ROOT" in found(PAYLOAD_STORAGE="default")["E014"]


def test_a_storage_with_an_address_is_found(found: Found, settings: Any, tmp_path: Path) -> None:
    storage(settings, location=tmp_path, base_url="/mails/")
    assert "has a base_url" in found()["E014"]


def test_a_storage_in_memory_is_found(found: Found, settings: Any) -> None:
    """Workers cannot see its files."""
    storage(settings, "InMemoryStorage")
    assert "memory of one process" in found()["E015"]


@pytest.mark.parametrize(("backend", "options"), [("no.such.Storage", {}), ("FileSystemStorage", {"typo": 1})])
def test_a_storage_that_cannot_be_made_is_found(
    found: Found, settings: Any, backend: str, options: dict[str, Any]
) -> None:
    storage(settings, backend, **options)
    assert "cannot be used" in found()["E016"]


def test_a_storage_that_is_named_and_not_there_is_a_warning(found: Found, settings: Any) -> None:
    """A missing storage with the default name is not reported."""
    assert "STORAGES has no 'mails'" in found(PAYLOAD_STORAGE="mails")["W008"]

    settings.STORAGES = {name: one for name, one in settings.STORAGES.items() if name != "email_integration"}
    settings.EMAIL_INTEGRATION = {
        key: value for key, value in settings.EMAIL_INTEGRATION.items() if key != "PAYLOAD_STORAGE"
    }
    assert found() == {}


def test_a_cache_of_one_process_is_a_warning(found: Found, settings: Any) -> None:
    """It cannot tell other processes about a changed configuration."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

    assert "not shared" in found()["W001"]


def test_what_the_project_lacks_is_found(found: Found, settings: Any) -> None:
    """The required apps, and the middleware that provides the user."""
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "history" not in name]
    assert "HistoryRequestMiddleware" in found()["W002"]

    settings.CELERY_RESULT_BACKEND = "django-db"
    with settings_without(settings, "django_celery_results", "simple_history"):
        assert {"E011", "E012"} <= found().keys()


@pytest.mark.parametrize(
    ("uses_tz", "zone", "is_reported"),
    [
        (False, "America/New_York", True),
        (False, "Europe/London", True),
        (False, "Asia/Kathmandu", False),
        (False, "UTC", False),
        (True, "America/New_York", False),
    ],
)
def test_without_use_tz_clocks_that_change_are_reported(
    found: Found, settings: Any, uses_tz: bool, zone: str, is_reported: bool
) -> None:
    settings.USE_TZ, settings.TIME_ZONE = uses_tz, zone
    assert ("W013" in found()) is is_reported


def settings_without(settings: Any, *names: str) -> Any:
    """Return a context manager that removes these apps from INSTALLED_APPS."""
    from django.test import modify_settings

    return modify_settings(INSTALLED_APPS={"remove": list(names)})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"host": "smtp.example.com:99"}, "host: Enter the port in its own field"),
        ({"host": "http://smtp.example.com"}, "not a URL"),
        ({"use_tls": True, "use_ssl": True}, "TLS and SSL are both on"),
        ({"port": "x"}, "is not a number"),
        ({"port": 70000}, "port: "),
        ({"port": 465, "use_tls": True}, "Port 465 uses TLS from the start"),
        ({}, "from_email: Enter an address"),
    ],
)
def test_a_wrong_server_in_the_settings_is_found(found: Found, settings: Any, wrong: dict[str, Any], says: str) -> None:
    """The check needs neither a database nor a network, and its message says what to do."""
    name_server(settings, **{"host": "smtp.example.com", "port": 587, **wrong})
    settings.DEFAULT_FROM_EMAIL = ADDRESS if wrong else "noreply"

    assert says in found()["E013"]
    [message] = [one for one in checks.run_checks(tags=["email_integration"]) if one.id == "email_integration.E013"]
    assert message.hint == CORRECT


@pytest.mark.parametrize(
    "right",
    [
        {},
        {"host": "", "port": "x"},
        {"host": "::1", "port": 587, "use_tls": True},
        {"host": "smtp.example.com", "timeout": 900},
        {"host": "smtp.example.com", "timeout": 0.5},
    ],
)
def test_a_server_in_the_settings_that_works_is_fine(found: Found, settings: Any, right: dict[str, Any]) -> None:
    """Settings without a server are accepted as well."""
    settings.DEFAULT_FROM_EMAIL = ADDRESS
    name_server(settings, **right)

    assert found() == {}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"BACKEND": QUEUED, "OPTIONS": {"priority": "urgent"}}, "MAILERS['default'] cannot be used: priority must be"),
        ({"BACKEND": QUEUED, "OPTIONS": {"priority": ["high"]}}, "priority must be"),
        ({"BACKEND": "email_integration.backends.queue.EmailBackend"}, "No module named"),
        ({"BACKEND": "email_integration.backends.queued.Backend"}, "does not define"),
        # Before 6.1, Django ignores unknown settings.
        ({"BACKEND": QUEUED, "OPTIONS": {"prioirty": "high"}}, "used: Unknown options" if HAS_MAILERS else None),
        ({"BACKEND": QUEUED, "OPTIONS": {"priority": "high", "host": "smtp.example.com"}}, None),
        ({"BACKEND": QUEUED, "OPTIONS": None}, None),
        ({"BACKEND": "acme.backends.NotThere"}, None),
    ],
)
def test_what_mailers_say_to_our_backends_is_checked(found: Found, settings: Any, entry: Any, says: str | None) -> None:
    """Entries of other backends are not checked."""
    settings.MAILERS = {"default": entry}
    settings.DEFAULT_FROM_EMAIL = ADDRESS

    assert (says is None) == ("E021" not in found())
    assert says is None or says in found()["E021"]


@pytest.mark.parametrize(
    ("mailers", "says"),
    [
        ({"default": {"OPTIONS": {"host": "smtp.example.com:99"}}}, "Enter the port in its own field"),
        ({"default": {"OPTIONS": {"host": "a", "use_tls": True, "use_ssl": True}}}, "TLS and SSL are both on"),
        ({"one": {"OPTIONS": {"host": "a"}}, "two": {"OPTIONS": {"host": "b"}}}, "has several SMTP servers"),
        ({"default": {"BACKEND": "email_integration.backends.queued.EmailBackend"}}, None),
    ],
)
def test_a_wrong_server_in_mailers_is_found(found: Found, settings: Any, mailers: Any, says: str | None) -> None:
    """An entry whose mail is queued needs no server."""
    settings.DEFAULT_FROM_EMAIL = ADDRESS
    settings.MAILERS = mailers

    if says is None:
        assert found() == {}
    else:
        assert says in found()["E013"]


@pytest.mark.parametrize(
    ("keys", "expected", "says"),
    [
        ({"SECRET_REFERENCES": ["SMTP_*"]}, "E019", "does not have the form kind:name"),
        ({"SECRET_REFERENCES": ["env:"]}, "E019", "does not have the form kind:name"),
        ({"SECRET_REFERENCES": ["*"]}, "E019", "does not have the form kind:name"),
        ({"SECRET_REFERENCES": [None]}, "E019", "does not have the form kind:name"),
        ({"SECRET_REFERENCES": ["env:A", "vault:*"]}, "E019", "'vault:*' in"),
        ({"SECRET_REFERENCES": ["file:secrets/*"]}, "E019", "is not an absolute path"),
        ({"SECRET_REFERENCES": ["file:/run/../etc/*"]}, "E019", "is not an absolute path"),
        ({"SECRET_PROVIDERS": {"vault": "shop.secrets.Vault"}}, "E020", "cannot be imported (ModuleNotFoundError)"),
        ({"SECRET_PROVIDERS": {"vault": "email_integration.models.SMTPConfig"}}, "E020", "has no method 'resolve'"),
        ({"SECRET_PROVIDERS": {"vault": None}}, "E020", "cannot be imported"),
        ({"SECRET_PROVIDERS": {"env": "shop.secrets.Vault"}}, "E020", "is a built-in kind"),
        ({"SECRET_PROVIDERS": {"My Vault": "shop.secrets.Vault"}}, "E020", "use lower-case letters"),
    ],
)
def test_a_place_for_secrets_that_cannot_be_is_found(
    found: Found, keys: dict[str, Any], expected: str, says: str
) -> None:
    """The message names the entry and what is wrong with it."""
    assert says in found(**keys)[expected]


def test_secrets_of_aws_without_boto3_are_a_warning(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    allowed = ["env:A", "aws-secretsmanager:mail/*"]

    assert found(SECRET_REFERENCES=allowed) == {}
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert "boto3 is not installed" in found(SECRET_REFERENCES=allowed)["W012"]


def test_places_for_secrets_are_let_through(found: Found) -> None:
    """The built-in places, and one of the project's own."""
    provider = "email_integration.references.providers.File"

    assert (
        found(
            SECRET_REFERENCES=["env:SMTP_*", "file:/run/secrets/*", "vault:mail/*"],
            SECRET_PROVIDERS={"vault": provider},
        )
        == {}
    )


def of_rows() -> list[tuple[str | None, str, str | None]]:
    """Return id, message and hint of each message from the database checks."""
    messages = checks.run_checks(tags=[checks.Tags.database], databases=["default"])
    return [(one.id, str(one.msg), one.hint) for one in messages if str(one.id).startswith("email_integration.")]


@pytest.mark.django_db
def test_wrong_rows_are_found_with_the_database(settings: Any) -> None:
    """Passwords that cannot be decrypted, and an active configuration that cannot work."""
    values = {"port": 587, "password": "secret", "from_email": ADDRESS}
    SMTPConfig.objects.create(name="Spare", host="smtp.example.com", **values)
    active = SMTPConfig.objects.create(name="Primary", host="smtp.example.com", is_active=True, **values)
    assert of_rows() == []

    models.QuerySet(SMTPConfig).filter(pk=active.pk).update(host="smtp.example.com:99")
    key = Fernet.generate_key().decode()
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [key]}
    found = of_rows()

    again = "Add the key that encrypted it to SMTP_PASSWORD_KEYS again, or enter the password again in the admin."
    assert [(one, hint) for one, _, hint in found] == [
        ("email_integration.W007", "Correct it under Email Integration → SMTP Configurations in the admin."),
        ("email_integration.W006", again),
        ("email_integration.W006", again),
    ]
    assert "“Primary”, host: Enter the port in its own field" in found[0][1]
    assert found[1][1] == "The password of “Primary” cannot be decrypted with the keys in SMTP_PASSWORD_KEYS."
    assert "“Spare”, which is not active," in found[2][1]


@pytest.mark.django_db
def test_rows_are_not_looked_at_before_there_are_tables() -> None:
    """``migrate`` runs the database checks first."""
    table = SMTPConfig._meta.db_table
    rename(table, "put_aside")
    try:
        with transaction.atomic():
            found = of_rows()
            transaction.set_rollback(True)
    finally:
        rename("put_aside", table)

    assert found == []


def rename(table: str, to: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {to}")


@pytest.mark.django_db
def test_validate_warns_of_a_wrong_server_in_the_settings(settings: Any) -> None:
    """The command warns even while the server is not in use."""
    name_server(settings, host="smtp.example.com:99")
    code, output = validate()

    assert code == 1
    assert "   ✗ “Django settings”, host: Enter the port in its own field" in output
    assert (
        "   ⚠ Without an active configuration, mail would wait or fail: “Django settings”, host: Enter the port"
        in output
    )
    assert "   ✓ The settings are consistent\n" in output


def test_blockers_are_found_before_a_deployment_only(found: Found) -> None:
    """In a staging environment they are intended."""
    keys = {"EMAIL_PAUSED": True, "REDIRECT_ALL_TO": [ADDRESS], "ALLOWED_RECIPIENTS": [ADDRESS]}

    assert found(**keys) == {}
    assert {"W003", "W004", "W005"} <= found(deploy=True).keys()


def test_journals_that_cannot_be_kept_are_found_before_a_deployment_only(found: Found, tmp_path: Path) -> None:
    """This test uses a file in place of the folder; ``tests/unit/test_journal_place.py`` tests the other cases."""
    (tmp_path / "file").touch()

    assert "W028" not in found(JOURNAL_DIR=str(tmp_path / "file"))
    assert f"No journal can be kept in {tmp_path / 'file'}: " in found(deploy=True)["W028"]
    assert "W028" not in found(deploy=True, JOURNAL_DIR=tmp_path / "made by the worker")


@pytest.mark.django_db
def test_validate_looks_at_the_place_of_journals_too(settings: Any, tmp_path: Path) -> None:
    """It is a warning, not an error: mail is sent nevertheless."""
    (tmp_path / "file").touch()
    settings.SILENCED_SYSTEM_CHECKS = []
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "JOURNAL_DIR": tmp_path / "file"}

    assert f"   ⚠ No journal can be kept in {tmp_path / 'file'}: it is a link or a file" in validate()[1]


def test_manage_py_check_runs_them(settings: Any) -> None:
    """``manage.py`` also runs them before most commands."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "LEASE": 1.0}

    with pytest.raises(SystemCheckError, match=r"email_integration\.E003"):
        call_command("check")


@pytest.mark.django_db
def test_validate_reports_them_too(settings: Any) -> None:
    """The report has the hints too, and all messages are in one section."""
    assert "   ✓ The settings are consistent\n" in validate()[1]

    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "LEASE": 1.0, "TYPING_ERROR": 1}
    code, output = validate()

    assert code == 1
    assert (
        "   ✗ EMAIL_INTEGRATION contains 'TYPING_ERROR', which is not a valid key. Valid keys are ALERT_CONFIGURATION"
        in output
    )
    assert "   ✗ EMAIL_INTEGRATION['LEASE'] must be longer than REPLY_TIMEOUT" in output
