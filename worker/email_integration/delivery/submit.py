"""Take a mail: render, one row in the caller's transaction, a ring on commit."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from django.core.mail import EmailMessage
from django.utils import timezone

from email_integration import conf
from email_integration.exceptions import InvalidMail
from email_integration.models import Delivery, InDoubtPolicy, Lane, Status

from . import content, doorbell, ids, narrate, observing, rows, statements, times
from .render import render


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How mails are to be sent, as ``terms`` has checked it."""

    lane: Lane
    in_doubt: InDoubtPolicy | None
    #: None is as soon as it is submitted, and as the setting GIVE_UP_AFTER says.
    due_at: dt.datetime | None
    expires_at: dt.datetime | None
    default_from_is_open: bool
    envelope_sender: str | None = field(repr=False)
    options: str
    prepared: bool


def terms(
    *,
    priority: str = Lane.NORMAL,
    due_at: dt.datetime | None = None,
    expires_at: dt.datetime | None = None,
    default_from_is_open: bool = False,
    envelope_sender: str | None = None,
    in_doubt: str | None = None,
    options: str = "",
    prepared: bool = False,
) -> Terms:
    """Check how mails are to be sent. Raises ``InvalidMail``.

    ``priority`` is 'high', 'normal' or 'bulk'. ``envelope_sender`` gets the bounces, '<>' for nobody; by default it is
    the address in From. ``in_doubt``, 'resend' or 'hold', is for these mails what the setting IN_DOUBT is for all.
    With ``default_from_is_open`` a sender equal to DEFAULT_FROM_EMAIL is one that nobody chose. A ``prepared`` mail is
    sent when ``ledger.send_prepared`` says so, and expires as usual.
    """
    if in_doubt is not None and in_doubt not in InDoubtPolicy.values:
        raise InvalidMail(f"in_doubt must be 'resend' or 'hold', not {in_doubt!r}.")
    return Terms(
        lane=lane_of(priority),
        in_doubt=None if in_doubt is None else InDoubtPolicy(in_doubt),
        due_at=_moment("eta", due_at),
        expires_at=_moment("expires_at", expires_at),
        default_from_is_open=default_from_is_open,
        envelope_sender=envelope_sender,
        options=options,
        prepared=prepared,
    )


def submit(
    message: EmailMessage, *, delivery_id: str | None = None, idempotency_key: str | None = None, **how: Any
) -> Delivery:
    """Submit ``message`` and return its delivery; it is sent once the current transaction is committed.

    The same ``delivery_id`` or ``idempotency_key`` (each at most 255 characters) again returns the first delivery and
    submits nothing. ``how`` is what ``terms`` takes. Raises ``InvalidMail`` when the mail cannot be sent as given, and
    ``ImproperlyConfigured`` when it has to be sealed and there is no key.
    """
    delivery = make(message, terms(**how), delivery_id=delivery_id, idempotency_key=idempotency_key)
    using = rows.database()
    is_named = delivery_id is not None or idempotency_key is not None
    if not statements.insert(delivery, using=using, unless_known=is_named):
        content.remove_file(delivery.content_file)
        return first(using, delivery)
    narrate.submitted(delivery)
    if is_due(delivery):
        doorbell.ring_on_commit(delivery, using=using)
    return delivery


def make(
    message: EmailMessage, terms: Terms, *, delivery_id: str | None = None, idempotency_key: str | None = None
) -> Delivery:
    """Render ``message`` and return its delivery, which is not saved yet. Raises as ``submit`` does."""
    if delivery_id is not None:
        check_name("task_id", delivery_id)
    if idempotency_key is not None:
        check_name("idempotency_key", idempotency_key)
    now = timezone.now()
    due_at = terms.due_at or now
    try:
        expires_at = terms.expires_at or due_at + times.seconds(conf.get("GIVE_UP_AFTER"))
    except OverflowError:
        raise InvalidMail(f"eta is too far away: {due_at:%Y-%m-%d}.") from None
    if terms.prepared:
        due_at = expires_at
    rendered = render(message, default_from_is_open=terms.default_from_is_open, envelope_sender=terms.envelope_sender)
    delivery = Delivery(
        id=delivery_id or ids.new_id(),
        status=Status.PREPARED if terms.prepared else Status.QUEUED,
        message_id=rendered.message_id,
        from_header=rendered.from_header,
        from_at=rendered.from_at,
        sender=rendered.sender,
        recipients=[{"address": address, "status": "pending"} for address in rendered.recipients],
        lane=terms.lane,
        in_doubt_policy=terms.in_doubt or "",
        idempotency_key=idempotency_key,
        created_at=now,
        due_at=due_at,
        expires_at=expires_at,
        ring_after=times.first_ring(due_at, expires_at, now),
        options=terms.options,
    )
    content.store(delivery, rendered.content)
    observing.installed().submitting(delivery)
    return delivery


def check_name(what: str, text: str) -> None:
    """Raise ``InvalidMail`` unless ``text`` can be an id or a key: PostgreSQL takes no NUL."""
    if not (isinstance(text, str) and 0 < len(text) <= 255 and "\0" not in text):  # type: ignore[redundant-expr]
        raise InvalidMail(f"{what} must be text of 1 to 255 characters.")


def is_due(delivery: Delivery) -> bool:
    """Whether a delivery was submitted to be sent at once."""
    return delivery.status == Status.QUEUED and delivery.due_at <= delivery.created_at


def lane_of(priority: str) -> Lane:
    """The lane of that priority. Raises ``InvalidMail``."""
    if priority not in Lane.values:
        raise InvalidMail(f"priority must be {', '.join(map(repr, Lane.values))}, not {priority!r}.")
    return Lane(priority)


def first(using: str, delivery: Delivery) -> Delivery:
    """The delivery of the same id, or else of the same idempotency key, that was there before."""
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
