"""The submitted mails, read from the deliveries in the database."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import overload

from django.db.models import QuerySet

from email_integration.ledger import task_queue
from email_integration.ledger.steps import Row
from email_integration.models import Delivery
from email_integration.tasks import dispatch

from .mails import SubmittedMail, submitted_mail


class Outbox(Sequence[SubmittedMail]):
    """The submitted mails, oldest first. They are read from the database at each use.

    It contains the same data as the test's own transaction, and no mail that was rolled back.
    """

    def __init__(self, *, without: Collection[str] = ()) -> None:
        """Create the outbox without the deliveries whose ids are in ``without``."""
        self._without = frozenset(without)
        self._only: list[str] | None = None

    def __repr__(self) -> str:
        return repr(self._read())

    def __len__(self) -> int:
        return self._rows().count()

    def __iter__(self) -> Iterator[SubmittedMail]:
        return iter(self._read())

    @overload
    def __getitem__(self, index: int) -> SubmittedMail: ...

    @overload
    def __getitem__(self, index: slice) -> list[SubmittedMail]: ...

    def __getitem__(self, index: int | slice) -> SubmittedMail | list[SubmittedMail]:
        return self._read()[index]

    def ids(self) -> list[str]:
        """Return the ids of the deliveries."""
        return list(self._rows().values_list("pk", flat=True))

    def close(self) -> None:
        """Ignore mail that is submitted from now on."""
        self._only = self.ids()

    def _rows(self) -> QuerySet[Delivery]:
        rows = Delivery.objects.order_by("created_at", "pk")
        return rows.exclude(pk__in=self._without) if self._only is None else rows.filter(pk__in=self._only)

    def _read(self) -> list[SubmittedMail]:
        return [submitted_mail(delivery) for delivery in self._rows()]


#: All mail that was submitted in the current test.
outbox = Outbox()


@contextlib.contextmanager
def capture_mail() -> Iterator[Outbox]:
    """Yield the mails that are submitted in the block. Meanwhile no messages go to the broker.

    Mail is sent only by ``run_deliveries`` or in eager mode. It can also be used as a decorator, which keeps messages
    from the broker.
    """
    mails = Outbox(without=outbox.ids())
    before = task_queue.installed()
    task_queue.install(_Muffled(before))
    try:
        yield mails
    finally:
        task_queue.install(before)
    mails.close()


class _Muffled:
    """A task queue that sends no wake-ups to the broker. In eager mode there is no broker anyway."""

    def __init__(self, muffled: task_queue.TaskQueue) -> None:
        self._muffled = muffled

    def notify(self, queues: Collection[str], *, message_priority: int | None = None) -> set[str]:
        if not dispatch.app.conf.task_always_eager:
            return set()
        return self._muffled.notify(queues, message_priority=message_priority)

    def wake(self, queues: Collection[str], *, message_priority: int | None = None, joins: bool = False) -> set[str]:
        if not dispatch.app.conf.task_always_eager:
            return set()
        return self._muffled.wake(queues, message_priority=message_priority, joins=joins)

    def call_for_sweep(self, *, after: float = 0.0) -> None:
        if dispatch.app.conf.task_always_eager:
            self._muffled.call_for_sweep(after=after)

    def message_priority_of(self, delivery: Delivery) -> int | None:
        return self._muffled.message_priority_of(delivery)

    def result_rows(self, deliveries: Collection[Delivery]) -> Mapping[str, Sequence[Row]]:
        return self._muffled.result_rows(deliveries)

    def stores_results_elsewhere(self) -> bool:
        return self._muffled.stores_results_elsewhere()

    def store_result(self, delivery: Delivery) -> None:
        self._muffled.store_result(delivery)

    def has_continuation(self, delivery: Delivery) -> bool:
        return self._muffled.has_continuation(delivery)

    def continue_(self, delivery: Delivery) -> None:
        self._muffled.continue_(delivery)
