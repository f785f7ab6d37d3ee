"""Threads that open sessions let the dispatcher check the circuit breaker. They check it themselves if it does not
answer.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.db.backends.signals import connection_created

from config.local.processes import PATIENCE
from email_integration.models import CircuitBreaker, SMTPConfig
from email_integration.routing import breaker, generation
from email_integration.sending import asking
from email_integration.sending.asking import Questions
from email_integration.smtp import Relay
from email_integration.smtpd import SMTPServer
from tests.deliveries import RecordingTaskQueue, ago, send_due, submitted
from tests.relays import config_for

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

RELAY = Relay(name="Primary", host="smtp.example.com")

SESSIONS, MAILS = 4, 12


@pytest.fixture(autouse=True)
def _patient(task_queue: RecordingTaskQueue, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow time for answers and for the generation on a busy machine.

    Without a current generation, each thread would query the database. Each mail has its own session.
    """
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "SESSIONS": SESSIONS,
        "SESSION_MAX_TRANSACTIONS": 1,
        "CONFIG_CACHE_TTL": 3600.0,
    }
    monkeypatch.setattr(asking, "_ANSWER_WITHIN", PATIENCE)
    monkeypatch.setattr(generation, "PROMPT", PATIENCE)


@pytest.fixture
def server(smtp_server: Serve) -> SMTPServer:
    server = smtp_server(security="plain", user=None)
    config_for(server)
    return server


@pytest.fixture
def connected() -> Iterator[list[threading.Thread]]:
    """The threads that have opened a database connection."""
    threads: list[threading.Thread] = []

    def note(**kwargs: Any) -> None:
        threads.append(threading.current_thread())

    connection_created.connect(note)
    yield threads
    connection_created.disconnect(note)


def send(mails: int = MAILS) -> Counter[str]:
    for _ in range(mails):
        submitted()
    return send_due()


def never_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_ANSWER_WITHIN", 0.0)
    monkeypatch.setattr(Questions, "answer", lambda questions: None)


def test_what_sends_has_no_database_connection_of_its_own(
    server: SMTPServer, connected: list[threading.Thread]
) -> None:
    """A process has one connection, regardless of the number of sessions it opens."""
    connections.close_all()
    assert send() == {"accepted": MAILS}
    assert len(server.sessions) == MAILS
    assert set(connected) == {threading.current_thread()}


def test_a_thread_that_is_not_answered_asks_itself(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch, connected: list[threading.Thread]
) -> None:
    """The dispatcher may, for example, be waiting for the database while it records."""
    never_answered(monkeypatch)
    assert send() == {"accepted": MAILS}
    assert set(connected) - {threading.current_thread()}, "no session was opened in another thread"


@pytest.mark.parametrize("is_answered", [True, False])
def test_an_open_breaker_is_found_by_either(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch, is_answered: bool
) -> None:
    if not is_answered:
        never_answered(monkeypatch)
    server.stop()
    assert send(1) == {"deferred": 1}
    server.start()
    assert send() == {"deferred": MAILS}
    assert server.sessions == []
    CircuitBreaker.objects.update(probe_at=ago(1))
    send(1)
    assert server.messages, "no mail was the probe"
    assert not CircuitBreaker.objects.exists()


def test_no_session_is_opened_to_a_server_that_was_replaced_while_it_was_asked(
    server: SMTPServer, smtp_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer may arrive after the change of the configuration has returned and is in effect."""
    other = smtp_server(security="plain", user=None)
    config_for(other, name="Other", is_active=False)
    asked = []

    def replaced_meanwhile(relay: Relay) -> bool:
        asked.append(relay.name)
        if relay.name != "Other":
            SMTPConfig.objects.activate(SMTPConfig.objects.get(name="Other"))
        return False

    monkeypatch.setattr(breaker, "is_open", replaced_meanwhile)
    send(1)
    assert asked[0] != "Other"
    assert (server.sessions, len(other.messages)) == ([], 1)


def test_a_database_that_fails_at_the_dispatchers_look_costs_no_mail(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(relay: Relay) -> bool:
        raise OperationalError

    monkeypatch.setattr(breaker, "is_open", away)
    assert send() == {"accepted": MAILS}
    assert len(server.sessions) == MAILS


class Asking:
    """Threads that ask the dispatcher. ``have_asked`` waits until these threads have asked."""

    def __init__(self, number: int) -> None:
        self._asked = threading.Semaphore(0)
        self.questions = Questions(self._asked.release)
        self.found: list[bool] = []
        self.threads = [threading.Thread(target=self._ask) for _ in range(number)]

    def _ask(self) -> None:
        self.found.append(self.questions.breaker_is_closed(RELAY))

    def have_asked(self, *threads: threading.Thread) -> None:
        for thread in threads:
            thread.start()
            assert self._asked.acquire(timeout=PATIENCE)

    def all_found(self) -> list[bool]:
        for thread in self.threads:
            thread.join(PATIENCE)
        return self.found


def test_those_who_ask_at_once_are_answered_by_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Relay] = []
    monkeypatch.setattr(breaker, "is_open", lambda relay: bool(looks.append(relay)))
    asking = Asking(SESSIONS)
    asking.have_asked(*asking.threads)
    asking.questions.answer()
    assert asking.all_found() == [True] * SESSIONS
    assert looks == [RELAY]


def test_an_answer_is_no_older_than_its_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that arrives during another's check causes a new check."""
    looks: list[Relay] = []
    asking = Asking(2)
    first, second = asking.threads

    def look(relay: Relay) -> bool:
        looks.append(relay)
        if len(looks) == 1:
            asking.have_asked(second)
        return False

    monkeypatch.setattr(breaker, "is_open", look)
    asking.have_asked(first)
    asking.questions.answer()
    assert (len(looks), asking.questions.are_open) == (1, True)
    asking.questions.answer()
    assert asking.all_found() == [True, True]
    assert len(looks) == 2
