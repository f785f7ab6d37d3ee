"""What a project may switch on: metrics, traces, alerts, passwords that are kept elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from email_integration import conf, references, web
from email_integration.alerts import channels
from email_integration.metrics import access

from .keys import wrong_with

_Check = Callable[..., list[CheckMessage]]


def _if_settings_are_readable(check: _Check) -> _Check:
    """Say nothing about settings that ``check_settings`` says are no dictionary."""

    @functools.wraps(check)
    def checked(**kwargs: Any) -> list[CheckMessage]:
        return check(**kwargs) if isinstance(getattr(settings, "EMAIL_INTEGRATION", {}), dict) else []

    return checked


@register("email_integration")
@_if_settings_are_readable
def check_metrics(**kwargs: Any) -> list[CheckMessage]:
    """Check that metrics that are wanted can be had, and not by everybody."""
    wanted = [key for key in ("METRICS_TOKEN", "WORKER_METRICS_PORT") if conf.get(key)]
    found: list[CheckMessage] = []
    if wanted and not access.is_installed():
        found.append(
            Warning(
                f"EMAIL_INTEGRATION[{wanted[0]!r}] is set, but there are no metrics: {access.MISSING}.",
                id="email_integration.W009",
            )
        )
    if conf.get("WORKER_METRICS_PORT") and not conf.get("METRICS_TOKEN") and not _is_loopback():
        found.append(
            Warning(
                "EMAIL_INTEGRATION['WORKER_METRICS_HOST'] is not this machine alone, and METRICS_TOKEN is empty.",
                hint="Whoever reaches the port of a worker may read its metrics, names of configurations among them.",
                id="email_integration.W010",
            )
        )
    return found


@register("email_integration")
@_if_settings_are_readable
def check_traces(**kwargs: Any) -> list[CheckMessage]:
    """Check that traces that are wanted can be had."""
    if conf.get("TRACES") is True and find_spec("opentelemetry") is None:
        return [
            Warning(
                "EMAIL_INTEGRATION['TRACES'] is set, but opentelemetry-api is not installed.",
                hint="pip install 'celery-mail-dispatch[otel]'",
                id="email_integration.W011",
            )
        ]
    return []


@register("email_integration")
@_if_settings_are_readable
def check_alerts(**kwargs: Any) -> list[CheckMessage]:
    """Check that alerts can be sent where the settings say. Asks no network, and not the database."""
    found: list[CheckMessage] = []
    url = conf.get("ALERT_WEBHOOK_URL")
    if url and not web.is_url(url):
        found.append(
            Error(
                "EMAIL_INTEGRATION['ALERT_WEBHOOK_URL'] must be an https:// URL, or an http:// one of this machine.",
                hint="Until then no alert is sent there.",
                id="email_integration.E017",
            )
        )
    if conf.get("ALERT_CONFIGURATION") and not channels.admins():
        found.append(
            Error(
                "EMAIL_INTEGRATION['ALERT_CONFIGURATION'] is set, and ADMINS, whom alerts are written to, is empty.",
                id="email_integration.E018",
            )
        )
    return found


@register("email_integration")
@_if_settings_are_readable
def check_references(**kwargs: Any) -> list[CheckMessage]:
    """Check what SMTP passwords may refer to, and who resolves it. Asks nobody for a secret."""
    if any(wrong_with(key, conf.get(key)) for key in ("SECRET_REFERENCES", "SECRET_PROVIDERS")):
        return []  # likewise
    return [
        *(
            Error(
                f"{pattern!r} in EMAIL_INTEGRATION['SECRET_REFERENCES'] {wrong}.",
                hint="Such as 'env:SMTP_*' or 'file:/run/secrets/smtp_*'.",
                id="email_integration.E019",
            )
            for pattern in conf.get("SECRET_REFERENCES")
            if (wrong := references.wrong_with_pattern(pattern))
        ),
        *(
            Error(f"EMAIL_INTEGRATION['SECRET_PROVIDERS'][{kind!r}] {wrong}.", id="email_integration.E020")
            for kind, path in conf.get("SECRET_PROVIDERS").items()
            if (wrong := references.wrong_with_provider(kind, path))
        ),
        *_check_boto3(),
    ]


def _check_boto3() -> list[CheckMessage]:
    asked = any(str(pattern).startswith("aws-secretsmanager:") for pattern in conf.get("SECRET_REFERENCES"))
    if asked and find_spec("boto3") is None:
        return [
            Warning(
                "EMAIL_INTEGRATION['SECRET_REFERENCES'] allows secrets of AWS, but boto3 is not installed.",
                hint="pip install 'celery-mail-dispatch[aws]'",
                id="email_integration.W012",
            )
        ]
    return []


def _is_loopback() -> bool:
    return str(conf.get("WORKER_METRICS_HOST")).startswith(("127.", "localhost", "::1"))
