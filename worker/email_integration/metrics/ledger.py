"""Metrics of the ledger, queried at each scrape. Only unfinished deliveries are counted; workers count the rest."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from email_integration import routing
from email_integration.models import CircuitBreaker, Priority, SendingPause, SMTPConfig, Status
from email_integration.queue import sweeper
from email_integration.queue.waiting import Backlog, backlog

CONTENT_TYPE = CONTENT_TYPE_LATEST

#: Statuses that are shown even without deliveries, because an alarm needs a metric to compare.
_ALWAYS = (Status.QUEUED, Status.SENDING, Status.DEFERRED)


def exposition() -> bytes:
    """Return the page for Prometheus. Raises ``DatabaseError``. Without the cache, one metric is missing."""
    registry = CollectorRegistry()
    registry.register(_Ledger())
    return generate_latest(registry)


class _Ledger(Collector):
    def collect(self) -> Iterable[Metric]:
        known = backlog()
        yield _unfinished(known)
        yield _by_priority("oldest_due_seconds", "Seconds since the oldest due mail became due.", known.oldest_due)
        yield _by_priority(
            "oldest_deferred_seconds",
            "Seconds since the oldest deferred mail was submitted.",
            known.oldest_deferred,
        )
        yield _gauge("in_doubt_held", "Mails in doubt that are held until a person decides.", known.held)
        breakers = CircuitBreaker.objects.count()
        yield _gauge("breakers_open", "Open circuit breakers.", breakers)
        paused = SendingPause.current() is not None
        yield _gauge("paused", "1 while sending is paused.", paused)
        yield InfoMetricFamily(
            "email_integration_configuration", "The configuration that sends mail.", value={"name": _name()}
        )
        since = _since_sweep()
        if since is not None:
            yield _gauge("since_sweep_seconds", "Seconds since the last sweep of any worker.", since)


def _unfinished(known: Backlog) -> Metric:
    family = GaugeMetricFamily(
        "email_integration_unfinished", "Deliveries that are not finished.", labels=("status", "priority")
    )
    nothing = {(status.value, priority.value): 0 for status in _ALWAYS for priority in Priority}
    for (status, priority), number in (nothing | dict(known.unfinished)).items():
        family.add_metric((status, priority), number)
    return family


def _by_priority(name: str, text: str, ages: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"email_integration_{name}", f"{text} 0 if there is none.", labels=("priority",))
    for priority in Priority.values:
        family.add_metric((priority,), ages.get(priority, 0.0))
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"email_integration_{name}", text, value=value)


def _name() -> str:
    active = SMTPConfig.objects.filter(is_active=True).values_list("name", flat=True).first()
    return active or routing.settings_relay().name


def _since_sweep() -> float | None:
    """Return the seconds since the last sweep; None when the cache is unreachable or there was no sweep yet."""
    try:
        heartbeat = sweeper.last_heartbeat()
    except Exception:  # each cache backend has its own errors
        return None
    return None if heartbeat is None else max(0.0, time.time() - heartbeat)
