"""Publishing: short timeouts, a circuit breaker for a broker that is away, and which failures are not the broker's."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from celery.exceptions import QueueNotFound
from kombu import Connection, Producer, pools
from kombu.exceptions import LimitExceeded, OperationalError

from email_integration import conf

#: A message that is sent when it is given a producer.
Message = Callable[[Producer], object]

#: Seconds for which no process tries a broker that has just failed; the sweep finds what was submitted meanwhile.
_PAUSE = 5.0

#: Messages that are sent in one go.
_BATCH = 200


def hear_what_is_refused(producer: Producer) -> None:
    """Ask RabbitMQ for anything, which it answers in turn. Raises what it refuses.

    To be sent after all others to a queue, or what it refuses comes in the way of the next messages to any queue.
    """
    connection: Any = producer.connection
    channel: Any = producer.channel
    if connection.transport.driver_type == "amqp":
        channel.basic_qos(0, 0, False)


class Publisher:
    """Publishes by way of the broker of an app, which ``app`` gives.

    ``_open_until`` (monotonic seconds) is all its state: until then its circuit breaker is open, and the broker is
    not tried.
    """

    def __init__(self, app: Callable[[], Any]) -> None:
        self._app = app
        self._open_until = 0.0

    def _publish(self, messages: Sequence[Message]) -> None:
        """Publish to one queue; raises what the broker raises, at once while the circuit breaker is open."""
        if time.monotonic() < self._open_until:
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
        except Exception as error:
            if not self._is_of_the_queue(error):
                self._open_until = time.monotonic() + _PAUSE
            raise

    def _publish_now(self, messages: Sequence[Message]) -> None:
        timeout = conf.get("BROKER_TIMEOUT")
        pool = pools.producers[_template(self._app(), timeout)]
        with pool.acquire(block=True, timeout=timeout) as producer:
            connection = producer.connection
            try:
                _open_channel(connection, producer)
                with producer.batch(max_size=_BATCH) if len(messages) > 1 else contextlib.nullcontext():
                    for send in messages:
                        send(producer)
            except Exception:
                connection.collect()
                raise

    def _is_of_the_queue(self, error: Exception) -> bool:
        """Whether it says nothing of the broker: it is of this queue, or of what the project does at publishing.

        RabbitMQ ends the channel for a queue or an exchange that it does not have (404), that it has otherwise (406) or
        that is not ours (403). To other brokers such an error is one of their own, as Redis's want of memory, unless
        Redis says that the key is not ours, or no list.
        """
        # Not at the start: it takes its time, and imports OpenTelemetry.
        from redis.exceptions import NoPermissionError, ResponseError

        if isinstance(error, QueueNotFound | NoPermissionError):
            return True
        if isinstance(error, ResponseError) and "WRONGTYPE" in str(error):
            return True
        template = _template(self._app(), conf.get("BROKER_TIMEOUT"))
        of_broker: set[type[BaseException]] = {OSError, OperationalError, LimitExceeded, *template.connection_errors}
        if template.transport.driver_type != "amqp":
            of_broker.update(template.channel_errors)
        of_broker.discard(KeyError)  # kombu's own, for Redis, while it consumes
        return not isinstance(error, tuple(of_broker))


def _open_channel(connection: Any, producer: Producer) -> None:
    """Connect, if the producer is not. Raises what the broker raises, as ``OperationalError`` whatever it is of."""
    try:
        producer.channel  # noqa: B018  # the first look makes it
    except connection.channel_errors as error:  # such as a refused login
        raise OperationalError(type(error).__name__) from error


@functools.lru_cache(maxsize=4)
def _template(app: Any, timeout: float) -> Connection:
    """What kombu keeps its pool of connections by, which this one itself is not in."""
    return connection_of(app, timeout)


def connection_of(app: Any, timeout: float) -> Connection:
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
