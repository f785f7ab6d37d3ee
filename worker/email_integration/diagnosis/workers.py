"""Diagnose cache, broker, workers, beat and results: the path of a mail from the database to the server."""

from __future__ import annotations

import secrets
import time

from django.apps import apps
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError

from email_integration import conf
from email_integration.caching import databases, shared_cache
from email_integration.fields import fingerprints
from email_integration.ledger import clock
from email_integration.models import Delivery, DeliveryBatch
from email_integration.outcomes import schedule
from email_integration.queue import sweeper
from email_integration.tasks import health

from .database import SKEW_NOTICED
from .findings import Finding, counted, error, info, ok, warning

#: Cache backends that other processes cannot see.
UNSHARED = (".LocMemCache", ".DummyCache")


def cache_is_shared() -> bool:
    """Return whether other processes can read the configuration generation in the cache."""
    backend = str(settings.CACHES.get(conf.get("CACHE"), {}).get("BACKEND", ""))
    return not backend.endswith(UNSHARED)


def diagnose_cache() -> Finding:
    """Report whether a configuration change reaches other processes immediately."""
    alias = conf.get("CACHE")
    if not cache_is_shared():
        return warning(
            "cache",
            f"The cache “{alias}” is not shared between processes: workers follow a changed configuration only after "
            f"{conf.get('CONFIG_CACHE_TTL'):g} s",
            "Use Redis, Memcached or the database cache in CACHES.",
        )
    key, value = "email_integration:check", secrets.token_hex(8)
    try:
        with shared_cache() as cache:
            cache.set(key, value, timeout=60)
            kept = cache.get(key)
            cache.delete(key)
    except InvalidCacheBackendError as failure:
        return error("cache", f"The cache “{alias}” cannot be used: {failure}", "Correct CACHES.")
    except Exception as failure:  # each cache backend has its own exceptions
        table = settings.CACHES[alias].get("LOCATION")
        if in_databases := databases(caches[alias]):
            return error(
                "cache",
                f"The cache “{alias}” cannot use its table “{table}” in the database “{in_databases[-1]}” "
                f"({type(failure).__name__}): workers follow a changed configuration only after up to "
                f"{conf.get('CONFIG_CACHE_TTL'):g} s",
                "Run `manage.py createcachetable`.",
            )
        return error(
            "cache",
            f"The cache “{alias}” cannot be reached ({type(failure).__name__}): workers follow a changed configuration "
            f"only after up to {conf.get('CONFIG_CACHE_TTL'):g} s",
            "Check that its server runs and that the setting CACHES is right.",
        )
    if kept != value:
        text = f"The cache “{alias}” does not return a value that was just stored in it"
        return error("cache", text, "Check the memory limit of its server.")
    return ok("cache", f"The cache “{alias}” works and is shared")


def diagnose_celery(*, patience: float) -> list[Finding]:
    """Report on broker, workers, beat and results. Workers have ``patience`` seconds to answer."""
    if not health.is_configured():
        return [
            error(
                "celery",
                "Celery's app is not loaded in this process",
                "Import it in the __init__.py of the project, as Celery's guide for Django describes.",
            )
        ]
    if health.is_eager():
        eager = warning(
            "celery",
            "Tasks run in the process that calls them (CELERY_TASK_ALWAYS_EAGER)",
            "Use this in tests only: a mail that cannot be sent at once waits for a worker.",
        )
        return [eager, diagnose_results()]
    failure = health.broker_failure(timeout=conf.get("BROKER_TIMEOUT"))
    if failure is not None:
        return [
            error(
                "broker",
                f"The broker {health.broker()} did not answer ({failure}), so the workers cannot be checked",
                "Check that it runs and that CELERY_BROKER_URL is right. Meanwhile, mail is accepted and waits.",
            ),
            diagnose_beat(),
            diagnose_results(),
        ]
    return [
        ok("broker", f"The broker {health.broker()} answers"),
        *diagnose_workers(timeout=patience),
        *diagnose_keys(timeout=patience),
        diagnose_beat(),
        diagnose_results(),
    ]


def diagnose_workers(*, timeout: float) -> list[Finding]:
    """Report whether workers serve the queues of this app. Waits ``timeout`` seconds for their answers."""
    found = health.workers(timeout=timeout)
    if not found:
        return [
            error(
                "worker",
                f"No worker answered within {timeout:g} s",
                f"Start a worker: celery -A PROJECT worker --queues {','.join(health.queues())}",
            )
        ]
    wrong = []
    for queue in health.queues():
        takers = [worker for worker in found if queue in worker.queues]
        if not takers:
            wrong.append(
                error(
                    "worker.queues",
                    f"No worker consumes the queue “{queue}” (workers that answered: {len(found)})",
                    f"Start a worker with --queues {queue}",
                )
            )
        wrong.extend(
            error(
                "worker.tasks",
                f"The worker {worker.name} consumes the queue “{queue}” but does not know "
                f"{', '.join(sorted(worker.unknown))}, so it discards our messages",
                "Stop the worker, or make it load this project.",
            )
            for worker in takers
            if worker.unknown
        )
    return list(dict.fromkeys(wrong)) or [ok("worker", f"Workers that answer: {_names(found)}")]


def diagnose_keys(*, timeout: float) -> list[Finding]:
    """Report whether workers and this process can decrypt each other's data.

    Waits ``timeout`` seconds for their answers.
    """
    try:
        ours = fingerprints()
    except ImproperlyConfigured:  # reported under 'keys'
        return []
    found = health.keys_of_workers(timeout=timeout)
    others = [name for name, theirs in found.items() if not theirs or theirs[0] not in ours or ours[0] not in theirs]
    wrong = [
        error(
            "worker.keys",
            f"The worker {name} has other keys in SMTP_PASSWORD_KEYS than this process: one of them cannot decrypt the "
            "mails and passwords that the other stores",
            "Give all processes the same keys, from one file or one secret store, and restart the worker.",
        )
        for name in others
    ]
    wrong += [
        warning(
            "worker.keys",
            f"The worker {name} lacks a key of SMTP_PASSWORD_KEYS that this process has: it cannot decrypt data that "
            "is still encrypted with this key",
            "Restart the worker, or run `manage.py rotate_smtp_passwords` and remove the key here too.",
        )
        for name, theirs in found.items()
        if name not in others and not set(theirs) >= set(ours)
    ]
    return wrong or ([ok("worker.keys", "The workers have all keys of this process")] if found else [])


def _names(found: list[health.Worker]) -> str:
    names = [worker.name for worker in found]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def diagnose_beat() -> Finding:
    """Report whether a periodic sweep looks for deferred mail and for mail whose wake-up was lost."""
    patience = max(4 * conf.get("SWEEP_INTERVAL"), 75.0)  # cron runs at most once a minute
    hint = "Start beat: celery -A PROJECT beat. Or run `manage.py sweep_deliveries` every minute with cron."
    overdue = _overdue(patience)
    if overdue:
        late = counted(overdue, "delivery has", "deliveries have")
        return error("beat", f"{late} been due for more than {patience:.0f} s: no sweep runs", hint)
    if not cache_is_shared():
        return info("beat", "Without a shared cache, it is not known whether sweeps run")
    try:
        heartbeat = sweeper.last_heartbeat()
    except Exception:  # reported under 'cache'
        text = "The cache cannot be reached, so it is not known whether sweeps run"
        return warning("beat", text, "See the finding about the cache.")
    if heartbeat is None or time.time() - heartbeat > patience:
        return error("beat", f"No sweep ran in the last {patience:.0f} s", hint)
    ago = time.time() - heartbeat
    if ago < -SKEW_NOTICED:
        return warning(
            "beat",
            f"By the clock of its host, the last sweep ran {-ago:.0f} s in the future",
            "Synchronise the clocks (NTP).",
        )
    return ok("beat", f"The last sweep ran {max(ago, 0):.0f} s ago")


def _overdue(patience: float) -> int:
    try:
        if DeliveryBatch.objects.exists():
            return 0  # a batch is being sent: more mail is due than one batch holds
        limit = clock.now() - schedule.seconds(patience)
        return Delivery.objects.filter(next_at__lt=limit, batch="").count()
    except DatabaseError:  # reported under 'database'
        return 0


def diagnose_results() -> Finding:
    """Report whether a caller can wait for the result of a mail."""
    backend = str(getattr(settings, "CELERY_RESULT_BACKEND", "") or "")
    if backend.startswith(("django-db", "django-cache")) and not apps.is_installed("django_celery_results"):
        return error(
            "results",
            f"CELERY_RESULT_BACKEND is {backend}, but 'django_celery_results' is not in INSTALLED_APPS",
            "Add it to INSTALLED_APPS, and run `manage.py migrate`.",
        )
    if not health.keeps_results():
        return warning(
            "results",
            "There is no result backend, so AsyncResult.get() cannot wait for a mail",
            "Set CELERY_RESULT_BACKEND, for example to 'django-db'.",
        )
    failure = health.result_failure()
    if failure is not None:
        return error(
            "results",
            f"The result backend cannot store and read a result ({failure})",
            "Check CELERY_RESULT_BACKEND. With 'django-db', check also that `manage.py migrate` has been run.",
        )
    return ok("results", "Results can be stored and read")
