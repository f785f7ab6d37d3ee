"""The tasks that beat runs besides the sweep: deleting what is kept no longer, and evaluating alerts."""

from __future__ import annotations

import logging
from dataclasses import asdict

from celery import shared_task
from django.db import DatabaseError, InterfaceError

from email_integration import alerts
from email_integration.delivery import retention

from . import names

logger = logging.getLogger(__name__)


# No limit: it works in short transactions, and one that is ended goes on the next day.
@shared_task(name=names.PRUNE, ignore_result=True, acks_late=False, time_limit=24 * 3600, soft_time_limit=24 * 3600)
def prune() -> dict[str, int]:
    """Delete what is kept no longer; returns how many of each."""
    return asdict(retention.prune())


@shared_task(name=names.EVALUATE_ALERTS, ignore_result=True, acks_late=False)
def evaluate_alerts() -> int:
    """Evaluate once; return how many alerts are on. Beside the sweep: a slow web hook must not hold that up."""
    try:
        return alerts.evaluate()
    except (DatabaseError, InterfaceError) as error:  # the next evaluation comes soon
        logger.error("Could not evaluate alerts (%s).", type(error).__name__)
        return 0
