"""Take many mails: rendered one after the other, stored in batches, rung for in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from django.core.mail import EmailMessage
from django.db import transaction

from email_integration.exceptions import InvalidMail
from email_integration.models import Delivery

from . import content, doorbell, narrate, rows, statements
from .options import MailOptions
from .submit import first, is_due, make

#: Mails in a batch, unless they hold more octets than this.
BATCH = 500
_OCTETS = 4 * 1024 * 1024


def submit_many(
    messages: Iterable[EmailMessage],
    options: MailOptions,
    *,
    kept: str = "",
    idempotency_key: Callable[[EmailMessage], str] | None = None,
    batch_size: int = BATCH,
    on_progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Submit ``messages``, a batch in a transaction, and return the ids of the deliveries in the same order.

    ``kept`` is what each row keeps of the call. A sender equal to DEFAULT_FROM_EMAIL is one that nobody chose.
    ``idempotency_key`` gives each message's; ``on_progress`` is told how many there are after each batch. When a
    message is wrong, or there is an error in making one, all before it are submitted, and none after. Raises
    ``InvalidMail``, which names the number of the message, and what making the messages raises.
    """
    using = rows.database()
    ids: list[str] = []
    failure: list[Exception] = []

    def made() -> Iterator[Delivery]:
        number = 0
        try:
            for message in messages:
                number += 1
                key = idempotency_key(message) if idempotency_key else None
                yield make(message, options, idempotency_key=key, default_from_is_open=True, kept=kept)
        except InvalidMail as error:
            wrong = InvalidMail(f"Message {number}: {error}")
            wrong.__cause__ = error
            failure.append(wrong)
        except Exception as error:  # whatever makes the messages; what it gave before is not lost for it
            failure.append(error)

    for batch in batches(made(), size=batch_size):
        ids += store(batch, using=using)
        if on_progress is not None:
            on_progress(len(ids))
    if failure:
        raise failure[0]
    return ids


def batches(deliveries: Iterable[Delivery], *, size: int = BATCH) -> Iterator[list[Delivery]]:
    """Cut into batches of ``size``, or of fewer that are large: memory and a statement hold no more at a time."""
    batch: list[Delivery] = []
    octets = 0
    for delivery in deliveries:
        batch.append(delivery)
        octets += len(delivery.content)
        if len(batch) >= size or octets >= _OCTETS:
            yield batch
            batch, octets = [], 0
    if batch:
        yield batch


def store(deliveries: Sequence[Delivery], *, using: str) -> list[str]:
    """Insert in one transaction, and ring once it is committed; return the ids in the same order.

    Where the idempotency key was there before, the id is that of the first delivery, and nothing is submitted.
    """
    with transaction.atomic(using=using):
        if any(delivery.idempotency_key for delivery in deliveries):
            # Sorted, so that two that submit the same wait for each other one way round only.
            statements.insert(*sorted(deliveries, key=_key), using=using, unless_known=True)
            ids = _ids(deliveries, using=using)
        else:
            statements.insert(*deliveries, using=using)
            ids = [delivery.pk for delivery in deliveries]
        new = [delivery for delivery, pk in zip(deliveries, ids, strict=True) if delivery.pk == pk]
        due = [_bare(delivery, using=using) for delivery in new if is_due(delivery)]
        if due:
            doorbell.ring_on_commit(*due, using=using)
        narrate.submitted_together(new)
    return ids


def _key(delivery: Delivery) -> str:
    return delivery.idempotency_key or ""


def _ids(deliveries: Sequence[Delivery], *, using: str) -> list[str]:
    """The ids that are in the database; a content of what was there before is removed."""
    keys = [delivery.idempotency_key for delivery in deliveries if delivery.idempotency_key]
    found = Delivery.objects.using(using).filter(idempotency_key__in=keys)
    there = dict(found.values_list("idempotency_key", "pk"))
    ids = []
    for delivery in deliveries:
        pk = there.get(delivery.idempotency_key) if delivery.idempotency_key else delivery.pk
        if pk is None:
            pk = first(using, delivery).pk
        if pk != delivery.pk:
            content.remove_file(delivery.content_file)
        ids.append(pk)
    return ids


def _bare(delivery: Delivery, *, using: str) -> Delivery:
    """As much of it as a ring needs: what waits for a commit must not hold the contents."""
    names = ("id", "status", "lane", "options")
    return Delivery.from_db(using, names, [getattr(delivery, name) for name in names])
