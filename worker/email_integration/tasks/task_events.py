"""Send Celery events with one task for each mail, so that Flower shows each mail under its id.

The dispatcher's own task names no mail. The process that sent the mails also sends the events, after the mails are
recorded, and only while the worker sends task events: from its start with ``-E``, or after a remote command.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from celery import Celery, bootsteps, current_app, signals
from celery._state import connect_on_app_finalize
from celery.events import EventDispatcher
from celery.worker.consumer.events import Events

from email_integration import conf
from email_integration.forks import after_fork_in_child
from email_integration.ledger import instrumentation, transitions
from email_integration.ledger.records import Change, Ended
from email_integration.models import Delivery, Status
from email_integration.timezones import aware

from . import canvas, names, results
from .publishing import connection_of

logger = logging.getLogger(__name__)

#: One octet shared by a worker's processes: whether it sends task events.
_enabled = mmap.mmap(-1, 1)

#: The name of the worker; '' in a process that is not a worker.
_hostname = ""

#: Events in a message.
_AT_ONCE = 500


class _Follow(bootsteps.StartStopStep):
    """Notes whether the worker sends events, each time it has connected to the broker."""

    requires = (Events,)

    def start(self, parent: Any) -> None:
        _note(parent.event_dispatcher)


@connect_on_app_finalize
def _follow(app: Celery) -> None:
    app.steps["consumer"].add(_Follow)


def _note(dispatcher: Any) -> None:
    _enabled[0] = bool(dispatcher.enabled and (not dispatcher.groups or "task" in dispatcher.groups))


@signals.celeryd_init.connect(weak=False)
def _remember_hostname(sender: Any = None, **kwargs: Any) -> None:
    global _hostname  # of this worker, before its processes are forked
    _hostname = str(sender)


@signals.worker_init.connect(weak=False)
def _follow_switches(**kwargs: Any) -> None:
    """Follow the remote commands that turn events on and off."""
    from celery.worker import control  # not in processes that are not workers

    for name in ("enable_events", "disable_events"):
        _follow_switch(control, name)


def _follow_switch(control: Any, name: str) -> None:
    switch = getattr(control, name)

    @control.control_command(name=name)  # type: ignore[untyped-decorator]  # its stubs lack it
    def switch_and_note(state: Any, **kwargs: Any) -> Any:
        answer = switch(state, **kwargs)
        _note(state.consumer.event_dispatcher)
        return answer


class _Sender:
    """Sends this process's events over a separate connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dispatcher: EventDispatcher | None = None

    def send(self, events: Iterator[tuple[str, dict[str, Any]]]) -> None:
        """Send the events in one message. Raises the broker's errors."""
        with self._lock:
            try:
                if self._dispatcher is None:
                    self._dispatcher = EventDispatcher(
                        connection_of(current_app, conf.get("BROKER_TIMEOUT")),
                        hostname=_hostname,
                        app=current_app,
                        buffer_while_offline=False,
                        buffer_group=["task"],
                        buffer_limit=_AT_ONCE,
                    )
                for kind, fields in events:
                    self._dispatcher.send(kind, **fields)
                self._dispatcher.flush(errors=False)
            except Exception:
                dispatcher, self._dispatcher = self._dispatcher, None
                if dispatcher is not None and dispatcher.connection is not None:
                    with contextlib.suppress(Exception):
                        dispatcher.connection.collect()
                raise


_sender = _Sender()


def _begin_anew() -> None:
    global _sender  # the old connection belongs to the parent process
    _sender = _Sender()


after_fork_in_child(_begin_anew)


class TaskEvents(instrumentation.Observer):
    """Sends Celery's events of each recorded attempt."""

    def recorded(self, changes: Sequence[Change]) -> None:
        """Send the events of committed changes."""
        if not (_hostname and _enabled[0]):
            return
        try:
            _sender.send(event for change in changes for event in _events(change))
        except Exception as error:  # each transport has its own errors; events are not essential
            logger.debug("Celery's events for %d mails could not be sent (%s).", len(changes), type(error).__name__)


def _events(change: Change) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events that Celery would send for a task with this outcome."""
    delivery = change.delivery
    status = Status(delivery.status)
    is_put_off = isinstance(change, Ended) or getattr(change.step, "func", None) is transitions.waiting_for_relay
    if not (is_put_off or status.is_final):
        return  # it was given back
    runtime = (change.attempt.duration or 0.0) if isinstance(change, Ended) else 0.0
    task_id = canvas.task_id_of(delivery)
    yield "task-received", _received(delivery, task_id)
    yield "task-started", {"uuid": task_id}
    _state, result = results.state_of(delivery)
    if status is Status.ACCEPTED:
        yield "task-succeeded", {"uuid": task_id, "result": repr(result), "runtime": runtime}
    elif status.is_final:
        yield "task-failed", {"uuid": task_id, "exception": repr(result), "traceback": ""}
    else:
        yield "task-retried", {"uuid": task_id, "exception": repr(result), "traceback": ""}


def _received(delivery: Delivery, task_id: str) -> dict[str, Any]:
    tree = canvas.request_of(delivery)
    return {
        "uuid": task_id,
        "name": names.SEND_EMAIL,
        "args": "()",
        "kwargs": repr({"priority": str(delivery.priority)}),
        "root_id": tree.root_id or task_id,
        "parent_id": tree.parent_id,
        "retries": max(0, delivery.attempts - 1),
        "eta": aware(delivery.due_at).isoformat() if delivery.due_at > delivery.created_at else None,
        "expires": aware(delivery.expires_at).isoformat(),
    }


instrumentation.add(TaskEvents())
