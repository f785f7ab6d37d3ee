"""Publishing: short timeouts, a circuit breaker for an unreachable broker, and failures that are not the broker's."""

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

#: A message that is sent when it is called with a producer.
Message = Callable[[Producer], object]

#: Seconds for which a process does not try a broker that has just failed. The sweep finds mail submitted meanwhile.
_PAUSE = 5.0

#: Messages that are sent at once.
_BATCH = 200


def hear_what_is_refused(producer: Producer) -> None:
    """Ask RabbitMQ for any reply, because it replies in order. Raises the error of a refused message.

    Call it after all other messages to a queue. Otherwise the error would disturb the next messages to any queue.
    """
    connection: Any = producer.connection
    channel: Any = producer.channel
    if connection.transport.driver_type == "amqp":
        channel.basic_qos(0, 0, False)


class Publisher:
    """Publishes through the broker of an app, which ``app`` returns.

    ``_open_until`` (monotonic seconds) is its only state: until then its circuit breaker is open, and the broker is not
    tried.
    """

    def __init__(self, app: Callable[[], Any]) -> None:
        self._app = app
        self._open_until = 0.0

    def _publish(self, messages: Sequence[Message]) -> None:
        """Publish to one queue. Raises the broker's errors, immediately while the circuit breaker is open."""
        if time.monotonic() < self._open_until:
            raise OperationalError("the broker failed a moment ago")
        started = time.monotonic()
        try:
            try:
                self._publish_now(messages)
            except Exception:
                # A connection that was idle too long fails immediately, and a new one works. A dead broker gets no
                # second try.
                if time.monotonic() - started > 0.2:
                    raise
                self._publish_now(messages)
        except LimitExceeded:
            raise  # all connections are in use: no fault of the broker
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
        """Return whether the error does not concern the broker, but this queue, or the project's own publishing code.

        RabbitMQ closes the channel for a queue or an exchange that does not exist (404), differs from its declaration
        (406) or is forbidden (403). With other brokers a channel error concerns the broker, such as when Redis is out
        of memory, unless Redis reports that the key is forbidden or not a list.
        """
        # Imported late, because it is slow and imports OpenTelemetry.
        from redis.exceptions import NoPermissionError, ResponseError

        if isinstance(error, QueueNotFound | NoPermissionError):
            return True
        if isinstance(error, ResponseError) and "WRONGTYPE" in str(error):
            return True
        template = _template(self._app(), conf.get("BROKER_TIMEOUT"))
        of_broker: set[type[BaseException]] = {OSError, OperationalError, LimitExceeded, *template.connection_errors}
        if template.transport.driver_type != "amqp":
            of_broker.update(template.channel_errors)
        of_broker.discard(KeyError)  # kombu's own for Redis, while it consumes
        return not isinstance(error, tuple(of_broker))


def _open_channel(connection: Any, producer: Producer) -> None:
    """Connect the producer if it is not connected. Raises the broker's errors as ``OperationalError``."""
    try:
        producer.channel  # noqa: B018  # the first look makes it
    except connection.channel_errors as error:  # such as a refused login
        raise OperationalError(type(error).__name__) from error


@functools.lru_cache(maxsize=4)
def _template(app: Any, timeout: float) -> Connection:
    """Return the connection that identifies kombu's connection pool. It is not itself in the pool."""
    return connection_of(app, timeout)


def connection_of(app: Any, timeout: float) -> Connection:
    """Return a connection that gives up after ``timeout`` seconds. The application's settings may be more patient."""
    connection: Connection = app.connection_for_write(connect_timeout=timeout)
    transport = str(connection.transport_cls)
    # kombu uses these for its own reconnecting, which would otherwise sleep between tries.
    limits: dict[str, float | bool] = {"max_retries": 0, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    if "redis" in transport or "valkey" in transport:
        limits |= {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry_on_timeout": False}
    elif "amqp" in transport:
        limits |= {"read_timeout": timeout, "write_timeout": timeout}
    connection.transport_options = {**(connection.transport_options or {}), **limits}
    return connection
