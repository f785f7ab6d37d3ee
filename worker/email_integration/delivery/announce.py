"""Tell what became of a mail: the application by the signals in ``email_integration.signals``, and the log."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from django.dispatch import Signal

from email_integration import signals
from email_integration.models import Delivery, Status

from . import narrate
from .commits import after_commit
from .outcome import InDoubt
from .rows import database

if TYPE_CHECKING:
    from .ledger import Ended


def outcome(ended: Ended, before: list[dict[str, Any]]) -> None:
    """Announce how an attempt ended, once it is committed; ``before`` is how the recipients stood."""
    delivery = ended.delivery
    narrate.attempted(ended)
    settled = {item["address"] for item in before if item["status"] != "pending"}
    for item in delivery.recipients:
        if item["status"] == "failed" and item["address"] not in settled:
            _send(signals.recipient_refused, delivery, recipient=dict(item))
    if isinstance(ended.outcome, InDoubt):
        _send(signals.delivery_in_doubt, delivery)
    _send_end(delivery)


def end(delivery: Delivery) -> None:
    """Announce that a delivery is finished without an attempt, once that is committed."""
    narrate.moved(delivery)
    _send_end(delivery)


def _send_end(delivery: Delivery) -> None:
    signal = _OF_STATUS.get(Status(delivery.status))
    if signal is not None:
        _send(signal, delivery)


_OF_STATUS = {
    Status.ACCEPTED: signals.delivery_accepted,
    Status.FAILED: signals.delivery_failed,
    Status.QUARANTINED: signals.delivery_failed,
    Status.EXPIRED: signals.delivery_expired,
}


def _send(signal: Signal, delivery: Delivery, **arguments: Any) -> None:
    if not signal.has_listeners(Delivery):
        return
    # Django logs what a receiver raises.
    tell = functools.partial(signal.send_robust, sender=Delivery, delivery=delivery, **arguments)
    after_commit("tell of a delivery", tell, using=database())
