"""Attempts at deliveries that one message rang for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from email_integration.models import Delivery

from .attempt import attempt
from .outcome import Skipped

logger = logging.getLogger(__name__)


def attempt_group(delivery_ids: Sequence[str]) -> Iterator[Delivery]:
    """Try each delivery once, and give it as it stands then, unless there was nothing to do.

    Raises ``DatabaseError`` when the database fails; what is left is rung for again.
    """
    for delivery_id in delivery_ids:
        delivery = attempt(delivery_id)
        if isinstance(delivery, Skipped):
            logger.debug("Delivery %s: %s", delivery_id, delivery.reason)
        else:
            yield delivery
