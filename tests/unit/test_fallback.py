"""The relay that the project's own settings name."""

from __future__ import annotations

from typing import Any

import pytest

from email_integration.routing import Nowhere, settings_relay
from email_integration.smtp import Relay
from tests.mail_settings import EMAIL_NAMES, HAS_MAILERS, older_settings

SMTP = "django.core.mail.backends.smtp.EmailBackend"
OURS = "email_integration.backends.queued.EmailBackend"
FULL = {
    "host": "smtp.example.com",
    "port": 587,
    "username": "user",
    "password": "secret",
    "use_tls": True,
    "use_ssl": False,
    "timeout": 7,
}
RELAY = Relay(
    name="Django settings",
    host="smtp.example.com",
    port=587,
    username="user",
    password="secret",
    use_tls=True,
    use_ssl=False,
    from_email="noreply@example.com",
    timeout=7.0,
)


@pytest.fixture(autouse=True)
def _sender(settings: Any) -> None:
    settings.DEFAULT_FROM_EMAIL = "noreply@example.com"


@pytest.fixture
def mailers(settings: Any) -> Any:
    """Set MAILERS. Reading an EMAIL_* setting then raises an error, even where Django itself does not raise one."""

    def set_(value: Any) -> None:
        settings.MAILERS = value
        for name in () if HAS_MAILERS else EMAIL_NAMES.values():
            setattr(settings, name, None)
            delattr(settings, name)

    return set_


def test_the_email_settings_are_read_in_full() -> None:
    """Every setting is read; from Django 6.1 on, without Django's warning about reading them."""
    with older_settings(**FULL):
        assert settings_relay() == RELAY


def test_djangos_own_defaults_fill_in_the_rest() -> None:
    """Port 25 unencrypted, but with a limited timeout."""
    with older_settings(host="smtp.example.com"):
        relay = settings_relay()

    assert isinstance(relay, Relay)
    assert (relay.port, relay.use_tls, relay.use_ssl, relay.username, relay.timeout) == (25, False, False, "", 10.0)


@pytest.mark.parametrize("missing", ["username", "password"])
def test_half_a_login_is_none(missing: str) -> None:
    """Like Django's own backend, which logs in only with both."""
    with older_settings(**{**FULL, missing: ""}):
        relay = settings_relay()

    assert isinstance(relay, Relay)
    assert not relay.logs_in
    assert RELAY.logs_in


@pytest.mark.parametrize("host", [None, ""])
def test_without_a_host_of_the_projects_own_it_is_nowhere(host: str | None) -> None:
    """Django's default, localhost, is not a choice of the project."""
    with older_settings(**({} if host is None else {"host": host})):
        route = settings_relay()

    assert isinstance(route, Nowhere)
    assert "EMAIL_HOST is not set" in route.reason


@pytest.mark.parametrize(
    ("mailers_", "options"),
    [
        ({"default": {"BACKEND": SMTP, "OPTIONS": FULL}}, FULL),
        ({"default": {"OPTIONS": FULL}}, FULL),
        ({"default": {"BACKEND": OURS, "OPTIONS": FULL}}, FULL),
        ({"default": {"BACKEND": OURS}, "relay": {"BACKEND": SMTP, "OPTIONS": FULL}}, FULL),
        ({"default": {"BACKEND": SMTP, "OPTIONS": FULL}, "smtp": {"OPTIONS": {"host": "other"}}}, FULL),
        ({"default": {"BACKEND": OURS}, "smtp": {"OPTIONS": FULL}, "bulk": {"OPTIONS": {"host": "other"}}}, FULL),
        ({"default": {"BACKEND": "acme.smtp.Backend", "OPTIONS": FULL}}, FULL),
    ],
)
def test_mailers_name_the_server(mailers: Any, mailers_: Any, options: dict[str, Any]) -> None:
    """'default' if it names a host, else the only mailer that names one, else 'smtp'. EMAIL_* is never read."""
    mailers(mailers_)

    assert settings_relay() == RELAY


@pytest.mark.parametrize(
    ("options", "port"),
    [({}, 25), ({"use_tls": True}, 587), ({"use_ssl": True}, 465), ({"use_ssl": True, "port": "2465"}, 2465)],
)
def test_a_port_left_open_is_the_usual_one(mailers: Any, options: dict[str, Any], port: int) -> None:
    """The port depends on the encryption."""
    mailers({"default": {"BACKEND": SMTP, "OPTIONS": {"host": "smtp.example.com", **options}}})

    relay = settings_relay()

    assert isinstance(relay, Relay)
    assert relay.port == port


@pytest.mark.parametrize(
    ("mailers_", "says"),
    [
        ({}, "has no SMTP server with a host"),
        ({"default": {"BACKEND": "django.core.mail.backends.console.EmailBackend"}}, "has no SMTP server with a host"),
        ({"default": {"BACKEND": SMTP}}, "has no SMTP server with a host"),
        ({"default": {"BACKEND": SMTP, "OPTIONS": None}}, "has no SMTP server with a host"),
        ({"default": None}, "has no SMTP server with a host"),
        (
            {"default": {"BACKEND": "anymail.backends.x.EmailBackend", "OPTIONS": {"host": "x"}}},
            "has no SMTP server with a host",
        ),
        ([], "not a dictionary"),
        ({"one": {"OPTIONS": {"host": "a"}}, "two": {"OPTIONS": {"host": "b"}}}, "'one', 'two'"),
        ({"default": {"OPTIONS": {"host": "a", "use_tls": True, "use_ssl": True}}}, "TLS and SSL"),
        ({"default": {"OPTIONS": {"host": "a", "port": "smtp"}}}, "not a number"),
        ({"default": {"OPTIONS": {"host": "a", "timeout": "soon"}}}, "not a number"),
    ],
)
def test_what_names_no_server_is_nowhere_with_a_reason(mailers: Any, mailers_: Any, says: str) -> None:
    """Mail then waits, with this reason."""
    mailers(mailers_)

    route = settings_relay()

    assert isinstance(route, Nowhere)
    assert says in route.reason


def test_tls_and_ssl_together_are_nowhere() -> None:
    """Django's own backend refuses this combination too."""
    with older_settings(host="smtp.example.com", use_tls=True, use_ssl=True):
        assert isinstance(settings_relay(), Nowhere)
