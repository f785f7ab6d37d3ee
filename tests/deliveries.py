"""Deliveries without a task queue: a doorbell that remembers, and short ways to submit."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from django.core.mail import EmailMessage
from django.db import connections
from django.utils import timezone

from config.local.processes import PATIENCE
from email_integration.ledger.sql import Row
from email_integration.message.options import MailOptions
from email_integration.models import Delivery
from email_integration.queue.submission import make, store


class RecordingDoorbell:
    """A task queue in which nobody works."""

    def __init__(self) -> None:
        #: The ids of each ring.
        self.rings: list[list[str]] = []
        #: The id and the status of each report.
        self.reports: list[tuple[str, str]] = []
        #: How often somebody asked for a sweep.
        self.sweeps = 0
        #: The ids of deliveries that something follows.
        self.followed: set[str] = set()
        #: What to raise instead of ringing.
        self.broken: Exception | None = None

    def ring(self, deliveries: Sequence[Delivery]) -> None:
        if self.broken is not None:
            raise self.broken
        self.rings.append([delivery.pk for delivery in deliveries])

    def call_for_sweep(self) -> None:
        if self.broken is not None:
            raise self.broken
        self.sweeps += 1

    def report(self, delivery: Delivery) -> Sequence[Row]:
        return ()

    def report_elsewhere(self, delivery: Delivery) -> None:
        self.reports.append((delivery.pk, str(delivery.status)))

    def has_follow_up(self, delivery: Delivery) -> bool:
        return delivery.pk in self.followed

    @property
    def rung(self) -> list[str]:
        """All the ids that were rung for."""
        return [one for ring in self.rings for one in ring]


def mail(*to: str, subject: str = "S", body: str = "B", from_email: str = "", **given: Any) -> EmailMessage:
    """A message; its sender is left open unless given."""
    message = EmailMessage(subject, body, None, list(to or ("kim@example.com",)), **given)
    message.from_email = from_email
    return message


def submitted(*to: str, kept: str = "", prepared: bool = False, **how: Any) -> Delivery:
    """A delivery that is due; what ``mail`` and ``make`` do not take goes to ``MailOptions``."""
    own = {name: how.pop(name) for name in ("subject", "body", "from_email", "headers", "cc", "bcc") if name in how}
    named = {name: how.pop(name) for name in ("delivery_id", "idempotency_key") if name in how}
    made = make(mail(*to, **own), MailOptions(**how), kept=kept, prepared=prepared, **named)
    return store(made, unless_known=bool(named))


def pretend(delivery: Delivery, **changes: Any) -> Delivery:
    """Change the row behind everybody's back, and give it as it is then."""
    Delivery.objects.filter(pk=delivery.pk).update(**changes)
    return Delivery.objects.get(pk=delivery.pk)


class Clock:
    """Stands for the module ``time``: tells the time that has passed, and whatever a test adds to it."""

    def __init__(self) -> None:
        #: Seconds.
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


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
