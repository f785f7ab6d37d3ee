"""Submit many mails: render each one, store them in batches, and publish one wake-up for each queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.core.mail import EmailMessage
from django.db import transaction

from email_integration.addresses import quoted
from email_integration.exceptions import InvalidMail
from email_integration.ledger import events, inserting, rows, task_queue
from email_integration.message import content
from email_integration.message.options import MailOptions
from email_integration.models import Delivery
from email_integration.secrecy import with_secrets

from .submission import build_delivery, first, is_due

#: Mails in a batch, unless they have more octets than ``_OCTETS``.
BATCH = 500
_OCTETS = 4 * 1024 * 1024


class Submission:
    """Accepts messages one by one, and stores each batch of them in one transaction.

    A batch has ``batch_size`` mails, or fewer if they are large. This bounds the memory and the size of a statement.
    ``kept`` is the part of the call that each row stores, and ``queue`` the queue that the caller has chosen. A sender
    equal to DEFAULT_FROM_EMAIL counts as not chosen. ``idempotency_key`` returns the key of a message. After each
    batch, ``on_progress`` is called with the number of mails stored so far.

    Raises ``InvalidMail`` for an invalid ``batch_size``, and ``TypeError`` for an argument that must be a function.
    """

    def __init__(
        self,
        options: MailOptions,
        *,
        kept: str = "",
        queue: str = "",
        idempotency_key: Callable[[EmailMessage], str] | None = None,
        batch_size: int = BATCH,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:  # type: ignore[redundant-expr]  # a caller may give anything
            raise InvalidMail(f"batch_size must be a whole number, 1 or more, not {quoted(batch_size)}.")
        for name, function in (("idempotency_key", idempotency_key), ("on_progress", on_progress)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, not a {type(function).__name__}.")
        self._options = options
        self._kept = kept
        self._queue = queue
        self._key = idempotency_key
        self._batch_size = batch_size
        self._on_progress = on_progress
        self._batch: list[Delivery] = []
        self._octets = 0
        #: Ids of the stored deliveries, in the order of their messages.
        self.ids: list[str] = []

    @with_secrets
    def take(self, message: EmailMessage, *, number: int | None = None) -> None:
        """Accept a message. ``number`` identifies it in errors. Raises ``InvalidMail``, and then does not accept it."""
        try:
            key = self._key(message) if self._key else None
            delivery = build_delivery(
                message,
                self._options,
                idempotency_key=key,
                default_from_is_open=True,
                kept=self._kept,
                queue=self._queue,
            )
        except InvalidMail as error:
            if number is None:
                raise
            raise InvalidMail(f"Message {number}: {error}") from error
        self._batch.append(delivery)
        self._octets += len(delivery.content)
        if len(self._batch) >= self._batch_size or self._octets >= _OCTETS:
            self.store()

    @with_secrets
    def store(self) -> None:
        """Store the accepted messages that are not stored yet."""
        batch, self._batch, self._octets = self._batch, [], 0
        if batch:
            self.ids += _store(batch)
            if self._on_progress is not None:
                self._on_progress(len(self.ids))


def _store(deliveries: Sequence[Delivery]) -> list[str]:
    """Insert the deliveries in one transaction, publish on commit, and return the ids in the same order.

    If an idempotency key already exists, the id is that of the existing delivery, and nothing is submitted for it.
    """
    using = rows.database()
    with transaction.atomic(using=using):
        if any(delivery.idempotency_key for delivery in deliveries):
            # Sorted, so two processes that submit the same keys cannot deadlock.
            inserting.insert(*sorted(deliveries, key=_key), using=using, unless_known=True)
            ids = _ids(deliveries)
        else:
            inserting.insert(*deliveries, using=using)
            ids = [delivery.pk for delivery in deliveries]
        new = [delivery for delivery, pk in zip(deliveries, ids, strict=True) if delivery.pk == pk]
        due = [delivery for delivery in new if is_due(delivery)]
        if due:
            task_queue.notify_on_commit(*due, using=using)
        events.submitted_together(new)
    return ids


def _key(delivery: Delivery) -> str:
    return delivery.idempotency_key or ""


def _ids(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the ids in the database. Remove the content file of a delivery whose key already existed."""
    keys = [delivery.idempotency_key for delivery in deliveries if delivery.idempotency_key]
    found = Delivery.objects.filter(idempotency_key__in=keys)
    there = dict(found.values_list("idempotency_key", "pk"))
    ids = []
    for delivery in deliveries:
        pk = there.get(delivery.idempotency_key) if delivery.idempotency_key else delivery.pk
        if pk is None:
            pk = first(delivery).pk
        if pk != delivery.pk:
            content.remove_file(delivery.content_file)
        ids.append(pk)
    return ids
