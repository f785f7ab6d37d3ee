"""Deliveries without a task queue: one that remembers, and short ways to submit."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from unittest import mock

from django.core.mail import EmailMessage
from django.db import connections
from django.utils import timezone

from config.local.processes import PATIENCE
from email_integration.ledger import rows
from email_integration.ledger.queues import key_of, queue_of
from email_integration.ledger.sql import Row
from email_integration.message.options import MailOptions
from email_integration.models import Delivery
from email_integration.queue.submission import build_delivery, store
from email_integration.sending import dispatcher
from email_integration.sending.dispatcher import send_inline


class RecordingTaskQueue:
    """A task queue in which nobody works."""

    def __init__(self) -> None:
        #: The name of each queue that was to be woken, as often as it was, whatever is outstanding.
        self.woken: list[str] = []
        #: The number of Celery's that each of these was woken with.
        self.message_priorities: list[int | None] = []
        #: The id of each delivery that was continued.
        self.continued: list[str] = []
        #: The id and the status of each result that was stored.
        self.results: list[tuple[str, str]] = []
        #: How often a sweep was called for at once.
        self.sweeps = 0
        #: In how many seconds each later sweep was asked for.
        self.later_sweeps: list[float] = []
        #: The ids of deliveries that something follows.
        self.followed: set[str] = set()
        #: What to raise instead of waking, and of continuing.
        self.broken: Exception | None = None
        #: Queues that take no message.
        self.deaf: set[str] = set()

    def notify(self, queues: Collection[str], *, message_priority: int | None = None) -> set[str]:
        return self.wake(queues, message_priority=message_priority)

    def wake(self, queues: Collection[str], *, message_priority: int | None = None, joins: bool = False) -> set[str]:
        if self.broken is not None:
            raise self.broken
        for queue in queues:
            if queue not in self.deaf:
                self.woken.append(queue)
                self.message_priorities.append(message_priority)
        return self.deaf & set(queues)

    def call_for_sweep(self, *, after: float = 0.0) -> None:
        if self.broken is not None:
            raise self.broken
        if after:
            self.later_sweeps.append(after)
        else:
            self.sweeps += 1

    def message_priority_of(self, delivery: Delivery) -> int | None:
        return None

    def result_rows(self, deliveries: Collection[Delivery]) -> Mapping[str, Sequence[Row]]:
        return {}

    def stores_results_elsewhere(self) -> bool:
        return True

    def store_result(self, delivery: Delivery) -> None:
        self.results.append((delivery.pk, str(delivery.status)))

    def has_continuation(self, delivery: Delivery) -> bool:
        return delivery.pk in self.followed

    def continue_(self, delivery: Delivery) -> None:
        if self.broken is not None:
            raise self.broken
        self.continued.append(delivery.pk)


def mail(*to: str, subject: str = "S", body: str = "B", from_email: str = "", **given: Any) -> EmailMessage:
    """A message; its sender is left open unless given."""
    message = EmailMessage(subject, body, None, list(to or ("kim@example.com",)), **given)
    message.from_email = from_email
    return message


def submitted(*to: str, kept: str = "", prepared: bool = False, **how: Any) -> Delivery:
    """A delivery that is due; what ``mail`` and ``make`` do not take goes to ``MailOptions``."""
    own = {name: how.pop(name) for name in ("subject", "body", "from_email", "headers", "cc", "bcc") if name in how}
    named = {name: how.pop(name) for name in ("delivery_id", "idempotency_key") if name in how}
    made = build_delivery(mail(*to, **own), MailOptions(**how), kept=kept, prepared=prepared, **named)
    return store(made, unless_known=bool(named))


def pretend(delivery: Delivery, **changes: Any) -> Delivery:
    """Change the row behind everybody's back, and give it as it is then; when it may be claimed goes by its times."""
    before = Delivery.objects.get(pk=delivery.pk)
    if {"due_at", "expires_at"} & changes.keys() and before.next_at is not None:
        times = (changes.get("due_at", before.due_at), changes.get("expires_at", before.expires_at))
        changes = {"next_at": min(times), **changes}
    Delivery.objects.filter(pk=delivery.pk).update(**changes)
    return Delivery.objects.get(pk=delivery.pk)


def attempt(delivery_id: str) -> Delivery | None:
    """Try one delivery if it is due, in this thread; return it as it stands then, None if it was not claimed."""
    found = rows.load(delivery_id)
    return next(iter(send_inline(key_of(found), only=[delivery_id])), None) if found else None


def send_due(priority: str = "normal") -> Counter[str]:
    """Have a dispatcher send what is due, over SESSIONS sessions, until nothing is; how many ended with which status.

    What is tried several times counts each time. Its threads need ``django_db(transaction=True)``.
    """
    with mock.patch.object(dispatcher, "SLICE", 10 * PATIENCE):  # a busy machine makes no other of it
        return Counter(dispatcher.dispatch(queue_of(priority)))


def due_again(*delivery_ids: str) -> None:
    """Let the time pass that these, or all that are put off, have to wait for."""
    rows = Delivery.objects.filter(next_at__isnull=False)
    if delivery_ids:
        rows = rows.filter(pk__in=delivery_ids)
    rows.update(due_at=ago(1), next_at=ago(1))


class Clock:
    """Stands for the module ``time``: tells the time that has passed, and whatever a test adds to it.

    ``sleep`` takes no time: it is added.
    """

    def __init__(self) -> None:
        #: Seconds.
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def sleep(self, seconds: float) -> None:
        self.ahead += seconds


def ago(seconds: float) -> dt.datetime:
    """The moment so many seconds ago."""
    return timezone.now() - dt.timedelta(seconds=seconds)


def statuses(delivery: Delivery) -> dict[str, str]:
    """How each recipient of the stored delivery stands."""
    return {item["address"]: item["status"] for item in Delivery.objects.get(pk=delivery.pk).recipients}


def in_threads(*works: Callable[[], Any]) -> list[Any]:
    """What each of them returned, or the error it raised, all begun at once."""
    start, results = threading.Barrier(len(works)), [None] * len(works)

    def run(number: int) -> None:
        try:
            start.wait(PATIENCE)
            results[number] = works[number]()
        except Exception as error:
            results[number] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return results
