"""The doorbell on Celery: short messages, short timeouts, and a breaker for a broker that is not there."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

from celery import Task, states
from celery.app.task import Context
from celery.utils import uuid
from kombu import Connection, pools
from kombu.exceptions import LimitExceeded, OperationalError

from email_integration import conf
from email_integration.delivery import rows
from email_integration.delivery.commits import after_commit
from email_integration.exceptions import DeliveryDeferred
from email_integration.models import FINAL, Delivery, Status

from . import canvas, names
from .results import failure_of, summary

#: A task, its arguments, and the options of its message.
_Message = tuple[Task[Any, Any], tuple[str, ...], dict[str, Any]]

#: How long, in seconds, nobody tries a broker that has just failed; the sweep rings for what was submitted meanwhile.
_PAUSE = 5.0

#: Messages that are sent in one go.
_BATCH = 200


class CeleryDoorbell:
    """Rings by publishing ``deliver``; reports to Celery's result backend.

    ``_shut_until`` (monotonic seconds) is all its state: until then the broker is not tried.
    """

    def __init__(self, deliver: Task[Any, Any], sweep: Task[Any, Any]) -> None:
        self._deliver = deliver
        self._sweep = sweep
        self._shut_until = 0.0

    def ring(self, deliveries: Sequence[Delivery]) -> None:
        """Publish one message per delivery; raises what the broker raises."""
        if self._deliver.app.conf.task_always_eager:
            for delivery in deliveries:
                self._deliver.apply((delivery.pk,), task_id=delivery.pk, throw=False)
            return
        self._publish([(self._deliver, (delivery.pk,), self._ring_options(delivery)) for delivery in deliveries])

    def call_for_sweep(self) -> None:
        """Publish one sweep; raises what the broker raises."""
        if not self._deliver.app.conf.task_always_eager:
            self._publish([(self._sweep, (), sweep_options())])

    def answer(self, task_id: str, first: Delivery, kept: str, repeated: Task[Any, Any]) -> None:
        """Settle ``task_id``, the id of a repeated submission, with how the first one stands."""
        if canvas.follows(kept):
            options = {"task_id": task_id, **canvas.as_options(kept)}
            answer = functools.partial(self._publish, [(repeated, (first.pk,), options)])
            after_commit("answer for a repeated mail", answer, using=rows.database())
        else:
            self._report(task_id, first, Context(id=task_id, task=names.SEND_EMAIL), settled=True)

    def _ring_options(self, delivery: Delivery) -> dict[str, Any]:
        # The id of a mail that was revoked is refused by the workers, and something may have to follow it.
        task_id = uuid() if delivery.status in FINAL else delivery.pk
        return {"task_id": task_id, **canvas.way(delivery.options)}

    def _publish(self, messages: Sequence[_Message]) -> None:
        """Publish; raises what the broker raises, at once while the breaker is open."""
        if time.monotonic() < self._shut_until:
            raise OperationalError("the broker failed a moment ago")
        started = time.monotonic()
        try:
            try:
                self._publish_now(messages)
            except Exception:
                # A connection that idled too long fails at once and a new one works; a dead broker gets no second try.
                if time.monotonic() - started > 0.2:
                    raise
                self._publish_now(messages)
        except LimitExceeded:
            raise  # every connection was in use, which says nothing about the broker
        except Exception:
            self._shut_until = time.monotonic() + _PAUSE
            raise

    def _publish_now(self, messages: Sequence[_Message]) -> None:
        timeout = conf.get("BROKER_TIMEOUT")
        queue = conf.get("QUEUE")
        pool = pools.producers[_connection(self._deliver.app, timeout)]
        with pool.acquire(block=True, timeout=timeout) as producer:
            connection = producer.connection
            try:
                with producer.batch(max_size=_BATCH):
                    for task, arguments, options in messages:
                        if queue and not options.keys() & {"queue", "routing_key", "exchange"}:
                            options = {**options, "queue": queue}
                        task.apply_async(arguments, producer=producer, add_to_parent=False, retry=False, **options)
            except Exception:
                connection.collect()
                raise

    def report(self, delivery: Delivery) -> None:
        """Store the result row inside the ledger's transaction, or after it where results live elsewhere."""
        request = canvas.request_of(delivery)
        for task_id in {delivery.pk, canvas.task_id_of(delivery)}:
            self._report(task_id, delivery, request)

    def _report(self, task_id: str, delivery: Delivery, request: Context, *, settled: bool = False) -> None:
        store = functools.partial(self._store, task_id, delivery, request, settled=settled)
        if type(self._deliver.backend).__module__.startswith("django_celery_results"):
            store()
        else:
            after_commit("store a result", store, using=rows.database())

    def _store(self, task_id: str, delivery: Delivery, request: Context, *, settled: bool) -> None:
        failure = failure_of(delivery)
        state: str = states.FAILURE if failure else states.SUCCESS
        result: Any = failure or summary(delivery)
        if not settled and not Status(delivery.status).is_final:
            state, result = states.RETRY, DeliveryDeferred(delivery.code, delivery.reason)
        self._deliver.backend.store_result(task_id, result, state, request=request)

    def has_follow_up(self, delivery: Delivery) -> bool:
        return canvas.follows(delivery.options)


def sweep_options() -> dict[str, Any]:
    """Where the sweep's messages go.

    They live for several sweeps: in a busy worker they wait behind the mail that it has fetched, and were there none
    that is heard in time, nothing would be swept. What piles up while no worker runs is bounded all the same.
    """
    queue = conf.get("SWEEP_QUEUE")
    return {"expires": max(60.0, 12 * conf.get("SWEEP_INTERVAL")), **({"queue": queue} if queue else {})}


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
