"""The system checks: every key of the setting, and that they run at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from email_integration import conf

from .validating import validate

Found = Callable[..., dict[str, str]]
ADDRESS = "kim@example.com"


@pytest.fixture
def found(settings: Any) -> Found:
    """What the checks find with these keys set: messages by id."""

    def found(*, deploy: bool = False, **keys: Any) -> dict[str, str]:
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **keys}
        messages = checks.run_checks(include_deployment_checks=deploy)
        return {
            str(message.id).removeprefix("email_integration."): str(message.msg)
            for message in messages
            if str(message.id).startswith("email_integration.")
        }

    return found


def test_the_settings_of_this_project_are_fine(found: Found) -> None:
    """Nothing is found where nothing is wrong."""
    assert found() == {}


def test_the_defaults_are_fine(found: Found, settings: Any) -> None:
    """But for the keys, which nobody else can choose."""
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
            for value in (0, -1, 1.5, "5", True, None)
        ],
        *[
            (key, value)
            for key, default in conf.DEFAULTS.items()
            if isinstance(default, float)
            for value in (-1, "5", True, None, float("nan"), float("inf"))
        ],
        *[(key, 0) for key in ("SWEEP_INTERVAL", "LEASE", "RETRY_MAX", "BROKER_TIMEOUT")],
        *[(key, "text") for key, default in conf.DEFAULTS.items() if isinstance(default, list)],
        *[(key, None) for key, default in conf.DEFAULTS.items() if isinstance(default, str)],
    ],
)
def test_a_value_of_the_wrong_kind_is_named(found: Found, key: str, value: Any) -> None:
    """Whatever it is, the checks themselves do not break at it."""
    assert f"EMAIL_INTEGRATION['{key}'] must be" in found(**{key: value})["E007"]


@pytest.mark.parametrize(
    "keys",
    [{"CONFIG_CACHE_TTL": 0}, {"SESSION_MAX_IDLE": 0.0}, {"LEASE": 200, "REPLY_TIMEOUT": 60}, {"CONNECT_TRIES": 1}],
)
def test_what_has_a_meaning_is_let_through(found: Found, keys: dict[str, Any]) -> None:
    """Zero for some times, whole numbers for all."""
    assert found(**keys) == {}


@pytest.mark.parametrize(
    ("keys", "expected", "says"),
    [
        ({"TYPING_ERROR": 1}, "E002", "no key 'TYPING_ERROR'"),
        ({"LEASE": 100.0, "REPLY_TIMEOUT": 100.0}, "E003", "longer than REPLY_TIMEOUT"),
        ({"IN_DOUBT": "perhaps"}, "E004", "'resend' or 'hold'"),
        ({"SMTP_PASSWORD_KEYS": ["nonsense"]}, "E005", "not a Fernet key"),
        ({"CACHE": "nowhere"}, "E006", "CACHES has no 'nowhere'"),
        ({"RETRY_FIRST": 10.0, "RETRY_MAX": 5.0}, "E008", "RETRY_MAX"),
        ({"REDIRECT_ALL_TO": ["example.com"]}, "E009", "entry 1 of 1 is not a mail address"),
        ({"ALLOWED_RECIPIENTS": [ADDRESS, "*"]}, "E009", "entry 2 of 2"),
        ({"REDIRECT_ALL_TO": [ADDRESS], "ALLOWED_RECIPIENTS": ["example.org"]}, "E010", ADDRESS),
    ],
)
def test_what_does_not_fit_together_is_found(found: Found, keys: dict[str, Any], expected: str, says: str) -> None:
    """By ids that can be silenced."""
    assert says in found(**keys)[expected]


def test_a_redirection_within_what_is_allowed_is_fine(found: Found) -> None:
    """In any case."""
    assert found(REDIRECT_ALL_TO=["Kim@Example.com"], ALLOWED_RECIPIENTS=["example.COM"]) == {}


def test_a_setting_that_is_no_dictionary_is_found(found: Found, settings: Any) -> None:
    """And nothing else is said then."""
    settings.EMAIL_INTEGRATION = ["LEASE"]
    messages = checks.run_checks(tags=["email_integration"])

    assert "email_integration.E001" in [message.id for message in messages]


@pytest.mark.parametrize(("debug", "level"), [(True, checks.WARNING), (False, checks.ERROR)])
def test_missing_keys_are_an_error_outside_of_debug(debug: bool, level: int, settings: Any) -> None:
    """One can begin without."""
    settings.DEBUG = debug
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": []}

    [message] = checks.run_checks(tags=["email_integration"])

    assert (message.id, message.level) == ("email_integration.E005", level)


def test_a_cache_of_one_process_is_a_warning(found: Found, settings: Any) -> None:
    """It cannot carry a switch."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

    assert "not shared" in found()["W001"]


def test_what_the_project_lacks_is_found(found: Found, settings: Any) -> None:
    """The apps beside this one, and the middleware that knows the user."""
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "history" not in name]
    assert "HistoryRequestMiddleware" in found()["W002"]

    settings.CELERY_RESULT_BACKEND = "django-db"
    with settings_without(settings, "django_celery_results", "simple_history"):
        assert {"E011", "E012"} <= found().keys()


def settings_without(settings: Any, *names: str) -> Any:
    """Without these apps."""
    from django.test import modify_settings

    return modify_settings(INSTALLED_APPS={"remove": list(names)})


def test_brakes_are_found_before_a_deployment_only(found: Found) -> None:
    """In staging they are meant."""
    keys = {"EMAIL_PAUSED": True, "REDIRECT_ALL_TO": [ADDRESS], "ALLOWED_RECIPIENTS": [ADDRESS]}

    assert found(**keys) == {}
    assert {"W003", "W004", "W005"} <= found(deploy=True).keys()


def test_manage_py_check_runs_them(settings: Any) -> None:
    """As it runs before most commands."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "LEASE": 1.0}

    with pytest.raises(SystemCheckError, match=r"email_integration\.E003"):
        call_command("check")


@pytest.mark.django_db
def test_validate_tells_them_too(settings: Any) -> None:
    """With what to do, and in one place."""
    assert "   ✓ The settings fit together\n" in validate()[1]

    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "LEASE": 1.0, "TYPING_ERROR": 1}
    code, output = validate()

    assert code == 1
    assert "   ✗ EMAIL_INTEGRATION has no key 'TYPING_ERROR'. It has ALLOWED_RECIPIENTS" in output
    assert "   ✗ EMAIL_INTEGRATION['LEASE'] must be longer than REPLY_TIMEOUT" in output
