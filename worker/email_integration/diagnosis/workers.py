"""Cache, broker, workers, beat, results: what takes a mail from the database to the server."""

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

#: Caches that one process keeps to itself.
UNSHARED = (".LocMemCache", ".DummyCache")


def cache_is_shared() -> bool:
    """Whether the cache that carries the configuration generation reaches other processes."""
    backend = str(settings.CACHES.get(conf.get("CACHE"), {}).get("BACKEND", ""))
    return not backend.endswith(UNSHARED)


def diagnose_cache() -> Finding:
    """Can a change of the configuration reach other processes at once?"""
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
    except Exception as failure:  # every cache backend has exceptions of its own
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
            f"The cache “{alias}” is out of reach ({type(failure).__name__}): workers follow a changed configuration "
            f"only after up to {conf.get('CONFIG_CACHE_TTL'):g} s",
            "Check that its server runs, and the CACHES setting.",
        )
    if kept != value:
        return error("cache", f"The cache “{alias}” does not keep what it is given", "Check its server's memory limit.")
    return ok("cache", f"Cache “{alias}” is there and shared")


def diagnose_celery(*, patience: float) -> list[Finding]:
    """Broker, workers, beat, results; workers have ``patience`` seconds to answer."""
    if not health.is_configured():
        return [
            error(
                "celery",
                "Celery's app is not loaded in this process",
                "Import it in the __init__.py of the project, as Celery's guide for Django says.",
            )
        ]
    if health.is_eager():
        eager = warning(
            "celery",
            "Tasks run in the process that calls them (CELERY_TASK_ALWAYS_EAGER)",
            "Leave that to tests: a mail that cannot be sent at once waits for a worker.",
        )
        return [eager, diagnose_results()]
    failure = health.broker_failure(timeout=conf.get("BROKER_TIMEOUT"))
    if failure is not None:
        return [
            error(
                "broker",
                f"The broker {health.broker()} is out of reach ({failure}), so workers cannot be asked",
                "Check that it runs, and CELERY_BROKER_URL. Mail is taken meanwhile, and waits.",
            ),
            diagnose_beat(),
            diagnose_results(),
        ]
    return [
        ok("broker", f"Broker {health.broker()} is there"),
        *diagnose_workers(timeout=patience),
        *diagnose_keys(timeout=patience),
        diagnose_beat(),
        diagnose_results(),
    ]


def diagnose_workers(*, timeout: float) -> list[Finding]:
    """Does anyone take our tasks?"""
    found = health.workers(timeout=timeout)
    if not found:
        return [
            error(
                "worker",
                f"No worker answered within {timeout:g} s",
                f"Start one: celery -A PROJECT worker --queues {','.join(health.queues())}",
            )
        ]
    wrong = []
    for queue in health.queues():
        takers = [worker for worker in found if queue in worker.queues]
        if not takers:
            wrong.append(
                error(
                    "worker.queues",
                    f"{len(found)} workers answer, but none takes from the queue “{queue}”",
                    f"Start one with --queues {queue}",
                )
            )
        wrong.extend(
            error(
                "worker.tasks",
                f"The worker {worker.name} takes from the queue “{queue}” but does not know "
                f"{', '.join(sorted(worker.unknown))}: it throws our messages away",
                "Stop it, or have it load this project.",
            )
            for worker in takers
            if worker.unknown
        )
    return list(dict.fromkeys(wrong)) or [ok("worker", f"Workers that answer: {_names(found)}")]


def diagnose_keys(*, timeout: float) -> list[Finding]:
    """Can workers open what is sealed here, and the other way round?"""
    try:
        ours = fingerprints()
    except ImproperlyConfigured:  # said under 'keys'
        return []
    found = health.keys_of_workers(timeout=timeout)
    others = [name for name, theirs in found.items() if not theirs or theirs[0] not in ours or ours[0] not in theirs]
    wrong = [
        error(
            "worker.keys",
            f"The worker {name} has other keys in SMTP_PASSWORD_KEYS than this process: it cannot open the mails and "
            "passwords that are stored here, or stores what cannot be opened here",
            "Give all processes the same keys, from one file or one place for secrets, and restart the worker.",
        )
        for name in others
    ]
    wrong += [
        warning(
            "worker.keys",
            f"The worker {name} lacks a key of SMTP_PASSWORD_KEYS that this process has: it cannot open what is still "
            "sealed under that one",
            "Restart the worker, or run `manage.py rotate_smtp_passwords` and take the key out here too.",
        )
        for name, theirs in found.items()
        if name not in others and not set(theirs) >= set(ours)
    ]
    return wrong or ([ok("worker.keys", "The workers have the keys that this process has")] if found else [])


def _names(found: list[health.Worker]) -> str:
    names = [worker.name for worker in found]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def diagnose_beat() -> Finding:
    """Does something look for mail that was put off, or whose message got lost?"""
    patience = max(4 * conf.get("SWEEP_INTERVAL"), 75.0)  # cron's minute, for those who sweep that way
    hint = "Start beat: celery -A PROJECT beat. Or have cron run `manage.py sweep_deliveries` every minute."
    overdue = _overdue(patience)
    if overdue:
        late = counted(overdue, "delivery has", "deliveries have")
        return error("beat", f"{late} been due for more than {patience:.0f} s: nothing sweeps", hint)
    if not cache_is_shared():
        return info("beat", "Whether anything sweeps cannot be told without a shared cache")
    try:
        heartbeat = sweeper.last_heartbeat()
    except Exception:  # said under 'cache'
        return warning("beat", "Whether anything sweeps cannot be told while the cache is out of reach", "See above.")
    if heartbeat is None or time.time() - heartbeat > patience:
        return error("beat", f"No sweep in the last {patience:.0f} s", hint)
    ago = time.time() - heartbeat
    if ago < -SKEW_NOTICED:
        return warning(
            "beat",
            f"The last sweep was made {-ago:.0f} s in the future, by its host's clock",
            "Synchronise the clocks (NTP).",
        )
    return ok("beat", f"The last sweep was {max(ago, 0):.0f} s ago")


def _overdue(patience: float) -> int:
    try:
        if DeliveryBatch.objects.exists():
            return 0  # there is more than can be sent at once, and it is being sent
        limit = clock.now() - schedule.seconds(patience)
        return Delivery.objects.filter(next_at__lt=limit, batch="").count()
    except DatabaseError:  # said under 'database'
        return 0


def diagnose_results() -> Finding:
    """Can a caller wait for the end of a mail?"""
    backend = str(getattr(settings, "CELERY_RESULT_BACKEND", "") or "")
    if backend.startswith(("django-db", "django-cache")) and not apps.is_installed("django_celery_results"):
        return error(
            "results",
            f"CELERY_RESULT_BACKEND is {backend}",
            "Add 'django_celery_results' to INSTALLED_APPS and migrate.",
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
            "Check CELERY_RESULT_BACKEND, and with 'django-db' that `manage.py migrate` has been run.",
        )
    return ok("results", "Results can be stored and read")
