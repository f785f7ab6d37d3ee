"""The common part of tasks that run in the caller's transaction instead of being published."""

from __future__ import annotations

import datetime as dt
import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Task
from celery._state import get_current_worker_task
from celery.exceptions import QueueNotFound
from celery.result import AsyncResult
from django.utils import timezone

from email_integration.addresses import quoted
from email_integration.async_safety import sync_only
from email_integration.exceptions import InvalidMail, refusal
from email_integration.ledger import rows, transitions
from email_integration.message.options import MailKeywords, checked_time
from email_integration.outcomes import schedule
from email_integration.timezones import as_stored

from . import canvas, wake_ups

#: Characters of the column.
_LONGEST = 255


class DeliveryResult(AsyncResult[Any]):
    """The ``AsyncResult`` of a mail. ``delivery_id`` is set when it differs from the result's id."""

    delivery_id: str | None = None

    @sync_only("get() of a mail", instead="Delivery.objects.aget(), or sync_to_async(get, thread_sensitive=False)()")
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Wait until the mail is finished and return its result, as any ``AsyncResult`` does."""
        return super().get(*args, **kwargs)

    wait = get  # as in Celery

    @sync_only("revoke() of a mail", instead="email_integration.acancel()")
    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Cancel the delivery in the database immediately. Tell the workers only if it was too late for that."""
        if transitions.cancel(self.delivery_id or self.id) is None:
            super().revoke(*args, **kwargs)


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of ``apply_async`` besides those of the task."""

    task_id: str | None
    options: dict[str, Any]
    link: Any
    link_error: Any

    @property
    def due_at(self) -> dt.datetime | None:
        """The time that ``eta`` or ``countdown`` gives. Raises ``InvalidMail``."""
        countdown = self.options.get("countdown")
        return moment("eta", self.options.get("eta")) if countdown is None else from_now("countdown", countdown)

    @property
    def expires_at(self) -> dt.datetime | None:
        """The time that Celery's ``expires`` gives. Raises ``InvalidMail``."""
        return moment("expires", self.options.get("expires"))

    @property
    def queue(self) -> str:
        """The text that the row stores for the chosen queue; '' when none was chosen. Raises ``InvalidMail``."""
        chosen = {
            name: self.options[name] for name in wake_ups.ROUTING_OPTIONS if self.options.get(name) not in (None, "")
        }
        if not chosen:
            return ""  # as for most mails
        for name, value in chosen.items():
            if not rows.is_name(value):
                raise InvalidMail(
                    f"{name} of apply_async() must be text of 1 to 255 characters, without control characters, "
                    f"not {quoted(value)}."
                )
        queue = wake_ups.as_queue(chosen)
        if len(queue) > _LONGEST:
            raise InvalidMail(f"{' and '.join(chosen)} of apply_async() must be shorter than {quoted(queue)}.")
        return queue

    def kept(self, task_id: str | None = None) -> str:
        """Return the text that the row stores for the other options. Raises ``InvalidMail``.

        ``task_id`` is given only when it differs from the delivery's id.
        """
        priority = self.options.get("priority")
        if priority is not None and not canvas.is_message_priority(priority):
            raise InvalidMail(f"priority of apply_async() must be a number from 0 to 255, not {quoted(priority)}.")
        try:
            return canvas.keep(self.options, task_id=task_id, link=self.link, link_error=self.link_error)
        except Exception as error:  # each serializer has its own errors
            raise refusal("The continuation of the mail cannot be stored as JSON", error) from error


class OutboxTask(Task):  # type: ignore[type-arg]  # generic in its stubs; the two would only say Any
    """A task that runs in the caller. When ``apply_async`` returns, it is in the database and not in the broker."""

    @functools.cached_property
    def parameters(self) -> inspect.Signature:
        """The signature of the task."""
        return inspect.signature(self.run)

    @functools.cached_property
    def _names(self) -> tuple[frozenset[str], frozenset[str]]:
        """The names of all parameters, and of those without a default."""
        parameters = self.parameters.parameters.values()
        return frozenset(one.name for one in parameters), frozenset(
            one.name for one in parameters if one.default is one.empty
        )

    def _arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of the task by name. Raises the ``TypeError`` of a call."""
        every, required = self._names
        if not args and required <= kwargs.keys() <= every:
            return kwargs  # as in most calls; binding takes ten times as long
        return self.parameters.bind(*args, **kwargs).arguments

    def take(self, arguments: Mapping[str, Any], call: Call) -> tuple[str, str] | None:
        """Do the task's work in the caller's transaction, and return the ids of its result and of the delivery.

        ``arguments`` are those of the task by name, and ``call`` the other arguments of ``apply_async``. If it returns
        None, the task is published, and a worker runs it like any other task.
        """
        raise NotImplementedError

    def AsyncResult(self, task_id: str, **kwargs: Any) -> DeliveryResult:  # Celery's name
        return DeliveryResult(task_id, backend=self.backend, app=self.app, task_name=self.name, **kwargs)

    @sync_only(
        "delay() or apply_async() of a mail",
        instead="email_integration.asend_email(), or sync_to_async() of other tasks and of signatures",
    )
    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Any:
        """Submit the mail and return the ``AsyncResult`` of its delivery.

        ``eta``, ``countdown`` (seconds), ``expires`` (seconds or datetime), ``queue``, ``priority``, ``task_id``,
        ``link``, ``link_error`` and all arguments of the canvas have the same meaning as in Celery. ``producer`` and
        ``connection`` are not used. Raises ``InvalidMail`` for a mail that cannot be sent as given, and ``TypeError``
        for arguments that the task does not have.
        """
        if isinstance(options.get("priority"), str):
            raise InvalidMail("priority of apply_async() is Celery's number; pass 'high' among the mail's arguments.")
        misplaced = options and sorted(options.keys() & MailKeywords.__annotations__.keys() - {"priority"})
        if misplaced:
            raise InvalidMail(f"Pass {', '.join(misplaced)} among the mail's arguments, not to apply_async().")
        if self.app.conf.task_always_eager:
            return super().apply_async(args, kwargs, task_id, producer, link, link_error, shadow, **options)
        self._check_queue(options.get("queue"))
        arguments = self._arguments(args or (), kwargs or {})
        parent = get_current_worker_task()
        if parent is not None:
            options["root_id"] = options.get("root_id") or parent.request.root_id or parent.request.id
            options["parent_id"] = options.get("parent_id") or parent.request.id
            if self.app.conf.task_inherit_parent_priority:
                options.setdefault("priority", (parent.request.delivery_info or {}).get("priority"))
        call = Call(task_id=task_id, options=options, link=link, link_error=link_error)
        taken = self.take(arguments, call)
        if taken is None:
            return super().apply_async(args, kwargs, task_id, producer, link, link_error, shadow, **options)
        task_id, delivery_id = taken
        result = self.AsyncResult(task_id)
        result.delivery_id = delivery_id
        if parent is not None and options.get("add_to_parent", True):
            parent.add_trail(result)
        return result

    def _check_queue(self, queue: Any) -> None:
        """Raise ``InvalidMail`` for a queue that Celery neither knows nor creates: no worker would get its mail."""
        if not isinstance(queue, str):
            return  # missing, or not a value that a row can store
        try:
            self.app.amqp.router.expand_destination({"queue": queue})
        except QueueNotFound:
            raise InvalidMail(
                f"There is no queue {quoted(queue)} in CELERY_TASK_QUEUES, and CELERY_TASK_CREATE_MISSING_QUEUES is "
                "False."
            ) from None


def moment(name: str, value: float | dt.datetime | str | None) -> dt.datetime | None:
    """Return the time of Celery's option ``name`` as the database stores it. Raises ``InvalidMail``.

    ``value`` is a datetime, a datetime as text (ISO 8601), or a number of seconds from now.
    """
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise InvalidMail(f"{name} must be a datetime or text in ISO 8601, not {quoted(value)}.") from None
    if value is None or isinstance(value, dt.datetime):
        return checked_time(name, value)
    return from_now(name, value)


def from_now(name: str, value: float) -> dt.datetime:
    """Return the time ``value`` seconds from now. Raises ``InvalidMail``, which names the argument ``name``."""
    try:
        return as_stored(timezone.now() + schedule.seconds(float(value)))
    except (TypeError, ValueError, OverflowError):  # not a number, not finite, or after the year 9999
        raise InvalidMail(f"{name} must be a number of seconds, not {quoted(value)}.") from None
