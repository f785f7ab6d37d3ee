"""The configuration in force, and whom to write to about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import DatabaseError, router

from email_integration import conf, references, routing
from email_integration.django_internals import is_set, read_setting
from email_integration.exceptions import SecretUnavailable, SecretUnreadable
from email_integration.fields import MISPLACED
from email_integration.models import SMTPConfig, login
from email_integration.models.login import current_token
from email_integration.models.server import SECRETS
from email_integration.smtp import Relay
from email_integration.timezones import in_utc

from .findings import Finding, error, info, ok, warning


def diagnose_configuration() -> tuple[list[Finding], Relay | None]:
    """Say which configuration mail goes by, and what is wrong with it; the relay if it can be tried."""
    try:
        config = SMTPConfig.objects.filter(is_active=True).first()
    except DatabaseError as failure:
        return [
            error(
                "smtp.source",
                f"The SMTP configurations cannot be read ({type(failure).__name__})",
                "Check that the database runs and that `manage.py migrate` has been run.",
            )
        ], None
    if config is None:
        return _settings()
    found = [info("smtp.source", f"Using SMTP config from database: {config.name}")]
    wrong = _wrong_with(config)
    try:
        relay = routing.relay_of(config, anew=True)
    except SecretUnavailable:
        return [*found, *wrong, *_kept_elsewhere(config)], None
    except SecretUnreadable:
        return [*found, *wrong, *_unreadable(config)], None
    if wrong:
        return [*found, *wrong], None
    return [*found, ok("smtp.valid", "SMTP configuration looks valid")], relay


def diagnose_passwords() -> list[Finding]:
    """Whether the stored passwords can be opened: that of the active configuration, and those that wait their turn."""
    try:
        configs = list(SMTPConfig.objects.order_by("name"))
    except DatabaseError:  # said with the configuration
        return []
    others = [config for config in configs if not config.is_active]
    found = [finding for config in others for finding in (*_unreadable(config), *_kept_elsewhere(config))]
    active = next((config for config in configs if config.is_active and config.sealed_password), None)
    if active is not None and active.is_readable:
        kind = active.password_kind
        if not kind:
            found.append(ok("smtp.password", "The password of the active configuration can be opened"))
        elif not _kept_elsewhere(active):  # else said with the configuration
            found.append(ok("smtp.password", f"The password of the active configuration is kept elsewhere ({kind}:)"))
    found += [_token(config) for config in configs if config.is_active and config.by_token]
    return [*found, *(finding for config in configs for finding in _ending(config))]


def _ending(config: SMTPConfig) -> list[Finding]:
    """That what a token is asked for with ends soon, or has ended."""
    words = login.ending(config)
    return [warning("smtp.secret", f"The {words}", "Replace it in the admin before then.")] if words else []


def _token(config: SMTPConfig) -> Finding:
    """Until when the token is good that mail goes by; the connection test has fetched one if that is possible."""
    token = current_token(config)
    if token is None or (token.expires_at is None and token.failed_at is None):
        return info("smtp.token", "No OAuth token was fetched yet")
    until = f"is valid until {in_utc(token.expires_at):%Y-%m-%d %H:%M} UTC" if token.expires_at else ""
    if token.failed_at is not None:
        rest = f"; the last one {until}" if until else ""
        return warning("smtp.token", f"No OAuth token could be fetched: {token.error}{rest}", _where(config))
    return ok("smtp.token", f"The OAuth token {until}")


def wrong_with_rows() -> list[Finding]:
    """What is wrong with the active row, and which passwords cannot be opened. Raises ``DatabaseError``."""
    return [
        finding
        for config in SMTPConfig.objects.order_by("name")
        for finding in (*(_wrong_with(config) if config.is_active else ()), *_unreadable(config), *_not_allowed(config))
    ]


def wrong_with_settings() -> list[Finding]:
    """What is wrong with the server that the project's settings name; nothing when they name none. Asks no network."""
    route = routing.settings_relay()
    if not isinstance(route, routing.Nowhere):
        return _wrong_with_relay(route)
    if not _settings_name_a_server():
        return []
    return [error("smtp.valid", f"Mail cannot go by the settings: {route.in_settings}", _hint_for_settings())]


def _settings_name_a_server() -> bool:
    if not is_set("MAILERS"):
        return is_set("EMAIL_HOST") and bool(read_setting("EMAIL_HOST"))
    mailers = read_setting("MAILERS")
    entries = mailers.values() if isinstance(mailers, Mapping) else ()
    options = [entry.get("OPTIONS") for entry in entries if isinstance(entry, Mapping)]
    return any(isinstance(one, Mapping) and one.get("host") for one in options)


def _settings() -> tuple[list[Finding], Relay | None]:
    route = routing.settings_relay()
    if isinstance(route, routing.Nowhere):
        return [
            error(
                "smtp.source",
                f"Mail has nowhere to go: {route.reason}",
                "Activate a configuration under Email Integration → SMTP Configurations in the admin.",
            )
        ], None
    found = [info("smtp.source", f"Using SMTP config from Django settings: {route.host}:{route.port}")]
    wrong = _wrong_with_relay(route)
    if wrong:
        return [*found, *wrong], None
    return [*found, ok("smtp.valid", "SMTP configuration looks valid")], route


def _wrong_with_relay(relay: Relay) -> list[Finding]:
    return _wrong_with(
        SMTPConfig(
            name=relay.name,
            host=relay.host,
            port=relay.port,
            username=relay.username,
            use_tls=relay.use_tls,
            use_ssl=relay.use_ssl,
            from_email=relay.from_email,
            # The form's limits are not those of the settings.
            timeout=round(min(max(1.0, relay.timeout), 600.0)),
        )
    )


def _wrong_with(config: SMTPConfig) -> list[Finding]:
    try:
        # The constraints say nothing that clean() does not, and Django has the database evaluate them.
        config.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as invalid:
        return [
            error("smtp.valid", f"“{config.name}”, {field}: {' '.join(messages).rstrip('.')}", _where(config))
            for field, messages in invalid.message_dict.items()
        ]
    return []


def _where(config: SMTPConfig) -> str:
    if config._state.adding:
        return _hint_for_settings()
    return "Correct it under Email Integration → SMTP Configurations in the admin."


def _hint_for_settings() -> str:
    return "Correct MAILERS." if is_set("MAILERS") else "Correct the EMAIL_* settings."


def _unreadable(config: SMTPConfig) -> list[Finding]:
    if config.is_readable:
        return []
    who, say = ("", error) if config.is_active else (", which is not active,", warning)
    if config.why_unreadable == MISPLACED:
        return [
            say(
                "smtp.password",
                f"A secret of “{config.name}”{who} was sealed for another row or another field",
                "It was copied in the database. Enter it again in the admin.",
            )
        ]
    return [
        say(
            "smtp.password",
            f"The password of “{config.name}”{who} cannot be opened with the keys in SMTP_PASSWORD_KEYS",
            "Put the key it was sealed with back there, or enter the password again in the admin.",
        )
    ]


def _kept_elsewhere(config: SMTPConfig) -> list[Finding]:
    """Which secrets of ``config`` cannot be had where they are kept, if they are kept elsewhere. Asks whoever does."""
    return [
        finding
        for name in SECRETS
        for finding in _not_had(config, name, lambda text: references.resolve(text, anew=True))
    ]


def _not_allowed(config: SMTPConfig) -> list[Finding]:
    """Whether the settings allow the references among its secrets; asks nobody."""

    def allow(text: str) -> None:
        found = references.parse(text)
        if isinstance(found, references.Reference):
            references.allow(found)

    return [finding for name in SECRETS for finding in _not_had(config, name, allow)]


def _not_had(config: SMTPConfig, name: str, ask: Callable[[str], object]) -> list[Finding]:
    try:
        ask(getattr(config, name))
    except SecretUnavailable as unavailable:
        who, say = ("", error) if config.is_active else (", which is not active,", warning)
        what = name.removeprefix("oauth_").replace("_", " ")
        return [
            say(
                "smtp.password",
                f"The {what} of “{config.name}”{who} cannot be had: {str(unavailable).rstrip('.')}",
                "Correct SECRET_REFERENCES, SECRET_PROVIDERS or the place where it is kept, or enter it again in the "
                "admin.",
            )
        ]
    except SecretUnreadable:
        return []  # said of the key
    return []


def default_recipient() -> str | None:
    """Whom to write to when nobody is named: the first of ADMINS, else the first superuser with an address."""
    admins: list[Any] = settings.ADMINS
    for admin in admins:
        # Django 6 takes plain addresses, and (name, address) pairs only until 7.0.
        return str(admin if isinstance(admin, str) else admin[1])
    users = get_user_model()
    email = users.get_email_field_name()
    try:
        users._meta.get_field(email)
        rows = (
            users._default_manager.using(router.db_for_write(users))
            .filter(is_superuser=True)
            .exclude(**{email: ""})
            .exclude(**{email: None})
        )
        return rows.order_by("pk").values_list(email, flat=True).first()
    except (FieldDoesNotExist, DatabaseError):
        return None


def diagnose_alerts() -> list[Finding]:
    """Whether the configuration that alerts are written by is there, and is another than what they may be about."""
    name = conf.get("ALERT_CONFIGURATION")
    if not name:
        return []
    try:
        config = SMTPConfig.objects.filter(name=name).first()
    except DatabaseError:  # said with the configuration
        return []
    if config is None:
        text = f"There is no SMTP configuration “{name}”, by which ALERT_CONFIGURATION has alerts written to ADMINS"
        return [error("alerts", text, "Make it in the admin, or name another.")]
    if config.is_active:
        text = f"Alerts are written by “{name}” (ALERT_CONFIGURATION), which is the active configuration"
        return [warning("alerts", text, "Name another, which works when this one does not.")]
    return [ok("alerts", f"Alerts are written to ADMINS by “{name}”")]
