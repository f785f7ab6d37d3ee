"""/healthz and /readyz: the responses for monitoring."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from config.local.processes import PATIENCE, wait_until
from email_integration.diagnosis.health_checks import CheckGroup
from email_integration.models import Delivery
from email_integration.operations import health
from email_integration.queue import sweeper
from tests.deliveries import RecordingTaskQueue, ago, submitted
from tests.relays import soon

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _heartbeat(valkey: Any, task_queue: RecordingTaskQueue) -> Iterator[None]:
    """The last sweep was just now."""
    sweeper.leave_heartbeat()
    yield
    wait_until(lambda: not health.readiness._running, what="all checks finished")


def asked(client: Client) -> tuple[int, dict[str, Any]]:
    response = client.get("/readyz")
    return response.status_code, json.loads(response.content)


def test_healthz_asks_nothing(client: Client, django_assert_num_queries: Any, valkey: Any) -> None:
    """It answers even if all other services are down."""
    valkey.stop()
    with django_assert_num_queries(0):
        response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"ok": True})


def test_readyz_names_each_part_with_a_sentence(client: Client) -> None:
    """All parts are healthy: the status is 200, and each check has ok, a sentence and its seconds."""
    status, body = asked(client)

    assert status == 200
    assert body["ok"] is True
    assert set(body["checks"]) == {"database", "cache", "broker", "worker", "queue"}
    for check in body["checks"].values():
        assert check["ok"] is True
        assert check["text"]
        assert 0 <= check["seconds"] < health.PATIENCE


def test_without_the_broker_it_is_not_ready(client: Client, valkey: Any) -> None:
    """Broker and cache are one server here. The database is still healthy."""
    valkey.stop()
    status, body = asked(client)

    assert status == 503
    assert {name for name, check in body["checks"].items() if not check["ok"]} >= {"cache", "broker"}
    assert body["checks"]["database"]["ok"]


def test_a_frozen_broker_does_not_hold_it_up(client: Client, valkey: Any) -> None:
    """The response arrives within the time limit of all checks together."""
    valkey.freeze()
    with soon(10 * health.PATIENCE):
        status, _ = asked(client)

    assert status == 503
    valkey.thaw()


def test_when_nothing_sweeps_it_is_not_ready(client: Client, valkey: Any) -> None:
    """No sweeper has left a heartbeat."""
    valkey.flush()
    status, body = asked(client)

    assert status == 503
    assert not body["checks"]["worker"]["ok"]


@pytest.mark.parametrize(("priority", "expected"), [("high", 503), ("normal", 503), ("bulk", 200)])
def test_mail_that_waits_too_long_says_no(client: Client, settings: Any, priority: str, expected: int) -> None:
    """A mail is overdue beyond the limit. For 'bulk' this is only reported and does not fail the check."""
    limit = 60.0
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "QUEUE_AGE_LIMIT": limit}
    pk = submitted().pk
    Delivery.objects.filter(pk=pk).update(priority=priority, due_at=ago(2 * limit))
    status, body = asked(client)

    assert status == expected
    assert priority in body["checks"]["queue"]["text"]


def test_it_shows_no_address_and_no_secret(client: Client, settings: Any, valkey: Any) -> None:
    """Neither when all checks pass nor when none does."""
    delivery = submitted("kim@example.com")
    Delivery.objects.filter(pk=delivery.pk).update(due_at=ago(3600))
    said = [client.get("/readyz").content.decode()]
    valkey.stop()
    said.append(client.get("/readyz").content.decode())

    for text in said:
        for secret in (settings.SECRET_KEY, settings.REDIS_URL, str(valkey.port), "@", delivery.pk, "127.0.0.1"):
            assert secret not in text


def test_what_hangs_is_checked_once(client: Client) -> None:
    """However often it is requested, only one thread waits."""
    go_on = threading.Event()
    asked: list[int] = []

    def hangs() -> tuple[bool, str]:
        asked.append(1)
        return go_on.wait(PATIENCE), "it went on"

    checks = CheckGroup({"hangs": hangs, "answers": lambda: (True, "here")})
    for _ in range(3):
        answers = checks.run(patience=0.5)
        assert not answers["hangs"].ok
        assert "0.5 s" in answers["hangs"].text
        assert answers["answers"].ok
    assert len(asked) == 1

    go_on.set()
    wait_until(lambda: checks.run(patience=1)["hangs"].ok, what="the answer")


def test_all_checks_together_have_the_time_that_is_given() -> None:
    """One after the other, thirty checks that hang would take thirty times as long."""
    go_on = threading.Event()
    hang = {f"hangs {number}": lambda: (go_on.wait(PATIENCE), "it went on") for number in range(30)}
    checks = CheckGroup(hang)
    with soon(10):
        answers = checks.run(patience=0.5)
    assert not any(answer.ok for answer in answers.values())
    go_on.set()
    wait_until(lambda: not checks._running, what="all checks finished")


def test_what_raises_is_not_well_and_quotes_nothing() -> None:
    """The text of an exception may contain anything."""

    def raises() -> tuple[bool, str]:
        raise ValueError("kim@example.com")

    answer = CheckGroup({"raises": raises}).run(patience=5)["raises"]
    assert not answer.ok
    assert "ValueError" in answer.text
    assert "kim" not in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_nothing_keeps_an_old_answer(client: Client, path: str) -> None:
    """No proxy may answer from its cache."""
    assert "no-store" in client.get(path)["Cache-Control"]
    assert client.post(path).status_code == 405
