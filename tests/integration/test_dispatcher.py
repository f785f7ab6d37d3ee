"""The dispatcher sends claimed mail over several sessions and records the outcomes together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError, connection

from config.local.processes import PATIENCE
from email_integration import conf
from email_integration.ledger import batches, claiming
from email_integration.ledger.queues import queue_of
from email_integration.models import Delivery, DeliveryAttempt, DeliveryBatch, Priority
from email_integration.sending import dispatcher, points
from email_integration.sending.crew import Crew
from email_integration.sending.dispatcher import claim, send_inline, settle
from email_integration.sending.in_hand import is_late
from email_integration.smtpd import SMTPServer
from tests.children import send
from tests.deliveries import RecordingTaskQueue, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

Serve = Callable[..., SMTPServer]


def test_what_is_due_is_sent(smtp_server: Serve) -> None:
    """All due mail is sent, each mail once, and no batch row is left."""
    server = smtp_server(security="plain", user=None)
    config_for(server)
    ids = [submitted().pk for _ in range(30)]

    assert send() == {"accepted": 30}

    assert sorted(Delivery.objects.filter(status="accepted").values_list("pk", flat=True)) == sorted(ids)
    assert (len(server.messages), DeliveryAttempt.objects.count(), DeliveryBatch.objects.count()) == (30, 30, 0)


def test_inline(smtp_server: Serve) -> None:
    """Mails are sent one after the other, in this thread."""
    server = smtp_server(security="plain", user=None)
    config_for(server)
    ids = [submitted().pk for _ in range(5)]
    assert [one.pk for one in send_inline(queue_of("normal"))] == ids
    assert len(server.messages) == 5


def test_urgent_mail_goes_along_with_the_next_claim_of_another_queue(
    smtp_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is committed after the first claim. Its wake-up may wait in the worker behind those of many time slices."""
    config_for(smtp_server(security="plain", user=None))
    for _ in range(150):
        submitted(priority="bulk")
    claims: list[tuple[str, ...]] = []
    urgent: list[str] = []

    def hook(name: str, *ids: str) -> None:
        if name == "claimed":
            claims.append(ids)
            urgent.extend([] if urgent else [submitted(priority="high").pk])

    monkeypatch.setattr(points, "hook", hook)
    monkeypatch.setattr(dispatcher, "SLICE", 10 * PATIENCE)
    assert dispatcher.dispatch(queue_of("bulk"), along=(Priority.HIGH,)) == {"accepted": 151}
    assert claims[1][0] == urgent[0]


def test_a_flood_of_urgent_mail_leaves_half_of_a_batch_to_the_queue() -> None:
    """Within its own queue, a batch takes the most urgent mail first, however much there is."""
    urgent = {submitted(priority="high").pk for _ in range(10)}
    bulk = {submitted(priority="bulk").pk for _ in range(10)}

    def claimed(queue: str, *priorities: Priority) -> tuple[int, int]:
        batch = batches.claim(queue, priorities, along=(Priority.HIGH,), limit=8, owner="a worker", relay=None)
        assert batch is not None
        ids = [one.pk for one in batch.deliveries]
        assert urgent.isdisjoint(ids[len(urgent.intersection(ids)) :]), "an urgent mail comes after bulk mail"
        batches.release(batch)
        return len(urgent.intersection(ids)), len(bulk.intersection(ids))

    assert claimed("mail.bulk", Priority.BULK) == (4, 4)
    assert claimed("newsletter") == (4, 0)
    assert claimed("mail", Priority.HIGH, Priority.NORMAL, Priority.BULK) == (8, 0)


def test_a_server_has_no_more_connections_than_it_may(smtp_server: Serve) -> None:
    """This limit applies even if a process may have more sessions."""
    server = smtp_server(security="plain", user=None)
    config_for(server, max_connections=2)
    for _ in range(20):
        submitted()

    assert send() == {"accepted": 20}

    assert len(server.sessions) <= 2


def test_what_waits_for_a_session_until_its_lease_is_short_goes_back(smtp_server: Serve) -> None:
    """It goes back without doubt, even if its process dies. Another process may have a free session."""
    config_for(smtp_server(security="plain", user=None))
    ids = [submitted().pk for _ in range(3)]
    batch, route = claim(queue_of("normal"), journal=None)
    assert batch is not None
    with Crew(sessions=0, journal=None) as crew:
        crew.take_on(batch, route, journal=None)
        crew.attend(late=[one for one in [batch] if is_late(one)])
        assert crew.done(within=0.0) == []
        batch.lease_ends -= conf.get("LEASE") - conf.get("REPLY_TIMEOUT")
        crew.attend(late=[one for one in [batch] if is_late(one)])
        settle(batch, crew.done(within=0.0))
    assert list(
        Delivery.objects.filter(batch="", status="queued").values_list("pk", flat=True).order_by("pk")
    ) == sorted(ids)
    assert (DeliveryBatch.objects.count(), DeliveryAttempt.objects.count()) == (0, 0)


def test_a_look_gives_back_what_a_claim_of_an_unknown_end_has(
    smtp_server: Serve, task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the claim is lost · so is the question whether it was made · a query without a claim follows."""
    config_for(smtp_server(security="plain", user=None))
    claim_, forestall = claiming.claim, batches.forestall
    answers, questions = [OperationalError("lost")], [OperationalError("refused")]

    def claiming_(*given: Any, **how: Any) -> Any:
        found = claim_(*given, **how)
        if found.deliveries and answers:
            connection.close()
            raise answers.pop()
        return found

    def asking(*given: Any) -> None:
        if questions:
            connection.close()
            raise questions.pop()
        forestall(*given)

    monkeypatch.setattr(claiming, "claim", claiming_)
    monkeypatch.setattr(batches, "forestall", asking)
    queue = queue_of("normal")
    with Crew(sessions=1, journal=None) as crew:
        stay = dispatcher._Dispatcher(queue)
        assert not stay._claim(crew)
        delivery = submitted()
        assert [stay._claim(crew) for _ in range(2)].count(True) == 1
        while not crew.is_idle:
            stay._settle(crew, crew.done(within=0.1))
    delivery.refresh_from_db()
    assert delivery.status == "accepted"
    assert DeliveryBatch.objects.count() == 0
