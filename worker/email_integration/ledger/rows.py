"""The rows of deliveries: their database, loading one, and checking whether it is readable."""

from __future__ import annotations

import re
from typing import Any

from django.db import InterfaceError, OperationalError, connections
from django.db.models import Exists, OuterRef, QuerySet

from email_integration.addresses import LONGEST
from email_integration.models import FINAL, Delivery, DeliveryBatch, Status
from email_integration.outcomes import settlement
from email_integration.outcomes.causes import Cause


def database() -> str:
    """Return the database alias that deliveries are written to, for transactions and connections."""
    return Delivery.objects.db


#: All statuses. The enumeration builds a new list of them on each access.
_STATUSES = frozenset(Status.values)

#: Controls (ISO 6429), which PostgreSQL, a log or a terminal cannot handle, and surrogates.
_NO_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


#: An address without spaces or angle brackets, except in quotes (RFC 5321 §4.1.2). They could inject a command to the
#: server.
_IN_ENVELOPE = re.compile(r'(?:"(?:[^"\\]|\\.)*"(?=@|$))?[^ <>]*+')


def is_name(text: object) -> bool:
    """Return whether ``text`` is valid as the id of a delivery or as an idempotency key."""
    return isinstance(text, str) and 0 < len(text) <= 255 and not _NO_NAME.search(text)


def load(delivery_id: str) -> Delivery | None:
    """Return the delivery; None if there is none (its transaction may have been rolled back).

    If a connection that was kept open has died, the query is repeated over a new one. Raises ``DatabaseError``.
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
    """Return the deliveries with this status as people see it: a claimed one is 'sending', whatever its row says."""
    # Tells the database that the index without accepted mail contains all of them, which it cannot infer.
    found = deliveries if status == Status.ACCEPTED else deliveries.exclude(status=Status.ACCEPTED)
    if status != Status.SENDING:
        return found.filter(status=status, **({} if status in FINAL else {"batch": ""}))
    # There is no index of claimed mail, but the batches list it.
    batches = DeliveryBatch.objects.values_list("items", flat=True)
    return found.filter(pk__in=[pk for items in batches for pk, _version in items]).exclude(batch="")


def accepted_as_copy(deliveries: QuerySet[Delivery]) -> Exists:
    """Return the condition that a copy of the delivery, or a copy of a copy, was sent later, and accepted.

    All copies have the Message-ID of the first mail.
    """
    copies = Delivery.objects.using(deliveries.db).filter(status=Status.ACCEPTED, copy_of__isnull=False)
    return Exists(copies.filter(message_id=OuterRef("message_id"), created_at__gt=OuterRef("created_at")))


def pending(delivery: Delivery) -> tuple[str, ...]:
    """Return the recipients that are not settled yet."""
    return tuple([item["address"] for item in delivery.recipients if item["status"] == "pending"])


def put_off(delivery: Delivery) -> tuple[str, ...]:
    """Return the pending recipients that a server has deferred, except those deferred as too many at once."""
    found = [item for item in delivery.recipients if item.get("cause") and item["status"] == "pending"]
    return tuple([item["address"] for item in found if item["cause"] != Cause.TOO_MANY_RECIPIENTS])


def is_readable(delivery: Delivery) -> bool:
    """Return whether the row is valid, and was not damaged by a change in the database."""
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
