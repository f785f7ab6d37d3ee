"""What follows a finished delivery: published by who ended it, or else by the sweeper, once it is due."""

from __future__ import annotations

from django.db import transaction
from django.db.models import QuerySet

from email_integration import conf, django_internals
from email_integration.models import DatabaseTime, Delivery

from .rows import database


def take_due(limit: int) -> list[Delivery]:
    """Return at most ``limit`` finished deliveries whose continuation is due, without their contents.

    Each is due again after the setting LEASE, for the case that it is not published. Raises ``DatabaseError``.
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
    """Lock the row for the current transaction; False when what follows is published, or the row is gone.

    The delivery gets what the row keeps by now. Any other process that would publish it waits for the commit.
    """
    return _read(delivery, _waiting(delivery.pk).select_for_update())


def refresh(delivery: Delivery) -> bool:
    """The same without a lock."""
    return _read(delivery, _waiting(delivery.pk))


def _read(delivery: Delivery, rows: QuerySet[Delivery]) -> bool:
    options = rows.values_list("options", flat=True).first()
    if options is not None:
        delivery.options = options
    return options is not None


def done(delivery: Delivery) -> None:
    """Record that what follows the delivery is published, unless the row keeps something else by now."""
    _waiting(delivery.pk).filter(options=delivery.options).update(continue_after=None)


def replace(delivery: Delivery) -> None:
    """Have something else follow the delivery: what its options are now."""
    _waiting(delivery.pk).update(options=delivery.options)


def later(delivery_id: str, seconds: float) -> None:
    """Leave what follows the delivery to the sweeper, in so many seconds."""
    _waiting(delivery_id).update(continue_after=DatabaseTime(ahead=seconds))


def _waiting(delivery_id: str) -> QuerySet[Delivery]:
    return Delivery.objects.filter(pk=delivery_id, continue_after__isnull=False)
