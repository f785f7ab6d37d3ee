"""The task that looks, every so often, whether people must be told of something."""

from __future__ import annotations

import logging

from celery import shared_task
from django.db import DatabaseError, InterfaceError

from email_integration import alerts

from . import names

logger = logging.getLogger(__name__)


@shared_task(name=names.LOOK_FOR_ALERTS, ignore_result=True, acks_late=False)
def look_for_alerts() -> int:
    """Look once; returns how many alerts are on. Beside the sweep: a slow web hook must not hold that up."""
    try:
        return alerts.look()
    except (DatabaseError, InterfaceError) as error:  # somebody looks again soon
        logger.error("Could not look for alerts (%s).", type(error).__name__)
        return 0
