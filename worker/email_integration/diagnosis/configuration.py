"""Diagnose the SMTP configuration in force and the recipients of alerts."""

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
    """Report the configuration in force and its errors, and return its relay if the relay can be tried."""
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
    """Report whether the stored passwords can be decrypted, for the active configuration and for the others."""
    try:
        configs = list(SMTPConfig.objects.order_by("name"))
    except DatabaseError:  # reported with the configuration
        return []
    others = [config for config in configs if not config.is_active]
    found = [finding for config in others for finding in (*_unreadable(config), *_kept_elsewhere(config))]
    active = next((config for config in configs if config.is_active and config.sealed_password), None)
    if active is not None and active.is_readable:
        kind = active.password_kind
        if not kind:
            found.append(ok("smtp.password", "The password of the active configuration can be decrypted"))
        elif not _kept_elsewhere(active):  # if not, reported with the configuration
            found.append(ok("smtp.password", f"The password of the active configuration is stored elsewhere ({kind}:)"))
    found += [_token(config) for config in configs if config.is_active and config.by_token]
    return [*found, *(finding for config in configs for finding in _ending(config))]


def _ending(config: SMTPConfig) -> list[Finding]:
    """Warn if the credential that is used to request tokens expires soon or has expired."""
    words = login.ending(config)
    return [warning("smtp.secret", f"The {words}", "Replace it in the admin.")] if words else []


def _token(config: SMTPConfig) -> Finding:
    """Report how long the current OAuth token is valid.

    The connection test runs first and fetches a token if that is possible.
    """
    token = current_token(config)
    if token is None or (token.expires_at is None and token.failed_at is None):
        return info("smtp.token", "No OAuth token has been fetched yet")
    until = f"is valid until {in_utc(token.expires_at):%Y-%m-%d %H:%M} UTC" if token.expires_at else ""
    if token.failed_at is not None:
        rest = f"; the last one {until}" if until else ""
        return warning("smtp.token", f"No OAuth token could be fetched: {token.error}{rest}", _where(config))
    return ok("smtp.token", f"The OAuth token {until}")


def wrong_with_rows() -> list[Finding]:
    """Report errors of the active row, and passwords that cannot be decrypted. Raises ``DatabaseError``."""
    return [
        finding
        for config in SMTPConfig.objects.order_by("name")
        for finding in (*(_wrong_with(config) if config.is_active else ()), *_unreadable(config), *_not_allowed(config))
    ]


def wrong_with_settings() -> list[Finding]:
    """Report errors of the server that the project's settings name, without network access.

    Returns an empty list if the settings name no server.
    """
    route = routing.settings_relay()
    if not isinstance(route, routing.Nowhere):
        return _wrong_with_relay(route)
    if not _settings_name_a_server():
        return []
    text = f"Mail cannot be sent through the server in the settings: {route.in_settings}"
    return [error("smtp.valid", text, _hint_for_settings())]


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
                f"Mail is held: {route.reason}",
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
            # The form has other limits than the settings.
            timeout=round(min(max(1.0, relay.timeout), 600.0)),
        )
    )


def _wrong_with(config: SMTPConfig) -> list[Finding]:
    try:
        # The constraints repeat rules of clean(), and Django would query the database to check them.
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
                f"A secret of “{config.name}”{who} was encrypted for another row or another field",
                "It was copied in the database. Enter the secret again in the admin.",
            )
        ]
    return [
        say(
            "smtp.password",
            f"The password of “{config.name}”{who} cannot be decrypted with the keys in SMTP_PASSWORD_KEYS",
            "Add the key that encrypted it to SMTP_PASSWORD_KEYS again, or enter the password again in the admin.",
        )
    ]


def _kept_elsewhere(config: SMTPConfig) -> list[Finding]:
    """Report secrets of ``config`` that are stored elsewhere and cannot be fetched. Asks the secret providers."""
    return [
        finding
        for name in SECRETS
        for finding in _not_had(config, name, lambda text: references.resolve(text, anew=True))
    ]


def _not_allowed(config: SMTPConfig) -> list[Finding]:
    """Report references among the secrets of ``config`` that the settings do not allow. Asks no secret provider."""

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
                f"The {what} of “{config.name}”{who} cannot be fetched: {str(unavailable).rstrip('.')}",
                "Correct SECRET_REFERENCES, SECRET_PROVIDERS or the place where the secret is stored, or enter the "
                "secret again in the admin.",
            )
        ]
    except SecretUnreadable:
        return []  # reported with the key
    return []


def default_recipient() -> str | None:
    """Return the default recipient of test mails: the first of ADMINS, else the first superuser with an address."""
    admins: list[Any] = settings.ADMINS
    for admin in admins:
        # Django 6 accepts plain addresses, and accepts (name, address) pairs only until 7.0.
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
    """Report whether the configuration for alerts exists, and whether it differs from those that alerts are about."""
    name = conf.get("ALERT_CONFIGURATION")
    if not name:
        return []
    try:
        config = SMTPConfig.objects.filter(name=name).first()
    except DatabaseError:  # reported with the configuration
        return []
    if config is None:
        text = f"ALERT_CONFIGURATION names the SMTP configuration “{name}”, which does not exist"
        return [error("alerts", text, "Create it in the admin, or name another configuration.")]
    if config.is_active:
        text = f"Alerts are sent through “{name}” (ALERT_CONFIGURATION), which is the active configuration"
        return [warning("alerts", text, "Name another configuration, which works when this one does not.")]
    return [ok("alerts", f"Alerts to ADMINS are sent through “{name}”")]
