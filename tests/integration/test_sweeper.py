"""The sweep: it wakes exactly the queues with due mail that no worker has claimed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import cache
from django.db import OperationalError, transaction
from django.utils import timezone

from config.local.valkey import Valkey
from email_integration.ledger import installation
from email_integration.ledger.task_queue import install
from email_integration.models import Delivery, Installation
from email_integration.queue import continuing, sweeper, wakeups
from email_integration.queue.sweeper import sweep
from tests.broker import messages
from tests.deliveries import RecordingTaskQueue, ago, in_threads, pretend, submitted

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep alone, without the callbacks of higher packages."""
    monkeypatch.setattr(sweeper, "_also", [])
    installation.identity()


def lost(count: int = 1, *, task_queue: RecordingTaskQueue, **how: Any) -> list[str]:
    """Submit mail and lose its wake-up. Return the ids."""
    ids = [submitted(**how).pk for _ in range(count)]
    task_queue.woken.clear()
    return ids


def finished(task_queue: RecordingTaskQueue, **changes: Any) -> str:
    """Return the id of a finished delivery. Its continuation is due, unless ``changes`` say otherwise."""
    pk = submitted().pk
    pretend(submitted(), status="accepted", next_at=None)
    pretend(Delivery.objects.get(pk=pk), **{"status": "accepted", "next_at": None, "continue_after": ago(1)} | changes)
    task_queue.woken.clear()
    return pk


# -- queues ---------------------------------------------------------------------------------------------------------


def test_a_lost_wake_up_is_made_up_for(task_queue: RecordingTaskQueue) -> None:
    lost(task_queue=task_queue)
    assert sweep() == 1
    assert task_queue.woken == ["mail"]


def test_each_queue_is_woken_once_however_much_waits_there(task_queue: RecordingTaskQueue) -> None:
    for priority in ("normal", "bulk", "high"):
        lost(20, priority=priority, task_queue=task_queue)
    assert sweep() == 3
    assert sorted(task_queue.woken) == ["mail", "mail.bulk", "mail.high"]


def test_priorities_of_one_queue_are_one_wake_up(task_queue: RecordingTaskQueue, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "HIGH_QUEUE": "", "BULK_QUEUE": ""}
    for priority in ("normal", "bulk", "high"):
        lost(priority=priority, task_queue=task_queue)
    assert sweep() == 1
    assert task_queue.woken == ["mail"]


def test_the_settings_of_now_say_which_queue_it_is(task_queue: RecordingTaskQueue, settings: Any) -> None:
    lost(priority="bulk", task_queue=task_queue)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "BULK_QUEUE": "night"}
    sweep()
    assert task_queue.woken == ["night"]


def test_queues_that_callers_have_chosen_are_woken(task_queue: RecordingTaskQueue) -> None:
    for queue in ("own", "another", "own", "mail.high"):
        pretend(submitted(priority="bulk"), queue=queue)
    pretend(submitted(), queue="later", next_at=ago(-60))
    task_queue.woken.clear()
    assert sweep() == 3
    assert sorted(task_queue.woken) == ["another", "mail.high", "own"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"status": "accepted", "next_at": None}, id="finished"),
        pytest.param({"next_at": ago(-24 * 3600)}, id="not due yet"),
        pytest.param({"batch": "0"}, id="in progress"),
        pytest.param({"status": "in_doubt", "next_at": None}, id="held"),
    ],
)
@pytest.mark.parametrize("queue", ["", "own"])
def test_where_nothing_can_be_claimed_no_worker_is_woken(
    task_queue: RecordingTaskQueue, changes: dict[str, Any], queue: str
) -> None:
    pretend(submitted(), queue=queue, **changes)
    task_queue.woken.clear()
    assert sweep() == 0
    assert task_queue.woken == []


def test_what_is_in_hand_hides_nothing_else_that_is_due(task_queue: RecordingTaskQueue) -> None:
    ids = lost(30, task_queue=task_queue)
    Delivery.objects.filter(pk__in=ids[:29]).update(batch="0", next_at=ago(100))
    assert sweep() == 1


def test_what_is_due_later_has_its_queue_woken_then(task_queue: RecordingTaskQueue) -> None:
    delivery = submitted(due_at=timezone.now() + dt.timedelta(seconds=60))
    assert sweep() == 0
    pretend(delivery, next_at=ago(0), due_at=ago(0))
    assert sweep() == 1


def test_what_expires_before_it_is_due_comes_to_its_end(task_queue: RecordingTaskQueue) -> None:
    delivery = submitted(due_at=timezone.now() + dt.timedelta(seconds=60))
    pretend(delivery, next_at=ago(1), expires_at=ago(1))
    assert sweep() == 1


@pytest.mark.parametrize("priority", ["", "fast", "HIGHER", "a", "zzz", "normal?"])
@pytest.mark.parametrize(("queue", "woken"), [("", "mail"), ("own", "own")])
def test_a_damaged_priority_becomes_a_normal_one(
    task_queue: RecordingTaskQueue, priority: str, queue: str, woken: str
) -> None:
    """No claim would ever find it."""
    delivery = pretend(submitted(priority="high"), priority=priority[:6], queue=queue)
    task_queue.woken.clear()
    assert sweep() == 1
    assert task_queue.woken == [woken]
    assert Delivery.objects.get(pk=delivery.pk).priority == "normal"


def test_an_idle_sweep_asks_one_question(task_queue: RecordingTaskQueue, django_assert_num_queries: Any) -> None:
    pretend(submitted(), status="accepted", next_at=None)
    submitted(due_at=timezone.now() + dt.timedelta(seconds=60))
    with django_assert_num_queries(1):
        sweep()


def test_a_sweep_asks_a_few_questions_however_much_is_due(
    task_queue: RecordingTaskQueue, django_assert_max_num_queries: Any
) -> None:
    for priority in ("normal", "bulk", "high"):
        lost(20, priority=priority, task_queue=task_queue)
    with django_assert_max_num_queries(2):  # whether there is any; whether it is late
        sweep()


def test_nothing_is_woken_for_what_was_rolled_back(task_queue: RecordingTaskQueue) -> None:
    with transaction.atomic():
        submitted(priority="bulk")
        transaction.set_rollback(True)
    assert (sweep(), task_queue.woken) == (0, [])


def test_a_dead_broker_is_no_error(task_queue: RecordingTaskQueue) -> None:
    lost(task_queue=task_queue)
    task_queue.broken = ConnectionError()
    assert sweep() == 0
    task_queue.broken = None
    assert sweep() == 1


def test_a_queue_that_takes_no_message_delays_no_other(task_queue: RecordingTaskQueue) -> None:
    for priority in ("normal", "bulk", "high"):
        lost(priority=priority, task_queue=task_queue)
    pretend(submitted(), queue="own")
    task_queue.woken.clear()
    task_queue.deaf = {"mail.high", "own"}
    assert sweep() == 2
    assert sorted(task_queue.woken) == ["mail", "mail.bulk"]


def test_concurrent_sweeps_bear_one_another(task_queue: RecordingTaskQueue) -> None:
    lost(40, task_queue=task_queue)
    assert in_threads(*[sweep] * 4) == [1] * 4


def test_without_the_row_of_the_installation_one_is_made(task_queue: RecordingTaskQueue) -> None:
    """For example after a test of the project that has emptied the tables."""
    lost(task_queue=task_queue)
    Installation.objects.all().delete()
    assert sweep() == 1
    assert Installation.objects.count() == 1


# -- outstanding wake-ups ---------------------------------------------------------------------------------------------


@pytest.fixture
def celery_queue(task_queue: RecordingTaskQueue) -> Iterator[None]:
    """Install Celery's task queue, which takes outstanding wake-ups into account."""
    from email_integration.tasks import mail

    install(mail._task_queue)
    yield
    install(task_queue)


def test_a_queue_where_a_dispatcher_stays_is_not_woken(celery_queue: None, valkey: Valkey) -> None:
    stay = wakeups.Stay("mail")
    submitted()
    wakeups._asked.clear()
    assert sweep() == 1
    assert messages(valkey, "mail") == []
    stay.failed()
    wakeups._asked.clear()
    sweep()
    assert len(messages(valkey, "mail")) == 1


def test_mail_that_is_late_has_its_queue_woken_whatever_the_cache_says(celery_queue: None, valkey: Valkey) -> None:
    """For example, a cache in a database may use the clock of a host that is ahead."""
    cache.set(f"email_integration:wake:{installation.identity()}:mail", 1, timeout=600)
    delivery = submitted()
    assert messages(valkey, "mail") == []
    pretend(delivery, next_at=ago(sweeper.OVERDUE + 1))
    sweep()
    assert len(messages(valkey, "mail")) == 1


# -- continuations ----------------------------------------------------------------------------------------------------


def test_what_follows_a_finished_mail_is_published_when_its_owner_did_not(task_queue: RecordingTaskQueue) -> None:
    pk = finished(task_queue)
    assert sweep() == 0
    assert task_queue.continued == [pk]
    assert Delivery.objects.get(pk=pk).continue_after is None
    sweep()
    assert task_queue.continued == [pk]


def test_what_follows_is_left_to_its_owner_for_a_lease(task_queue: RecordingTaskQueue) -> None:
    finished(task_queue, continue_after=ago(-30))
    sweep()
    assert task_queue.continued == []


def test_a_broker_that_is_away_leaves_what_follows_for_soon(task_queue: RecordingTaskQueue, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RETRY_FIRST": 0.01, "LEASE": 600.0}
    ids = {finished(task_queue) for _ in range(8)}
    tried: list[str] = []
    task_queue.broken = ConnectionError()
    task_queue.continue_ = lambda one: tried.append(one.pk) or _raise(task_queue)  # type: ignore[method-assign,func-returns-value]
    sweep()
    assert len(tried) == continuing._AWAY_AFTER  # not for each mail, as each would wait for the broker
    del task_queue.continue_
    task_queue.broken = None
    while len(task_queue.continued) < 8:
        sweep()
    assert set(task_queue.continued) == ids


def _raise(task_queue: RecordingTaskQueue) -> None:
    assert task_queue.broken is not None
    raise task_queue.broken


def test_one_that_cannot_be_continued_holds_up_no_other(task_queue: RecordingTaskQueue) -> None:
    ill, *well = [finished(task_queue, continue_after=ago(10 - number)) for number in range(6)]
    known = task_queue.continue_

    def continue_(delivery: Delivery) -> None:
        if delivery.pk == ill:
            raise ValueError("kim@example.com")
        known(delivery)

    task_queue.continue_ = continue_  # type: ignore[method-assign]
    sweep()
    assert task_queue.continued == well
    assert Delivery.objects.get(pk=ill).continue_after is not None


# -- callbacks of higher packages -------------------------------------------------------------------------------------


def test_a_sweep_calls_what_recovers_first(task_queue: RecordingTaskQueue) -> None:
    """The mail that it gives back is due, and its queue is woken."""
    (pk,) = lost(task_queue=task_queue)
    Delivery.objects.update(batch="0")
    sweeper.also(lambda: Delivery.objects.filter(pk=pk).update(batch=""))
    assert sweep() == 1


def test_what_fails_to_recover_holds_up_no_mail(
    task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    called = []

    @sweeper.also
    def recover() -> None:
        called.append(1)
        raise OperationalError("kim@example.com")

    monkeypatch.setattr(sweeper, "_also", [recover, recover])
    lost(task_queue=task_queue)
    assert sweep() == 1
    assert len(called) == 2
    assert "OperationalError" in caplog.text
    assert "kim@example.com" not in caplog.text


def test_a_sweep_leaves_its_mark(task_queue: RecordingTaskQueue) -> None:
    assert sweeper.last_heartbeat() is None
    sweep()
    assert sweeper.last_heartbeat() is not None
