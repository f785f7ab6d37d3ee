"""Which of the task queue's queues a mail waits in."""

from __future__ import annotations

from email_integration import conf
from email_integration.models import Delivery, Priority

_SETTINGS: dict[str, str] = {Priority.HIGH: "HIGH_QUEUE", Priority.NORMAL: "QUEUE", Priority.BULK: "BULK_QUEUE"}

#: Most urgent first.
_PRIORITIES = (Priority.HIGH, Priority.NORMAL, Priority.BULK)


def key_of(delivery: Delivery) -> str:
    """The queue of a delivery: the caller's own, or that of its priority as the settings map it now."""
    return delivery.queue or queue_of(delivery.priority)


def queue_of(priority: str) -> str:
    """The queue of a priority's mails; '' is the one that the task queue chooses."""
    # What somebody has damaged in the database is a mail like any other.
    return str(conf.get(_SETTINGS.get(priority, "QUEUE")) or conf.get("QUEUE"))


def priorities_of(queue: str) -> tuple[Priority, ...]:
    """The priorities whose mails wait in this queue as the settings map them now, most urgent first."""
    return tuple(priority for priority in _PRIORITIES if queue_of(priority) == queue)
