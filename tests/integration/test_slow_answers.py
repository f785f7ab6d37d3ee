"""An answer tells the state at some moment after the question. No attempt begins with an outdated answer.

In each test, another process changes the configuration between a question and its answer. The answer takes so long that
the change has returned by then. The test controls the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.cache import caches
from django.db import transaction

from email_integration import conf
from email_integration.models import SendingPause, SMTPConfig
from email_integration.routing import Nowhere, active_relay, generation, resolver
from email_integration.sending import messages, points, relaying
from email_integration.smtp import Opening, Relay, Session, Started
from email_integration.smtpd import Fault, SMTPServer
from tests.deliveries import RecordingTaskQueue, attempt, send_due, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

Change = Callable[[], object]


class Clock:
    """A clock that advances only when it is told to, and during a sleep."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(_fresh: None, task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(generation, "TRUSTED", 0.1)
    monkeypatch.setattr(generation, "PROMPT", 0.1)
    for module in (generation, resolver):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def _no_other_reload(settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "CONFIG_CACHE_TTL": 3600.0}


@pytest.fixture
def servers(smtp_server: Callable[..., SMTPServer]) -> SimpleNamespace:
    """The servers of the active configuration, and of the one that is activated later."""
    old, new = (smtp_server(security="plain", user=None) for _ in range(2))
    config_for(old, name="Old")
    config_for(new, name="New", is_active=False)
    return SimpleNamespace(old=old, new=new)


def save_another(clock: Clock) -> None:
    """Activate the other configuration as another process would. Its save returned a moment ago."""
    known, copy = generation._last, resolver._copy
    SMTPConfig.objects.activate(SMTPConfig.objects.get(name="New"))
    # This process knows nothing new.
    generation._last, resolver._copy = known, copy
    clock.now += 0.001


def once(change: Change) -> Change:
    """Return a function that makes the change on its first call only."""
    left = [change]
    return lambda: left.pop()() if left else None


def while_read(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """The cache answers, and the answer takes as long as the change."""
    cached, change = caches[conf.get("CACHE")], once(change)
    get = cached.get

    def getting(key: str, *more: Any) -> Any:
        answer = get(key, *more)
        if key == generation.KEY:
            change()
        return answer

    monkeypatch.setattr(cached, "get", getting)


def name() -> str:
    route = active_relay()
    return route.name if isinstance(route, Relay) else route.reason


def test_what_a_slow_cache_says_is_as_old_as_the_question(
    servers: SimpleNamespace, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name() == "Old"
    clock.now += 1
    while_read(monkeypatch, lambda: save_another(clock))
    assert name() == "New"
    assert name() == "New"


def test_a_pause_is_seen_however_slow_the_cache_is(
    servers: SimpleNamespace, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause() -> None:
        known, copy = generation._last, resolver._copy
        SendingPause.objects.create(reason="enough")
        generation._last, resolver._copy = known, copy

    assert name() == "Old"
    clock.now += 1
    while_read(monkeypatch, pause)
    assert isinstance(active_relay(), Nowhere)


def test_an_answer_that_is_quick_enough_is_relied_on(
    servers: SimpleNamespace, clock: Clock, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    name()
    clock.now += 1

    def take_a_while() -> None:
        clock.now += 0.09

    while_read(monkeypatch, take_a_while)
    with django_assert_num_queries(0):
        assert name() == "Old"


@pytest.mark.parametrize("has_cache", [True, False])
def test_what_a_slow_database_says_is_as_old_as_the_question(
    servers: SimpleNamespace, clock: Clock, monkeypatch: pytest.MonkeyPatch, settings: Any, has_cache: bool
) -> None:
    """The same holds for a slow secret store: the row was read before the secret."""
    if not has_cache:
        monkeypatch.setattr(generation, "_read", lambda: None)
    read, change = resolver.relay_of, once(lambda: save_another(clock))

    def reading(*given: Any, **how: Any) -> Relay:
        relay = read(*given, **how)
        change()
        return relay

    monkeypatch.setattr(resolver, "relay_of", reading)
    assert name() == "New"


def test_where_all_is_slow_the_database_is_not_asked_for_ever(
    servers: SimpleNamespace, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read, asked = resolver.relay_of, []

    def reading(*given: Any, **how: Any) -> Relay:
        asked.append(1)
        clock.now += 0.2
        return read(*given, **how)

    def take_a_while() -> None:
        clock.now += 0.2

    cached = caches[conf.get("CACHE")]
    get = cached.get
    monkeypatch.setattr(cached, "get", lambda *given: (take_a_while(), get(*given))[1])
    monkeypatch.setattr(resolver, "relay_of", reading)
    assert name() == "Old"
    assert 1 < len(asked) < 10
    assert "0.1 s" in caplog.text


def test_mail_whose_content_took_long_to_read_goes_by_the_new_one(
    servers: SimpleNamespace, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery, change = submitted(), once(lambda: save_another(clock))
    enter = messages.PreparedMessage.__enter__

    def entering(message: messages.PreparedMessage) -> messages.PreparedMessage:
        entered = enter(message)
        change()
        return entered

    monkeypatch.setattr(messages.PreparedMessage, "__enter__", entering)
    attempt(delivery.pk)
    assert (len(servers.old.messages), len(servers.new.messages)) == (0, 1)
    assert "MAIL" not in verbs(servers.old)


def test_recipients_of_another_transaction_are_offered_to_the_new_one(
    servers: SimpleNamespace, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old server has refused all recipients of the first transaction, with a slow answer."""
    SMTPConfig.objects.filter(name="Old").update(max_recipients=1)
    servers.old.inject(Fault(verb="RCPT", reply="550 5.1.1 No such user"))
    delivery, begin = submitted("kim@example.com", "lee@example.com"), relaying.begin
    change = once(lambda: save_another(clock))

    def beginning(session: Session, opening: Opening, **how: Any) -> Started:
        started = begin(session, opening, **how)
        change()
        return started

    monkeypatch.setattr(relaying, "begin", beginning)
    attempt(delivery.pk)
    assert [message.rcpt_tos for message in servers.new.messages] == [("kim@example.com", "lee@example.com")]
    assert verbs(servers.old).count("MAIL") == 1


def test_after_a_reply_that_took_long_a_crew_goes_on_by_the_new_one(
    servers: SimpleNamespace, clock: Clock, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mail that was claimed for the old server goes back and is claimed again. This includes a mail that was already
    begun there.
    """
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SESSIONS": 1}
    with transaction.atomic():
        for place in range(3):
            submitted(f"u{place}@example.com")
    change = once(lambda: save_another(clock))
    monkeypatch.setattr(points, "hook", lambda point, *ids: change() if point == "answered" else None)
    assert send_due()["accepted"] == 3
    assert (len(servers.old.messages), len(servers.new.messages)) == (1, 2)
    assert (verbs(servers.old).count("MAIL"), verbs(servers.old).count("CONTENT")) == (2, 1)


def verbs(server: SMTPServer) -> list[str]:
    return [verb for session in server.sessions for verb in session.verbs]
