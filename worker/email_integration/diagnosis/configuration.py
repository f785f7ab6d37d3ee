"""The configuration in force, and whom to write to about it."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import DatabaseError

from email_integration import routing
from email_integration.exceptions import SecretUnreadable
from email_integration.models import SMTPConfig
from email_integration.smtp import Relay

from .findings import Finding, error, info, ok, warning


def configuration() -> tuple[list[Finding], Relay | None]:
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
        relay = routing.relay_of(config)
    except SecretUnreadable:
        unreadable = error(
            "smtp.password",
            f"The password of “{config.name}” cannot be opened with the keys in SMTP_PASSWORD_KEYS",
            "Put the key it was sealed with back there, or enter the password again in the admin.",
        )
        return [*found, *wrong, unreadable], None
    if wrong:
        return [*found, *wrong], None
    return [*found, ok("smtp.valid", "SMTP configuration looks valid")], relay


def passwords() -> list[Finding]:
    """Whether the stored passwords can be opened: that of the active configuration, and those that wait their turn."""
    try:
        configs = list(SMTPConfig.objects.order_by("name"))
    except DatabaseError:  # said with the configuration
        return []
    found = [
        warning(
            "smtp.password",
            f"The password of “{config.name}”, which is not active, cannot be opened with SMTP_PASSWORD_KEYS",
            "Put the key it was sealed with back there, or enter the password again in the admin.",
        )
        for config in configs
        if not config.is_active and not config.is_readable
    ]
    if any(config.is_active and config.sealed_password and config.is_readable for config in configs):
        found.append(ok("smtp.password", "The password of the active configuration can be opened"))
    return found


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
    wrong = _wrong_with(
        SMTPConfig(
            name=route.name,
            host=route.host,
            port=route.port,
            username=route.username,
            use_tls=route.use_tls,
            use_ssl=route.use_ssl,
            from_email=route.from_email,
            timeout=max(1, round(route.timeout)),
        )
    )
    if wrong:
        return [*found, *wrong], None
    return [*found, ok("smtp.valid", "SMTP configuration looks valid")], route


def _wrong_with(config: SMTPConfig) -> list[Finding]:
    try:
        config.full_clean(validate_unique=False)
    except ValidationError as invalid:
        return [
            error("smtp.valid", f"“{config.name}”, {field}: {' '.join(messages).rstrip('.')}", _where(config))
            for field, messages in invalid.message_dict.items()
        ]
    return []


def _where(config: SMTPConfig) -> str:
    if config._state.adding:
        return "Correct the EMAIL_* settings."
    return "Correct it under Email Integration → SMTP Configurations in the admin."


def somebody() -> str | None:
    """Whom to write to when nobody is named: the first of ADMINS, else the first superuser with an address."""
    admins: list[Any] = settings.ADMINS
    for admin in admins:
        # Django 6 takes plain addresses, and (name, address) pairs only until 7.0.
        return str(admin if isinstance(admin, str) else admin[1])
    users = get_user_model()
    email = users.get_email_field_name()
    try:
        users._meta.get_field(email)
        rows = users._default_manager.filter(is_superuser=True).exclude(**{email: ""}).exclude(**{email: None})
        return rows.order_by("pk").values_list(email, flat=True).first()
    except (FieldDoesNotExist, DatabaseError):
        return None
