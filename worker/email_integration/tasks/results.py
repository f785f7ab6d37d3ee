"""The results of deliveries for Celery's result backend: without addresses and without the server's text."""

from __future__ import annotations

from typing import Any

from celery import states
from celery.app.task import Context
from django.db import router
from django.utils import timezone
from kombu.exceptions import OperationalError

from email_integration.exceptions import DeliveryDeferred, DeliveryFailed
from email_integration.ledger import rows
from email_integration.ledger.steps import Row
from email_integration.models import Delivery, Status

from . import names


def summary(delivery: Delivery) -> dict[str, Any]:
    """Return the value of ``AsyncResult(id).get()``."""
    return {
        "id": delivery.pk,
        "status": str(delivery.status),
        "message_id": delivery.message_id,
        "smtp_config": delivery.smtp_config,
        "code": delivery.code,
        "reason": delivery.reason,
    }


def failure_of(delivery: Delivery) -> DeliveryFailed | None:
    """Return the exception that ``get()`` raises for a mail that ended without being accepted, else None."""
    status = Status(delivery.status)
    if not status.is_final or status is Status.ACCEPTED:
        return None
    return DeliveryFailed(delivery.code, delivery.reason, status.value)


def state_of(delivery: Delivery) -> tuple[str, Any]:
    """Return Celery's state of the delivery, and its result: a value or an exception."""
    failure = failure_of(delivery)
    if failure is not None:
        return states.FAILURE, failure
    if not Status(delivery.status).is_final:
        return states.RETRY, DeliveryDeferred(delivery.code, delivery.reason)
    return states.SUCCESS, summary(delivery)


def is_beside_deliveries(backend: Any) -> bool:
    """Return whether the result backend is django-celery-results with rows in the database of deliveries."""
    # No subclass of it, because that may store results differently.
    if type(backend).__module__ != "django_celery_results.backends.database":
        return False
    return bool(router.db_for_write(backend.TaskModel) == rows.database())


def require_unclaimed(backend: Any, request: Context) -> None:
    """Raise ``OperationalError`` while another process is to publish the body of the chord that this mail is a part of.

    Celery's backend for Redis reports that for some seconds, from the time when the last part was counted. So this part
    has already been counted. If the other process was killed, counting this part again after that time publishes the
    body.
    """
    if not (request.chord and request.group and hasattr(backend, "_chord_zset")):
        return
    claim, size = (backend.get(backend.get_key_for_group(request.group, key)) for key in (".c", ".s"))
    if size is not None and claim not in (None, b"done", "done"):
        raise OperationalError("another process has claimed the body of the chord")


def row(backend: Any, task_id: str, delivery: Delivery) -> Row:
    """Return the row of the result ``task_id`` as the backend writes it, which takes one statement instead of four."""
    state, result = state_of(delivery)
    content_type, encoding, encoded = backend.encode_content(backend.encode_result(result, state))
    now = timezone.now()
    return Row(
        model=backend.TaskModel,
        values={
            "task_id": task_id,
            "status": state,
            "content_type": content_type,
            "content_encoding": encoding,
            "result": encoded,
            "meta": backend.encode_content({"children": []})[2],
            "traceback": None,
            "task_name": names.SEND_EMAIL if backend.app.conf.result_extended else None,
            "date_created": now,
            "date_done": now,
        },
        unique="task_id",
        kept=("date_created",),
    )
