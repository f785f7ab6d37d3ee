"""Check the environment of the app: the project, the storage, the server in the settings, and the database rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.utils import timezone
from django.utils.module_loading import import_string

from email_integration import conf, timezones
from email_integration.backends.base import ActiveConfigBackend
from email_integration.diagnosis import configuration
from email_integration.django_internals import is_set, read_setting
from email_integration.exceptions import InvalidMail
from email_integration.message import content
from email_integration.sending import journal_place
from email_integration.tasks import health


@register("email_integration")
def check_project(**kwargs: Any) -> list[CheckMessage]:
    """Check the project's settings that the app needs."""
    found: list[CheckMessage] = []
    if not apps.is_installed("simple_history"):
        found.append(
            Error(
                "INSTALLED_APPS lacks 'simple_history', which records each change and its author.",
                id="email_integration.E011",
            )
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
                hint="Without it, the history of SMTP configurations does not name the user who made a change in "
                "the admin.",
                id="email_integration.W002",
            )
        )
    if not getattr(settings, "SIMPLE_HISTORY_ENABLED", True):
        found.append(
            Warning(
                "SIMPLE_HISTORY_ENABLED is False, so changes of SMTP configurations are not recorded.",
                hint="The history then does not show which users activated, tested, changed or viewed a server.",
                id="email_integration.W020",
            )
        )
    if not settings.USE_TZ and timezones.changes_clocks(timezone.get_default_timezone()):
        found.append(
            Warning(
                f"USE_TZ is False, and the clocks of TIME_ZONE {settings.TIME_ZONE!r} change during the year.",
                hint="When the clocks change, mail may be sent an hour early or late, and mail that is being sent may "
                "be in doubt. Set USE_TZ = True, or a TIME_ZONE without clock changes.",
                id="email_integration.W013",
            )
        )
    return found


#: Loggers that also log about mail; '' is the root logger.
_ABOUT_MAIL = ("", "root", "email_integration", "celery", "kombu")


@register("email_integration")
def check_error_mail(**kwargs: Any) -> list[CheckMessage]:
    """Check that no log handler uses this app to mail the warnings of the app or of Celery."""
    logging_of_project: Any = settings.LOGGING
    if not isinstance(logging_of_project, Mapping) or not _mails_by_us():
        return []
    handlers = logging_of_project.get("handlers") or {}
    loggers = {**(logging_of_project.get("loggers") or {}), "root": logging_of_project.get("root") or {}}
    used = {
        handler
        for name, logger in loggers.items()
        if str(name).split(".")[0] in _ABOUT_MAIL and isinstance(logger, Mapping)
        for handler in logger.get("handlers") or ()
    }
    return [
        Warning(
            f"LOGGING['handlers'][{name!r}] sends warnings as mail through email_integration, which itself logs "
            "warnings about mail.",
            hint="The warning about a failed mail is sent as another mail, which fails too. Set the handler's level to "
            "ERROR, and give it another email_backend (Django 6.1: using). See docs/monitoring.md.",
            id="email_integration.W027",
        )
        for name, handler in handlers.items()
        if name in used
        and isinstance(handler, Mapping)
        and str(handler.get("class", "")).endswith("AdminEmailHandler")
        and not handler.get("email_backend")
        and not handler.get("using")
        and _level(handler.get("level")) < logging.ERROR
    ]


def _level(level: Any) -> int:
    if isinstance(level, int):
        return level
    return logging.getLevelNamesMapping().get(str(level or "NOTSET"), logging.NOTSET)


def _mails_by_us() -> bool:
    if is_set("MAILERS"):
        mailers = read_setting("MAILERS")
        entry = mailers.get("default") if isinstance(mailers, Mapping) else None
        path = entry.get("BACKEND") if isinstance(entry, Mapping) else ""
    else:
        path = read_setting("EMAIL_BACKEND")
    return str(path).startswith("email_integration.")


@register("email_integration")
def check_queues(**kwargs: Any) -> list[CheckMessage]:
    """Check that Celery knows the queues that carry wake-ups for mail. Uses no broker."""
    readable = isinstance(getattr(settings, "EMAIL_INTEGRATION", {}), dict)
    if not (readable and health.is_configured()) or health.is_eager():
        return []
    return [
        Error(
            f"{f'EMAIL_INTEGRATION[{what!r}]' if what.isupper() else what}: {why}.",
            hint="Add the queue to CELERY_TASK_QUEUES. CELERY_TASK_CREATE_MISSING_QUEUES is False, so its mail "
            "is not sent.",
            id="email_integration.E022",
        )
        for what, why in health.undeclared().items()
    ]


@register("email_integration")
def check_storage(**kwargs: Any) -> list[CheckMessage]:
    """Check that the storage of contents is private and persistent. Uses no network."""
    given = getattr(settings, "EMAIL_INTEGRATION", {})
    alias = conf.get("PAYLOAD_STORAGE") if isinstance(given, dict) else None
    if not isinstance(alias, str):
        return []  # reported by check_settings
    if alias not in settings.STORAGES:
        unknown = Warning(
            f"STORAGES has no {alias!r}, which EMAIL_INTEGRATION['PAYLOAD_STORAGE'] names.",
            hint="Until it is added, the contents of large mails are stored in the database.",
            id="email_integration.W008",
        )
        return [unknown] if "PAYLOAD_STORAGE" in given else []
    try:
        storage = content.storage_of_contents()
    except Exception as error:  # each storage has its own exceptions
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
                f"The storage {alias!r}, for the contents of large mails, keeps files in the memory of one process.",
                hint="Use a storage that the processes that submit mail share with the workers.",
                id="email_integration.E015",
            )
        ]
    return [
        Error(
            f"The storage {alias!r}, for the contents of large mails, {served}.",
            hint="Give it a separate location that no web server serves, and no base_url.",
            id="email_integration.E014",
        )
        for served in _served(alias, storage)
    ]


def _served(alias: str, storage: Any) -> list[str]:
    """Return the ways in which others may read the contents of the storage."""
    entry: Any = settings.STORAGES[alias]
    found = ["has a base_url"] if entry.get("OPTIONS", {}).get("base_url") else []
    if isinstance(storage, FileSystemStorage):
        ours = Path(storage.location).resolve()
        for name in ("MEDIA_ROOT", "STATIC_ROOT"):
            root = getattr(settings, name)
            theirs = Path(root).resolve() if root else None
            if theirs and (ours == theirs or theirs in ours.parents or ours in theirs.parents):
                found.append(f"and {name} are the same folder, or one contains the other")
    return found


@register("email_integration")
def check_server(**kwargs: Any) -> list[CheckMessage]:
    """Check the server that the project's own settings name, in EMAIL_* or MAILERS."""
    return [
        Error(f"{finding.text}.", hint=finding.hint, id="email_integration.E013")
        for finding in configuration.wrong_with_settings()
    ]


@register("email_integration")
def check_mailers(**kwargs: Any) -> list[CheckMessage]:
    """Check the options that MAILERS passes to the backends of this app (Django 6.1 and later)."""
    mailers = read_setting("MAILERS") if is_set("MAILERS") else {}
    entries = mailers if isinstance(mailers, Mapping) else {}
    return [
        Error(f"MAILERS[{alias!r}] cannot be used: {problem}", hint="Correct MAILERS.", id="email_integration.E021")
        for alias, entry in entries.items()
        if isinstance(entry, Mapping) and (problem := _wrong_with_mailer(alias, entry))
    ]


def _wrong_with_mailer(alias: str, entry: Mapping[str, Any]) -> str:
    """Create the backend of an entry, if it is one of ours, and return the error or ''. Opens no connection."""
    path = str(entry.get("BACKEND") or "")
    try:
        backend = import_string(path) if path else None
        if isinstance(backend, type) and issubclass(backend, ActiveConfigBackend):
            backend(alias=alias, **(entry.get("OPTIONS") or {}))
    except ImportError as error:
        return str(error) if path.startswith("email_integration.") else ""  # other backends are not checked here
    except (InvalidMail, ImproperlyConfigured, TypeError) as error:
        return str(error).removeprefix(f"MAILERS[{alias!r}]: ")
    return ""


@register("email_integration", deploy=True)
def check_journals(**kwargs: Any) -> list[CheckMessage]:
    """Check that the journals of workers can be written and persist; only with ``check --deploy``.

    Run it where the workers run, as their user. ``validate_notification_setup`` runs it too.
    """
    return [
        Warning(problem.text, hint=problem.hint, id="email_integration.W028") for problem in journal_place.problems()
    ]


@register(Tags.security, deploy=True)
def check_blockers(**kwargs: Any) -> list[CheckMessage]:
    """Warn of blockers that must not stay active in production; only with ``check --deploy``."""
    return [
        Warning(f"EMAIL_INTEGRATION[{key!r}] is set: {what}.", id=number)
        for key, what, number in (
            ("EMAIL_PAUSED", "no mail is sent", "email_integration.W003"),
            ("REDIRECT_ALL_TO", "no mail reaches its recipients", "email_integration.W004"),
            ("ALLOWED_RECIPIENTS", "mail to all other recipients is withheld", "email_integration.W005"),
        )
        if conf.get(key)
    ]
