"""``send_email.delay()``."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import Any

from common import mail, message
from django.db import connection, transaction

from email_integration import routing, submit_many
from email_integration.ledger import task_queue
from email_integration.models import Delivery, SMTPConfig
from email_integration.routing import generation, resolver
from email_integration.tasks import send_email


def prepare() -> None:
    """Make the configuration that is active."""
    tls = os.environ["BENCH_SMTP_TLS"]
    SMTPConfig.objects.update_or_create(
        name="Sink",
        defaults={
            "host": "127.0.0.1",
            "port": int(os.environ["BENCH_SMTP_PORT"]),
            "username": os.environ["BENCH_SMTP_USER"],
            "password": os.environ["BENCH_SMTP_PASSWORD"],
            "use_tls": tls == "starttls",
            "use_ssl": tls == "tls",
            "from_email": "Bench <bench@example.com>",
            "is_active": True,
        },
    )


def submit(number: int) -> None:
    send_email.delay(**mail(number))


def delay_together(numbers: range) -> None:
    with transaction.atomic():
        for number in numbers:
            send_email.delay(**mail(number))


def delay_without_wake_ups(numbers: range) -> None:
    """One by one, each in a commit of its own, of which no worker is told: what the mail itself costs."""
    usual = task_queue.installed()
    task_queue.install(_Silent(usual))
    try:
        for number in numbers:
            submit(number)
    finally:
        task_queue.install(usual)


class _Silent:
    """As ``usual``, but that it wakes no worker."""

    def __init__(self, usual: task_queue.TaskQueue) -> None:
        self._usual = usual

    def notify(self, queues: Collection[str], *, message_priority: int | None = None) -> set[str]:
        return set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._usual, name)


def submit_together(numbers: range) -> None:
    submit_many(message(number) for number in numbers)


# -- what only ours is asked ----------------------------------------------------------------------------------------


def check_configuration(times: int) -> dict[str, float]:
    """CPU in microseconds of asking for the active relay: by the configuration generation, and by a query each time."""
    routing.active_relay()

    def read() -> None:
        generation.forget()  # which would be relied on otherwise
        routing.active_relay()

    by_generation = _cpu(read, times)
    by_query = _cpu(lambda: resolver._from_database("default"), times)
    return {"generation": 1e6 * by_generation, "query": 1e6 * by_query}


def count_queries(seconds: float) -> int:
    """How often the configuration is asked for in the database by a process that asks us without a pause."""
    routing.forget()
    until = time.monotonic() + seconds
    asked = 0

    def count(execute, sql, *rest):  # type: ignore[no-untyped-def]
        nonlocal asked
        asked += "email_integration_smtpconfig" in sql
        return execute(sql, *rest)

    with connection.execute_wrapper(count):
        while time.monotonic() < until:
            routing.active_relay()
            time.sleep(0.001)
    return asked


def switch(port: int) -> dict[str, float]:
    """Make another server the active one, and say when that was done."""
    second = SMTPConfig.objects.create(name="Second", host="127.0.0.1", port=port, use_tls=False)
    second.is_active = True
    called = time.monotonic()
    second.save()
    return {"called": called, "returned": time.monotonic(), "wall": time.time()}


def sweep(times: int) -> list[float]:
    """Seconds that each of so many sweeps takes."""
    from email_integration.queue.sweeper import sweep as once

    taken = []
    for _ in range(times):
        started = time.monotonic()
        once()
        taken.append(time.monotonic() - started)
    return taken


def submit_large(octets: int) -> None:
    """One mail with an attachment of this size."""
    send_email.delay(**mail(0), attachments=[("large.bin", os.urandom(octets), "application/octet-stream")])


def submit_high() -> dict[str, object]:
    """One mail that is urgent: when it was submitted, and its Message-ID."""
    called = time.monotonic()
    result = send_email.delay(**mail(0), priority="high")
    return {"called": called, "message_id": Delivery.objects.values_list("message_id", flat=True).get(pk=result.id)}


def _cpu(function, times: int) -> float:  # type: ignore[no-untyped-def]
    started = time.process_time()
    for _ in range(times):
        function()
    return (time.process_time() - started) / times
