"""The counters of one worker, in metrics that its processes share.

Importing this module imports ``prometheus_client``, which then decides whether metrics are shared between processes.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from email_integration import signals
from email_integration.ledger.instrumentation import Observer
from email_integration.ledger.records import Ended
from email_integration.models import Delivery
from email_integration.outcomes.classification import Accepted, Deferred, Failed, InDoubt
from email_integration.smtp import Relay

from . import labels

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Callable[..., None])

#: Buckets in seconds. A mail should wait for a worker for less than one second, and may wait for hours.
_QUEUEING = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400)
_DIALOGUE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)

_OUTCOMES = {Accepted: "accepted", Deferred: "deferred", Failed: "failed", InDoubt: "in_doubt"}


def _harmless(method: M) -> M:
    """Return ``method`` so that it logs its errors.

    A metric that cannot be kept, such as on a full disk, must not disturb a mail.
    """

    @functools.wraps(method)
    def kept(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:
            logger.warning("A metric could not be recorded (%s).", type(error).__name__)

    return cast("M", kept)


class Counters(Observer):
    """An observer that counts. ``_last`` is the configuration of the previous attempt, to detect a switch."""

    def __init__(self) -> None:
        def build_metric(
            kind: Callable[..., Any], name: str, text: str, names: tuple[str, ...] = (), **how: Any
        ) -> Any:
            # This registry is never read: the metrics of all processes are read from files.
            return kind(f"email_integration_{name}", text, names, registry=_nowhere, **how)

        _nowhere = CollectorRegistry()
        self._names = labels.Names()
        self._last: tuple[str, str] | None = None
        self._attempts = build_metric(
            Counter, "attempts", "Recorded attempts.", ("outcome", "reason", "configuration", "priority")
        )
        self._finished = build_metric(
            Counter, "finished", "Deliveries that this worker finished.", ("status", "configuration", "priority")
        )
        self._queueing = build_metric(
            Histogram,
            "queueing_seconds",
            "Seconds from the time at which a mail was due to its attempt.",
            ("priority",),
            buckets=_QUEUEING,
        )
        self._connecting = build_metric(
            Histogram,
            "connecting_seconds",
            "Seconds to open an SMTP session, with all tries.",
            ("configuration", "succeeded"),
            buckets=_DIALOGUE,
        )
        self._transaction = build_metric(
            Histogram,
            "transaction_seconds",
            "Seconds from MAIL to the reply to the final dot.",
            ("configuration",),
            buckets=_DIALOGUE,
        )
        self._sweep = build_metric(Histogram, "sweep_seconds", "Seconds that a sweep takes.", buckets=_DIALOGUE)
        self._woken = build_metric(Counter, "woken", "Queues that sweeps woke.")
        self._sessions = build_metric(Gauge, "sessions", "SMTP sessions.", ("state",), multiprocess_mode="livesum")
        self._switches = build_metric(
            Counter, "configuration_switches", "How often a process changed to another configuration."
        )

    def connect(self) -> None:
        """Also count the ends of deliveries, with the app's signals."""
        for signal in (signals.delivery_accepted, signals.delivery_failed, signals.delivery_expired):
            signal.connect(self.ended, sender=Delivery, weak=False, dispatch_uid="email_integration.metrics")

    @_harmless
    def ended(self, delivery: Delivery, **kwargs: Any) -> None:
        """Count a finished delivery. Receiver of the app's signals."""
        self._finished.labels(
            status=delivery.status,
            configuration=self._names(delivery.smtp_config),
            priority=labels.priority(delivery.priority),
        ).inc()

    @_harmless
    def attempted(self, ended: Ended) -> None:
        delivery, outcome, attempt = ended.delivery, ended.outcome, ended.attempt
        priority = labels.priority(delivery.priority)
        self._attempts.labels(
            outcome=_OUTCOMES[type(outcome)],
            reason=labels.reason(outcome),
            configuration=self._names(delivery.smtp_config),
            priority=priority,
        ).inc()
        if attempt.late is not None:
            self._queueing.labels(priority=priority).observe(max(0.0, attempt.late))
        if isinstance(attempt.route, Relay):
            now = (attempt.route.name, attempt.route.version)
            if self._last not in (None, now):
                self._switches.inc()
            self._last = now

    @_harmless
    def sweep_ended(self, seconds: float, woken: int) -> None:
        self._sweep.observe(seconds)
        self._woken.inc(woken)

    @_harmless
    def opened(self, relay: Relay, seconds: float, *, succeeded: bool) -> None:
        how = {"configuration": self._names(relay.name), "succeeded": "yes" if succeeded else "no"}
        self._connecting.labels(**how).observe(seconds)

    @_harmless
    def transacted(self, relay: Relay, seconds: float) -> None:
        self._transaction.labels(configuration=self._names(relay.name)).observe(seconds)

    @_harmless
    def holds(self, *, idle: int, lent: int) -> None:
        self._sessions.labels(state="idle").set(idle)
        self._sessions.labels(state="lent").set(lent)
