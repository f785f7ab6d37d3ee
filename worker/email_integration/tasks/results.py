"""What Celery's result backend is told of a delivery: never an address, never the server's text."""

from __future__ import annotations

from typing import Any

from email_integration.exceptions import DeliveryFailed
from email_integration.models import Delivery, Status


def summary(delivery: Delivery) -> dict[str, Any]:
    """What ``AsyncResult(id).get()`` gives."""
    return {
        "id": delivery.pk,
        "status": str(delivery.status),
        "message_id": delivery.message_id,
        "smtp_config": delivery.smtp_config,
        "code": delivery.code,
        "reason": delivery.reason,
    }


def failure_of(delivery: Delivery) -> DeliveryFailed | None:
    """What it raises instead when the mail ended unaccepted."""
    status = Status(delivery.status)
    if not status.is_final or status is Status.ACCEPTED:
        return None
    return DeliveryFailed(delivery.code, delivery.reason, status.value)
