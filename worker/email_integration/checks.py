"""System checks: what can be known to be wrong without asking the network. The ids stay the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.db import DatabaseError, InterfaceError, router

from . import conf, fields, references, web
from .alerts import channels
from .delivery import content, safety
from .diagnosis import configuration
from .metrics import access
from .models import SMTPConfig


@register("email_integration")
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check the keys of EMAIL_INTEGRATION by themselves, then against each other."""
    given = getattr(settings, "EMAIL_INTEGRATION", {})
    if not isinstance(given, dict):
        return [Error("EMAIL_INTEGRATION must be a dictionary.", id="email_integration.E001")]
    unknown = [
        Error(
            f"EMAIL_INTEGRATION has no key {key!r}.",
            hint=f"It has {', '.join(sorted(conf.DEFAULTS))}.",
            id="email_integration.E002",
        )
        for key in sorted(set(given) - set(conf.DEFAULTS), key=str)
    ]
    wrong = {key: must_be for key in conf.DEFAULTS if (must_be := _wrong(key, conf.get(key)))}
    found: list[CheckMessage] = [
        *unknown,
        *(
            Error(f"EMAIL_INTEGRATION[{key!r}] must be {must_be}.", id="email_integration.E007")
            for key, must_be in wrong.items()
        ),
    ]
    if not wrong.keys() & {"LEASE", "REPLY_TIMEOUT"} and conf.get("LEASE") <= conf.get("REPLY_TIMEOUT"):
        found.append(
            Error(
                "EMAIL_INTEGRATION['LEASE'] must be longer than REPLY_TIMEOUT.",
                hint="Otherwise a second worker may send a mail while the first still waits for the server's reply.",
                id="email_integration.E003",
            )
        )
    if conf.get("IN_DOUBT") not in ("resend", "hold"):
        found.append(Error("EMAIL_INTEGRATION['IN_DOUBT'] must be 'resend' or 'hold'.", id="email_integration.E004"))
    if not wrong.keys() & {"RETRY_FIRST", "RETRY_MAX"} and conf.get("RETRY_MAX") < conf.get("RETRY_FIRST"):
        found.append(
            Error("EMAIL_INTEGRATION['RETRY_MAX'] must not be shorter than RETRY_FIRST.", id="email_integration.E008")
        )
    return [*found, *_check_keys(), *_check_recipients(), *_check_cache()]


def _wrong(key: str, value: Any) -> str:
    """What the value of ``key`` must be; '' when it is that. By the type of the default."""
    match conf.DEFAULTS[key]:
        case bool():
            return "" if isinstance(value, bool) else "True or False"
        case int():
            least = 0 if key in conf.MAY_BE_ZERO else 1
            good = isinstance(value, int) and not isinstance(value, bool) and value >= least
            return "" if good else f"a whole number, {least} or more"
        case float():
            zero = key in conf.MAY_BE_ZERO
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            good = number and (value > 0 or (value == 0 and zero))
            return "" if good else f"a number of seconds, {'zero or more' if zero else 'more than zero'}"
        case list():
            return "" if isinstance(value, list | tuple) else "a list"
        case dict():
            return "" if isinstance(value, dict) else "a dictionary"
        case _:
            return "" if isinstance(value, str) else "text"


def _check_keys() -> list[CheckMessage]:
    try:
        fields.keys()
    except ImproperlyConfigured as error:
        # One can begin without; but not when each mail has to be sealed.
        harmless = settings.DEBUG and not conf.get("SMTP_PASSWORD_KEYS") and not conf.get("ENCRYPT_CONTENT")
        kind = Warning if harmless else Error
        return [kind(str(error), id="email_integration.E005")]
    return []


def _check_recipients() -> list[CheckMessage]:
    found: list[CheckMessage] = []
    parsed = []
    for key, parse in (("REDIRECT_ALL_TO", safety.redirections), ("ALLOWED_RECIPIENTS", safety.permissions)):
        try:
            parsed.append(parse(conf.get(key)))
        except ImproperlyConfigured as error:
            found.append(Error(str(error), hint="Until then no mail is sent.", id="email_integration.E009"))
    if found:
        return found
    redirect_to, allowed = parsed
    return [
        Error(
            f"{address} in EMAIL_INTEGRATION['REDIRECT_ALL_TO'] is not in ALLOWED_RECIPIENTS, so it gets no mail.",
            id="email_integration.E010",
        )
        for address in safety.plan(redirect_to, allowed=allowed).withheld
    ]


def _check_cache() -> list[CheckMessage]:
    alias = conf.get("CACHE")
    backend = str(settings.CACHES.get(alias, {}).get("BACKEND", "")) if isinstance(alias, str) else ""
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


@register("email_integration")
def check_project(**kwargs: Any) -> list[CheckMessage]:
    """Check what the app needs of the project around it."""
    found: list[CheckMessage] = []
    if not apps.is_installed("simple_history"):
        found.append(
            Error("INSTALLED_APPS lacks 'simple_history', which records who changed what.", id="email_integration.E011")
        )
    backend = str(getattr(settings, "CELERY_RESULT_BACKEND", "") or "")
    if backend.startswith(("django-db", "django-cache")) and not apps.is_installed("django_celery_results"):
        found.append(
            Error(
                f"CELERY_RESULT_BACKEND is {backend!r}, but INSTALLED_APPS lacks 'django_celery_results'.",
                id="email_integration.E012",
            )
        )
    if "simple_history.middleware.HistoryRequestMiddleware" not in settings.MIDDLEWARE:
        found.append(
            Warning(
                "MIDDLEWARE lacks 'simple_history.middleware.HistoryRequestMiddleware'.",
                hint="Without it the history of SMTP configurations does not say who made a change in the admin.",
                id="email_integration.W002",
            )
        )
    return found


@register("email_integration")
def check_storage(**kwargs: Any) -> list[CheckMessage]:
    """Check that the storage of contents is private and lasting. Asks no network."""
    given = getattr(settings, "EMAIL_INTEGRATION", {})
    alias = conf.get("PAYLOAD_STORAGE") if isinstance(given, dict) else None
    if not isinstance(alias, str):
        return []  # said by check_settings
    if alias not in settings.STORAGES:
        unknown = Warning(
            f"STORAGES has no {alias!r}, which EMAIL_INTEGRATION['PAYLOAD_STORAGE'] names.",
            hint="Until it has, the contents of large mails are in the database.",
            id="email_integration.W008",
        )
        return [unknown] if "PAYLOAD_STORAGE" in given else []
    try:
        storage = content.storage_of_contents()
    except Exception as error:  # each storage has its own
        return [
            Error(
                f"The storage {alias!r}, for the contents of large mails, cannot be used ({type(error).__name__}).",
                hint="Correct STORAGES.",
                id="email_integration.E016",
            )
        ]
    if isinstance(storage, InMemoryStorage):
        return [
            Error(
                f"The storage {alias!r}, for the contents of large mails, is in the memory of one process.",
                hint="Use one that the processes that submit mail share with the workers.",
                id="email_integration.E015",
            )
        ]
    return [
        Error(
            f"The storage {alias!r}, for the contents of large mails, {served}.",
            hint="Give it a location of its own that nothing serves, and no base_url.",
            id="email_integration.E014",
        )
        for served in _served(alias, storage)
    ]


def _served(alias: str, storage: Any) -> list[str]:
    """How others may read what is in the storage."""
    entry: Any = settings.STORAGES[alias]
    found = ["has a base_url"] if entry.get("OPTIONS", {}).get("base_url") else []
    if isinstance(storage, FileSystemStorage):
        ours = Path(storage.location).resolve()
        for name in ("MEDIA_ROOT", "STATIC_ROOT"):
            root = getattr(settings, name)
            theirs = Path(root).resolve() if root else None
            if theirs and (ours == theirs or theirs in ours.parents or ours in theirs.parents):
                found.append(f"and {name} are one folder, or one lies within the other")
    return found


@register("email_integration")
def check_server(**kwargs: Any) -> list[CheckMessage]:
    """Check the server that the project's own settings name, EMAIL_* or MAILERS."""
    return [
        Error(f"{finding.text}.", hint=finding.mend, id="email_integration.E013")
        for finding in configuration.wrong_with_settings()
    ]


@register(Tags.database)
def check_rows(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check the active configuration and the stored passwords; only with ``check --database`` and ``migrate``.

    Warnings, because an error would keep ``migrate`` from running.
    """
    if router.db_for_read(SMTPConfig) not in (databases or ()):
        return []
    try:
        found = configuration.wrong_with_rows()
    except (DatabaseError, InterfaceError):  # not there, or not migrated yet
        return []
    ids = {"smtp.password": "email_integration.W006", "smtp.valid": "email_integration.W007"}
    return [Warning(f"{finding.text}.", hint=finding.mend, id=ids[finding.check]) for finding in found]


@register(Tags.security, deploy=True)
def check_brakes(**kwargs: Any) -> list[CheckMessage]:
    """Warn of what must not be forgotten in production; only with ``check --deploy``."""
    return [
        Warning(f"EMAIL_INTEGRATION[{key!r}] is set: {what}.", id=number)
        for key, what, number in (
            ("EMAIL_PAUSED", "no mail is sent", "email_integration.W003"),
            ("REDIRECT_ALL_TO", "no mail reaches its recipients", "email_integration.W004"),
            ("ALLOWED_RECIPIENTS", "mail to all others is withheld", "email_integration.W005"),
        )
        if conf.get(key)
    ]


@register("email_integration")
def check_metrics(**kwargs: Any) -> list[CheckMessage]:
    """Check that figures that are wanted can be had, and not by everybody."""
    if not isinstance(getattr(settings, "EMAIL_INTEGRATION", {}), dict):
        return []  # said by check_settings
    wanted = [key for key in ("METRICS_TOKEN", "WORKER_METRICS_PORT") if conf.get(key)]
    found: list[CheckMessage] = []
    if wanted and not access.is_installed():
        found.append(
            Warning(
                f"EMAIL_INTEGRATION[{wanted[0]!r}] is set, but there are no figures: {access.MISSING}.",
                id="email_integration.W009",
            )
        )
    if conf.get("WORKER_METRICS_PORT") and not conf.get("METRICS_TOKEN") and not _is_loopback():
        found.append(
            Warning(
                "EMAIL_INTEGRATION['WORKER_METRICS_HOST'] is not this machine alone, and METRICS_TOKEN is empty.",
                hint="Whoever reaches the port of a worker may read its figures, names of configurations among them.",
                id="email_integration.W010",
            )
        )
    return found


@register("email_integration")
def check_traces(**kwargs: Any) -> list[CheckMessage]:
    """Check that traces that are wanted can be had."""
    if not isinstance(getattr(settings, "EMAIL_INTEGRATION", {}), dict):
        return []  # said by check_settings
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
def check_alerts(**kwargs: Any) -> list[CheckMessage]:
    """Check that alerts can be told where the settings say. Asks no network, and not the database."""
    if not isinstance(getattr(settings, "EMAIL_INTEGRATION", {}), dict):
        return []  # said by check_settings
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
def check_references(**kwargs: Any) -> list[CheckMessage]:
    """Check what SMTP passwords may refer to, and who resolves it. Asks nobody for a secret."""
    if not isinstance(getattr(settings, "EMAIL_INTEGRATION", {}), dict):
        return []  # said by check_settings
    if any(_wrong(key, conf.get(key)) for key in ("SECRET_REFERENCES", "SECRET_PROVIDERS")):
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
