"""Thread workers (``celery worker -P threads``), which share one pool of SMTP sessions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest
from django.db import transaction

from config.local.processes import wait_until
from email_integration.models import Delivery
from email_integration.smtpd import Fault, Message, SMTPServer
from email_integration.tasks import send_email
from tests.acceptance.conftest import Activate
from tests.stack import PATIENT, Stack

pytestmark = pytest.mark.extra

MAILS = 200
THREADS = 8


@pytest.fixture
def open_sessions() -> list[int]:
    """Return how many sessions were open at each acceptance of a mail."""
    return []


@pytest.fixture
def server(smtp_server: Callable[..., SMTPServer], activate: Activate, open_sessions: list[int]) -> SMTPServer:
    """A slow server, so that several threads send to it at the same time."""

    def look(message: Message) -> None:
        open_sessions.append(sum(session.is_open for session in server.sessions))

    server = smtp_server(security="plain", user=None, on_message=look, faults=[Fault(verb="DOT", delay=0.03)])
    activate(server)
    return server


def submit() -> list[str]:
    with transaction.atomic():
        return [
            send_email.delay(f"Mail {number}", "Text", to=["kim@example.com"], in_doubt="hold").id
            for number in range(MAILS)
        ]


def all_are_accepted() -> bool:
    return Delivery.objects.filter(status="accepted").count() == MAILS


def arrived_once(server: SMTPServer) -> bool:
    return Counter(message.subject for message in server.messages) == {f"Mail {number}": 1 for number in range(MAILS)}


def test_threads_share_sessions_and_never_open_too_many(
    stack: Callable[..., Stack], server: SMTPServer, open_sessions: list[int]
) -> None:
    env = {**PATIENT, "SESSIONS": "3", "PYTHONWARNINGS": "always"}
    running = stack(pool="threads", concurrency=THREADS, env=env)
    submit()
    wait_until(all_are_accepted, what="all mails accepted")
    assert arrived_once(server)
    assert max(open_sessions) == 3
    assert len(server.sessions) < 10
    running.worker.end()
    assert running.worker.returncode == 0
    assert {session.verbs[-1] for session in server.sessions} == {"QUIT"}
    warned = re.findall(r".*Warning: .*", running.worker.read_log())
    assert [line for line in warned if "superuser" not in line] == []


def test_a_worker_of_threads_that_is_terminated_loses_nothing(stack: Callable[..., Stack], server: SMTPServer) -> None:
    """The worker finishes the mails that it has claimed; the next worker sends the rest."""
    server.clear_faults()
    server.inject(Fault(verb="DOT", delay=0.2))  # enough that some are left, however late the signal arrives
    running = stack(pool="threads", concurrency=THREADS, env=PATIENT)
    submit()
    wait_until(lambda: len(server.messages) >= 20, what="the first mails")
    running.worker.end(seconds=20)
    assert running.worker.returncode == 0
    left = MAILS - len(server.messages)
    assert left
    assert Delivery.objects.filter(status="accepted").count() == MAILS - left
    assert not Delivery.objects.exclude(batch="").exists()
    server.clear_faults()
    running.start_worker()
    wait_until(all_are_accepted, what="all mails accepted")
    assert arrived_once(server)
