"""Groups: many deliveries that were submitted together are rung for, and tried, in one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from celery import shared_task
from celery.app import routes
from celery.signals import before_task_publish
from django.db import OperationalError, transaction
from redis import Redis

from config.local.smtp_server import Fault, SMTPServer
from config.local.valkey import Valkey
from email_integration import tasks
from email_integration.ledger import transitions
from email_integration.models import Delivery, Status
from email_integration.tasks import canvas, deliver, deliver_group, names, ringing, send_email
from tests.broker import Message, messages
from tests.deliveries import RecordingDoorbell, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)


def submit_together(number: int, **how: Any) -> list[str]:
    with transaction.atomic():
        return [submitted(f"u{one}@example.com", **how).pk for one in range(number)]


def ids_of(found: list[Message]) -> list[str]:
    """What the messages ring for, in order."""
    ids: list[str] = []
    for message in found:
        [argument] = message.arguments
        ids += argument if message.task == names.DELIVER_GROUP else [argument]
    return ids


def test_many_that_were_submitted_together_are_rung_for_in_groups(valkey: Valkey, settings: Any) -> None:
    """Each once, as many in a group as GROUP_SIZE allows."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "GROUP_SIZE": 12}
    ids = submit_together(100)
    found = messages(valkey, "mail")
    assert ids_of(found) == ids
    assert [len(message.arguments[0]) for message in found] == [12] * 8 + [4]


def test_a_few_are_rung_for_one_by_one(valkey: Valkey) -> None:
    ids = submit_together(ringing._FEW - 1)
    found = messages(valkey, "mail")
    assert [message.task for message in found] == [names.DELIVER] * len(ids)
    assert ids_of(found) == ids


def test_no_worker_gets_all_of_a_batch_that_others_could_share(valkey: Valkey) -> None:
    ids = submit_together(40)
    assert len(messages(valkey, "mail")) > 1
    assert ids_of(messages(valkey, "mail")) == ids


def test_groups_of_one_are_none(valkey: Valkey, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "GROUP_SIZE": 1}
    submit_together(20)
    assert {message.task for message in messages(valkey, "mail")} == {names.DELIVER}


def test_a_group_is_of_one_lane_and_of_one_way(valkey: Valkey) -> None:
    """What was given a queue or a priority of its own keeps it."""
    with transaction.atomic():
        normal = submit_together(10)
        bulk = submit_together(10, priority="bulk")
        own = submit_together(10, kept=canvas.keep({"queue": "own"}))
        one = submitted(kept=canvas.keep({"queue": "lonely"})).pk
    assert ids_of(messages(valkey, "mail")) == normal
    assert ids_of(messages(valkey, "mail.bulk")) == bulk
    assert ids_of(messages(valkey, "own")) == own
    assert ids_of(messages(valkey, "lonely")) == [one]


def test_what_has_ended_is_rung_for_alone(valkey: Valkey) -> None:
    """Something may have to follow it, and the id of what was revoked is refused by the workers."""
    ids = submit_together(12)
    deliveries = list(Delivery.objects.filter(pk__in=ids))
    for delivery in deliveries:
        delivery.status = Status.CANCELLED
    valkey.flush()
    ringing.CeleryDoorbell(deliver, deliver_group, tasks.sweep).ring(deliveries)
    found = messages(valkey, "mail")
    assert {message.task for message in found} == {names.DELIVER}
    assert not {message.headers["id"] for message in found} & set(ids)


def test_a_ring_goes_celerys_ways(valkey: Valkey, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``apply_async`` would send it: by the routes of the application, with its signals, its events and limits."""
    app, sent = deliver.app, []

    def publishing(sender: str, headers: dict[str, Any], routing_key: str, **_: Any) -> None:
        sent.append((sender, headers["id"], routing_key))
        headers["traceparent"] = "00-1-2-01"

    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "QUEUE": ""}
    routed = routes.prepare({names.DELIVER: {"queue": "routed", "priority": 7}})
    monkeypatch.setattr(app.amqp, "router", routes.Router(routed, app.amqp.queues, create_missing=True, app=app))
    before_task_publish.connect(publishing)
    try:
        delivery_id = submitted("kim@example.com").pk
    finally:
        before_task_publish.disconnect(publishing)
    assert sent == [(names.DELIVER, delivery_id, "routed")]
    with Redis.from_url(valkey.url) as client:
        [queue] = [key for key in client.keys("routed*") if client.type(key) == b"list"]
        [text] = client.lrange(queue, 0, -1)
    message = json.loads(text)
    assert message["headers"]["traceparent"] == "00-1-2-01"
    assert message["headers"]["timelimit"] == [deliver.time_limit, deliver.soft_time_limit]
    assert message["headers"]["root_id"] == message["properties"]["correlation_id"] == delivery_id
    assert message["properties"]["priority"] == 7


def test_the_ids_of_a_group_are_in_its_message_once(valkey: Valkey) -> None:
    """Its header, which goes on to events and to Flower, says how many there are."""
    ids = submit_together(10)
    with Redis.from_url(valkey.url) as client:
        [text] = client.lrange("mail", 0, -1)
    assert not any(one.encode() in text for one in ids)  # the body is in base64
    [message] = messages(valkey, "mail")
    assert message.headers["argsrepr"] == "(10 deliveries,)"
    assert message.headers["kwargsrepr"] == "{'lane': 'normal'}"


def test_a_group_sends_each_and_counts_how_they_stand(
    smtp_server: Callable[..., SMTPServer], bell: RecordingDoorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mail that is refused, put off or unknown stops none of the others, and the result holds no address."""
    monkeypatch.setattr("random.random", lambda: 1.0)  # so that what is put off is not due soon
    server = smtp_server(
        faults=[
            Fault(verb="RCPT", reply="550 5.1.1 No such user", match="u1@"),
            Fault(verb="RCPT", reply="450 4.2.0 Busy", match="u2@"),
        ]
    )
    config_for(server)
    ids = submit_together(5)
    result = deliver_group.apply(([*ids, "unknown"],)).get()
    assert result == {"accepted": 3, "failed": 1, "deferred": 1}
    assert len(server.messages) == 3
    # Again: what is at its end is left alone, what is not due too.
    assert deliver_group.apply((ids,)).get() == {}
    assert len(server.messages) == 3


def test_what_follows_one_does_not_hold_up_the_others(
    smtp_server: Callable[..., SMTPServer], bell: RecordingDoorbell, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither what cannot be started nor a broker that is away."""
    server = smtp_server()
    config_for(server)
    bad = canvas.keep({}, link=[{"task": "of.nobody", "args": "not a list", "options": {"no_such": 1}}])
    ids = submit_together(2, kept=bad) + submit_together(2)
    assert deliver_group.apply((ids,)).get() == {"accepted": 4}
    assert len(server.messages) == 4
    assert not Delivery.objects.filter(continued=False).exists()


def test_a_database_that_fails_ends_the_group_and_the_rest_is_rung_for_again(
    smtp_server: Callable[..., SMTPServer],
    bell: RecordingDoorbell,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config_for(smtp_server())
    ids = submit_together(3)
    together = transitions.record_and_claim

    def failing(ended: Any, wanted: Any, **how: Any) -> Any:
        if any(claim.delivery.pk == ids[1] for claim in wanted):
            raise OperationalError("u1@example.com")
        return together(ended, wanted, **how)

    monkeypatch.setattr(transitions, "record_and_claim", failing)
    assert deliver_group.apply((ids,)).state == "IGNORED"
    assert "The database failed during a group of 3 deliveries (OperationalError)" in caplog.text
    assert "u1@" not in caplog.text
    statuses = dict(Delivery.objects.values_list("pk", "status"))
    assert [statuses[one] for one in ids] == ["accepted", "queued", "queued"]
    assert Delivery.objects.filter(ring_after__isnull=False).count() == 2


@shared_task
def _followed(result: dict[str, Any]) -> None:
    _seen.append(result["id"])


_seen: list[str] = []


def test_in_eager_mode_each_is_sent_at_once_and_followed(smtp_server: Callable[..., SMTPServer], settings: Any) -> None:
    server = smtp_server()
    config_for(server)
    _seen.clear()
    app = deliver.app
    before = app.conf.task_always_eager
    app.conf.task_always_eager = True
    try:
        with transaction.atomic():
            ids = [
                send_email.apply_async(("S", "B"), {"to": [f"u{one}@example.com"]}, link=_followed.s()).id
                for one in range(12)
            ]
    finally:
        app.conf.task_always_eager = before
    assert len(server.messages) == 12
    assert len(_seen) == 12
    assert len(set(ids)) == 12
    assert Delivery.objects.filter(status="accepted").count() == 12
