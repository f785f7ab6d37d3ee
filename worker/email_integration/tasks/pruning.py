"""The task that deletes, once a day, what is kept no longer."""

from __future__ import annotations

from dataclasses import asdict

from celery import shared_task

from email_integration.delivery import retention

from . import names


# No limit: it works in short transactions, and one that is ended goes on the next day.
@shared_task(name=names.PRUNE, ignore_result=True, acks_late=False, time_limit=24 * 3600, soft_time_limit=24 * 3600)
def prune() -> dict[str, int]:
    """Delete what is kept no longer; returns how many of each."""
    return asdict(retention.prune())
