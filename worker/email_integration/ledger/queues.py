"""Map mails to the queues of the task queue."""

from __future__ import annotations

from email_integration import conf
from email_integration.models import Delivery, Priority

_SETTINGS: dict[str, str] = {Priority.HIGH: "HIGH_QUEUE", Priority.NORMAL: "QUEUE", Priority.BULK: "BULK_QUEUE"}

#: The most urgent first.
_PRIORITIES = (Priority.HIGH, Priority.NORMAL, Priority.BULK)


def key_of(delivery: Delivery) -> str:
    """Return the queue of a delivery: the one that the caller chose, or that of its priority in the settings."""
    return delivery.queue or queue_of(delivery.priority)


def queue_of(priority: str) -> str:
    """Return the queue of a priority. '' means the default queue of the task queue."""
    # A priority that was damaged in the database counts as normal.
    return str(conf.get(_SETTINGS.get(priority, "QUEUE")) or conf.get("QUEUE"))


def priorities_of(queue: str) -> tuple[Priority, ...]:
    """Return the priorities whose mails wait in this queue in the current settings, the most urgent first."""
    return tuple(priority for priority in _PRIORITIES if queue_of(priority) == queue)
