"""One queue that takes no message: the mail of all others is rung for as ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import current_app
from django.core import checks
from django.db import transaction
from kombu import Producer
from redis import Redis
from redis.exceptions import OutOfMemoryError

from config.local.valkey import Valkey
from email_integration import tasks
from email_integration.exceptions import InvalidMail
from email_integration.ledger import task_queue
from email_integration.models import Delivery
from email_integration.queue import sweeper
from email_integration.queue.sweeper import sweep
from email_integration.tasks import deliver, deliver_group, health, names, send_email, send_prepared
from email_integration.tasks.ringing import CeleryDoorbell
from tests.broker import messages
from tests.deliveries import ago, pretend, submitted
from tests.integration.test_group import ids_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def doorbell() -> Iterator[CeleryDoorbell]:
    """One that knows of no failure."""
    before = task_queue.installed()
    doorbell = CeleryDoorbell(deliver, deliver_group, tasks.sweep)
    task_queue.install(doorbell)
    yield doorbell
    task_queue.install(before)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """CELERY_TASK_CREATE_MISSING_QUEUES is False."""
    queues = current_app.amqp.queues
    monkeypatch.setattr(queues, "create_missing", False)
    for name in queues.keys() - {"mail", "mail.high", "mail.bulk", "mail.sweep", "celery"}:
        monkeypatch.delitem(queues, name)


@pytest.fixture
def bulk_is_undeclared(strict: None, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "BULK_QUEUE": "typo"}


def route_of(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have CELERY_TASK_ROUTES send this task to a queue that is not declared."""
    routes = [lambda name, *_, **__: {"queue": "elsewhere"} if name == task else None]
    monkeypatch.setattr(current_app.amqp.router, "routes", routes)


def heard(valkey: Valkey, *queues: str) -> set[str]:
    return {pk for queue in queues for pk in ids_of(messages(valkey, queue))}


def shut() -> bool:
    """Whether the broker is not tried for a while."""
    return bool(task_queue.installed()._shut_until > time.monotonic())  # type: ignore[attr-defined]


def lost() -> None:
    """Time has passed, and nothing was heard of what was submitted."""
    Delivery.objects.update(ring_after=ago(1))


def rings(pk: str) -> int:
    return Delivery.objects.get(pk=pk).rings


def test_an_undeclared_queue_holds_up_no_other(bulk_is_undeclared: None, valkey: Valkey) -> None:
    with transaction.atomic():
        ill = submitted(priority="bulk").pk
        well = [submitted().pk, submitted(priority="high").pk]
    assert heard(valkey, "mail", "mail.high") == set(well)
    assert not shut()
    valkey.flush()
    lost()
    assert sweep() == 2
    assert heard(valkey, "mail", "mail.high") == set(well)
    assert not shut()
    assert rings(ill) == 1


def test_it_is_said_which_queue_it_is(
    bulk_is_undeclared: None, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    submitted(priority="bulk")
    assert "typo" in caplog.text
    assert "QueueNotFound" in caplog.text
    assert "kim@example.com" not in caplog.text


def test_many_of_it_use_up_no_sweep(bulk_is_undeclared: None, valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the first of each sweep, and more than it takes at a time."""
    monkeypatch.setattr(sweeper, "BATCH", 3)
    with transaction.atomic():
        ill = [submitted(priority="bulk").pk for _ in range(7)]
        well = submitted().pk
    valkey.flush()
    lost()
    Delivery.objects.filter(pk__in=ill).update(ring_after=ago(100))
    assert sweep() == 1
    assert heard(valkey, "mail") == {well}


def test_it_is_rung_for_once_it_is_declared(bulk_is_undeclared: None, valkey: Valkey, settings: Any) -> None:
    pk = submitted(priority="bulk").pk
    lost()
    sweep()
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "BULK_QUEUE": "mail.bulk"}
    lost()
    assert sweep() == 1
    assert heard(valkey, "mail.bulk") == {pk}


def test_a_queue_that_was_declared_when_the_mail_was_taken_and_is_no_more(strict: None, valkey: Valkey) -> None:
    with transaction.atomic():
        ill, well = submitted(), submitted()
        pretend(ill, options='{"queue": "gone"}')
    valkey.flush()
    lost()
    assert sweep() == 1
    assert heard(valkey, "mail") == {well.pk}


def test_mails_of_many_trees_go_out_together(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was called by a task of its own. That is no queue of its own."""
    with transaction.atomic():
        for number in range(20):
            pretend(submitted(), options=f'{{"root_id": "r{number}", "parent_id": "p{number}"}}')
    lost()
    batches = []
    batch = Producer.batch
    monkeypatch.setattr(Producer, "batch", lambda self, **how: (batches.append(how), batch(self, **how))[1])
    assert sweep() == 20
    assert len(batches) == 1


# -- the caller -----------------------------------------------------------------------------------------------------


def test_an_unknown_queue_is_the_callers_mistake(strict: None, valkey: Valkey) -> None:
    mail: tuple[Any, ...] = (("Subject", "Text"), {"to": ["kim@example.com"]})
    with pytest.raises(InvalidMail, match="typo"):
        send_email.apply_async(*mail, queue="typo")
    with pytest.raises(InvalidMail, match="typo"):
        send_email.s(*mail[0], **mail[1]).set(queue="typo").delay()
    assert not Delivery.objects.exists()
    prepared = send_email.prepare("Subject", "Text", to=["kim@example.com"])
    with pytest.raises(InvalidMail, match="typo"):
        prepared.apply_async(queue="typo")
    assert Delivery.objects.get().status == "prepared"
    assert prepared.type.name == send_prepared.name
    result = send_email.apply_async(*mail, queue="mail.bulk")
    assert heard(valkey, "mail.bulk") == {result.id}


def test_a_queue_that_celery_would_make_is_known(valkey: Valkey) -> None:
    result = send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, queue="own")
    assert heard(valkey, "own") == {result.id}


# -- what the project has put around publishing ---------------------------------------------------------------------


def test_what_raises_at_one_message_keeps_no_other_from_being_published(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As tracing and error tracking do that wrap the producer."""
    publish = Producer.publish

    def publishing(self: Producer, body: Any, *given: Any, **how: Any) -> Any:
        if how.get("routing_key") == "mail.bulk":
            raise ValueError("no span for kim@example.com")
        return publish(self, body, *given, **how)

    monkeypatch.setattr(Producer, "publish", publishing)
    with transaction.atomic():
        submitted(priority="bulk")
        well = submitted().pk
    assert heard(valkey, "mail") == {well}
    assert not shut()
    assert "mail.bulk (ValueError)" in caplog.text
    assert "kim@example.com" not in caplog.text


@pytest.mark.parametrize("failure", [ConnectionError, TimeoutError, OutOfMemoryError])
def test_a_broker_that_fails_is_not_tried_for_each_queue(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    tried = []

    def publishing(self: Producer, *given: Any, **how: Any) -> Any:
        tried.append(how.get("routing_key"))
        raise failure("no")

    monkeypatch.setattr(Producer, "publish", publishing)
    with transaction.atomic():
        pks = [submitted().pk, submitted(priority="high").pk, submitted(priority="bulk").pk]
    assert len(set(tried)) == 1
    assert shut()
    lost()
    assert sweep() == 0
    assert [rings(pk) for pk in pks] == [0, 0, 0]


def bulk_alone_waits(valkey: Valkey) -> None:
    """The queue of bulk takes no message: other mail is rung for, also by the sweep."""
    with transaction.atomic():
        ill = submitted(priority="bulk").pk
        well = submitted().pk
    assert heard(valkey, "mail") == {well}
    assert not shut()
    lost()
    assert sweep() == 1
    assert rings(ill) == 1


def test_a_key_that_the_broker_does_not_let_us_write_is_of_that_queue(valkey: Valkey) -> None:
    with Redis.from_url(valkey.url) as client:
        client.execute_command("ACL", "SETUSER", "default", "resetkeys", "~mail", "~mail\x06*", "~_kombu*", "~:1:*")
        try:
            bulk_alone_waits(valkey)
        finally:
            client.execute_command("ACL", "SETUSER", "default", "allkeys")


def test_a_key_of_another_type_is_of_that_queue(valkey: Valkey) -> None:
    """As RabbitMQ's 406: there is something of that name that is no queue."""
    with Redis.from_url(valkey.url) as client:
        client.set("mail.bulk", "no list")
        bulk_alone_waits(valkey)
        client.delete("mail.bulk")


def test_a_route_of_groups_to_an_undeclared_queue_holds_up_no_single_ring(
    strict: None, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    route_of(names.DELIVER_GROUP, monkeypatch)
    with transaction.atomic():
        for _ in range(12):
            submitted()
        well = send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, root_id="another tree").id
    assert heard(valkey, "mail") == {well}


# -- the check ------------------------------------------------------------------------------------------------------


def said() -> list[str]:
    return [
        str(message.msg) for message in checks.run_checks(tags=["email_integration"]) if message.id.endswith("E022")
    ]


@pytest.mark.parametrize("key", ["QUEUE", "HIGH_QUEUE", "BULK_QUEUE", "SWEEP_QUEUE"])
def test_a_setting_with_an_undeclared_queue_is_found(strict: None, settings: Any, key: str) -> None:
    assert said() == []
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, key: "typo"}
    [message] = said()
    assert key in message
    assert "typo" in message


def test_a_route_to_an_undeclared_queue_is_found(strict: None, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SWEEP_QUEUE": ""}
    route_of(names.SWEEP, monkeypatch)
    [message] = said()
    assert names.SWEEP in message
    assert "elsewhere" in message
    assert "elsewhere" not in health.queues()


@pytest.mark.parametrize("task", [names.DELIVER, names.DELIVER_GROUP, names.SWEEP, names.PRUNE, names.SEND_EMAIL])
def test_a_route_is_looked_at_even_where_a_setting_names_the_queue(
    strict: None, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """Celery looks for the queue of the route all the same, and publishes nothing."""
    route_of(task, monkeypatch)
    [message] = said()
    assert task in message
    assert "elsewhere" in message


def test_queues_that_celery_would_make_are_no_finding(settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "BULK_QUEUE": "made.when.needed"}
    assert said() == []


def test_a_broken_router_does_not_break_the_project(strict: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def route(*_: Any, **__: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(current_app.amqp.router, "routes", [route])
    assert said() == []
