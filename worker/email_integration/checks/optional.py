"""Check optional features: metrics, traces, alerts, and passwords that are stored elsewhere."""

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
    """Skip ``check`` if EMAIL_INTEGRATION is not a dictionary, which ``check_settings`` reports."""

    @functools.wraps(check)
    def checked(**kwargs: Any) -> list[CheckMessage]:
        return check(**kwargs) if isinstance(getattr(settings, "EMAIL_INTEGRATION", {}), dict) else []

    return checked


@register("email_integration")
@_if_settings_are_readable
def check_metrics(**kwargs: Any) -> list[CheckMessage]:
    """Check that enabled metrics can be produced and are not public."""
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
                "EMAIL_INTEGRATION['WORKER_METRICS_HOST'] is not a loopback address, and METRICS_TOKEN is empty.",
                hint="Every client that reaches the port of a worker can read its metrics, which contain the names of "
                "configurations. Set METRICS_TOKEN, or set WORKER_METRICS_HOST to '127.0.0.1'.",
                id="email_integration.W010",
            )
        )
    return found


@register("email_integration")
@_if_settings_are_readable
def check_traces(**kwargs: Any) -> list[CheckMessage]:
    """Check that enabled traces can be produced."""
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
    """Check that alerts can be sent to the places in the settings. Uses neither the network nor the database."""
    found: list[CheckMessage] = []
    url = conf.get("ALERT_WEBHOOK_URL")
    if url and not web.is_url(url):
        found.append(
            Error(
                "EMAIL_INTEGRATION['ALERT_WEBHOOK_URL'] must be an https:// URL, or an http:// URL of this machine.",
                hint="No alert is sent there until this is corrected.",
                id="email_integration.E017",
            )
        )
    if conf.get("ALERT_CONFIGURATION") and not channels.admins():
        found.append(
            Error(
                "EMAIL_INTEGRATION['ALERT_CONFIGURATION'] is set, but ADMINS, the recipients of alerts, is empty.",
                id="email_integration.E018",
            )
        )
    return found


@register("email_integration")
@_if_settings_are_readable
def check_references(**kwargs: Any) -> list[CheckMessage]:
    """Check the references that SMTP passwords may use and their providers. Fetches no secret."""
    if any(wrong_with(key, conf.get(key)) for key in ("SECRET_REFERENCES", "SECRET_PROVIDERS")):
        return []  # reported by check_settings
    return [
        *(
            Error(
                f"{pattern!r} in EMAIL_INTEGRATION['SECRET_REFERENCES'] {wrong}.",
                hint="Use a pattern such as 'env:SMTP_*' or 'file:/run/secrets/smtp_*'.",
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
                "EMAIL_INTEGRATION['SECRET_REFERENCES'] allows secrets from AWS, but boto3 is not installed.",
                hint="pip install 'celery-mail-dispatch[aws]'",
                id="email_integration.W012",
            )
        ]
    return []


def _is_loopback() -> bool:
    return str(conf.get("WORKER_METRICS_HOST")).startswith(("127.", "localhost", "::1"))
