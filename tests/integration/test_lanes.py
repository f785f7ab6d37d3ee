"""Lanes: a mail's priority chooses the queue that its ring goes to."""

from __future__ import annotations

from typing import Any

import pytest
from celery import current_app
from django.core.mail import EmailMessage
from django.utils import timezone
from redis import Redis

from config.local.valkey import Valkey
from email_integration.delivery import manual
from email_integration.exceptions import InvalidMail
from email_integration.models import Delivery, Lane
from email_integration.queue import sweeper
from email_integration.tasks import health, names, send_email
from tests.broker import messages
from tests.deliveries import RecordingDoorbell, submitted
from tests.mail_settings import make_backend

pytestmark = pytest.mark.django_db(transaction=True)

QUEUES = {"high": "mail.high", "normal": "mail", "bulk": "mail.bulk"}
TO = {"to": ["kim@example.com"]}


def rung(valkey: Valkey) -> dict[str, list[str]]:
    """The ids that each lane's queue was rung with."""
    return {lane: [message.arguments[0] for message in messages(valkey, queue)] for lane, queue in QUEUES.items()}


@pytest.mark.parametrize("lane", Lane.values)
def test_a_mail_rings_in_the_queue_of_its_lane(valkey: Valkey, lane: str) -> None:
    result = send_email.delay("S", "B", **TO, priority=lane)
    assert Delivery.objects.get(pk=result.id).lane == lane
    assert rung(valkey) == {**{other: [] for other in QUEUES}, lane: [result.id]}


def test_a_mail_without_priority_is_a_normal_one(valkey: Valkey) -> None:
    result = send_email.delay("S", "B", **TO)
    assert rung(valkey)["normal"] == [result.id]


@pytest.mark.parametrize("lane", Lane.values)
def test_the_sweep_rings_in_the_lane(valkey: Valkey, lane: str) -> None:
    delivery = submitted(priority=lane)
    valkey.flush()
    Delivery.objects.update(ring_after=timezone.now())
    sweeper.sweep()
    assert rung(valkey)[lane] == [delivery.pk]


def test_a_prepared_mail_and_a_copy_stay_in_the_lane(valkey: Valkey) -> None:
    prepared = send_email.prepare("S", "B", **TO, priority="high")
    prepared.apply_async()
    copy = manual.resend(prepared.kwargs["delivery_id"])
    assert rung(valkey)["high"] == [prepared.kwargs["delivery_id"], copy.pk]


@pytest.mark.parametrize("priority", ["urgent", "", "HIGH", None, 3, ["high"]])
def test_another_priority_is_refused_and_named(bell: RecordingDoorbell, priority: Any) -> None:
    with pytest.raises(InvalidMail, match=r"^priority must be 'high', 'normal', 'bulk', not "):
        send_email.delay("S", "B", **TO, priority=priority)
    assert not Delivery.objects.exists()


def test_the_word_as_an_option_of_celery_is_refused_and_not_lost(bell: RecordingDoorbell) -> None:
    with pytest.raises(InvalidMail, match="among the mail's arguments"):
        send_email.apply_async(("S", "B"), TO, priority="high")


def test_celerys_own_queue_and_priority_win(valkey: Valkey) -> None:
    """The queue over that of the lane; a number is a priority within it."""
    own = send_email.apply_async(("S", "B"), {**TO, "priority": "bulk"}, queue="own")
    [message] = messages(valkey, "own")
    assert message.arguments == [own.id]
    send_email.apply_async(("S", "B"), {**TO, "priority": "bulk"}, priority=6)
    assert len(messages(valkey, "mail.bulk\x06\x166")) == 1


def test_a_backend_has_the_priority_of_all_its_messages(valkey: Valkey) -> None:
    connection = make_backend(priority="bulk")
    assert connection.send_messages([EmailMessage("S", "B", to=["kim@example.com"]) for _ in range(2)]) == 2
    assert set(Delivery.objects.values_list("lane", flat=True)) == {"bulk"}
    assert len(rung(valkey)["bulk"]) == 2


def test_a_backend_of_another_priority_is_refused_even_when_it_should_fail_silently() -> None:
    with pytest.raises(InvalidMail, match="priority must be"):
        make_backend(priority="urgent", fail_silently=True)


def test_without_queues_of_their_own_all_lanes_have_that_of_deliveries(valkey: Valkey, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "HIGH_QUEUE": "", "BULK_QUEUE": ""}
    ids = [send_email.delay("S", "B", **TO, priority=lane).id for lane in Lane.values]
    assert rung(valkey)["normal"] == ids
    assert "mail.bulk" not in health.queues()


def test_without_any_queue_celery_chooses(valkey: Valkey, settings: Any) -> None:
    """A plain worker of a project that knows nothing of lanes serves them all."""
    empty = {"QUEUE": "", "HIGH_QUEUE": "", "BULK_QUEUE": "", "SWEEP_QUEUE": ""}
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **empty}
    ids = [send_email.delay("S", "B", **TO, priority=lane).id for lane in Lane.values]
    default = current_app.conf.task_default_queue
    assert [message.arguments[0] for message in messages(valkey, default)] == ids
    assert health.queues() == [default]


def test_the_queue_of_each_lane_must_have_a_worker() -> None:
    assert set(QUEUES.values()) < set(health.queues())


def test_a_lane_that_is_damaged_in_the_database_is_a_normal_one(valkey: Valkey) -> None:
    delivery = submitted(priority="high")
    valkey.flush()
    Delivery.objects.update(ring_after=timezone.now(), lane="fast")
    sweeper.sweep()
    assert rung(valkey)["normal"] == [delivery.pk]


def test_the_message_of_one_delivery_is_short_and_says_the_id_and_the_lane(valkey: Valkey) -> None:
    """Less than a kilobyte, without the name of this host; Flower shows what its header says."""
    result = send_email.delay("S", "B", **TO)
    [message] = messages(valkey, "mail")
    assert message.task == names.DELIVER
    assert (message.headers["id"], message.headers["argsrepr"]) == (result.id, "")
    assert message.headers["kwargsrepr"] == "{'lane': 'normal'}"
    with Redis.from_url(valkey.url) as client:
        [text] = client.lrange("mail", 0, -1)
    assert len(text.replace(message.headers["origin"].encode(), b"")) < 1000
