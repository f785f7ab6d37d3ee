"""Events between two steps of a mail: saving a configuration, cancelling, pausing, taking over a batch.

A hook at a named point causes the event. Each test names the order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.db import connections

from config.local.processes import PATIENCE
from email_integration import conf
from email_integration.delivery import erasure, manual
from email_integration.models import Delivery, DeliveryAttempt, SendingPause, SMTPConfig
from email_integration.models.server import PipeliningChoice
from email_integration.routing import generation, resolver
from email_integration.sending import dispatcher, points
from email_integration.smtpd import Fault, SMTPServer
from tests.children import (
    Child,
    at,
    delivery_statuses,
    mails,
    recover,
    require_settled,
    send,
    stop,
)
from tests.deliveries import Clock, RecordingTaskQueue, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

Serve = Callable[..., SMTPServer]


@pytest.fixture(autouse=True)
def _one_session(
    journals: Path, task_queue: RecordingTaskQueue, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setattr(dispatcher._Pace, "claims", lambda self, sessions: 100)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SESSIONS": 1, "IN_DOUBT": "hold"}
    yield
    points.hook = None


@pytest.fixture
def server(smtp_server: Serve) -> SMTPServer:
    server = smtp_server(security="plain", user=None)
    config_for(server)
    return server


@pytest.fixture
def other(smtp_server: Serve) -> SMTPServer:
    """The server of another configuration."""
    server = smtp_server(security="plain", user=None)
    config_for(server, name="Other", is_active=False, from_email="other@example.com")
    return server


def activate_other() -> None:
    SMTPConfig.objects.activate(SMTPConfig.objects.get(name="Other"))


def in_a_thread(act: Callable[[], object]) -> None:
    """Call ``act`` in a thread and wait for it. The thread has its own connections and transaction."""

    def run() -> None:
        try:
            act()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)


def outcomes(delivery_id: str) -> list[str]:
    attempts = DeliveryAttempt.objects.filter(delivery=delivery_id)
    return list(attempts.order_by("number").values_list("outcome", flat=True))


# -- the live switch ------------------------------------------------------------------------------------------------


def test_saved_between_claim_and_mail(server: SMTPServer, other: SMTPServer) -> None:
    """Three are claimed · Save · the old server gets no MAIL; the three are given back and claimed again."""
    ids = mails(3)
    points.hook = at("claimed", activate_other)
    send()
    assert delivery_statuses(*ids) == ["accepted"] * 3
    assert (len(server.messages), len(other.messages)) == (0, 3)
    assert not any("MAIL" in session.verbs for session in server.sessions)
    assert [outcomes(pk) for pk in ids] == [["accepted"]] * 3
    require_settled()


def test_saved_amid_a_batch(server: SMTPServer, other: SMTPServer) -> None:
    """The third of five is about to be offered · Save · that one and the rest go through the new server."""
    ids = mails(5)
    points.hook = at("before MAIL", activate_other, of=ids[2])
    send()
    assert delivery_statuses(*ids) == ["accepted"] * 5
    assert [one.subject for one in server.messages] == ["0", "1"]
    assert sorted(one.subject for one in other.messages) == ["2", "3", "4"]
    assert Delivery.objects.get(pk=ids[2]).attempts == 1
    require_settled()


def test_a_generation_whose_read_takes_long_is_not_used(
    server: SMTPServer, other: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generation is read before MAIL · Save · the answer is from before the Save and takes 0.3 s · no MAIL to the
    old server.
    """
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "CONFIG_CACHE_TTL": 3600.0}
    clock, cached = Clock(), caches[conf.get("CACHE")]
    for module in (generation, resolver):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(generation, "TRUSTED", 0.1)
    monkeypatch.setattr(generation, "PROMPT", 0.1)
    is_asked, saved, asking = threading.Event(), [], []
    read = generation._ask

    def slow() -> str | None:
        answer = read()
        # The dispatcher also reads it for its claims, in another thread.
        if is_asked.is_set() and threading.current_thread() in asking:
            is_asked.clear()
            known, copy = generation._last, resolver._copy
            in_a_thread(activate_other)
            generation._last, resolver._copy = known, copy  # as if another process had saved it
            saved.append(answer)
            clock.ahead += 0.3
        return answer

    def about_to(name: str, *ids: str) -> None:
        if name == "before MAIL" and not saved:
            asking.append(threading.current_thread())
            clock.ahead += 1  # the last answer is too old to be used
            is_asked.set()

    monkeypatch.setattr(generation, "_ask", slow)
    points.hook = about_to
    (one,) = mails(1)
    send()
    assert saved
    assert saved != [cached.get(generation.KEY)]
    assert delivery_statuses(one) == ["accepted"]
    assert (len(server.messages), len(other.messages)) == (0, 1)
    assert not any("MAIL" in session.verbs for session in server.sessions)


def test_paused_amid_a_batch(server: SMTPServer) -> None:
    """The third of five is about to be offered · a pause · two are sent, and three wait for the end of the pause."""
    ids = mails(5)
    points.hook = at("before MAIL", SendingPause.begin, of=ids[2])
    send()
    assert delivery_statuses(*ids) == ["accepted"] * 2 + ["deferred"] * 3
    assert set(Delivery.objects.filter(pk__in=ids[2:]).values_list("cause", flat=True)) == {"paused"}
    assert len(server.messages) == 2
    require_settled()
    SendingPause.end()
    send()
    assert delivery_statuses(*ids) == ["accepted"] * 5
    assert len(server.messages) == 5


# -- cancelling -----------------------------------------------------------------------------------------------------


def _cancel(pk: str) -> None:
    assert manual.cancel(pk)


def _erase(pk: str) -> None:
    erasure.erase_recipient(Delivery.objects.get(pk=pk).recipients[0]["address"])


@pytest.mark.parametrize("how", [_cancel, _erase])
def test_cancelled_while_claimed(server: SMTPServer, how: Callable[[str], None]) -> None:
    """Two are claimed, the first is sent · the second is cancelled · the record of the first learns of this · no MAIL
    for the second.
    """
    # The second must not be prepared in the same thread while the first is being sent.
    SMTPConfig.objects.update(pipelining=PipeliningChoice.OFF)
    first, second = mails(2)
    recorded, waited = threading.Event(), []

    def hook(name: str, *ids: str) -> None:
        if name == "before the record" and first in ids and not recorded.is_set():
            how(second)
        elif name == "recorded" and first in ids:
            recorded.set()
        elif name == "in hand" and second in ids:
            waited.append(recorded.wait(PATIENCE))

    points.hook = hook
    send()
    assert waited == [True]
    assert delivery_statuses(first, second) == ["accepted", "cancelled"]
    assert [one.subject for one in server.messages] == ["0"]
    require_settled()


def test_cancelled_before_it_is_recorded_as_put_off(server: SMTPServer, settings: Any) -> None:
    """It is in progress · cancelled · the server defers it · it ends as cancelled and is not tried again."""
    server.inject(Fault(verb="DOT", reply="451 4.3.0 Try again later"))
    (one,) = mails(1)
    points.hook = at("dot noted", lambda: _cancel(one))
    send()
    assert delivery_statuses(one) == ["cancelled"]
    require_settled()


@pytest.mark.parametrize("how", [_cancel, _erase])
def test_cancelled_after_the_dot(server: SMTPServer, how: Callable[[str], None]) -> None:
    """The dot is noted · the mail is cancelled · the server accepts it: accepted."""
    (one,) = mails(1)
    points.hook = at("answered", lambda: how(one))
    send()
    assert (delivery_statuses(one), len(server.messages)) == (["accepted"], 1)
    require_settled()


def test_revoked_before_it_is_there(server: SMTPServer) -> None:
    """An unknown id is revoked · a mail with this id is submitted · the claim applies the stored revocation."""
    manual.cancel("to-come")
    submitted(delivery_id="to-come")
    send()
    assert (delivery_statuses("to-come"), len(server.messages)) == (["cancelled"], 0)
    require_settled()


@pytest.mark.parametrize(("point", "status"), [("claimed", "cancelled"), ("answer noted", "accepted")])
def test_cancelled_while_claimed_by_who_is_killed(server: SMTPServer, point: str, status: str) -> None:
    """It is in progress · its process stops, and the mail is cancelled · killed · recovery cancels it, unless it was
    accepted.
    """
    (one,) = mails(1)
    child = Child(send, hook=at(point, stop, of=one))
    child.stopped()
    _cancel(one)
    child.kill()
    recover()
    require_settled()
    assert delivery_statuses(one) == [status]
