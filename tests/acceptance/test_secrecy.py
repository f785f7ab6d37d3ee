"""No mail content and no password reaches the widely visible places: broker, results, events and logs."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from celery import current_app
from celery.result import AsyncResult
from django.conf import settings
from django_celery_results.models import TaskResult

from config.local.processes import PATIENCE, wait_until
from email_integration.exceptions import DeliveryDeferred, DeliveryFailed
from email_integration.models import Delivery
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests import services
from tests.acceptance.conftest import Activate
from tests.acceptance.tasks import note, note_error
from tests.rabbitmq import RabbitMQ
from tests.stack import Stack

pytestmark = pytest.mark.extra

PASSWORD = "pAssw0rd-of-the-relay"
SECRETS = (
    "secret-subject",
    "secret-body",
    "secret-html",
    "secret-file",
    "secret-sender",
    "secret-key",
    "example.com",
    PASSWORD,
)


def send(local_part: str, **options: Any) -> Any:
    arguments = {
        "html_body": "<p>secret-html</p>",
        "attachments": [("secret-file.txt", "secret-file", "text/plain")],
        "cc": ["cc@example.com"],
        "headers": {"X-Secret": "secret-key"},
        "idempotency_key": f"secret-key-{local_part}",
    }
    return send_email.apply_async(
        ("secret-subject", "secret-body", "secret-sender@example.com", [f"{local_part}@example.com"]),
        arguments,
        **options,
    )


def leaks(text: str) -> list[str]:
    """Return the lines that disclose content or secrets."""
    secrets = [*SECRETS, base64.b64encode(PASSWORD.encode()).decode()]
    return [line[:300] for line in text.splitlines() if any(secret in line for secret in secrets)]


def broker_contents() -> str:
    """Return everything in Valkey, with decoded message bodies, and the queues of RabbitMQ if that is the broker."""
    client = redis.Redis.from_url(services.valkey.url, decode_responses=True)
    lines = _in_rabbitmq()
    for key in client.scan_iter():
        kind = client.type(key)
        if kind == "list":
            values = client.lrange(key, 0, -1)
        elif kind == "hash":
            values = list(client.hgetall(key).values())
        elif kind == "zset":
            values = client.zrange(key, 0, -1)
        elif kind == "set":
            values = list(client.smembers(key))
        else:
            values = [repr(redis.Redis.from_url(services.valkey.url).get(key))]
        for value in values:
            lines.append(f"{key} {value}")
            if value.startswith("{"):
                lines.append(base64.b64decode(json.loads(value).get("body", "")).decode())
    client.close()
    return "\n".join(lines)


def _in_rabbitmq() -> list[str]:
    if not isinstance(services.broker, RabbitMQ):
        return []
    names = [queue.name for queue in settings.CELERY_TASK_QUEUES]
    return [f"{queue} {headers} {body}" for queue in names for headers, body in services.broker.waiting(queue)]


@contextmanager
def recorded_events() -> Iterator[list[dict[str, Any]]]:
    """Record the events that Flower would receive."""
    events: list[dict[str, Any]] = []
    listening = threading.Event()
    # Each thread opens a new connection; the pool may hold one that an earlier test has cut.
    with current_app.connection_for_read() as connection, current_app.connection_for_write() as asking:
        receiver = current_app.events.Receiver(connection, handlers={"*": events.append})
        receiver.on_consume_ready = lambda *_, **__: listening.set()
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": False})
        thread.start()
        try:
            # Events published before a receiver listens are lost.
            assert listening.wait(PATIENCE)
            # Flower does this too; workers publish no events until they are asked.
            current_app.control.enable_events(reply=True, connection=asking)
            yield events
        finally:
            receiver.should_stop = True
            thread.join()


def test_a_mail_after_another_task_travels_with_it_and_after_a_mail_does_not(
    app: Stack, smtp_server: Callable[..., SMTPServer], activate: Activate, tag: str
) -> None:
    activate(smtp_server(password=PASSWORD))
    mail = send_email.si("secret-subject", "secret-body", to=["kim@example.com"])
    app.worker.end()

    (mail | mail).apply_async()
    mail.apply_async(link=mail)
    assert not leaks(broker_contents())

    (note.si(tag=tag) | mail).apply_async()
    assert leaks(broker_contents())

    app.start_worker()
    wait_until(lambda: Delivery.objects.filter(status="accepted").count() == 5, what="all five mails")


def test_nothing_of_a_mail_is_disclosed(
    app: Stack,
    smtp_server: Callable[..., SMTPServer],
    activate: Activate,
    notes: Callable[[str], list[Any]],
    tag: str,
) -> None:
    server = smtp_server(password=PASSWORD)
    activate(server)
    server.inject(
        Fault(verb="RCPT", reply="450 4.2.0 <busy@example.com> has a secret-body", match="busy@", times=None),
        Fault(verb="RCPT", reply="550 5.1.1 <unknown@example.com> secret-subject", match="unknown@", times=None),
        Fault(verb="RCPT", reply="550 5.1.1 <cc@example.com> secret-subject", match="cc@", times=None),
    )
    with recorded_events() as events:
        links = {"link": note.s(tag=tag), "link_error": note_error.s(tag=f"{tag}-error")}
        deferred, failed, good = send("busy", **links), send("unknown", **links), send("kim", **links)
        assert good.get(timeout=PATIENCE)["status"] == "accepted"
        with pytest.raises(DeliveryFailed):
            failed.get(timeout=PATIENCE)
        wait_until(lambda: AsyncResult(deferred.id).state == "RETRY", what="the state RETRY")
        waiting = AsyncResult(deferred.id).result
        assert isinstance(waiting, DeliveryDeferred)
        assert (waiting.code, waiting.reason) == (450, "the recipient was temporarily refused (450 4.2.0)")
        assert not leaks(broker_contents())
        kinds = {"task-received", "task-succeeded", "task-failed", "task-retried"}
        wait_until(lambda: kinds <= {event["type"] for event in events}, what="an event of each kind")
        wait_until(lambda: notes(tag) and notes(f"{tag}-error"), what="the links called")
    # No worker runs, so the submitted messages stay in the broker for inspection.
    app.worker.end()
    for number in range(3):
        send(f"kim{number}", **links)
    contents = broker_contents()
    print(contents)
    assert "email_integration.tasks.dispatch" in contents
    assert not leaks(contents)
    app.start_worker()
    wait_until(lambda: Delivery.objects.filter(status="accepted").count() == 4, what="the remaining mails accepted")

    (retried, *_) = [event for event in events if event["type"] == "task-retried"]
    assert retried["uuid"] == deferred.id
    assert "DeliveryDeferred(450, 'the recipient was temporarily refused (450 4.2.0)')" in retried["exception"]
    assert not leaks("\n".join(json.dumps(event, default=repr) for event in events))
    rows = TaskResult.objects.values()
    assert rows
    assert not leaks("\n".join(str(row) for row in rows))
    logs = app.logs()
    assert "DEBUG" in logs
    assert not leaks(logs)
