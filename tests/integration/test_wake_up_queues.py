"""If one queue accepts no messages, the workers of all other queues are still woken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import current_app
from django.core import checks
from django.core.cache import cache
from django.db import transaction
from kombu import Producer
from redis import Redis
from redis.exceptions import OutOfMemoryError

from config.local.valkey import Valkey
from email_integration import tasks
from email_integration.exceptions import InvalidMail
from email_integration.ledger import installation, task_queue
from email_integration.models import Delivery
from email_integration.queue import wakeups
from email_integration.queue.sweeper import sweep
from email_integration.tasks import health, names, send_email, send_prepared
from email_integration.tasks.wake_ups import CeleryTaskQueue
from tests.broker import messages
from tests.deliveries import ago, pretend, submitted

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def celery_queue() -> Iterator[CeleryTaskQueue]:
    """Install Celery's task queue without knowledge of earlier failures."""
    before = task_queue.installed()
    fresh = CeleryTaskQueue(tasks.dispatch, tasks.sweep)
    task_queue.install(fresh)
    yield fresh
    task_queue.install(before)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set CELERY_TASK_CREATE_MISSING_QUEUES to False."""
    queues = current_app.amqp.queues
    monkeypatch.setattr(queues, "create_missing", False)
    for name in queues.keys() - {"mail", "mail.high", "mail.bulk", "mail.sweep", "celery"}:
        monkeypatch.delitem(queues, name)


@pytest.fixture
def bulk_is_undeclared(strict: None, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "BULK_QUEUE": "typo"}


def route_of(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let CELERY_TASK_ROUTES send this task to an undeclared queue."""
    routes = [lambda name, *_, **__: {"queue": "elsewhere"} if name == task else None]
    monkeypatch.setattr(current_app.amqp.router, "routes", routes)


def woken(valkey: Valkey, *queues: str) -> list[str]:
    """Return the queues that the wake-ups in these queues name."""
    return [one.arguments[0] for queue in queues for one in messages(valkey, queue) if one.task == names.DISPATCH]


def breaker_is_open() -> bool:
    """Return whether the circuit breaker of the broker is open, so that the broker is not tried for a while."""
    return bool(task_queue.installed()._open_until > time.monotonic())  # type: ignore[attr-defined]


def lost(valkey: Valkey) -> None:
    """Lose the wake-ups of the submitted mail, and let time pass."""
    valkey.flush()
    wakeups.forget()


def test_an_undeclared_queue_holds_up_no_other(bulk_is_undeclared: None, valkey: Valkey) -> None:
    with transaction.atomic():
        submitted(priority="bulk")
        submitted()
        submitted(priority="high")
    assert woken(valkey, "mail", "mail.high") == ["mail", "mail.high"]
    assert not breaker_is_open()
    lost(valkey)
    assert sweep() == 2
    assert woken(valkey, "mail", "mail.high") == ["mail", "mail.high"]
    assert not breaker_is_open()


def test_it_is_said_which_queue_it_is(
    bulk_is_undeclared: None, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    submitted(priority="bulk")
    assert "typo" in caplog.text
    assert "QueueNotFound" in caplog.text
    assert "kim@example.com" not in caplog.text


def test_many_of_it_are_said_once_in_a_transaction(
    bulk_is_undeclared: None, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    with transaction.atomic():
        for _ in range(7):
            submitted(priority="bulk")
    assert caplog.text.count("QueueNotFound") == 1


def test_many_of_it_use_up_no_sweep(bulk_is_undeclared: None, valkey: Valkey) -> None:
    """This mail has waited longer than the other mail."""
    with transaction.atomic():
        ill = [submitted(priority="bulk").pk for _ in range(7)]
        submitted()
    lost(valkey)
    Delivery.objects.filter(pk__in=ill).update(next_at=ago(100))
    assert sweep() == 1
    assert woken(valkey, "mail") == ["mail"]


def test_an_own_queue_that_is_gone_uses_up_no_sweep(strict: None, valkey: Valkey) -> None:
    """Queues that callers have chosen come after those of the priorities, sorted by name."""
    with transaction.atomic():
        for queue in ("gone", "mail.high", "vanished"):
            pretend(submitted(), queue=queue)
    lost(valkey)
    assert sweep() == 1
    assert woken(valkey, "mail.high") == ["mail.high"]


def test_it_is_woken_once_it_is_declared(bulk_is_undeclared: None, valkey: Valkey, settings: Any) -> None:
    submitted(priority="bulk")
    lost(valkey)
    assert sweep() == 0
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "BULK_QUEUE": "mail.bulk"}
    assert sweep() == 1
    assert woken(valkey, "mail.bulk") == ["mail.bulk"]


def test_a_queue_that_was_declared_when_the_mail_was_taken_and_is_no_more(strict: None, valkey: Valkey) -> None:
    with transaction.atomic():
        pretend(submitted(), queue="gone")
        submitted()
    lost(valkey)
    assert sweep() == 1
    assert woken(valkey, "mail") == ["mail"]


def test_mails_of_many_trees_are_of_one_wake_up(valkey: Valkey) -> None:
    """Each mail was called by a different task, which does not make it a different queue."""
    with transaction.atomic():
        for number in range(20):
            options = {"root_id": f"r{number}", "parent_id": f"p{number}"}
            send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, **options)
    assert woken(valkey, "mail") == ["mail"]


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
    send_email.apply_async(*mail, queue="mail.bulk")
    assert woken(valkey, "mail.bulk") == ["mail.bulk"]


def test_a_queue_that_celery_would_make_is_known(valkey: Valkey) -> None:
    result = send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, queue="own")
    assert woken(valkey, "own") == ["own"]
    assert Delivery.objects.get(pk=result.id).queue == "own"


def test_routing_with_an_exchange_is_kept_whole(valkey: Valkey) -> None:
    """The wake-up has the same routing and names it. The dispatcher then claims mail with that routing."""
    options = {"queue": "way", "exchange": "way", "routing_key": "way"}
    result = send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, **options)
    kept = '{"exchange": "way", "queue": "way", "routing_key": "way"}'
    assert Delivery.objects.get(pk=result.id).queue == kept
    assert woken(valkey, "way") == [kept]


@pytest.mark.parametrize("option", ["queue", "exchange", "routing_key"])
@pytest.mark.parametrize("value", ["q" * 256, "a\nb", 5, ["mail"]])
def test_routing_that_no_broker_takes_is_refused(valkey: Valkey, option: str, value: Any) -> None:
    with pytest.raises(InvalidMail, match=option):
        send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, **{option: value})
    assert not Delivery.objects.exists()


def test_routing_longer_than_the_row_takes_is_refused(valkey: Valkey) -> None:
    options = {"exchange": "e" * 200, "routing_key": "r" * 200}
    with pytest.raises(InvalidMail, match="shorter"):
        send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, **options)


def test_a_queue_whose_name_looks_like_routing_options_is_itself(valkey: Valkey) -> None:
    send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, queue='{"queue": "mail"}')
    assert woken(valkey, "mail") == []
    assert woken(valkey, '{"queue": "mail"}') == ['{"queue": "{\\"queue\\": \\"mail\\"}"}']


# -- code of the project around publishing --------------------------------------------------------------------------


def test_what_raises_at_one_message_keeps_no_other_from_being_published(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Tracing and error tracking can raise there, as they wrap the producer."""
    publish = Producer.publish

    def publishing(self: Producer, body: Any, *given: Any, **how: Any) -> Any:
        if how.get("routing_key") == "mail.bulk":
            raise ValueError("no span for kim@example.com")
        return publish(self, body, *given, **how)

    monkeypatch.setattr(Producer, "publish", publishing)
    with transaction.atomic():
        submitted(priority="bulk")
        submitted()
    assert woken(valkey, "mail") == ["mail"]
    assert not breaker_is_open()
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
        submitted()
        submitted(priority="high")
        submitted(priority="bulk")
    assert len(set(tried)) == 1
    assert breaker_is_open()
    assert sweep() == 0
    assert len(set(tried)) == 1


def bulk_alone_waits(valkey: Valkey) -> None:
    """Require that the others are woken while the queue of bulk accepts no messages, also by the sweep."""
    with transaction.atomic():
        submitted(priority="bulk")
        submitted()
    assert woken(valkey, "mail") == ["mail"]
    assert not breaker_is_open()
    wakeups.forget()
    for key in ("mail", "mail.bulk"):
        cache.delete(f"email_integration:wake:{installation.identity()}:{key}")
    assert sweep() == 1
    assert woken(valkey, "mail") == ["mail", "mail"]


def test_a_key_that_the_broker_does_not_let_us_write_is_of_that_queue(valkey: Valkey) -> None:
    with Redis.from_url(valkey.url) as client:
        client.execute_command("ACL", "SETUSER", "default", "resetkeys", "~mail", "~mail\x06*", "~_kombu*", "~:1:*")
        try:
            bulk_alone_waits(valkey)
        finally:
            client.execute_command("ACL", "SETUSER", "default", "allkeys")


def test_a_key_of_another_type_is_of_that_queue(valkey: Valkey) -> None:
    """Like RabbitMQ's 406: the name is used by an object that is not a queue."""
    with Redis.from_url(valkey.url) as client:
        client.set("mail.bulk", "no list")
        bulk_alone_waits(valkey)
        client.delete("mail.bulk")


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


@pytest.mark.parametrize("task", [names.DISPATCH, names.SWEEP, names.PRUNE, names.SEND_EMAIL])
def test_a_route_is_looked_at_even_where_a_setting_names_the_queue(
    strict: None, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """Celery still looks up the queue of the route, and publishes nothing."""
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
