"""All processes of a worker's pool are killed at once; the processes that Celery forks to replace them send mail."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from config.local.processes import wait_until
from config.local.workers import OF_MAIL
from email_integration.models import Delivery
from email_integration.smtpd import SMTPServer
from email_integration.tasks import send_email
from tests.acceptance.conftest import environment
from tests.acceptance.killing import children
from tests.stack import Stack

pytestmark = pytest.mark.extra


def test_a_process_that_is_forked_at_any_moment_sends(
    stack: Callable[..., Stack], server: SMTPServer, tmp_path: Path
) -> None:
    """A fork copies no lock held by a thread of the main process, neither of a module import nor of its database."""
    held = {"ACCEPTANCE_INCLUDE": "tests.acceptance.held_import"}
    running = stack(queues=OF_MAIL, env={**environment(tmp_path / "notes"), **held})
    killed = set(wait_until(lambda: children(running.worker.pid), what="the pool processes"))
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(set(children(running.worker.pid)) - killed) == len(killed) == 2, what="new pool processes")
    for number in range(20):
        send_email.delay(f"Mail {number}", "Text", to=["kim@example.com"])
    wait_until(lambda: Delivery.objects.filter(status="accepted").count() == 20, what="the mails")
