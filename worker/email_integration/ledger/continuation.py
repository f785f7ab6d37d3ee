"""The continuation of a finished delivery: published by the process that ended it, or by the sweeper once it is due."""

from __future__ import annotations

from django.db import transaction
from django.db.models import QuerySet

from email_integration import conf, django_internals
from email_integration.models import DatabaseTime, Delivery

from .rows import database


def take_due(limit: int) -> list[Delivery]:
    """Return at most ``limit`` finished deliveries whose continuation is due, without their contents.

    Each continuation is due again after LEASE seconds, in case it is not published. Raises ``DatabaseError``.
    """
    using = database()
    due = Delivery.objects.filter(continue_after__lte=DatabaseTime()).order_by("continue_after")
    if not due.exists():
        return []
    with transaction.atomic(using=using):
        if django_internals.can_skip_locked_rows(transaction.get_connection(using)):
            due = due.select_for_update(skip_locked=True)
        taken = list(due.defer("content")[:limit])
        rows = Delivery.objects.filter(pk__in=[one.pk for one in taken], continue_after__isnull=False)
        rows.update(continue_after=DatabaseTime(ahead=float(conf.get("LEASE"))))
    return taken


def lock(delivery: Delivery) -> bool:
    """Lock the row in the current transaction. Return False when the continuation is published, or the row is gone.

    The delivery gets the current options of its row. Any other process that would publish the continuation waits for
    the commit.
    """
    return _read(delivery, _waiting(delivery.pk).select_for_update())


def refresh(delivery: Delivery) -> bool:
    """Read the current options of the row, like ``lock``, but without a lock."""
    return _read(delivery, _waiting(delivery.pk))


def _read(delivery: Delivery, rows: QuerySet[Delivery]) -> bool:
    options = rows.values_list("options", flat=True).first()
    if options is not None:
        delivery.options = options
    return options is not None


def done(delivery: Delivery) -> None:
    """Record that the continuation of the delivery is published, unless the row contains another one by now."""
    _waiting(delivery.pk).filter(options=delivery.options).update(continue_after=None)


def replace(delivery: Delivery) -> None:
    """Replace the continuation of the delivery in its row by that in its options."""
    _waiting(delivery.pk).update(options=delivery.options)


def later(delivery_id: str, seconds: float) -> None:
    """Let the sweeper publish the continuation of the delivery in ``seconds`` seconds."""
    _waiting(delivery_id).update(continue_after=DatabaseTime(ahead=seconds))


def _waiting(delivery_id: str) -> QuerySet[Delivery]:
    return Delivery.objects.filter(pk=delivery_id, continue_after__isnull=False)
