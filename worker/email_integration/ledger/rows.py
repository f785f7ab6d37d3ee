"""The rows of deliveries: where they are, one of them, and whether it can be read at all."""

from __future__ import annotations

import re
from typing import Any

from django.db import InterfaceError, OperationalError, connections
from django.db.models import QuerySet

from email_integration.addresses import LONGEST
from email_integration.models import FINAL, Delivery, DeliveryBatch, Status
from email_integration.outcomes import settlement
from email_integration.outcomes.causes import Cause


def database() -> str:
    """The database alias that deliveries are written to: for transactions and connections."""
    return Delivery.objects.db


#: All states: the enumeration makes a list of them anew each time.
_STATUSES = frozenset(Status.values)

#: Controls (ISO 6429), which PostgreSQL, a log or a terminal does not bear, and halves of characters.
_NO_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


#: Without a blank or a bracket but in quotes (RFC 5321 §4.1.2): it would be another command to the server.
_IN_ENVELOPE = re.compile(r'(?:"(?:[^"\\]|\\.)*"(?=@|$))?[^ <>]*+')


def is_name(text: object) -> bool:
    """Whether it can be the id of a delivery, or an idempotency key."""
    return isinstance(text, str) and 0 < len(text) <= 255 and not _NO_NAME.search(text)


def load(delivery_id: str) -> Delivery | None:
    """Return the delivery, None if there is none (its transaction may have been rolled back).

    A connection that was kept open and has died meanwhile is found out here, and it is asked again over a new one.
    """
    if not is_name(delivery_id):
        return None
    found = Delivery.objects.filter(pk=delivery_id)
    try:
        return found.first()
    except (OperationalError, InterfaceError):
        connection = connections[found.db]
        if connection.in_atomic_block or connection.is_usable():
            raise
        connection.close()
    return found.first()


def in_status(deliveries: QuerySet[Delivery], status: str) -> QuerySet[Delivery]:
    """Those of these that have this status as people see it: what is claimed is 'sending', whatever its row says."""
    # Says to the database what it cannot know by itself: that the index without accepted mail has them all.
    found = deliveries if status == Status.ACCEPTED else deliveries.exclude(status=Status.ACCEPTED)
    if status != Status.SENDING:
        return found.filter(status=status, **({} if status in FINAL else {"batch": ""}))
    # There is no index of what is claimed, but the batches know.
    batches = DeliveryBatch.objects.values_list("items", flat=True)
    return found.filter(pk__in=[pk for items in batches for pk, _version in items]).exclude(batch="")


def pending(delivery: Delivery) -> tuple[str, ...]:
    """The recipients nothing is decided about yet."""
    return tuple([item["address"] for item in delivery.recipients if item["status"] == "pending"])


def put_off(delivery: Delivery) -> tuple[str, ...]:
    """Those among the pending that a server has put off, and not just for being too many at a time."""
    found = [item for item in delivery.recipients if item.get("cause") and item["status"] == "pending"]
    return tuple([item["address"] for item in found if item["cause"] != Cause.TOO_MANY_RECIPIENTS])


def is_readable(delivery: Delivery) -> bool:
    """Whether the row is what it should be, and not what somebody made of it in the database."""
    found: Any = delivery.recipients
    return (
        delivery.status in _STATUSES
        and (delivery.from_at is None or 0 <= delivery.from_at <= delivery.content_size)
        and isinstance(found, list)
        and bool(found)
        and all(map(_is_recipient, found))
    )


def _is_recipient(item: Any) -> bool:
    address = item.get("address") if isinstance(item, dict) else None
    return (
        isinstance(address, str)
        and 0 < len(address) <= LONGEST
        and _IN_ENVELOPE.fullmatch(address) is not None
        and not _NO_NAME.search(address)
        and item.get("status") in settlement.STATUSES
    )
