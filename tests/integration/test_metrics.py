"""/metrics: the numbers from the ledger, access control, and the metrics of dead processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import DatabaseError
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from config.local.processes import PATIENCE
from email_integration.metrics import access, ledger
from email_integration.models import CircuitBreaker, Delivery, SendingPause, SMTPConfig, Status
from email_integration.queue import sweeper
from tests.claims import claimed
from tests.deliveries import RecordingTaskQueue, ago, submitted

pytestmark = pytest.mark.django_db(transaction=True)

TOKEN = "a-token-für-Prometheus"


@pytest.fixture(autouse=True)
def _token(settings: Any, task_queue: RecordingTaskQueue) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "METRICS_TOKEN": TOKEN}


def asked(client: Client, authorization: str | None = f"Bearer {TOKEN}") -> Any:
    headers = {} if authorization is None else {"Authorization": authorization}
    return client.get("/metrics", headers=headers)


def scraped(client: Client) -> dict[tuple[str, ...], float]:
    """Return the metrics by name and label values, in the order of the labels' names."""
    response = asked(client)
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name.removeprefix("email_integration_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.content.decode())
        for sample in family.samples
    }


def test_without_a_token_there_is_no_page(client: Client, settings: Any) -> None:
    """An empty token is refused too."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "METRICS_TOKEN": ""}
    for authorization in (None, "Bearer ", "Bearer", f"Bearer {TOKEN}"):
        assert asked(client, authorization).status_code == 404


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN]
)
def test_a_wrong_token_learns_nothing(client: Client, authorization: str | None) -> None:
    """The response is 401 with the scheme to use, and there is no database query."""
    response = asked(client, authorization)

    assert (response.status_code, response["WWW-Authenticate"]) == (401, "Bearer")
    assert b"email_integration_" not in response.content


def test_what_is_not_finished_is_counted(client: Client) -> None:
    """By status and priority. Finished mail is not counted."""
    claimed(*(submitted() for _ in range(3)))
    for priority, status, count in (("high", "queued", 1), ("bulk", "deferred", 2)):
        for _ in range(count):
            Delivery.objects.filter(pk=submitted().pk).update(priority=priority, status=status)
    Delivery.objects.filter(pk=submitted().pk).update(status=Status.ACCEPTED, next_at=None, finished_at=ago(1))
    Delivery.objects.filter(pk=submitted().pk).update(status=Status.IN_DOUBT, next_at=None)
    found = scraped(client)

    unfinished = {key[1:]: value for key, value in found.items() if key[0] == "unfinished" and value}
    assert unfinished == {("high", "queued"): 1, ("bulk", "deferred"): 2, ("normal", "sending"): 3}
    assert found[("in_doubt_held",)] == 1


def test_a_priority_without_mail_has_zero(client: Client) -> None:
    """An alert rule needs an existing metric."""
    found = scraped(client)

    assert found[("unfinished", "high", "queued")] == 0
    assert found[("oldest_due_seconds", "bulk")] == 0
    assert found[("in_doubt_held",)] == found[("breakers_open",)] == found[("paused",)] == 0


def test_the_age_of_the_oldest_is_reported(client: Client) -> None:
    """For due mail: since it became due. For deferred mail: since its submission. Mail that is due later does not count
    as due.
    """
    Delivery.objects.filter(pk=submitted().pk).update(due_at=ago(100), created_at=ago(500))
    Delivery.objects.filter(pk=submitted().pk).update(due_at=ago(-1000), created_at=ago(500))
    Delivery.objects.filter(pk=submitted().pk).update(
        due_at=ago(-60), created_at=ago(3000), status=Status.DEFERRED, priority="bulk"
    )
    found = scraped(client)

    assert 100 <= found[("oldest_due_seconds", "normal")] < 160
    assert found[("oldest_due_seconds", "bulk")] == 0
    assert 3000 <= found[("oldest_deferred_seconds", "bulk")] < 3060


def test_how_mail_goes_is_reported(client: Client) -> None:
    """The configuration's name, a pause, circuit breakers, and the sweep."""
    SMTPConfig.objects.create(name="Primary", host="localhost", port=25, is_active=True, from_email="a@example.com")
    SendingPause.begin(reason="a test")
    CircuitBreaker.objects.create(key="k", smtp_config="Primary", host="localhost", probe_at=ago(0), reason="down")
    sweeper.leave_heartbeat()
    found = scraped(client)

    assert found[("configuration_info", "Primary")] == 1
    assert found[("paused",)] == found[("breakers_open",)] == 1
    assert 0 <= found[("since_sweep_seconds",)] < 60


def test_a_damaged_row_makes_no_series_of_its_own(client: Client) -> None:
    """Any value may have been written into the database."""
    Delivery.objects.filter(pk=submitted().pk).update(priority="odd", status="strange")

    assert scraped(client)[("unfinished", "normal", "damaged")] == 1


def test_without_the_cache_only_the_sweep_is_missing(client: Client, valkey: Any) -> None:
    """All other values are in the database."""
    valkey.stop()
    found = scraped(client)

    assert ("since_sweep_seconds",) not in found
    assert ("in_doubt_held",) in found


def test_without_the_database_it_is_503(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus then reports that the scrape failed."""

    def fails() -> bytes:
        raise DatabaseError("secret words")

    monkeypatch.setattr(ledger, "exposition", fails)
    response = asked(client)
    assert response.status_code == 503
    assert b"secret" not in response.content


def test_without_prometheus_client_it_says_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the page and ``manage.py check`` report it."""
    monkeypatch.setattr(access, "is_installed", lambda: False)
    response = asked(client)

    assert response.status_code == 503
    assert b"celery-mail-dispatch[metrics]" in response.content
    assert "email_integration.W009" in {message.id for message in run_checks()}


@pytest.mark.parametrize(
    ("host", "token", "warned"),
    [("127.0.0.1", "", False), ("localhost", "", False), ("0.0.0.0", "", True), ("0.0.0.0", TOKEN, False)],
)
def test_metrics_for_everybody_are_warned_of(settings: Any, host: str, token: str, warned: bool) -> None:
    """A worker that serves metrics beyond its machine needs a token."""
    own = {"WORKER_METRICS_HOST": host, "WORKER_METRICS_PORT": 9100, "METRICS_TOKEN": token}
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **own}

    assert ("email_integration.W010" in {message.id for message in run_checks()}) is warned


#: A program: two processes count, one after the other, and a third is alive. It prints the page for Prometheus.
_PROCESSES = """
import os, sys
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from email_integration.metrics.children import Children

nowhere = CollectorRegistry()
counted = Counter("counted", "c", ["a"], registry=nowhere)
took = Histogram("took", "t", registry=nowhere, buckets=(1,))
held = Gauge("held", "h", registry=nowhere, multiprocess_mode="livesum")
folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
registry = CollectorRegistry()
registry.register(Children(folder, is_ours=True))
for _ in range(2):
    if not (child := os.fork()):
        counted.labels("x").inc(3)
        took.observe(0.5)
        held.set(7)
        os._exit(0)
    os.waitpid(child, 0)
    generate_latest(registry)
counted.labels("x").inc()
held.set(1)
sys.stdout.write(generate_latest(registry).decode())
print("# files:", len(list(folder.glob("*.db"))))
"""


def test_what_dead_processes_counted_is_kept_and_their_files_are_not(tmp_path: Path) -> None:
    """Counters and histograms stay complete, however often a process is replaced. The gauges of a dead process are
    removed.
    """
    page = subprocess.run(
        [sys.executable, "-c", _PROCESSES],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    ).stdout
    found = {sample.name: sample.value for one in text_string_to_metric_families(page) for sample in one.samples}

    assert found["counted_total"] == 7
    assert found["took_count"] == 2
    assert found["held"] == 1
    # Three files of the living process, and two of all the others.
    assert "# files: 5" in page
