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
    """Create the active configuration."""
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
    """Submit one by one, each in its own transaction, and wake no worker: this measures the cost of the mail alone."""
    usual = task_queue.installed()
    task_queue.install(_Silent(usual))
    try:
        for number in numbers:
            submit(number)
    finally:
        task_queue.install(usual)


class _Silent:
    """Behaves as ``usual``, but wakes no worker."""

    def __init__(self, usual: task_queue.TaskQueue) -> None:
        self._usual = usual

    def notify(self, queues: Collection[str], *, message_priority: int | None = None) -> set[str]:
        return set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._usual, name)


def submit_together(numbers: range) -> None:
    submit_many(message(number) for number in numbers)


# -- functions that only this project has ---------------------------------------------------------------------------


def check_configuration(times: int) -> dict[str, float]:
    """Return the CPU, in microseconds, of getting the active relay: by the configuration generation, and by a query."""
    routing.active_relay()

    def read() -> None:
        generation.forget()  # otherwise it would be trusted
        routing.active_relay()

    by_generation = _cpu(read, times)
    by_query = _cpu(lambda: resolver._from_database("default"), times)
    return {"generation": 1e6 * by_generation, "query": 1e6 * by_query}


def count_queries(seconds: float) -> int:
    """Return how many times a process that gets the relay without a pause queries the database in ``seconds``."""
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
    """Activate another server, and return when that was done."""
    second = SMTPConfig.objects.create(name="Second", host="127.0.0.1", port=port, use_tls=False)
    second.is_active = True
    called = time.monotonic()
    second.save()
    return {"called": called, "returned": time.monotonic(), "wall": time.time()}


def sweep(times: int) -> list[float]:
    """Return the seconds of each of ``times`` sweeps."""
    from email_integration.queue.sweeper import sweep as once

    taken = []
    for _ in range(times):
        started = time.monotonic()
        once()
        taken.append(time.monotonic() - started)
    return taken


def submit_large(octets: int) -> None:
    """Submit one mail with an attachment of ``octets`` octets."""
    send_email.delay(**mail(0), attachments=[("large.bin", os.urandom(octets), "application/octet-stream")])


def submit_high() -> dict[str, object]:
    """Submit one urgent mail. Returns the time of submission, and its Message-ID."""
    called = time.monotonic()
    result = send_email.delay(**mail(0), priority="high")
    return {"called": called, "message_id": Delivery.objects.values_list("message_id", flat=True).get(pk=result.id)}


def _cpu(function, times: int) -> float:  # type: ignore[no-untyped-def]
    started = time.process_time()
    for _ in range(times):
        function()
    return (time.process_time() - started) / times
