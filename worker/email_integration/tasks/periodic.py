"""The tasks that beat runs besides the sweep: deleting old data, and evaluating alerts."""

from __future__ import annotations

import logging
from dataclasses import asdict

from celery import shared_task
from django.db import DatabaseError, InterfaceError

from email_integration import alerts
from email_integration.delivery import retention

from . import names

logger = logging.getLogger(__name__)


# No limit: the task works in short transactions, and an interrupted one continues the next day.
@shared_task(name=names.PRUNE, ignore_result=True, acks_late=False, time_limit=24 * 3600, soft_time_limit=24 * 3600)
def prune() -> dict[str, int]:
    """Delete the data whose retention time is over, and return the number of each kind."""
    return asdict(retention.prune())


@shared_task(name=names.EVALUATE_ALERTS, ignore_result=True, acks_late=False)
def evaluate_alerts() -> int:
    """Evaluate all alerts once, and return how many are active.

    Apart from the sweep, which a slow web hook must not block.
    """
    try:
        return alerts.evaluate()
    except (DatabaseError, InterfaceError) as error:  # the next evaluation follows soon
        logger.error("Could not evaluate alerts (%s).", type(error).__name__)
        return 0
