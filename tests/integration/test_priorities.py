"""Priorities: a mail's priority selects the queue whose workers are woken."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from celery import current_app
from django.core.mail import EmailMessage
from django.db import transaction
from redis import Redis

from config.local.valkey import Valkey
from email_integration.delivery import manual
from email_integration.exceptions import InvalidMail
from email_integration.models import Delivery, Priority
from email_integration.queue import sweeper, wakeups
from email_integration.tasks import health, names, send_email
from tests.broker import messages
from tests.deliveries import RecordingTaskQueue, submitted
from tests.mail_settings import make_backend

pytestmark = pytest.mark.django_db(transaction=True)

QUEUES = {"high": "mail.high", "normal": "mail", "bulk": "mail.bulk"}
TO = {"to": ["kim@example.com"]}


def woken(valkey: Valkey) -> dict[str, list[str]]:
    """Return the queues that the wake-ups in each priority's queue name."""
    return {
        priority: [message.arguments[0] for message in messages(valkey, queue)] for priority, queue in QUEUES.items()
    }


def only(priority: str) -> dict[str, list[str]]:
    """Return one wake-up, in the queue of this priority."""
    return {other: [QUEUES[other]] if other == priority else [] for other in QUEUES}


def lost(valkey: Valkey) -> None:
    """Lose the wake-ups of the submitted mail."""
    valkey.flush()
    wakeups.forget()


@pytest.mark.parametrize("priority", Priority.values)
def test_a_mail_wakes_the_queue_of_its_priority(valkey: Valkey, priority: str) -> None:
    result = send_email.delay("S", "B", **TO, priority=priority)
    assert Delivery.objects.get(pk=result.id).priority == priority
    assert woken(valkey) == only(priority)


def test_a_mail_without_priority_is_a_normal_one(valkey: Valkey) -> None:
    send_email.delay("S", "B", **TO)
    assert woken(valkey) == only("normal")


@pytest.mark.parametrize("priority", Priority.values)
def test_the_sweep_wakes_the_queue_of_the_priority(valkey: Valkey, priority: str) -> None:
    submitted(priority=priority)
    lost(valkey)
    sweeper.sweep()
    assert woken(valkey) == only(priority)


def test_a_prepared_mail_and_a_copy_keep_the_priority(valkey: Valkey) -> None:
    prepared = send_email.prepare("S", "B", **TO, priority="high")
    prepared.apply_async()
    assert woken(valkey) == only("high")
    lost(valkey)
    copy = manual.resend(prepared.kwargs["delivery_id"])
    assert (copy.priority, woken(valkey)) == ("high", only("high"))


@pytest.mark.parametrize("priority", ["urgent", "", "HIGH", None, 3, ["high"]])
def test_another_priority_is_refused_and_named(task_queue: RecordingTaskQueue, priority: Any) -> None:
    with pytest.raises(InvalidMail, match=r"^priority must be one of 'high', 'normal', 'bulk', not "):
        send_email.delay("S", "B", **TO, priority=priority)
    assert not Delivery.objects.exists()


def test_the_word_as_an_option_of_celery_is_refused_and_not_lost(task_queue: RecordingTaskQueue) -> None:
    with pytest.raises(InvalidMail, match="among the mail's arguments"):
        send_email.apply_async(("S", "B"), TO, priority="high")


def test_celerys_own_queue_and_priority_win(valkey: Valkey) -> None:
    """The given queue takes precedence over the queue of the mail's priority. A number is a priority
    within the queue.
    """
    send_email.apply_async(("S", "B"), {**TO, "priority": "bulk"}, queue="own")
    [message] = messages(valkey, "own")
    assert message.arguments == ["own"]
    send_email.apply_async(("S", "B"), {**TO, "priority": "bulk"}, priority=6)
    [message] = messages(valkey, "mail.bulk\x06\x166")
    assert message.arguments == ["mail.bulk"]


def test_a_mail_with_celerys_number_waits_for_no_other_wake_up(valkey: Valkey) -> None:
    """An outstanding wake-up may wait behind other tasks. Mails with the same number still share one wake-up."""
    send_email.apply_async(("S", "B"), TO)
    for _ in range(3):
        with transaction.atomic():
            for number in (3, 6, None, 3):
                send_email.apply_async(("S", "B"), TO, **({} if number is None else {"priority": number}))
        wakeups._asked.update(dict.fromkeys(wakeups._asked, float("inf")))  # no time passes
    queues = ("mail", "mail\x06\x163", "mail\x06\x166")
    assert [len(messages(valkey, queue)) for queue in queues] == [1, 1, 1]


def test_a_backend_has_the_priority_of_all_its_messages(valkey: Valkey) -> None:
    connection = make_backend(priority="bulk")
    assert connection.send_messages([EmailMessage("S", "B", to=["kim@example.com"]) for _ in range(2)]) == 2
    assert set(Delivery.objects.values_list("priority", flat=True)) == {"bulk"}
    assert woken(valkey) == only("bulk")


def test_a_backend_of_another_priority_is_refused_even_when_it_should_fail_silently() -> None:
    with pytest.raises(InvalidMail, match="priority must be"):
        make_backend(priority="urgent", fail_silently=True)


def test_without_queues_of_their_own_all_priorities_have_that_of_deliveries(valkey: Valkey, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "HIGH_QUEUE": "", "BULK_QUEUE": ""}
    with transaction.atomic():
        for priority in Priority.values:
            send_email.delay("S", "B", **TO, priority=priority)
    assert woken(valkey) == only("normal")
    assert wakeups.priorities_of("mail") == ("high", "normal", "bulk")
    assert "mail.bulk" not in health.queues()


def test_without_any_queue_celery_chooses(valkey: Valkey, settings: Any) -> None:
    """In a project without priorities, a plain worker then serves all of them."""
    empty = {"QUEUE": "", "HIGH_QUEUE": "", "BULK_QUEUE": "", "SWEEP_QUEUE": ""}
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **empty}
    with transaction.atomic():
        for priority in Priority.values:
            send_email.delay("S", "B", **TO, priority=priority)
    default = current_app.conf.task_default_queue
    assert [message.arguments for message in messages(valkey, default)] == [[""]]
    assert wakeups.priorities_of("") == ("high", "normal", "bulk")
    assert health.queues() == [default]


def test_the_queue_of_each_priority_must_have_a_worker() -> None:
    assert set(QUEUES.values()) < set(health.queues())


def test_a_priority_that_is_damaged_in_the_database_is_a_normal_one(valkey: Valkey) -> None:
    submitted(priority="high")
    lost(valkey)
    Delivery.objects.update(priority="fast")
    sweeper.sweep()
    assert woken(valkey) == only("normal")


def test_priorities_of_a_queue_come_most_urgent_first(settings: Any) -> None:
    assert {queue: wakeups.priorities_of(queue) for queue in ("mail", "mail.high", "mail.bulk", "own")} == {
        "mail": ("normal",),
        "mail.high": ("high",),
        "mail.bulk": ("bulk",),
        "own": (),
    }
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "BULK_QUEUE": "mail.high"}
    assert wakeups.priorities_of("mail.high") == ("high", "bulk")


def test_a_wake_up_is_short_and_says_the_queue_and_no_mail(valkey: Valkey) -> None:
    """It has less than a kilobyte without the name of this host. Flower shows the values of its header."""
    result = send_email.delay("S", "B", **TO)
    [message] = messages(valkey, "mail")
    assert message.task == names.DISPATCH
    assert message.headers["argsrepr"] == "('mail',)"
    assert message.headers["kwargsrepr"] == "{}"
    expires = dt.datetime.fromisoformat(message.headers["expires"])
    # At least ten minutes, as the clocks of two hosts are compared.
    assert 600 < (expires - dt.datetime.now(dt.UTC)).total_seconds() < 3600
    assert min(message.headers["timelimit"]) >= 3600
    with Redis.from_url(valkey.url) as client:
        [text] = client.lrange("mail", 0, -1)
    assert len(text.replace(message.headers["origin"].encode(), b"")) < 1000
    assert result.id.encode() not in text
