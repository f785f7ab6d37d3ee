"""``/healthz``: this process answers. ``/readyz``: mail that is submitted now will be sent.

Neither response contains anything secret: no address, no host, no name of a person.
"""

from __future__ import annotations

from dataclasses import asdict

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from email_integration import conf
from email_integration.diagnosis import Finding, Level, database, workers
from email_integration.diagnosis.health_checks import CheckGroup
from email_integration.models import Priority
from email_integration.queue import waiting
from email_integration.tasks import health

#: Seconds for all checks together.
PATIENCE = 3.0


@require_safe
@never_cache
def healthz(request: HttpRequest) -> JsonResponse:
    """Answer that this process is running. Checks nothing else."""
    return JsonResponse({"ok": True})


@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """Report whether sending works, with a sentence and the seconds of each check; 503 if not."""
    results = readiness.run(patience=PATIENCE)
    ok = all(result.ok for result in results.values())
    checks = {name: {**asdict(result), "seconds": round(result.seconds, 3)} for name, result in results.items()}
    return JsonResponse({"ok": ok, "checks": checks}, status=200 if ok else 503)


def _database() -> tuple[bool, str]:
    return _worst(database.diagnose_database())


def _cache() -> tuple[bool, str]:
    return _worst([workers.diagnose_cache()])


def _broker() -> tuple[bool, str]:
    if health.is_eager():
        return True, "Tasks run in the process that calls them"
    failure = health.broker_failure(timeout=conf.get("BROKER_TIMEOUT"))
    return (True, "The broker answers") if failure is None else (False, f"The broker did not answer ({failure})")


def _worker() -> tuple[bool, str]:
    """Return whether a sweep ran recently: asking the workers themselves would take seconds."""
    if health.is_eager():
        return True, "Tasks run in the process that calls them"
    return _worst([workers.diagnose_beat()])


def _queue() -> tuple[bool, str]:
    ages = waiting.oldest_due()
    if not ages:
        return True, "No mail waits for a worker"
    limit = conf.get("QUEUE_AGE_LIMIT")
    text = "The oldest mail has been waiting for a worker for " + ", ".join(
        f"{ages[priority]:.0f} s ({priority})" for priority in Priority.values if priority in ages
    )
    # Bulk mail may wait for as long as it needs.
    late = any(age > limit for priority, age in ages.items() if priority != Priority.BULK)
    return not late, text + (f"; the limit is {limit:.0f} s" if late else "")


def _worst(findings: list[Finding]) -> tuple[bool, str]:
    """Return the worst finding's sentence, and whether it is no error. A warning does not fail the check."""
    worst = max(findings, key=lambda finding: list(Level).index(finding.level))
    return worst.level is not Level.ERROR, worst.text


readiness = CheckGroup({"database": _database, "cache": _cache, "broker": _broker, "worker": _worker, "queue": _queue})
