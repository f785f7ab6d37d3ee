"""The sweep: it finds what is due and nobody works on, and does not ring without need."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from config.local.processes import PATIENCE
from email_integration.models import Delivery
from email_integration.queue import sweeper
from email_integration.queue.sweeper import sweep
from tests import services
from tests.deliveries import RecordingDoorbell, ago, pretend, submitted

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _bell(bell: RecordingDoorbell, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RING_AFTER": 30.0}


def lost(count: int = 1, **changes: Any) -> list[str]:
    """The ids of deliveries whose ring got lost."""
    ids = [submitted().pk for _ in range(count)]
    Delivery.objects.filter(pk__in=ids).update(**{"ring_after": ago(1), **changes})
    return ids


def pause(pk: str) -> float:
    """How long, in seconds, until the delivery is rung for again."""
    ring_after = Delivery.objects.get(pk=pk).ring_after
    assert ring_after is not None
    return (ring_after - timezone.now()).total_seconds()


def test_a_mail_just_submitted_is_left_to_its_own_ring(bell: RecordingDoorbell) -> None:
    delivery = submitted()
    assert sweep() == 0
    assert pause(delivery.pk) == pytest.approx(30, abs=5)


def test_a_lost_ring_is_made_up_for_once(bell: RecordingDoorbell) -> None:
    (pk,) = lost()
    bell.rings.clear()
    assert (sweep(), sweep()) == (1, 0)
    assert bell.rings == [[pk]]


@pytest.mark.parametrize(("rings", "seconds"), [(0, 30), (1, 60), (2, 120), (3, 240), (5, 900), (30_000, 900)])
def test_the_pause_doubles_up_to_a_quarter_of_an_hour(bell: RecordingDoorbell, rings: int, seconds: float) -> None:
    (pk,) = lost(rings=rings)
    sweep()
    assert pause(pk) == pytest.approx(seconds, abs=5)
    assert Delivery.objects.get(pk=pk).rings == rings + 1


def test_nothing_more_to_do_is_never_rung_for(bell: RecordingDoorbell) -> None:
    delivery = submitted()
    pretend(delivery, status="accepted", ring_after=None)
    assert sweep() == 0


def test_a_deep_queue_is_taken_in_batches_and_whole(bell: RecordingDoorbell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "BATCH", 10)
    ids = lost(25)
    bell.rings.clear()
    assert sweep() == 25
    assert [len(ring) for ring in bell.rings] == [10, 10, 5]
    assert sorted(bell.rung) == sorted(ids)


def test_the_longest_waiting_is_rung_for_first(bell: RecordingDoorbell) -> None:
    young, old = lost(), lost(ring_after=ago(100))
    bell.rings.clear()
    sweep()
    assert bell.rung == old + young


def test_a_batch_costs_a_handful_of_queries(bell: RecordingDoorbell, django_assert_max_num_queries: Any) -> None:
    lost(20)
    with django_assert_max_num_queries(6):  # is there any; the gates; BEGIN, SELECT, UPDATE, COMMIT
        sweep()
    with django_assert_max_num_queries(1):  # nothing is left
        sweep()


def test_when_the_broker_is_dead_the_pause_does_not_grow(bell: RecordingDoorbell) -> None:
    """Else an hour without a broker would cost another quarter of an hour once it is back."""
    (pk,) = lost(rings=3)
    bell.broken = ConnectionError()
    assert sweep() == 0
    assert Delivery.objects.get(pk=pk).rings == 3
    bell.broken = None
    bell.rings.clear()
    assert sweep() == 1
    assert bell.rung == [pk]


def test_concurrent_sweeps_ring_for_each_delivery_once(
    bell: RecordingDoorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    if services.database == "postgresql":
        monkeypatch.setattr(sweeper, "BATCH", 7)
    ids = lost(40)
    bell.rings.clear()
    start = threading.Barrier(4)

    def work() -> None:
        try:
            start.wait(PATIENCE)
            sweep()
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    sweep()
    assert sorted(bell.rung) == sorted(ids)


def test_what_is_due_later_is_rung_for_then(bell: RecordingDoorbell) -> None:
    delivery = submitted(due_at=timezone.now() + dt.timedelta(seconds=60))
    assert sweep() == 0
    pretend(delivery, ring_after=ago(0), due_at=ago(0))
    assert sweep() == 1
