"""A flood of mail takes half of a worker's processes, or all of them if the worker serves only mail queues."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import current_app
from django.core.mail import EmailMessage

from config.local.processes import wait_until
from config.local.workers import OF_MAIL
from email_integration.models import DeliveryBatch
from email_integration.smtpd import Fault, SMTPServer
from tests.acceptance import tasks
from tests.acceptance.conftest import Activate, environment
from tests.mail_settings import make_backend
from tests.stack import PATIENT, Stack

pytestmark = pytest.mark.extra

MAILS = 5000
OTHERS = 30
PROCESSES = 4

#: The line that a worker logs at the end of a task that has sent mail.
SLICE = re.compile(r"Task email_integration\.tasks\.dispatch\[\S+ succeeded in \S+: \{'")


@pytest.fixture
def flood(smtp_server: Callable[..., SMTPServer], activate: Activate) -> Callable[[], SMTPServer]:
    """Queue thousands of mails for a server that is slow to take each one."""

    def flood() -> SMTPServer:
        server = smtp_server(security="plain", user=None, faults=[Fault(verb="DOT", delay=0.1)])
        activate(server)
        mails = [EmailMessage(f"Mail {number}", "Text", to=["kim@example.com"]) for number in range(MAILS)]
        assert make_backend().send_messages(mails) == MAILS
        return server

    return flood


def dispatching() -> int:
    """Return how many processes have claimed mail."""
    return DeliveryBatch.objects.exclude(owner="").values("owner").distinct().count()


def slices(running: Stack) -> int:
    """Return how many tasks that sent mail have ended."""
    return len(SLICE.findall(running.worker.read_log()))


def waiting() -> int:
    """Return how many wake-ups wait in the broker."""
    with current_app.connection_for_read() as connection:
        return int(connection.default_channel.queue_declare("mail").message_count)


def test_other_tasks_of_a_worker_begin_while_mail_floods_it(
    stack: Callable[..., Stack], flood: Callable[[], SMTPServer], tmp_path: Path
) -> None:
    """The wait of other tasks is counted in dispatcher slices, because these also take longer on a busy machine."""
    running = stack(concurrency=PROCESSES, env={**PATIENT, **environment(tmp_path / "notes")})
    server = flood()
    wait_until(lambda: dispatching() == PROCESSES // 2, what="half of the processes dispatch")

    most, waited = 0, []

    def is_noted() -> bool:
        nonlocal most
        most = max(most, dispatching())
        return [len(waited)] in tasks.noted(tmp_path / "notes", "other")

    while len(waited) < OTHERS:
        before = slices(running)
        tasks.note.delay(len(waited), tag="other")
        wait_until(is_noted, what="another task")
        begun = slices(running)
        waited.append(begun - before)
        assert waited[-1] <= PROCESSES
        # The next task meets other dispatchers.
        wait_until(lambda begun=begun: slices(running) > begun, what="the end of a slice")

    print(f"slices that other tasks waited for: {waited}")
    assert len(server.messages) < MAILS
    assert most == PROCESSES // 2


def test_a_worker_of_mail_alone_dispatches_in_all_of_its_processes(
    stack: Callable[..., Stack], flood: Callable[[], SMTPServer], tmp_path: Path
) -> None:
    """No wake-ups pile up in the broker, however long the flood lasts: a slice does not add one each time.

    On a machine so busy that workers take seconds to receive a wake-up, there may be a few more than dispatchers.
    """
    running = stack(concurrency=PROCESSES, queues=OF_MAIL, env={**PATIENT, **environment(tmp_path / "notes")})
    flood()
    wait_until(lambda: dispatching() == PROCESSES, what="all processes dispatch")
    wait_until(lambda: slices(running) >= 20 * PROCESSES, what="many slices")
    assert waiting() <= slices(running) // 2
