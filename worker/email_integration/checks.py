"""System checks: what can be known to be wrong without asking the network."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from . import conf, fields


@register("email_integration")
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check the keys of EMAIL_INTEGRATION against each other and against the project's settings."""
    given = getattr(settings, "EMAIL_INTEGRATION", {})
    if not isinstance(given, dict):
        return [Error("EMAIL_INTEGRATION must be a dictionary.", id="email_integration.E001")]
    found: list[CheckMessage] = []
    for key in sorted(set(given) - set(conf.DEFAULTS), key=str):
        found.append(
            Error(
                f"EMAIL_INTEGRATION has no key {key!r}.",
                hint=f"It has {', '.join(sorted(conf.DEFAULTS))}.",
                id="email_integration.E002",
            )
        )
    if conf.get("LEASE") <= conf.get("REPLY_TIMEOUT"):
        found.append(
            Error(
                "EMAIL_INTEGRATION['LEASE'] must be longer than REPLY_TIMEOUT.",
                hint="Otherwise a second worker may send a mail while the first still waits for the server's reply.",
                id="email_integration.E003",
            )
        )
    if conf.get("IN_DOUBT") not in ("resend", "hold"):
        found.append(Error("EMAIL_INTEGRATION['IN_DOUBT'] must be 'resend' or 'hold'.", id="email_integration.E004"))
    try:
        fields.keys()
    except ImproperlyConfigured as error:
        unset = not conf.get("SMTP_PASSWORD_KEYS")
        kind = Warning if unset and settings.DEBUG else Error
        found.append(kind(str(error), id="email_integration.E005"))
    return [*found, *_check_cache()]


def _check_cache() -> list[CheckMessage]:
    alias = conf.get("CACHE")
    backend = str(settings.CACHES.get(alias, {}).get("BACKEND", ""))
    if not backend:
        return [Error(f"CACHES has no {alias!r}, which EMAIL_INTEGRATION['CACHE'] names.", id="email_integration.E006")]
    if backend.endswith((".LocMemCache", ".DummyCache")):
        return [
            Warning(
                f"The cache {alias!r} ({backend}) is not shared between processes.",
                hint="Workers follow a changed SMTP configuration only after CONFIG_CACHE_TTL seconds. "
                "Use Redis, Memcached or the database cache.",
                id="email_integration.W001",
            )
        ]
    return []
