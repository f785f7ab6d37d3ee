"""The pools of Celery's workers: supported pools send, and a worker with another pool refuses to start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import connection, transaction

from config.local.processes import LOOPBACK, PATIENCE, Process, wait_until
from email_integration import conf
from email_integration.models import Delivery
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests import services
from tests.acceptance.conftest import Activate, environment
from tests.stack import PATIENT, ROOT, Stack

pytestmark = pytest.mark.extra

MAILS = 60


def open_databases(process: Process) -> int:
    """Return how often a worker's main process has the database's log open, once for each connection.

    The database file itself is not counted: while any connection of a process holds a lock on it, SQLite keeps the file
    open for connections that were closed.
    """
    name = f"{connection.settings_dict['NAME']}-wal"
    return sum(os.path.realpath(file) == os.path.realpath(name) for file in Path(f"/proc/{process.pid}/fd").iterdir())


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_supported_pool_sends_everything_once(
    pool: str, stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    """With TLS and a login, triggered by the messages of single mails, and without any complaint in the log."""
    server = smtp_server()
    activate(server)
    concurrency = 1 if pool == "solo" else 8
    running = stack(pool=pool, concurrency=concurrency, env={"PYTHONWARNINGS": "always"})
    for number in range(MAILS):
        send_email.delay(f"Mail {number}", "Text", to=["kim@example.com"], in_doubt="hold")
    wait_until(lambda: Delivery.objects.filter(status="accepted").count() == MAILS, what="all mails accepted")
    assert Counter(message.subject for message in server.messages) == {f"Mail {number}": 1 for number in range(MAILS)}
    if connection.vendor == "sqlite":
        wait_until(
            lambda: open_databases(running.worker) <= concurrency, what="no more connections than tasks at a time"
        )
    running.worker.end()
    assert running.worker.returncode == 0
    assert {session.verbs[-1] for session in server.sessions} == {"QUIT"}
    # The clients of broker and cache may leave a socket open until the process ends.
    expected = ("superuser privileges", f"raddr=('{LOOPBACK}', {services.valkey.port})")
    lines = [line for line in running.worker.read_log().splitlines() if "Error" in line or "Warning: " in line]
    assert [line for line in lines if not any(words in line for words in expected)] == []


def test_processes_that_end_after_each_task_send_everything_once(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate, tmp_path: Path
) -> None:
    """With ``max_tasks_per_child``, a dispatcher hands over the rest after a slice, and its process is replaced."""
    server = smtp_server(security="plain", user=None, faults=[Fault(verb="DOT", delay=0.2)])
    activate(server)
    stack(beat=False, env={**PATIENT, **environment(tmp_path / "notes"), "ACCEPTANCE_MAX_TASKS": "1"})
    mails = 2 * MAILS
    with transaction.atomic():
        for number in range(mails):
            send_email.delay(f"Mail {number}", "Text", to=["kim@example.com"], in_doubt="hold")
    wait_until(lambda: Delivery.objects.filter(status="accepted").count() == mails, what="all mails accepted")
    assert Counter(message.subject for message in server.messages) == {f"Mail {number}": 1 for number in range(mails)}
    assert len(server.sessions) > 2 * conf.get("SESSIONS")
    ended = [session for session in server.sessions if not session.is_open]
    assert ended
    assert {session.verbs[-1] for session in ended} == {"QUIT"}


def run_worker(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a worker that is expected to exit."""
    services.need_broker()
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "config", "worker", *options],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def test_a_worker_of_eventlet_refuses_to_start_with_one_line(transactional_db: None) -> None:
    refused = run_worker("--pool", "eventlet")
    assert refused.returncode == 1
    last = refused.stderr.strip().splitlines()[-1]
    assert last == (
        "email_integration cannot send mail with the pool 'eventlet'. Start the worker with --pool prefork, threads, "
        "gevent or solo, or with --queues that contain no mail queue."
    )
    assert "Traceback" not in refused.stderr
    assert " ready." not in refused.stdout + refused.stderr


def test_a_pool_of_ones_own_is_refused_as_it_was_typed(transactional_db: None) -> None:
    refused = run_worker("--pool", "custom", CELERY_CUSTOM_WORKER_POOL="celery.concurrency.base:BasePool")
    assert "with the pool 'custom'." in refused.stderr.strip().splitlines()[-1]


def test_another_pool_may_serve_queues_without_mail(stack: Callable[..., Stack]) -> None:
    running = stack(beat=False)
    running.pool = "eventlet"
    running.start_worker(queues=("celery",)).wait_for_log("This worker serves no mail queue")
