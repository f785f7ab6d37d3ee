"""Each continuation of a mail is called at least once, whatever is killed; each kill causes at most one repeated call.

The test takes long, and no two runs are alike. Only 'make faults' runs it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db.models import Q

from config.local.processes import wait_until
from config.local.valkey import Valkey
from config.local.workers import OF_MAIL
from email_integration.models import Delivery, DeliveryBatch
from email_integration.smtpd import Fault, SMTPServer
from tests.acceptance import killing
from tests.acceptance.conftest import environment
from tests.results import results_kept_in, url_of_results
from tests.stack import Stack

REFUSED = Fault(verb="RCPT", reply="550 5.1.1 <unknown@example.com> unknown", match="unknown@", times=None)


def unfinished() -> int:
    """Return how many mails are still to be sent or have an unpublished continuation."""
    return Delivery.objects.filter(Q(next_at__isnull=False) | Q(continue_after__isnull=False)).count()


@pytest.fixture
def in_redis(valkey: Valkey) -> Iterator[str]:
    """The URL of a result backend in Redis; this process uses it too."""
    url = url_of_results(valkey)
    with results_kept_in(url):
        yield url


def require_kept(
    stack: Callable[..., Stack], server: SMTPServer, notes: Path, *, kills: int, workers: int, **env: str
) -> None:
    """Kill processes while they send mails of every canvas shape, and check which continuations were called."""
    seed, chance = killing.seeded(os.environ.get("KILLS_SEED"))
    print(f"KILLS_SEED={seed}")
    server.inject(REFUSED)
    # The workers serve mail queues only, so every process sends.
    running = stack(
        concurrency=2,
        queues=OF_MAIL,
        env={**environment(notes), "LOG_LEVEL": "INFO", "QUARANTINE_AFTER": "1000", **env},
    )
    canvas = killing.Canvas(queue=f"followed-{uuid.uuid4()}")
    killer = killing.Killer(running, server, chance)
    killing.under_load(killer, canvas, kills=kills, workers=workers, unfinished=unfinished)
    wait_until(lambda: not unfinished() and not DeliveryBatch.objects.exists(), what="all mails finished", seconds=300)
    wait_until(lambda: not canvas.missing(), what="all continuations", seconds=60)

    called, again = canvas.called(), canvas.again()
    names = sum(map(len, canvas.expected.values()))
    print(
        f"{killer.killed} processes killed, {killer.workers} workers among them; {Delivery.objects.count()} mails; "
        f"{len(canvas.expected)} times something followed, {names} tasks, {sum(again.values())} times again: {again}"
    )
    assert {name: len(ids) for name, ids in called.items() if len(ids) != 1} == {}
    assert sum(again.values()) <= killer.killed
    assert not Delivery.objects.exclude(status__in=["accepted", "failed"]).exists()


def test_what_follows_is_called_though_processes_are_killed(
    stack: Callable[..., Stack], server: SMTPServer, tmp_path: Path
) -> None:
    require_kept(stack, server, tmp_path / "notes", kills=15, workers=1)


def test_what_follows_is_called_with_results_in_redis(
    stack: Callable[..., Stack], server: SMTPServer, tmp_path: Path, in_redis: str
) -> None:
    """The backend counts the parts of a chord by their ids."""
    require_kept(stack, server, tmp_path / "notes", kills=15, workers=1, ACCEPTANCE_RESULTS=in_redis)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("results", ["in the database", "in Redis"])
def test_what_follows_is_called_whatever_is_killed(
    stack: Callable[..., Stack], server: SMTPServer, tmp_path: Path, results: str, request: Any
) -> None:
    """The long run: 300 kills."""
    kept = {"ACCEPTANCE_RESULTS": request.getfixturevalue("in_redis")} if results == "in Redis" else {}
    require_kept(stack, server, tmp_path / "notes", kills=300, workers=15, **kept)
