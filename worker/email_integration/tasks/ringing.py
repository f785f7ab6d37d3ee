"""The doorbell on Celery: short messages, short timeouts, and a breaker for a broker that is not there."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from typing import Any

from celery import Task, states
from celery.app.task import Context
from django.db import transaction
from kombu import Connection, pools
from kombu.exceptions import OperationalError

from email_integration import conf
from email_integration.delivery import ledger
from email_integration.exceptions import DeliveryDeferred
from email_integration.models import Delivery, Status

from . import canvas
from .results import failure_of, summary

logger = logging.getLogger(__name__)

#: How long, in seconds, nobody tries a broker that has just failed; the sweep rings for what was submitted meanwhile.
_PAUSE = 5.0

#: Messages that are sent in one go.
_BATCH = 200


class CeleryDoorbell:
    """Rings by publishing ``deliver``; reports to Celery's result backend.

    ``_shut_until`` (monotonic seconds) is all its state: until then the broker is not tried.
    """

    def __init__(self, deliver: Task[Any, Any]) -> None:
        self._deliver = deliver
        self._shut_until = 0.0

    def ring(self, deliveries: Sequence[Delivery]) -> None:
        """Publish one message per delivery; raises what the broker raises, at once while the breaker is open."""
        if self._deliver.app.conf.task_always_eager:
            for delivery in deliveries:
                self._deliver.apply((delivery.pk,), task_id=delivery.pk)
            return
        if time.monotonic() < self._shut_until:
            raise OperationalError("the broker failed a moment ago")
        started = time.monotonic()
        try:
            try:
                self._publish(deliveries)
            except Exception:
                # A connection that idled too long fails at once and a new one works; a dead broker gets no second try.
                if time.monotonic() - started > 0.2:
                    raise
                self._publish(deliveries)
        except Exception:
            self._shut_until = time.monotonic() + _PAUSE
            raise

    def _publish(self, deliveries: Sequence[Delivery]) -> None:
        timeout = conf.get("BROKER_TIMEOUT")
        queue = conf.get("QUEUE")
        pool = pools.producers[_connection(self._deliver.app, timeout)]
        with pool.acquire(block=True, timeout=timeout) as producer:
            connection = producer.connection
            try:
                with producer.batch(max_size=_BATCH):
                    for delivery in deliveries:
                        way = canvas.way(delivery.options)
                        if queue and not way.keys() & {"queue", "routing_key", "exchange"}:
                            way["queue"] = queue
                        self._deliver.apply_async(
                            (delivery.pk,),
                            task_id=delivery.pk,
                            producer=producer,
                            add_to_parent=False,
                            retry=False,
                            **way,
                        )
            except Exception:
                connection.collect()
                raise

    def report(self, delivery: Delivery) -> None:
        """Store the result row inside the ledger's transaction, or after it where results live elsewhere."""
        backend = self._deliver.backend
        if type(backend).__module__.startswith("django_celery_results"):
            self._store(delivery)
        else:
            transaction.on_commit(functools.partial(self._store, delivery), using=ledger.database(), robust=True)

    def _store(self, delivery: Delivery) -> None:
        status = Status(delivery.status)
        failure = failure_of(delivery)
        if failure is not None:
            self._deliver.backend.store_result(delivery.pk, failure, states.FAILURE)
        elif status.is_final:
            self._deliver.backend.store_result(delivery.pk, summary(delivery), states.SUCCESS)
        else:
            waiting = DeliveryDeferred(delivery.code, delivery.reason)
            self._deliver.backend.store_result(delivery.pk, waiting, states.RETRY)

    def has_follow_up(self, delivery: Delivery) -> bool:
        return canvas.follows(delivery.options)

    def follow_up(self, delivery: Delivery) -> None:
        """Fire ``link_error``, and count the failure in its chord, for a delivery that ended outside its task."""
        failure = failure_of(delivery)
        if failure is None:
            return
        request = Context(id=delivery.pk, task=self._deliver.name, delivery_info={})
        canvas.put_back(request, delivery.options)
        self._deliver.backend.mark_as_failure(delivery.pk, failure, request=request)
        ledger.followed_up(delivery.pk)


def _connection(app: Any, timeout: float) -> Connection:
    """A connection that gives up after ``timeout`` seconds, which the application's own settings need not."""
    connection: Connection = app.connection_for_write(connect_timeout=timeout)
    transport = str(connection.transport_cls)
    # kombu takes these for its own reconnecting, which would otherwise sleep between tries.
    limits: dict[str, float | bool] = {"max_retries": 0, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    if "redis" in transport or "valkey" in transport:
        limits |= {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry_on_timeout": False}
    elif "amqp" in transport:
        limits |= {"read_timeout": timeout, "write_timeout": timeout}
    connection.transport_options = {**(connection.transport_options or {}), **limits}
    return connection
