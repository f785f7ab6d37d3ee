"""A flood of mail leaves half of its worker's processes to other tasks, and takes all of a worker of mail alone."""

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

#: What a worker logs at the end of a task that has sent mail.
SLICE = re.compile(r"Task email_integration\.tasks\.dispatch\[\S+ succeeded in \S+: \{'")


@pytest.fixture
def flood(smtp_server: Callable[..., SMTPServer], activate: Activate) -> Callable[[], SMTPServer]:
    """Thousands of mails, to a server that takes its time for each."""

    def flood() -> SMTPServer:
        server = smtp_server(security="plain", user=None, faults=[Fault(verb="DOT", delay=0.1)])
        activate(server)
        mails = [EmailMessage(f"Mail {number}", "Text", to=["kim@example.com"]) for number in range(MAILS)]
        assert make_backend().send_messages(mails) == MAILS
        return server

    return flood


def dispatching() -> int:
    """How many processes have mail in hand."""
    return DeliveryBatch.objects.exclude(owner="").values("owner").distinct().count()


def slices(running: Stack) -> int:
    """How many tasks that have sent mail are over."""
    return len(SLICE.findall(running.worker.read_log()))


def waiting() -> int:
    """How many wake-ups wait in the broker."""
    with current_app.connection_for_read() as connection:
        return int(connection.default_channel.queue_declare("mail").message_count)


def test_other_tasks_of_a_worker_begin_while_mail_floods_it(
    stack: Callable[..., Stack], flood: Callable[[], SMTPServer], tmp_path: Path
) -> None:
    """What they wait for is counted in slices of dispatchers: on a busy machine those take longer too."""
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
        # The next one comes to others that dispatch.
        wait_until(lambda begun=begun: slices(running) > begun, what="the end of a slice")

    print(f"slices that other tasks waited for: {waited}")
    assert len(server.messages) < MAILS
    assert most == PROCESSES // 2


def test_a_worker_of_mail_alone_dispatches_in_all_of_its_processes(
    stack: Callable[..., Stack], flood: Callable[[], SMTPServer], tmp_path: Path
) -> None:
    """However long that lasts, no wake-ups pile up in the broker: there is not one more with each slice of time.

    A few more than dispatchers come where a busy machine takes seconds to take them.
    """
    running = stack(concurrency=PROCESSES, queues=OF_MAIL, env={**PATIENT, **environment(tmp_path / "notes")})
    flood()
    wait_until(lambda: dispatching() == PROCESSES, what="all processes dispatch")
    wait_until(lambda: slices(running) >= 20 * PROCESSES, what="many slices")
    assert waiting() <= slices(running) // 2
