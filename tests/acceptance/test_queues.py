"""The mail queues: a worker without options serves all of them, and each message goes to one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from celery import current_app
from django.conf import settings
from django.db.models import Count

from config.local.processes import wait_until
from email_integration.models import Delivery, Priority
from email_integration.smtpd import SMTPServer
from email_integration.tasks import send_email
from tests import services
from tests.acceptance.conftest import Activate
from tests.broker import messages
from tests.stack import Stack

MAILS = 50
NO_MAIL = "This worker serves no mail queue"


def test_a_plain_worker_serves_every_priority(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    """The usual command, ``celery -A config worker``, and beat."""
    activate(smtp_server())
    running = stack()
    for number in range(MAILS):
        for priority in Priority.values:
            send_email.delay(f"{priority} {number}", "Text", to=["kim@example.com"], priority=priority)
    wait_until(lambda: Delivery.objects.filter(status="accepted").count() == 3 * MAILS, what="all mails accepted")
    accepted = Delivery.objects.filter(status="accepted").order_by().values_list("priority").annotate(Count("pk"))
    assert dict(accepted) == dict.fromkeys(Priority.values, MAILS)
    assert NO_MAIL not in running.worker.read_log()


def test_a_worker_of_other_queues_says_that_it_serves_no_mail(stack: Callable[..., Stack]) -> None:
    running = stack(beat=False)
    other = running.start_worker(queues=("celery", "mail.sweep"))
    other.wait_for_log(
        f"{NO_MAIL}. Its queues are celery, mail.sweep, and the mail queues are mail.high, mail, mail.bulk."
    )


def test_a_worker_that_can_keep_no_journal_says_so_if_it_serves_mail(
    stack: Callable[..., Stack], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    running = stack(beat=False, env={"JOURNAL_DIR": str(tmp_path / "file")})
    running.worker.wait_for_log(f"No journal can be kept in {tmp_path / 'file'}: it is a link or a file")
    other = running.start_worker(queues=("celery",))
    other.wait_for_log(NO_MAIL)
    assert "No journal can be kept" not in other.read_log()


def test_one_message_to_each_queue_arrives_in_that_queue_alone(fresh_process: None) -> None:
    """Kombu's defaults would not do this: they would bind all queues to one exchange by one key."""
    services.need_broker()
    queues = [queue.name for queue in settings.CELERY_TASK_QUEUES]
    assert len(queues) == 5
    services.broker.flush()
    try:
        # Each queue exists before the first message, as with a worker that serves all of them.
        with current_app.connection_for_write() as connection:
            for queue in current_app.amqp.queues.values():
                queue(connection.default_channel).declare()
        for name in queues:
            current_app.send_task(f"only.in.{name}", queue=name)
        found = {name: [message.task for message in messages(services.broker, name)] for name in queues}
        assert found == {name: [f"only.in.{name}"] for name in queues}
    finally:
        services.broker.flush()


@pytest.mark.parametrize("queue", ["mail.high", "mail", "mail.bulk", "mail.sweep", "celery"])
def test_a_queue_is_declared_as_celery_declares_a_missing_one(queue: str) -> None:
    """Brokers that know it from a worker with ``-Q``, and other projects, see no difference."""
    declared = current_app.amqp.queues[queue]
    missing = current_app.amqp.Queues([], create_missing=True)[queue]
    assert (declared.exchange.name, declared.exchange.type, declared.routing_key) == (queue, "direct", queue)
    assert (declared.exchange, declared.routing_key) == (missing.exchange, missing.routing_key)
