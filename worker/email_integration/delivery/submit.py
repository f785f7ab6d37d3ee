"""Take a mail: render, one row in the caller's transaction, a ring on commit."""

from __future__ import annotations

import datetime as dt
import uuid

from django.core.mail import EmailMessage
from django.db import IntegrityError, transaction
from django.utils import timezone

from email_integration import conf
from email_integration.exceptions import InvalidMail
from email_integration.models import Delivery, InDoubtPolicy, Lane, Status

from . import content, doorbell, rows, times
from .render import render


def submit(
    message: EmailMessage,
    *,
    priority: str = Lane.NORMAL,
    delivery_id: str | None = None,
    idempotency_key: str | None = None,
    due_at: dt.datetime | None = None,
    expires_at: dt.datetime | None = None,
    default_from_is_open: bool = False,
    envelope_sender: str | None = None,
    in_doubt: str | None = None,
    options: str = "",
    prepared: bool = False,
) -> Delivery:
    """Submit ``message`` and return its delivery; it is sent once the current transaction is committed.

    The same ``delivery_id`` or ``idempotency_key`` (each at most 255 characters) again returns the first delivery and
    submits nothing. ``priority`` is 'high', 'normal' or 'bulk'. ``envelope_sender`` gets the bounces, '<>' for nobody;
    by default it is the address in From. ``in_doubt``, 'resend' or 'hold', is for this mail what the setting IN_DOUBT
    is for all. A ``prepared`` mail is sent when ``ledger.send_prepared`` says so, and expires as usual. Raises
    ``InvalidMail`` when the mail cannot be sent as given, and ``ImproperlyConfigured`` when it has to be sealed and
    there is no key.
    """
    for name, text in (("task_id", delivery_id), ("idempotency_key", idempotency_key)):
        # PostgreSQL takes no NUL.
        if text is not None and not (isinstance(text, str) and 0 < len(text) <= 255 and "\0" not in text):  # type: ignore[redundant-expr]
            raise InvalidMail(f"{name} must be text of 1 to 255 characters.")
    lane = lane_of(priority)
    if in_doubt is not None and in_doubt not in InDoubtPolicy.values:
        raise InvalidMail(f"in_doubt must be 'resend' or 'hold', not {in_doubt!r}.")
    now = timezone.now()
    due_at = _moment("eta", due_at) or now
    try:
        expires_at = _moment("expires_at", expires_at) or due_at + times.seconds(conf.get("GIVE_UP_AFTER"))
    except OverflowError:
        raise InvalidMail(f"eta is too far away: {due_at:%Y-%m-%d}.") from None
    if prepared:
        due_at = expires_at
    rendered = render(message, default_from_is_open=default_from_is_open, envelope_sender=envelope_sender)
    delivery = Delivery(
        id=delivery_id or str(uuid.uuid4()),
        status=Status.PREPARED if prepared else Status.QUEUED,
        message_id=rendered.message_id,
        from_header=rendered.from_header,
        from_at=rendered.from_at,
        sender=rendered.sender,
        recipients=[{"address": address, "status": "pending"} for address in rendered.recipients],
        lane=lane,
        in_doubt_policy=in_doubt or "",
        idempotency_key=idempotency_key,
        created_at=now,
        due_at=due_at,
        expires_at=expires_at,
        ring_after=times.first_ring(due_at, expires_at, now),
        options=options,
    )
    content.store(delivery, rendered.content)
    using = rows.database()
    if delivery_id is None and idempotency_key is None:
        delivery.save(using=using, force_insert=True)
    else:
        try:
            with transaction.atomic(using=using):
                delivery.save(using=using, force_insert=True)
        except IntegrityError:
            content.remove_file(delivery.content_file)
            return _first(using, delivery)
    if due_at <= now and not prepared:
        doorbell.ring_on_commit(delivery, using=using)
    return delivery


def lane_of(priority: str) -> Lane:
    """The lane of that priority. Raises ``InvalidMail``."""
    if priority not in Lane.values:
        raise InvalidMail(f"priority must be {', '.join(map(repr, Lane.values))}, not {priority!r}.")
    return Lane(priority)


def _first(using: str, delivery: Delivery) -> Delivery:
    rows = Delivery.objects.using(using)
    found = rows.filter(pk=delivery.pk).first()
    if found is None:
        found = rows.get(idempotency_key=delivery.idempotency_key)
    return found


def _moment(name: str, value: dt.datetime | None) -> dt.datetime | None:
    if value is None:
        return None
    if not isinstance(value, dt.datetime):
        raise InvalidMail(f"{name} must be a datetime, not {value!r}.")
    return timezone.make_aware(value) if timezone.is_naive(value) else value
