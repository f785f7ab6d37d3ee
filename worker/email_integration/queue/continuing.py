"""Publish the continuations of finished deliveries in the caller's task queue, at least once."""

from __future__ import annotations

import logging

from django.db import DatabaseError, InterfaceError

from email_integration import conf
from email_integration.ledger import continuation, task_queue
from email_integration.models import Delivery

logger = logging.getLogger(__name__)

#: Continuations that are taken at once.
_BATCH = 50

#: After this many failures in a row, the broker is assumed to be down, and the other continuations wait.
_AWAY_AFTER = 3


def publish(delivery: Delivery) -> bool:
    """Publish the continuation of a finished delivery and record it. Return False when it has to wait. Never raises."""
    try:
        task_queue.installed().continue_(delivery)
        continuation.done(delivery)
    except Exception as error:  # each broker and result backend has its own errors
        name, of = type(error).__name__, {"delivery_id": delivery.pk}
        logger.error("The continuation of delivery %s is delayed (%s).", delivery.pk, name, extra=of)
        _put_off(delivery)
        return False
    return True


def publish_due() -> int:
    """Publish the continuations that are not published yet, and return the number of deliveries.

    Raises ``DatabaseError``.
    """
    published, failed = 0, 0
    while found := continuation.take_due(_BATCH):
        for delivery in found:
            if failed >= _AWAY_AFTER:
                _put_off(delivery)
            elif publish(delivery):
                published, failed = published + 1, 0
            else:
                failed += 1
        if failed >= _AWAY_AFTER or len(found) < _BATCH:
            break
    return published


def _put_off(delivery: Delivery) -> None:
    """Let a sweep try it soon, instead of after the whole lease."""
    try:
        continuation.later(delivery.pk, conf.get("RETRY_FIRST"))
    except (DatabaseError, InterfaceError) as error:
        logger.debug(
            "The continuation of delivery %s is delayed until its lease ends (%s).", delivery.pk, type(error).__name__
        )
