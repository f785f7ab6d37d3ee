"""Which of the task queue's queues a mail waits in."""

from __future__ import annotations

from email_integration import conf
from email_integration.models import Delivery, Lane

_SETTINGS: dict[str, str] = {Lane.HIGH: "HIGH_QUEUE", Lane.NORMAL: "QUEUE", Lane.BULK: "BULK_QUEUE"}

#: Most urgent first.
_LANES = (Lane.HIGH, Lane.NORMAL, Lane.BULK)


def key_of(delivery: Delivery) -> str:
    """The queue of a delivery: the caller's own, or that of its priority as the settings map it now."""
    return delivery.queue or queue_of(delivery.lane)


def queue_of(lane: str) -> str:
    """The queue of a priority's mails; '' is the one that the task queue chooses."""
    # What somebody has damaged in the database is a mail like any other.
    return str(conf.get(_SETTINGS.get(lane, "QUEUE")) or conf.get("QUEUE"))


def lanes_of(queue: str) -> tuple[Lane, ...]:
    """The priorities whose mails wait in this queue as the settings map them now, most urgent first."""
    return tuple(lane for lane in _LANES if queue_of(lane) == queue)
