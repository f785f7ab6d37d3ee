"""Recently finished deliveries, as rows: for pages that show many."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from django.utils import timezone

from email_integration.models import Delivery, DeliveryAttempt, Status
from email_integration.outcomes.causes import Cause
from tests.deliveries import submitted


def ended(
    count: int,
    *,
    at: dt.datetime,
    status: Status = Status.ACCEPTED,
    took: float = 1.0,
    every: float = 0.0,
    **values: object,
) -> list[Delivery]:
    """Create ``count`` finished deliveries and return them.

    The last one finished at ``at``, and each other one ``every`` seconds before the next. Each finished ``took``
    seconds after it was submitted.
    """
    pattern = submitted()
    Delivery.objects.filter(pk=pattern.pk).delete()
    given = {name: getattr(pattern, name) for name in ("message_id", "recipients", "expires_at", "due_at")}
    moments = [at - dt.timedelta(seconds=every * number) for number in range(count)]
    return Delivery.objects.bulk_create(
        Delivery(
            **{
                **given,
                "id": f"{pattern.pk}-{number}",
                "status": status,
                "created_at": moment - dt.timedelta(seconds=took),
                "finished_at": moment,
                "next_at": None,
                "has_content": False,
                "attempts": 1,
                "smtp_config": "Primary",
                **values,
            }
        )
        for number, moment in enumerate(moments)
    )


def tried(
    deliveries: Iterable[Delivery],
    *,
    outcome: Status = Status.DEFERRED,
    cause: str = Cause.BUSY,
    reason: str = "the server is busy",
) -> None:
    """Create an attempt of each delivery, which ended when the delivery finished."""
    DeliveryAttempt.objects.bulk_create(
        DeliveryAttempt(
            delivery=each,
            number=1,
            started_at=each.created_at,
            finished_at=each.finished_at or timezone.now(),
            outcome=outcome,
            cause=str(cause),
            reason=reason,
            smtp_config=each.smtp_config,
        )
        for each in deliveries
    )
