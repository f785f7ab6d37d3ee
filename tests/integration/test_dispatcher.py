"""The dispatcher: what is claimed is sent over several sessions, and recorded together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from config.local.smtp_server import SMTPServer
from email_integration import conf
from email_integration.ledger.queues import queue_of
from email_integration.models import Delivery, DeliveryAttempt, DeliveryBatch
from email_integration.sending.crew import Crew
from email_integration.sending.dispatcher import claim, send_inline, settle
from tests.children import send
from tests.deliveries import submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

Serve = Callable[..., SMTPServer]


def test_what_is_due_is_sent(smtp_server: Serve) -> None:
    """All of it, each once, and nothing of the batches is left."""
    server = smtp_server(security="plain", user=None)
    config_for(server)
    ids = [submitted().pk for _ in range(30)]

    assert send() == {"accepted": 30}

    assert sorted(Delivery.objects.filter(status="accepted").values_list("pk", flat=True)) == sorted(ids)
    assert (len(server.messages), DeliveryAttempt.objects.count(), DeliveryBatch.objects.count()) == (30, 30, 0)


def test_inline(smtp_server: Serve) -> None:
    """One after the other, in this thread."""
    server = smtp_server(security="plain", user=None)
    config_for(server)
    ids = [submitted().pk for _ in range(5)]
    assert [one.pk for one in send_inline(queue_of("normal"))] == ids
    assert len(server.messages) == 5


def test_a_server_has_no_more_connections_than_it_may(smtp_server: Serve) -> None:
    """However many sessions a process may have."""
    server = smtp_server(security="plain", user=None)
    config_for(server, max_connections=2)
    for _ in range(20):
        submitted()

    assert send() == {"accepted": 20}

    assert len(server.sessions) <= 2


def test_what_waits_for_a_session_until_its_lease_is_short_goes_back(smtp_server: Serve) -> None:
    """In no doubt, whatever its process does: another one may have a session free."""
    config_for(smtp_server(security="plain", user=None))
    ids = [submitted().pk for _ in range(3)]
    batch, route = claim(queue_of("normal"), journal=None)
    assert batch is not None
    with Crew(sessions=0, journal=None) as crew:
        crew.take_on(batch, route, journal=None)
        crew.give_back_late()
        assert crew.done(within=0.0) == []
        batch.lease_ends -= conf.get("LEASE") - conf.get("REPLY_TIMEOUT")
        crew.give_back_late()
        settle(batch, crew.done(within=0.0))
    assert list(
        Delivery.objects.filter(batch="", status="queued").values_list("pk", flat=True).order_by("pk")
    ) == sorted(ids)
    assert (DeliveryBatch.objects.count(), DeliveryAttempt.objects.count()) == (0, 0)
