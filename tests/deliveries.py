"""Deliveries with a task queue that only records, and short functions to submit."""

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
    """A task queue without workers, which records all calls."""

    def __init__(self) -> None:
        #: The name of each queue that was woken, for each call, even if a wake-up is outstanding.
        self.woken: list[str] = []
        #: Celery's priority number of each of these wake-ups.
        self.message_priorities: list[int | None] = []
        #: The id of each continued delivery.
        self.continued: list[str] = []
        #: The id and the status of each stored result.
        self.results: list[tuple[str, str]] = []
        #: How often an immediate sweep was requested.
        self.sweeps = 0
        #: The delay in seconds of each requested later sweep.
        self.later_sweeps: list[float] = []
        #: The ids of deliveries with a continuation.
        self.followed: set[str] = set()
        #: The exception to raise by wake-ups and continuations.
        self.broken: Exception | None = None
        #: Queues that accept no message.
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
    """Return a message. Without ``from_email`` its sender is left open."""
    message = EmailMessage(subject, body, None, list(to or ("kim@example.com",)), **given)
    message.from_email = from_email
    return message


def submitted(*to: str, kept: str = "", prepared: bool = False, **how: Any) -> Delivery:
    """Return a due delivery. Arguments other than those of ``mail`` and ``make`` go to ``MailOptions``."""
    own = {name: how.pop(name) for name in ("subject", "body", "from_email", "headers", "cc", "bcc") if name in how}
    named = {name: how.pop(name) for name in ("delivery_id", "idempotency_key") if name in how}
    made = build_delivery(mail(*to, **own), MailOptions(**how), kept=kept, prepared=prepared, **named)
    return store(made, unless_known=bool(named))


def pretend(delivery: Delivery, **changes: Any) -> Delivery:
    """Change the row directly and return it. The time when it may be claimed follows from its times."""
    before = Delivery.objects.get(pk=delivery.pk)
    if {"due_at", "expires_at"} & changes.keys() and before.next_at is not None:
        times = (changes.get("due_at", before.due_at), changes.get("expires_at", before.expires_at))
        changes = {"next_at": min(times), **changes}
    Delivery.objects.filter(pk=delivery.pk).update(**changes)
    return Delivery.objects.get(pk=delivery.pk)


def attempt(delivery_id: str) -> Delivery | None:
    """Try one delivery in this thread if it is due. Returns the delivery afterwards, or None if it was not claimed."""
    found = rows.load(delivery_id)
    return next(iter(send_inline(key_of(found), only=[delivery_id])), None) if found else None


def send_due(priority: str = "normal") -> Counter[str]:
    """Run a dispatcher with SESSIONS sessions until no mail is due. Returns the number of attempts by status.

    Its threads need ``django_db(transaction=True)``.
    """
    with mock.patch.object(dispatcher, "SLICE", 10 * PATIENCE):  # so that a busy machine needs no second dispatcher
        return Counter(dispatcher.dispatch(queue_of(priority)))


def due_again(*delivery_ids: str) -> None:
    """Make these deliveries, or all deferred ones, due."""
    rows = Delivery.objects.filter(next_at__isnull=False)
    if delivery_ids:
        rows = rows.filter(pk__in=delivery_ids)
    rows.update(due_at=ago(1), next_at=ago(1))


class Clock:
    """Replaces the module ``time``: its time is the real time plus an offset that a test can add to.

    ``sleep`` returns immediately and adds its seconds.
    """

    def __init__(self) -> None:
        #: Seconds.
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def sleep(self, seconds: float) -> None:
        self.ahead += seconds


def ago(seconds: float) -> dt.datetime:
    """Return the time ``seconds`` ago."""
    return timezone.now() - dt.timedelta(seconds=seconds)


def statuses(delivery: Delivery) -> dict[str, str]:
    """Return the status of each recipient of the stored delivery."""
    return {item["address"]: item["status"] for item in Delivery.objects.get(pk=delivery.pk).recipients}


def in_threads(*works: Callable[[], Any]) -> list[Any]:
    """Run all functions at the same time, and return the result or the exception of each."""
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
