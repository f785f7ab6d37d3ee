"""Submit a mail: render it, insert one row in the caller's transaction, and publish a wake-up on commit."""

from __future__ import annotations

import secrets
import time
from typing import Unpack

from django.core.mail import EmailMessage
from django.utils import timezone

from email_integration import conf, django_internals
from email_integration.async_safety import sync_only
from email_integration.exceptions import InvalidMail
from email_integration.ledger import events, inserting, instrumentation, rows, task_queue
from email_integration.message import content, sealed_subjects
from email_integration.message.options import MailKeywords, MailOptions
from email_integration.message.rendering import render
from email_integration.models import Delivery, Priority, Status
from email_integration.outcomes import schedule
from email_integration.secrecy import with_secrets


@sync_only("submit()", instead="email_integration.asubmit()")
@with_secrets
def submit(
    message: EmailMessage,
    *,
    delivery_id: str | None = None,
    idempotency_key: str | None = None,
    **options: Unpack[MailKeywords],
) -> Delivery:
    """Submit ``message`` and return its delivery. The mail is sent after the current transaction is committed.

    Submitting the same ``delivery_id`` or ``idempotency_key`` (each at most 255 characters) again returns the first
    delivery and submits nothing. ``options`` are those of ``MailOptions``. Raises ``InvalidMail`` when the mail cannot
    be sent as given, and ``ImproperlyConfigured`` when it must be encrypted and there is no key.
    """
    made = build_delivery(message, MailOptions(**options), delivery_id=delivery_id, idempotency_key=idempotency_key)
    return store(made, unless_known=delivery_id is not None)


@with_secrets
def store(delivery: Delivery, *, unless_known: bool) -> Delivery:
    """Insert a built delivery, and publish it on commit. Return it, or the existing delivery.

    A delivery may already exist only with ``unless_known`` or with an idempotency key.
    """
    using = rows.database()
    unless_known = unless_known or delivery.idempotency_key is not None
    if not inserting.insert(delivery, using=using, unless_known=unless_known):
        content.remove_file(delivery.content_file)
        return first(delivery)
    events.submitted(delivery)
    if is_due(delivery):
        task_queue.notify_on_commit(delivery, using=using)
    return delivery


@with_secrets
def build_delivery(
    message: EmailMessage,
    options: MailOptions,
    *,
    delivery_id: str | None = None,
    idempotency_key: str | None = None,
    default_from_is_open: bool = False,
    kept: str = "",
    queue: str = "",
    prepared: bool = False,
) -> Delivery:
    """Render ``message`` and return its delivery, which is not saved yet. Raises the errors of ``submit``.

    ``options`` are those of the mail; ``delivery_id`` and ``idempotency_key`` are as in ``submit``. With
    ``default_from_is_open`` a sender equal to DEFAULT_FROM_EMAIL counts as not chosen. ``kept`` is the part of the call
    that the row stores, and ``queue`` the queue that the caller has chosen. A ``prepared`` mail is sent after
    ``transitions.send_prepared`` is called, and expires as usual.
    """
    if delivery_id is not None:
        check_name("task_id", delivery_id)
    if idempotency_key is not None:
        check_name("idempotency_key", idempotency_key)
    now = timezone.now()
    due_at = options.due_at or now
    try:
        expires_at = options.expires_at or due_at + schedule.seconds(conf.get("GIVE_UP_AFTER"))
    except OverflowError:
        raise InvalidMail(f"{due_at.date()} is out of range: a mail cannot be due so late.") from None
    if prepared:
        due_at = expires_at
    rendered = render(message, default_from_is_open=default_from_is_open, envelope_sender=options.envelope_sender)
    values = {
        "id": delivery_id or new_id(),
        "status": Status.PREPARED if prepared else Status.QUEUED,
        "message_id": rendered.message_id,
        "from_header": rendered.from_header,
        "from_at": rendered.from_at,
        "sender": rendered.sender,
        "recipients": [{"address": address, "status": "pending"} for address in rendered.recipients],
        "priority": Priority(options.priority),
        "in_doubt_policy": options.in_doubt or "",
        "idempotency_key": idempotency_key,
        "created_at": now,
        "due_at": due_at,
        "expires_at": expires_at,
        "queue": queue,
        "options": kept,
    }
    if prepared or due_at > now:
        # Otherwise next_at is the time of the insert, by the database's clock. A prepared mail that expires may be
        # claimed then, so it reaches a final state.
        values["next_at"] = min(due_at, expires_at)
    delivery = django_internals.new_instance(Delivery, values)
    content.store(delivery, content.of_rendered(rendered) if rendered.large else rendered.frame)
    sealed_subjects.store(delivery, rendered.subject)
    instrumentation.installed().submitting(delivery)
    return delivery


def check_name(what: str, text: str) -> None:
    """Raise ``InvalidMail`` unless ``text`` is valid as an id or a key, for the database, logs and URLs.

    ``what`` names the value in the error message.
    """
    if not rows.is_name(text):
        raise InvalidMail(f"{what} must be text of 1 to 255 characters, without control characters.")


def is_due(delivery: Delivery) -> bool:
    """Return whether a delivery was submitted for immediate sending."""
    return delivery.status == Status.QUEUED and delivery.due_at <= delivery.created_at


def first(delivery: Delivery) -> Delivery:
    """Return the existing delivery with the same id, or else with the same idempotency key."""
    found = Delivery.objects.filter(pk=delivery.pk).first()
    if found is None:
        found = Delivery.objects.get(idempotency_key=delivery.idempotency_key)
    return found


_VERSION, _VARIANT = 7 << 76, 0b10 << 62
_RANDOM = ~(0xF << 76) & ~(0b11 << 62)


def new_id() -> str:
    """Return an unguessable id that is greater than the ids of earlier milliseconds (UUID version 7, RFC 9562 §5.7).

    Recent rows are therefore adjacent in the indexes. A random id would read and write a different page of each index
    for each mail. The more mails are stored, the fewer of these pages are in memory.
    """
    milliseconds = time.time_ns() // 1_000_000 & (1 << 48) - 1
    digits = f"{milliseconds << 80 | secrets.randbits(80) & _RANDOM | _VERSION | _VARIANT:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
