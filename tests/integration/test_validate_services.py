"""``validate_notification_setup``: all parts except the SMTP server."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import caches
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from config.local.processes import wait_until
from config.local.valkey import Valkey
from email_integration.diagnosis import database, workers
from email_integration.models import Delivery, SendingPause
from email_integration.queue import sweeper
from email_integration.queue.submission import submit
from email_integration.queue.sweeper import sweep
from email_integration.smtpd import SMTPServer
from tests.mail_settings import name_server
from tests.stack import Stack

from .validating import activate, result_backend, validate

pytestmark = pytest.mark.django_db


def line(output: str, words: str) -> str:
    """Return the only line with these words."""
    [found] = [line.strip() for line in output.splitlines() if words in line]
    return found


def with_keys(settings: Any, **changes: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **changes}


@pytest.mark.django_db(transaction=True)
def test_with_everything_in_place_it_ends_with_0(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], settings: Any
) -> None:
    """A real worker and a real beat: there is no ✗ in the output."""
    started = stack()
    activate(smtp_server())
    wait_for_a_sweep()

    code, output = validate("--test-email", "someone@example.com", timeout=2)

    assert code == 0, output + started.logs()
    assert "✗" not in output
    assert line(output, "Workers that answer").startswith("✓")
    assert line(output, "The last sweep ran").startswith("✓")
    assert line(output, "The broker").startswith("✓ The broker redis://")
    assert line(output, "cache “").startswith("✓")
    assert line(output, "Results").startswith("✓")
    assert line(output, "clocks").startswith("✓")
    assert line(output, "encrypted").startswith("✓ The connection is encrypted (TLSv1")
    assert line(output, "certificate")
    assert line(output, "Logged in as").startswith("✓")


def wait_for_a_sweep() -> None:
    """Wait for beat's first sweep."""
    wait_until(lambda: sweeper.last_heartbeat() is not None, what="a sweep")


def test_no_worker_and_no_beat_are_wrong_but_the_test_mail_goes(smtp_server: Callable[..., SMTPServer]) -> None:
    """The test mail needs neither a worker nor beat."""
    server = smtp_server()
    activate(server)

    code, output = validate("--test-email", "someone@example.com")

    assert code == 1
    assert line(output, "No worker answered within").startswith("✗")
    assert "celery -A PROJECT worker --queues mail" in line(output, "No worker answered within")
    assert line(output, "No sweep ran in the last 75 s").startswith("✗")
    assert "celery -A PROJECT beat" in line(output, "No sweep ran in the last")
    assert line(output, "Test email sent successfully").startswith("✓")
    assert len(server.messages) == 1


@pytest.mark.extra
def test_a_worker_on_another_queue_is_not_enough(stack: Callable[..., Stack]) -> None:
    """It answers, but takes no messages of this app."""
    current = stack(beat=False)
    current.worker.end()
    current.start_worker(queues=("elsewhere",))

    _, output = validate(timeout=2)

    assert line(output, "No worker consumes the queue “mail”").startswith("✗")


def test_json_says_the_same_to_a_machine(smtp_server: Callable[..., SMTPServer]) -> None:
    """The names are stable, and there are no marks."""
    activate(smtp_server())

    code, output = validate("--json")

    assert code == 1
    answer = json.loads(output)
    assert answer["ok"] is False
    levels = {finding["check"]: finding["level"] for finding in answer["findings"]}
    assert levels["smtp.valid"] == "ok"
    assert levels["smtp.connection"] == "ok"
    assert levels["worker"] == "error"
    assert levels["beat"] == "error"
    assert levels["smtp.source"] == "info"
    assert all(finding["hint"] for finding in answer["findings"] if finding["level"] in ("error", "warning"))


def test_a_cache_of_one_process_is_a_warning(settings: Any) -> None:
    """It cannot tell other processes about a change, and cannot hold the sweeper's heartbeat."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

    _, output = validate()

    assert line(output, "is not shared between processes").startswith("⚠")
    assert line(output, "Without a shared cache").startswith("ℹ")


def test_services_that_are_down_are_named(valkey: Valkey, smtp_server: Callable[..., SMTPServer]) -> None:
    """Cache and broker are one server here. The test mail needs neither of them."""
    server = smtp_server()
    activate(server)
    valkey.stop()

    code, output = validate("--test-email", "someone@example.com")

    assert code == 1
    assert line(output, "The cache “default” cannot be reached (ConnectionError)").startswith("✗")
    assert line(output, "The broker redis://").startswith("✗")
    assert line(output, "it is not known whether sweeps run").startswith("⚠")
    assert len(server.messages) == 1


def test_a_sweep_leaves_a_mark_that_ages(settings: Any) -> None:
    """A sweep by cron leaves it too."""
    sweep()
    assert line(validate()[1], "The last sweep ran").startswith("✓")

    caches["default"].set(sweeper.HEARTBEAT_KEY, time.time() - 80)
    assert line(validate()[1], "No sweep ran in the last 75 s").startswith("✗")

    with_keys(settings, SWEEP_INTERVAL=30.0)
    assert line(validate()[1], "The last sweep ran").startswith("✓")

    caches["default"].set(sweeper.HEARTBEAT_KEY, time.time() + 600)
    assert line(validate()[1], "in the future").startswith("⚠")


def test_overdue_mail_shows_that_nothing_sweeps(settings: Any) -> None:
    """This works without a shared cache."""
    from django.core.mail import EmailMessage

    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    delivery = submit(EmailMessage("s", "b", "a@example.com", ["b@example.com"]))
    Delivery.objects.filter(pk=delivery.pk).update(next_at=timezone.now() - dt.timedelta(minutes=5))

    assert line(validate()[1], "1 delivery has been due").startswith("✗")


@pytest.mark.parametrize(("number", "one"), [(1, "delivery waits"), (2, "deliveries wait")])
def test_waiting_deliveries_are_counted_in_words(number: int, one: str) -> None:
    """Deliveries that wait for a server, and deliveries that wait for a person."""
    from django.core.mail import EmailMessage

    for _ in range(2 * number):
        submit(EmailMessage("s", "b", "a@example.com", ["b@example.com"]))
    ids = list(Delivery.objects.values_list("pk", flat=True))
    Delivery.objects.filter(pk__in=ids[:number]).update(status="deferred", waits_for_relay=True)
    Delivery.objects.filter(pk__in=ids[number:]).update(status="quarantined")

    output = validate()[1]

    assert f"ℹ {number} {one} for a server" in output
    assert f"⚠ {number} {'delivery is' if number == 1 else 'deliveries are'} in doubt or quarantined" in output


def test_missing_migrations_are_named() -> None:
    """Migrations of this app and of the result backend."""
    recorder = MigrationRecorder(connection)
    last = max(name for app, name in recorder.applied_migrations() if app == "django_celery_results")
    recorder.record_unapplied("django_celery_results", last)

    output = validate()[1]

    assert line(output, "Migrations have not been run").startswith(
        f"✗ Migrations have not been run: django_celery_results.{last}"
    )


@pytest.mark.parametrize(("ahead", "mark"), [(0, "✓"), (20, "⚠"), (-20, "⚠"), (500, "✗"), (-500, "✗")])
def test_clocks_that_differ_are_reported(ahead: int, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the database is compared."""
    query = database._SECONDS_SINCE_EPOCH[connection.vendor]
    monkeypatch.setitem(database._SECONDS_SINCE_EPOCH, connection.vendor, f"{query} + {ahead}")

    assert line(validate()[1], "clocks of this host").startswith(mark)


@pytest.mark.parametrize(
    ("backend", "mark", "says"),
    [
        ("disabled://", "⚠", "no result backend"),
        ("cache+memory://", "✓", "Results can be stored"),
        ("redis://127.0.0.1:1/0", "✗", "cannot store and read a result"),
    ],
)
def test_the_result_backend_is_tried(backend: str, mark: str, says: str) -> None:
    """The command stores a result of its own, and removes it again."""
    with result_backend(backend):
        assert line(validate()[1], says).startswith(mark)


def test_blockers_are_reported(settings: Any) -> None:
    """Intended reasons why mail is held back: an operator must be able to find out where it is."""
    assert line(validate()[1], "No mail is held or redirected").startswith("✓")
    SendingPause.begin(reason="moving house")

    with_keys(settings, REDIRECT_ALL_TO=["staging@example.com"], ALLOWED_RECIPIENTS=["example.com"])
    output = validate()[1]

    assert "(moving house)" in line(output, "Sending has been paused since")
    assert "resume_email" in line(output, "Sending has been paused since")
    assert line(output, "REDIRECT_ALL_TO").startswith("⚠ All mail goes to staging@example.com")
    assert line(output, "ALLOWED_RECIPIENTS").startswith("⚠ Mail goes only to example.com")

    with_keys(settings, EMAIL_PAUSED=True)
    assert line(validate()[1], "Sending is paused").startswith("⚠ Sending is paused by EMAIL_PAUSED")


def test_the_fallback_is_reported(settings: Any) -> None:
    """The server that would be used if no configuration were active."""
    assert line(validate()[1], "Without an active configuration").startswith("ℹ")

    name_server(settings, host="smtp.example.com")
    assert line(validate()[1], "Without an active configuration").endswith("smtp.example.com:25")


@pytest.mark.parametrize(
    ("ours", "theirs", "mark"),
    [
        ("a", "a", "ok"),
        ("ab", "ab", "ok"),
        ("ab", "ba", "ok"),
        ("a", "ab", "ok"),
        ("ab", "a", "warning"),
        ("ba", "a", "error"),
        ("a", "b", "error"),
        ("a", "ba", "error"),
        ("a", "", "error"),
    ],
)
def test_the_keys_of_workers_are_compared(ours: str, theirs: str, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``b`` before ``a``, new values are sealed under ``b``. ``a`` still opens older values."""
    monkeypatch.setattr(workers, "fingerprints", lambda: tuple(ours))
    monkeypatch.setattr(workers.health, "keys_of_workers", lambda timeout: {"w1": [*ours], "w2": [*theirs]})
    (found,) = workers.diagnose_keys(timeout=0.1)
    assert found.level.value == mark
    assert ("w2" in found.text) == (mark != "ok")
