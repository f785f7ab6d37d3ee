"""Check Celery from outside: the broker, the workers and the result backend."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from celery import current_app, states
from celery.backends.base import DisabledBackend
from celery.exceptions import QueueNotFound

from email_integration import conf
from email_integration.ledger.queues import queue_of
from email_integration.models import Priority

from . import names
from .publishing import connection_of


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker that answered: the queues it consumes, and the tasks of this app that it does not know."""

    name: str
    queues: frozenset[str]
    unknown: frozenset[str]


def is_configured() -> bool:
    """Return whether this process has the project's Celery app, and not the default app that Celery creates."""
    return bool(current_app.main != "default")


def is_eager() -> bool:
    """Return whether tasks run in the caller, so that there is neither a broker nor a worker."""
    return bool(current_app.conf.task_always_eager)


def broker() -> str:
    """Return the broker's address without its password."""
    return str(current_app.connection_for_write().as_uri())


def broker_failure(*, timeout: float) -> str | None:
    """Try the broker. Return the kind of failure, or None when it answered within about ``timeout`` seconds."""
    try:
        with connection_of(current_app, timeout) as connection:
            connection.default_channel  # noqa: B018  # making one is what talks to the broker
    except Exception as error:  # each transport has its own errors
        return type(error.__cause__ or error).__name__
    return None


def alive(*, timeout: float) -> list[str]:
    """Return the names of the workers that answer within ``timeout`` seconds. It always waits that long.

    Raises the errors of the broker's library.
    """
    with connection_of(current_app, conf.get("BROKER_TIMEOUT")) as connection:
        # Closing waits for the broker's last empty reply: by kombu's default, one second.
        connection.transport_options = {**(connection.transport_options or {}), "polling_interval": timeout / 2}
        return sorted(current_app.control.inspect(timeout=timeout, connection=connection).ping() or {})


def workers(*, timeout: float) -> list[Worker]:
    """Return the workers that answer within ``timeout`` seconds. It always waits that long, twice."""
    # A new connection, because one of the pool may be to a broker that has restarted.
    with current_app.connection_for_write() as connection:
        inspect = current_app.control.inspect(timeout=timeout, connection=connection)
        queues: dict[str, Any] = dict(inspect.active_queues() or {})
        known: dict[str, list[str]] = (inspect.registered() or {}) if queues else {}
    return [
        Worker(
            name=name,
            queues=frozenset(queue["name"] for queue in queues[name]),
            # A worker says 'task [rate limit and such]'. A worker that did not answer the second question has no
            # unknown task.
            unknown=frozenset(set(names.ALL) - {task.split(" ", 1)[0] for task in known[name]})
            if name in known
            else frozenset(),
        )
        for name in sorted(queues)
    ]


def who_sees(file: str, *, timeout: float) -> dict[str, bool]:
    """Return for each worker that answers within ``timeout`` seconds whether it can read the stored content ``file``.

    No worker is asked when the broker is down.
    """
    if not is_configured() or is_eager() or broker_failure(timeout=conf.get("BROKER_TIMEOUT")) is not None:
        return {}
    with current_app.connection_for_write() as connection:
        answers = current_app.control.broadcast(
            names.SEES, arguments={"file": file}, reply=True, timeout=timeout, connection=connection
        )
    return _said("sees", answers)


def keys_of_workers(*, timeout: float) -> dict[str, list[str]]:
    """Return the fingerprints of each worker's keys, newest first, by the name of the worker.

    It includes the workers that answer within ``timeout`` seconds.
    """
    with current_app.connection_for_write() as connection:
        answers = current_app.control.broadcast(names.KEYS, reply=True, timeout=timeout, connection=connection)
    return _said("keys", answers)


def _said(what: str, answers: Any) -> dict[str, Any]:
    # A worker that does not know the question returns an error.
    return {
        worker: said[what]
        for answer in sorted(answers or [], key=sorted)
        for worker, said in answer.items()
        if what in said
    }


def queues() -> list[str]:
    """Return the queues that this app's tasks are sent to, each once."""
    others = [conf.get("SWEEP_QUEUE") or _routed(names.SWEEP), _routed(names.SEND_EMAIL)]
    return list(dict.fromkeys([*mail_queues(), *others]))


def mail_queues() -> list[str]:
    """Return the queues from which workers send mail, each once."""
    return list(dict.fromkeys(queue_of(priority) or _routed(names.DISPATCH) for priority in Priority))


def _routed(task: str) -> str:
    try:
        queue = current_app.amqp.router.route({}, task).get("queue")
    except QueueNotFound:  # see undeclared()
        queue = None
    return str(getattr(queue, "name", queue) or current_app.conf.task_default_queue)


#: The setting that names the queue of each task; '' means none.
_QUEUE_OF = {
    names.SEND_EMAIL: "",
    names.DISPATCH: "QUEUE",
    names.REPEATED: "QUEUE",
    names.SWEEP: "SWEEP_QUEUE",
    names.PRUNE: "SWEEP_QUEUE",
    names.EVALUATE_ALERTS: "SWEEP_QUEUE",
}


def undeclared() -> dict[str, str]:
    """Return which senders use a queue that Celery neither knows nor creates, each with Celery's error message.

    A sender is a key of EMAIL_INTEGRATION, or the name of a task if CELERY_TASK_ROUTES decides.
    """
    router = current_app.amqp.router
    queues = {key: conf.get(key) for key in ("QUEUE", "HIGH_QUEUE", "BULK_QUEUE", "SWEEP_QUEUE") if conf.get(key)}
    found: dict[str, str] = {}
    for key, queue in queues.items():
        with _noting_unknown(found, key):
            router.expand_destination({"queue": queue})
    for task, key in _QUEUE_OF.items():
        if key not in found:
            with _noting_unknown(found, task):
                # Celery looks up the queue of a route even when another queue is given.
                router.route({"queue": queues[key]} if key in queues else {}, task)
    return found


@contextlib.contextmanager
def _noting_unknown(found: dict[str, str], what: str) -> Iterator[None]:
    try:
        yield
    except QueueNotFound as error:
        found[what] = str(error.args[0])
    except Exception:  # a project's router; publishing reports its error
        return


def keeps_results() -> bool:
    """Return whether there is a result backend."""
    return not isinstance(current_app.backend, DisabledBackend)


def result_failure() -> str | None:
    """Store a result, read it and remove it. Return the kind of failure, or None when it worked."""
    try:
        backend = current_app.backend
        key = f"email-integration-check-{uuid.uuid4()}"
        backend.store_result(key, {"stored": True}, states.SUCCESS)
        try:
            return (
                None
                if backend.get_result(key) == {"stored": True}
                else "the result that is read differs from the stored one"
            )
        finally:
            backend.forget(key)
    except Exception as error:  # each backend has its own errors
        return type(error.__cause__ or error).__name__
