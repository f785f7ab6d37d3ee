"""Publishing what follows finished deliveries in the caller's task queue, at least once."""

from __future__ import annotations

import logging

from django.db import DatabaseError, InterfaceError

from email_integration import conf
from email_integration.ledger import continuation, task_queue
from email_integration.models import Delivery

logger = logging.getLogger(__name__)

#: How many are taken over at a time.
_BATCH = 50

#: So many in a row that cannot be published are not those deliveries' fault; the others wait.
_AWAY_AFTER = 3


def publish(delivery: Delivery) -> bool:
    """Publish what follows a finished delivery and note it; False when it has to wait. Never raises."""
    try:
        task_queue.installed().continue_(delivery)
        continuation.done(delivery)
    except Exception as error:  # each broker and each result backend has its own
        name, of = type(error).__name__, {"delivery_id": delivery.pk}
        logger.error("What follows delivery %s has to wait (%s).", delivery.pk, name, extra=of)
        _put_off(delivery)
        return False
    return True


def publish_due() -> int:
    """Publish what nobody has published since its delivery ended; return for how many deliveries.

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
    """Have a sweep try it soon, not after the whole lease."""
    try:
        continuation.later(delivery.pk, conf.get("RETRY_FIRST"))
    except (DatabaseError, InterfaceError) as error:
        logger.debug("What follows delivery %s waits for its lease (%s).", delivery.pk, type(error).__name__)
