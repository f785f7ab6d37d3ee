"""The relay of the project's own settings: ``EMAIL_*``, or ``MAILERS`` in Django 6.1 and later.

Only the server in them is used, not ``EMAIL_BACKEND`` or the backends in ``MAILERS``. When ``MAILERS`` is defined,
Django forbids reading ``EMAIL_HOST`` and the like, so they are not read then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings

from email_integration import validators
from email_integration.django_internals import is_set, read_setting
from email_integration.outcomes.causes import Cause
from email_integration.secrecy import with_secrets
from email_integration.smtp import Relay

from .route import Nowhere, Route

#: The name of a relay from Django's own settings.
SETTINGS_NAME = "Django settings"

#: Timeout in seconds for settings without one, which would wait for ever.
_TIMEOUT = 10.0

_SMTP_BACKEND = "django.core.mail.backends.smtp.EmailBackend"


@with_secrets
def settings_relay() -> Route:
    """Return the relay of the project's settings.

    ``Nowhere`` unless the project itself names a host: Django's default, 'localhost', is not a decision of the project.
    """
    if is_set("MAILERS"):
        return _of_mailers(read_setting("MAILERS"))
    if not (is_set("EMAIL_HOST") and read_setting("EMAIL_HOST")):
        return _nowhere("EMAIL_HOST is not set")
    return _relay(
        "the EMAIL_* settings",
        {
            "host": read_setting("EMAIL_HOST"),
            "port": read_setting("EMAIL_PORT"),
            "username": read_setting("EMAIL_HOST_USER"),
            "password": read_setting("EMAIL_HOST_PASSWORD"),
            "use_tls": read_setting("EMAIL_USE_TLS"),
            "use_ssl": read_setting("EMAIL_USE_SSL"),
            "timeout": read_setting("EMAIL_TIMEOUT"),
        },
    )


def _of_mailers(mailers: Any) -> Route:
    """Return the relay of ``MAILERS``; of several with a host: 'default', else the only one, else 'smtp'.

    In a project that queues mail with this app, 'default' is this app's backend, which needs no host, and another entry
    is the server.
    """
    if not isinstance(mailers, Mapping):
        return _nowhere("MAILERS is not a dictionary")
    named = {alias: options for alias, entry in mailers.items() if (options := _options(entry)) is not None}
    for alias in ("default", *(named if len(named) == 1 else ()), "smtp"):
        if alias in named:
            return _relay(f"MAILERS[{alias!r}]", named[alias])
    if named:
        several = ", ".join(map(repr, named))
        return _nowhere(f"MAILERS has several SMTP servers ({several}), none of them named 'smtp'")
    return _nowhere("MAILERS has no SMTP server with a host")


def _nowhere(why: str) -> Nowhere:
    return Nowhere(cause=Cause.NO_RELAY, reason=f"no SMTP configuration is active and {why}", in_settings=why)


def _options(entry: Any) -> Mapping[str, Any] | None:
    """Return the options of an SMTP mailer with a host; a mailer without BACKEND is Django's SMTP backend."""
    if not isinstance(entry, Mapping):
        return None
    options = entry.get("OPTIONS") or {}
    backend = str(entry.get("BACKEND") or _SMTP_BACKEND)
    ours_or_smtp = backend == _SMTP_BACKEND or backend.startswith("email_integration.") or ".smtp" in backend.lower()
    return options if ours_or_smtp and isinstance(options, Mapping) and options.get("host") else None


def _relay(where: str, options: Mapping[str, Any]) -> Route:
    use_tls, use_ssl = bool(options.get("use_tls")), bool(options.get("use_ssl"))
    if use_tls and use_ssl:
        return _nowhere(f"TLS and SSL are both on in {where}")
    try:
        return Relay(
            name=SETTINGS_NAME,
            host=str(options["host"]),
            port=int(options.get("port") or _port(use_tls=use_tls, use_ssl=use_ssl)),
            username=str(options.get("username") or ""),
            password=str(options.get("password") or ""),
            use_tls=use_tls,
            use_ssl=use_ssl,
            from_email=settings.DEFAULT_FROM_EMAIL,
            timeout=min(float(options.get("timeout") or _TIMEOUT), validators.longest_timeout()),
        )
    except (TypeError, ValueError):
        return _nowhere(f"the port or the timeout in {where} is not a number")


def _port(*, use_tls: bool, use_ssl: bool) -> int:
    """Return the usual port: only ``MAILERS`` can omit it."""
    return 465 if use_ssl else 587 if use_tls else 25
