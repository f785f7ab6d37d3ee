"""The doorbell on Celery: short messages, each to the queue of its mail."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from celery import Task, states
from celery.app.task import Context
from celery.utils import uuid
from kombu import Producer

from email_integration import conf
from email_integration.ledger import rows
from email_integration.ledger.sql import Row
from email_integration.ledger.task_queue import PartlyHeard
from email_integration.models import FINAL, Delivery, Lane
from email_integration.on_commit import after_commit

from . import canvas, names, results
from .publishing import Message, Publisher, hear_what_is_refused

logger = logging.getLogger(__name__)

#: Fewer deliveries than this are rung for one by one, each for the next worker that is free.
_FEW = 10

#: As long as there are enough for it, a group is that part of what is rung for, so that no worker gets it all.
_PART = 8

_QUEUES: dict[str, str] = {Lane.HIGH: "HIGH_QUEUE", Lane.NORMAL: "QUEUE", Lane.BULK: "BULK_QUEUE"}


@dataclass(frozen=True, kw_only=True)
class _Parcel:
    """What goes to one queue, all for the same task: CELERY_TASK_ROUTES may send each elsewhere."""

    to: str
    #: One that the caller has chosen, and that nothing declares.
    to_exchange: bool
    messages: list[Message] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)


class CeleryDoorbell(Publisher):
    """Rings by publishing ``deliver`` or ``deliver_group``; reports to Celery's result backend."""

    def __init__(self, deliver: Task[Any, Any], deliver_group: Task[Any, Any], sweep: Task[Any, Any]) -> None:
        self._deliver = deliver
        self._deliver_group = deliver_group
        self._sweep = sweep
        super().__init__(lambda: deliver.app)

    def ring(self, deliveries: Sequence[Delivery]) -> None:
        """Publish a message for each delivery, or for each group of many.

        Raises what the broker raises, and ``PartlyHeard`` when all is well with the broker but not with a queue.
        """
        if self._deliver.app.conf.task_always_eager:
            for delivery in deliveries:
                self._deliver.apply((delivery.pk,), task_id=delivery.pk, throw=False)
            return
        unheard: list[Delivery] = []
        parcels = self._parcels(deliveries)
        several = len(parcels) > 1
        for parcel in parcels:
            try:
                self._publish(
                    [*parcel.messages, hear_what_is_refused] if parcel.to_exchange or several else parcel.messages
                )
            except Exception as error:
                if not self._is_of_the_queue(error):
                    raise
                # Not its text, which may be of anything that the project has put around publishing.
                count, name = len(parcel.deliveries), type(error).__name__
                logger.error("Could not ring for %d deliveries by way of %s (%s).", count, parcel.to, name)
                unheard += parcel.deliveries
        if unheard:
            raise PartlyHeard(unheard)

    def call_for_sweep(self) -> None:
        """Publish one sweep; raises what the broker raises."""
        if not self._deliver.app.conf.task_always_eager:
            self._publish([functools.partial(_call, self._sweep, (), sweep_options())])

    def answer(self, task_id: str, first: Delivery, kept: str, repeated: Task[Any, Any]) -> None:
        """Settle ``task_id``, the id of a repeated submission, with how the first one stands."""
        if canvas.follows(kept):
            options = _on_the_way(first.lane, {"task_id": task_id, **canvas.as_options(kept)})
            answer = functools.partial(self._publish, [functools.partial(_call, repeated, (first.pk,), options)])
            after_commit("answer for a repeated mail", answer, using=rows.database())
        elif results.is_beside_deliveries(self._deliver.backend):
            self._settle(task_id, first)
        else:
            settle = functools.partial(self._settle, task_id, first)
            after_commit("store a result", settle, using=rows.database())

    def _parcels(self, deliveries: Sequence[Delivery]) -> list[_Parcel]:
        """One for each queue, of a message for each delivery, or for each group of those that go the same way."""
        alike: dict[tuple[bool, str, str], list[Delivery]] = {}
        for delivery in deliveries:
            way = (delivery.status in FINAL, delivery.lane, repr(canvas.way(delivery.options)))
            alike.setdefault(way, []).append(delivery)
        parcels: dict[tuple[str, bool], _Parcel] = {}
        for (is_final, lane, _), together in alike.items():
            options = _on_the_way(lane, canvas.way(together[0].options))
            to = _destination(options)
            ids = [delivery.pk for delivery in together]
            size = min(conf.get("GROUP_SIZE"), max(_FEW, len(ids) // _PART))
            # The id of a mail that was revoked is refused by the workers, and something may have to follow it.
            singly = is_final or len(ids) < _FEW or size == 1
            parcel = parcels.setdefault((to, singly), _Parcel(to=to, to_exchange="exchange" in options))
            parcel.deliveries.extend(together)
            if singly:
                parcel.messages.extend(self._ring_for_one(one, options, uuid() if is_final else one) for one in ids)
            else:
                parts = [ids[start : start + size] for start in range(0, len(ids), size)]
                parcel.messages.extend(self._ring_for_group(part, options) for part in parts)
        return list(parcels.values())

    def _ring_for_one(self, delivery_id: str, options: dict[str, Any], task_id: str) -> Message:
        own = {"task_id": task_id, "argsrepr": ""}  # the id of the task says it
        return functools.partial(_ring, self._deliver, (delivery_id,), options | own)

    def _ring_for_group(self, delivery_ids: list[str], options: dict[str, Any]) -> Message:
        # Flower need not know all its ids, which the header would hold once more.
        own = {"task_id": uuid(), "argsrepr": f"({len(delivery_ids)} deliveries,)"}
        return functools.partial(_ring, self._deliver_group, (delivery_ids,), options | own)

    def report(self, delivery: Delivery) -> Sequence[Row]:
        """The result rows, where they lie in the database of deliveries."""
        backend = self._deliver.backend
        if not results.is_beside_deliveries(backend):
            return ()
        return [results.row(backend, task_id, delivery) for task_id in _waited_for(delivery)]

    def report_elsewhere(self, delivery: Delivery) -> None:
        """Store the result where it is kept anywhere else."""
        backend = self._deliver.backend
        if not results.is_beside_deliveries(backend):
            state, result = results.state_of(delivery)
            for task_id in _waited_for(delivery):
                backend.store_result(task_id, result, state, request=canvas.request_of(delivery))

    def _settle(self, task_id: str, delivery: Delivery) -> None:
        """Have ``task_id`` end with how the delivery stands, be that its end or not."""
        failure = results.failure_of(delivery)
        state, result = (states.FAILURE, failure) if failure else (states.SUCCESS, results.summary(delivery))
        request = Context(id=task_id, task=names.SEND_EMAIL)
        self._deliver.backend.store_result(task_id, result, state, request=request)

    def has_follow_up(self, delivery: Delivery) -> bool:
        return canvas.follows(delivery.options)


def queue_of(lane: str) -> str:
    """The queue of a lane's mails; '' is the one that Celery chooses."""
    # What somebody has damaged in the database is a mail like any other.
    return str(conf.get(_QUEUES.get(lane, "QUEUE")) or conf.get("QUEUE"))


def _on_the_way(lane: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the queue of the lane, unless the caller has chosen one; and what Flower shows of the lane."""
    options = {**options, "kwargsrepr": repr({"lane": str(lane)})}
    queue = "" if options.keys() & {"queue", "routing_key", "exchange"} else queue_of(lane)
    return {**options, "queue": queue} if queue else options


def _destination(options: dict[str, Any]) -> str:
    """Where a ring with these options goes, as the log says it."""
    chosen = " ".join(options[name] for name in ("queue", "exchange", "routing_key") if options.get(name))
    return (chosen if chosen.isprintable() else repr(chosen)) or "its route"


#: The options of a ring that its message says of itself; the others are of the way it goes.
_SAID = ("task_id", "argsrepr", "kwargsrepr", "root_id", "parent_id")

#: Settings of Celery's for all tasks that concern a message.
_OF_ALL = ("serializer", "priority")


def _call(task: Task[Any, Any], arguments: tuple[Any, ...], options: dict[str, Any], producer: Producer) -> None:
    task.apply_async(arguments, producer=producer, add_to_parent=False, retry=False, **options)


def _ring(task: Task[Any, Any], arguments: tuple[Any, ...], options: dict[str, Any], producer: Producer) -> None:
    """Send what ``apply_async`` would, in two thirds of its time; nothing else takes the caller of a mail as long.

    Left out is what a ring has no use for: a result, where to send it, and the task it is called by, which the options
    name already. Routes and signals of Celery's are as ever.
    """
    amqp = task.app.amqp
    way = {name: value for name, value in options.items() if name not in _SAID}
    of_all = {name: value for name in _OF_ALL if (value := getattr(task, name)) is not None}
    message = amqp.create_task_message(
        name=task.name,
        args=arguments,
        time_limit=task.time_limit,
        soft_time_limit=task.soft_time_limit,
        create_sent_event=task.app.conf.task_send_sent_event,
        ignore_result=True,
        **{name: options[name] for name in _SAID if name in options},
    )
    route = amqp.router.route(of_all | way, task.name, arguments, {}, task)  # type: ignore[arg-type]  # an instance here
    amqp.send_task_message(producer, task.name, message, retry=False, **route)


def _waited_for(delivery: Delivery) -> set[str]:
    """The ids whose results somebody may wait for."""
    if canvas.as_options(delivery.options).get("ignore_result"):
        return set()
    return {delivery.pk, canvas.task_id_of(delivery)}


def sweep_options() -> dict[str, Any]:
    """Where the sweep's messages go.

    They live for several sweeps: in a busy worker they wait behind the mail that it has fetched, and were there none
    that is heard in time, nothing would be swept. What piles up while no worker runs is bounded all the same.
    """
    queue = conf.get("SWEEP_QUEUE")
    return {"expires": max(60.0, 12 * conf.get("SWEEP_INTERVAL")), **({"queue": queue} if queue else {})}
