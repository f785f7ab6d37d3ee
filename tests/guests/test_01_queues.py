"""A queue that accepts no message, or a handler of the project that raises, does not stop the rest of the mail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from amqp import Connection

from config.local.processes import wait_until
from email_integration.smtpd import SMTPServer
from tests.host_project import CONFIGURE, HostProject
from tests.rabbitmq import RabbitMQ

pytestmark = pytest.mark.extra

Row = Callable[[str, str], None]
Host = Callable[..., HostProject]
Serve = Callable[..., SMTPServer]

#: Sweeps run every second.
SOON = 'EMAIL_INTEGRATION |= {"SWEEP_INTERVAL": 1.0}'

STRICT = f"""
from kombu import Queue
CELERY_TASK_CREATE_MISSING_QUEUES = False
CELERY_TASK_QUEUES = [Queue("celery")]
{SOON}
"""

#: Submits mails in one transaction, each given by its subject, arguments and options.
SUBMIT = """
from django.db import transaction
from email_integration.tasks import send_email
with transaction.atomic():
    for subject, arguments, options in {mails!r}:
        send_email.apply_async((subject, "Text"), {{"to": ["kim@example.com"], **arguments}}, **options)
"""

Mail = tuple[str, dict[str, Any], dict[str, Any]]


def submit(project: HostProject, *mails: Mail) -> None:
    project.shell(SUBMIT.format(mails=[*mails]))


def set_up(project: HostProject, server: SMTPServer, *, pool: str = "prefork") -> None:
    project.run("manage.py", "migrate", "--verbosity", "0", "--skip-checks")
    project.shell(CONFIGURE.format(port=server.port))
    project.start_worker("--pool", pool, beat=pool == "prefork")
    if pool != "prefork":
        project.start_beat()


def arrive(server: SMTPServer, *subjects: str) -> None:
    """Wait for these mails, and check that no other has arrived."""
    wait_until(lambda: set(subjects) <= arrived(server), what=f"the mails {', '.join(subjects)}")
    assert arrived(server) == set(subjects)


def arrived(server: SMTPServer) -> set[str]:
    return {str(message.subject) for message in server.messages}


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_no_queue_is_made_when_it_is_missing(row: Row, host: Host, smtp_server: Serve, pool: str) -> None:
    row(f"CELERY_TASK_CREATE_MISSING_QUEUES = False, {pool}", "mail is sent; an unknown queue is InvalidMail")
    server, project = smtp_server(), host(STRICT)
    project.run("manage.py", "check", "--fail-level", "WARNING")
    set_up(project, server, pool=pool)
    refused = project.attempt("-c", "import django; django.setup()" + SUBMIT.format(mails=[unknown()]))
    assert "InvalidMail: There is no queue 'typo'" in refused.stderr
    submit(project, ("now", {}, {}), ("later", {}, {"countdown": 1}), ("own queue", {}, {"queue": "celery"}))
    arrive(server, "now", "later", "own queue")


def unknown() -> Mail:
    return ("unknown", {}, {"queue": "typo"})


def test_a_queue_of_the_settings_is_not_declared(row: Row, host: Host, smtp_server: Serve) -> None:
    row("BULK_QUEUE that is not declared", "reported by check; other mail is sent, also by the sweep")
    server, project = smtp_server(), host(f'{STRICT}\nEMAIL_INTEGRATION["BULK_QUEUE"] = "typo"')
    checked = project.attempt("manage.py", "check")
    assert checked.returncode != 0
    assert "email_integration.E022" in checked.stderr
    set_up(project, server)
    submit(project, bulk(), ("now", {}, {}), ("later", {}, {"countdown": 2}))
    arrive(server, "now", "later")
    log = project.started[0].read_log()
    assert "typo (QueueNotFound)" in log


def bulk() -> Mail:
    return ("bulk", {"priority": "bulk"}, {})


RABBITMQ = f"""
CELERY_BROKER_URL = os.environ["AMQP"]
{SOON}
"""


def test_a_queue_is_another_on_the_broker(row: Row, host: Host, smtp_server: Serve, rabbitmq: RabbitMQ) -> None:
    row("RabbitMQ has BULK_QUEUE with other arguments (406)", "other mail is sent, also by the sweep")
    server = smtp_server()
    project = host(f'{RABBITMQ}\nEMAIL_INTEGRATION["BULK_QUEUE"] = "other"', env={"AMQP": rabbitmq.url})
    with Connection(host=rabbitmq.address) as connection:
        connection.channel().queue_declare("other", durable=True, auto_delete=False, arguments={"x-max-length": 5})
    set_up(project, server)
    submit(project, bulk(), ("now", {}, {}), ("later", {}, {"countdown": 2}))
    arrive(server, "now", "later")
    assert "other (PreconditionFailed)" in project.started[0].read_log()


def test_an_exchange_is_missing_on_the_broker(row: Row, host: Host, smtp_server: Serve, rabbitmq: RabbitMQ) -> None:
    """RabbitMQ reports it at the next request, and until then drops everything else sent over that channel."""
    row("RabbitMQ has no exchange of that name (404)", "other mail is sent, also by the sweep")
    server, project = smtp_server(), host(RABBITMQ, env={"AMQP": rabbitmq.url})
    set_up(project, server)
    ill: Mail = ("ill", {}, {"exchange": "gone", "routing_key": "gone"})
    submit(project, ill, ("now", {}, {}), ("later", {}, {"countdown": 2}))
    arrive(server, "now", "later")
    wait_until(
        lambda: "gone (NotFound)" in project.started[0].read_log(),
        what="the log entry with the reason of the other mail",
    )


#: Like Sentry and OpenTelemetry: handlers of Celery's signals and a wrapped producer. They raise errors.
RAISING = """
from celery.signals import after_task_publish, before_task_publish
from kombu import Producer

def handler(**kwargs):
    raise RuntimeError("no span")

before_task_publish.connect(handler, weak=False)
after_task_publish.connect(handler, weak=False)

publish = Producer.publish
def wrapped(self, *args, **kwargs):
    if kwargs.get("routing_key") == "raises":
        raise RuntimeError("no span")
    return publish(self, *args, **kwargs)
Producer.publish = wrapped
"""


def test_handlers_of_the_project_raise(row: Row, host: Host, smtp_server: Serve) -> None:
    row("handlers of signals, and a wrapped producer, that raise", "mail is sent where publishing does not raise")
    server = smtp_server()
    project = host(f'{SOON}\nEMAIL_INTEGRATION["BULK_QUEUE"] = "raises"')
    with (project.folder / "proj" / "celery.py").open("a") as celery:
        celery.write(RAISING)
    set_up(project, server)
    submit(project, bulk(), ("now", {}, {}), ("later", {}, {"countdown": 2}))
    arrive(server, "now", "later")
    assert "raises (RuntimeError)" in project.started[0].read_log()
