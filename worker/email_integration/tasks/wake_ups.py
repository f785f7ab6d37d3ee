"""The task queue on Celery. A wake-up is a short message that makes a worker check one queue for mail."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from celery import Task, states
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.utils import uuid
from django.db import DatabaseError, InterfaceError, transaction
from kombu import Producer
from kombu.exceptions import OperationalError

from email_integration import conf
from email_integration.exceptions import InvalidMail
from email_integration.ledger import continuation, rows
from email_integration.ledger.queues import queue_of
from email_integration.ledger.steps import Row
from email_integration.models import DatabaseTime, Delivery
from email_integration.on_commit import after_commit
from email_integration.queue import continuing, wakeups

from . import canvas, names, results
from .publishing import Publisher, hear_what_is_refused

logger = logging.getLogger(__name__)

#: Seconds after which a wake-up or a sweep expires, which limits their number while no worker runs. Celery compares the
#: clocks of two hosts for it, which may differ by ten minutes.
_EXPIRES = 660


class CeleryTaskQueue(Publisher):
    """Wakes workers by publishing ``dispatch``, and reports to Celery's result backend."""

    def __init__(self, dispatch: Task[Any, Any], sweep: Task[Any, Any]) -> None:
        self._dispatch = dispatch
        self._sweep = sweep
        super().__init__(lambda: dispatch.app)

    @property
    def _is_eager(self) -> bool:
        return bool(self._dispatch.app.conf.task_always_eager)

    def notify(self, queues: Collection[str], *, message_priority: int | None = None) -> set[str]:
        """Publish a wake-up for each queue that has none outstanding. In eager mode always send the mail here.

        Arguments and return value are those of ``TaskQueue.notify``.
        """
        return self.wake(queues) if self._is_eager else wakeups.notify(queues, message_priority=message_priority)

    def wake(self, queues: Collection[str], *, message_priority: int | None = None, joins: bool = False) -> set[str]:
        """Publish a wake-up for each queue. Return the queues that refuse it although the broker is reachable.

        The arguments are those of ``TaskQueue.wake``. Raises the broker's errors. In eager mode ``dispatch`` runs here.
        """
        if self._is_eager:
            for queue in queues:
                self._dispatch.apply((queue,), throw=False)
            return set()
        unheard = set()
        for queue in queues:
            options = routing_options_of(queue) | ({} if message_priority is None else {"priority": message_priority})
            message = functools.partial(_wake, self._dispatch, queue, options, joins)
            try:
                self._publish([message, hear_what_is_refused])
            except Exception as error:
                if not self._is_of_the_queue(error):
                    raise
                # The error's text is omitted, because it may come from any code of the project around publishing.
                logger.error("Could not wake %s (%s).", _destination(options), type(error).__name__)
                unheard.add(queue)
        return unheard

    def call_for_sweep(self, *, after: float = 0.0) -> None:
        """Publish one sweep to run in ``after`` seconds. Raises the broker's errors.

        In eager mode only publish the due continuations, and only if ``after`` is 0.
        """
        if not self._is_eager:
            options = sweep_options() | ({"countdown": after} if after else {})
            self._publish([functools.partial(_call, self._sweep, (), options)])
        elif not after:
            continuing.publish_due()

    def message_priority_of(self, delivery: Delivery) -> int | None:
        """Return the priority number that ``apply_async`` was given."""
        return canvas.message_priority_of(delivery.options)

    def answer(self, task_id: str, first: Delivery, kept: str, repeated: Task[Any, Any], *, queue: str) -> None:
        """Settle ``task_id``, the id of a repeated submission, with the current state of the first one.

        Its continuation is in ``kept``. That uses ``queue``, the one that the caller chose, or '' for that of the
        priority.
        """
        if canvas.follows(kept):
            options = routing_options_of(queue or queue_of(first.priority)) | {
                "task_id": task_id,
                **canvas.as_options(kept),
            }
            answer = functools.partial(self._publish, [functools.partial(_call, repeated, (first.pk,), options)])
            after_commit("publish the result of a repeated mail", answer, using=rows.database())
        elif results.is_beside_deliveries(self._dispatch.backend):
            self._settle(task_id, first)
        else:
            settle = functools.partial(self._settle, task_id, first)
            after_commit("store a result", settle, using=rows.database())

    def result_rows(self, deliveries: Collection[Delivery]) -> Mapping[str, Sequence[Row]]:
        """Return the result rows if results are stored in the database of deliveries."""
        backend = self._dispatch.backend
        if not results.is_beside_deliveries(backend):
            return {}
        return {one.pk: [results.row(backend, task_id, one) for task_id in _waited_for(one)] for one in deliveries}

    def stores_results_elsewhere(self) -> bool:
        """Return whether results are stored outside the database of deliveries."""
        backend = self._dispatch.backend
        return not (isinstance(backend, DisabledBackend) or results.is_beside_deliveries(backend))

    def store_result(self, delivery: Delivery) -> None:
        """Store the result with Celery's backend."""
        state, result = results.state_of(delivery)
        for task_id in _waited_for(delivery):
            request = canvas.request_of(delivery)
            self._dispatch.backend.store_result(task_id, result, state, request=request)

    def _settle(self, task_id: str, delivery: Delivery) -> None:
        """Store the current state of the delivery as the result of ``task_id``, even if it is not finished."""
        failure = results.failure_of(delivery)
        state, result = (states.FAILURE, failure) if failure else (states.SUCCESS, results.summary(delivery))
        request = Context(id=task_id, task=names.SEND_EMAIL)
        self._dispatch.backend.store_result(task_id, result, state, request=request)

    def has_continuation(self, delivery: Delivery) -> bool:
        """Return whether a callback, a step of a chain or a chord waits for the delivery."""
        return canvas.follows(delivery.options)

    def continue_(self, delivery: Delivery) -> None:
        """Publish the continuation of a finished delivery, with the same task ids each time.

        Raises the errors of the broker, the database and the result backend when they are unreachable.
        """
        if not canvas.knows_chord(delivery.options):
            self._continue(delivery)
        elif self._is_counted_before_commit(delivery.options):
            # A repeated call counts once, or counts in the most recently started chord.
            if continuation.refresh(delivery):
                results.require_unclaimed(self._dispatch.backend, canvas.request_of(delivery))
                self._continue(delivery)
        else:
            # A chord of mails is started completely and recorded, or not started, and a part counts once.
            with transaction.atomic(using=rows.database()):
                kept = delivery.options
                if not continuation.lock(delivery):
                    return
                if delivery.options == kept:
                    self._continue(delivery)
                    if delivery.options == kept:
                        continuation.done(delivery)
                        return
                    continuation.replace(delivery)
            # The body of the chord, if this was its last part, or the continuation that another process has stored.
            self.continue_(delivery)

    def _is_counted_before_commit(self, kept: str) -> bool:
        """Return whether a chord counts a part during publishing, before a transaction here is committed.

        A chord in the database counts tasks of its header that may run immediately, so its counter must already be
        committed. Another backend counts the mail itself, and publishes the body with the last part.
        """
        if results.is_beside_deliveries(self._dispatch.backend):
            return not canvas.is_in_chord(kept) and canvas.begins_parts_elsewhere(kept)
        return canvas.is_in_chord(kept)

    def _continue(self, delivery: Delivery) -> None:
        app = self._dispatch.app
        try:
            canvas.go_on(app, delivery)
        except _transient_errors(app):
            raise
        except Exception as error:  # it is not a task, or does not accept its arguments
            if app.backend.exception_safe_to_retry(error):
                raise  # it may be another server than the broker, with other errors
            name = type(error).__name__
            of = {"delivery_id": delivery.pk}
            logger.error("The continuation of delivery %s cannot be started (%s).", delivery.pk, name, extra=of)
            canvas.fail(
                app, canvas.request_of(delivery), without_address() if isinstance(error, InvalidMail) else error
            )


def follow_anew(delivery: Delivery, kept: str) -> None:
    """Store the continuation ``kept`` for a mail that is called again under its id.

    This is done only if ``kept`` is of a later start of the same chord. A process that starts a chord may be killed
    while it publishes a task of the header. Then the chord is started again, and so is the task, which may have a mail
    as its continuation. Each time the mail is a part of the most recent chord.
    """
    if not canvas.is_begun_later(kept, delivery.options):
        return
    with transaction.atomic(using=rows.database()):
        found = Delivery.objects.filter(pk=delivery.pk)
        row = found.select_for_update().only("options", "status", "continue_after").first()
        if row is None or not canvas.is_begun_later(kept, row.options):
            return
        if row.is_settled:
            # Its callbacks have been called; only its count in this chord is missing.
            found.update(options=canvas.without_callbacks(kept), continue_after=DatabaseTime())
        else:
            found.update(options=kept)


def _transient_errors(app: Any) -> tuple[type[Exception], ...]:
    of_broker: tuple[type[Exception], ...] = app.connection_for_write().recoverable_connection_errors
    return (OperationalError, OSError, DatabaseError, InterfaceError, *of_broker)


def without_address() -> InvalidMail:
    """Return an error without the reason, which may quote an address.

    A worker's errors go into logs and result rows.
    """
    return InvalidMail("The arguments of the mail are not valid; call send_email.delay() to see the reason.")


# -- routing of messages ----------------------------------------------------------------------------------------------

#: The routing that a caller chooses: the queue, or how a message reaches it.
ROUTING_OPTIONS = ("queue", "exchange", "routing_key")


def as_queue(chosen: Mapping[str, str]) -> str:
    """Return the text that the row stores for the caller's routing: the name of the queue, or all options as JSON."""
    if not chosen:
        return ""
    if chosen.keys() == {"queue"} and not chosen["queue"].startswith("{"):
        return chosen["queue"]
    return json.dumps(chosen, sort_keys=True)


def routing_options_of(queue: str) -> dict[str, Any]:
    """Return the options of a message to a queue in the form of ``as_queue``; none for Celery's default."""
    if not queue.startswith("{"):
        return {"queue": queue} if queue else {}
    try:
        chosen = json.loads(queue)
    except ValueError:  # damaged in the database: it is the name of no queue
        return {"queue": queue}
    return {name: value for name, value in chosen.items() if name in ROUTING_OPTIONS and rows.is_name(value)}


def _destination(options: dict[str, Any]) -> str:
    """Return the destination of a message with these options, for the log."""
    chosen = " ".join(options[name] for name in ROUTING_OPTIONS if options.get(name))
    return (chosen if chosen.isprintable() else repr(chosen)) or "the default queue"


#: Celery's settings for all tasks that concern a message.
_OF_ALL = ("serializer", "priority")


def _call(task: Task[Any, Any], arguments: tuple[Any, ...], options: dict[str, Any], producer: Producer) -> None:
    task.apply_async(arguments, producer=producer, add_to_parent=False, retry=False, **options)


def _wake(dispatch: Task[Any, Any], queue: str, options: dict[str, Any], joins: bool, producer: Producer) -> None:
    """Send the message of ``apply_async`` in two thirds of its time. This is the slowest step for the caller of a mail.

    It omits parts that a wake-up does not use: a result, its destination, and the calling task. Celery's routes and
    signals work as usual.
    """
    amqp = dispatch.app.amqp
    of_all = {name: value for name in _OF_ALL if (value := getattr(dispatch, name)) is not None}
    arguments = {"joins": True} if joins else {}
    message = amqp.create_task_message(
        task_id=uuid(),
        name=dispatch.name,
        args=(queue,),
        kwargs=arguments,
        expires=_EXPIRES,
        time_limit=dispatch.time_limit,
        soft_time_limit=dispatch.soft_time_limit,
        create_sent_event=dispatch.app.conf.task_send_sent_event,
        ignore_result=True,
    )
    route = amqp.router.route(of_all | options, dispatch.name, (queue,), arguments, dispatch)  # type: ignore[arg-type]  # an instance here
    amqp.send_task_message(producer, dispatch.name, message, retry=False, **route)


def _waited_for(delivery: Delivery) -> set[str]:
    """Return the ids whose results the caller may wait for."""
    if canvas.ignores_result(delivery.options):
        return set()
    return {delivery.pk, canvas.task_id_of(delivery)}


def sweep_options() -> dict[str, Any]:
    """Return the options of the sweep's messages.

    They expire after several sweep intervals. In a busy worker they wait behind the mail that it has fetched, and if
    all of them expired first, there would be no sweep. The number of messages while no worker runs is still limited.
    """
    queue = conf.get("SWEEP_QUEUE")
    return {"expires": max(float(_EXPIRES), 12 * conf.get("SWEEP_INTERVAL")), **({"queue": queue} if queue else {})}
