"""Log mail to ADMINS. It is needed most when the database and the broker are down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import django
import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import send_mail
from django.db import DatabaseError, connection, transaction
from django.utils.log import AdminEmailHandler

from config.local.valkey import Valkey
from email_integration import routing
from email_integration.ledger.queues import queue_of
from email_integration.ledger.task_queue import installed
from email_integration.models import Delivery, SMTPConfig
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import dispatch
from tests.deliveries import RecordingTaskQueue
from tests.mail_settings import HAS_MAILERS, make_backend, name_server
from tests.relays import config_for

from .test_backends import BACKENDS, DEPRECATED

pytestmark = [pytest.mark.django_db(transaction=True), DEPRECATED]

#: The most mails allowed: one about a broker, a cache or a database that is unreachable, and one about that mail.
MOST = 2


@pytest.fixture
def database_is_down() -> Iterator[None]:
    """Point the connection at a database that does not exist."""
    kept = dict(connection.settings_dict)
    connection.close()
    connection.settings_dict |= {"HOST": "/nowhere", "NAME": "/nowhere/database"}
    yield
    connection.close()
    connection.settings_dict |= kept


@pytest.fixture(params=BACKENDS, ids=["queued", "direct"])
def backend(request: pytest.FixtureRequest, settings: Any) -> str:
    return use(settings, request.param)


def use(settings: Any, path: str) -> str:
    name_server(settings, backend=path, **({"fail_silently": True} if HAS_MAILERS else {}))
    settings.ADMINS = ["ada@example.com"] if django.VERSION >= (6, 0) else [("Ada", "ada@example.com")]
    return path


@pytest.fixture
def mailed_at() -> Iterator[Callable[[int], None]]:
    """Mail each log line from this level on to ADMINS, by Django's own handler at the root logger."""
    handler, root = AdminEmailHandler(), logging.getLogger()

    def begin(level: int) -> None:
        handler.setLevel(level)
        root.addHandler(handler)

    yield begin
    root.removeHandler(handler)


def message() -> mail.EmailMessage:
    return mail.EmailMessage("S", "B", "lee@example.com", ["kim@example.com"])


@pytest.mark.usefixtures("database_is_down")
def test_a_database_that_is_down_raises_unless_it_is_to_fail_silently(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DatabaseError):
        make_backend(backend, fail_silently=False).send_messages([message()])
    assert "is lost" not in caplog.text
    assert make_backend(backend, fail_silently=True).send_messages([message(), message()]) == 0
    assert "A mail with fail_silently=True is lost: the database failed (OperationalError)." in caplog.text
    assert "kim@" not in caplog.text


@pytest.mark.usefixtures("database_is_down")
@pytest.mark.parametrize("level", [logging.ERROR, logging.WARNING, logging.INFO], ids=logging.getLevelName)
def test_an_error_is_logged_while_the_database_is_down(
    backend: str, mailed_at: Callable[[int], None], level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Django logs a server error (500) this way. The line about the lost mail is not mailed again and again."""
    mailed_at(level)
    logging.getLogger("shop").error("Something broke")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "Something broke"
    assert 1 <= sum("with fail_silently=True is lost" in line for line in lines) <= MOST


@pytest.mark.usefixtures("task_queue")
def test_a_key_that_is_missing_is_logged_too(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Without ``fail_silently``, the exception is raised."""
    use(settings, BACKENDS[0])
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": []}
    with pytest.raises(ImproperlyConfigured):
        make_backend(BACKENDS[0]).send_messages([message()])
    assert make_backend(BACKENDS[0], fail_silently=True).send_messages([message()]) == 0
    assert "A mail with fail_silently=True is lost: SMTP_PASSWORD_KEYS is not set" in caplog.text


def test_a_silent_mail_leaves_the_callers_transaction_whole(backend: str, smtp_server: Callable[..., Any]) -> None:
    """A locked or missing table is an error like any other."""
    config_for(smtp_server())
    table = Delivery._meta.db_table if "queued" in backend else "email_integration_circuitbreaker"
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
    try:
        with transaction.atomic():
            SMTPConfig.objects.count()
            assert make_backend(backend, fail_silently=True).send_messages([message()]) == 0
            SMTPConfig.objects.create(name="Second", host="h", from_email="a@example.com")
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE elsewhere RENAME TO {table}")
    assert SMTPConfig.objects.filter(name="Second").exists()


@pytest.mark.parametrize("level", [logging.WARNING, logging.INFO], ids=logging.getLevelName)
@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_broker_that_is_down_is_mailed_once(
    level: int, in_transaction: bool, mailed_at: Callable[[int], None], settings: Any, valkey: Valkey
) -> None:
    """The mail is stored, its wake-up fails, the line about the failure is mailed, and no more mails follow."""
    use(settings, BACKENDS[0])
    valkey.kill()
    mailed_at(level)
    with transaction.atomic() if in_transaction else nullcontext():
        send_mail("S", "B", None, ["kim@example.com"])
    stored = Delivery.objects.count()
    assert 1 <= stored - 1 <= 10
    logging.getLogger("shop").error("Something broke")
    assert Delivery.objects.count() > stored


def test_a_task_queue_that_raises_is_mailed_once(
    mailed_at: Callable[[int], None], settings: Any, task_queue: RecordingTaskQueue
) -> None:
    """It does not matter which exception it raises, or how often."""
    use(settings, BACKENDS[0])
    task_queue.broken = ValueError("a queue that is not there")
    mailed_at(logging.WARNING)
    for number in range(1, 4):
        send_mail("S", "B", None, ["kim@example.com"])
        assert Delivery.objects.count() == MOST * number


def test_a_warning_amid_sending_is_mailed_once(
    mailed_at: Callable[[int], None], settings: Any, valkey: Valkey, smtp_server: Callable[..., SMTPServer]
) -> None:
    """The direct backend reads the cache for each mail, and logs a warning when the cache is unreachable."""
    use(settings, BACKENDS[1])
    server = smtp_server()
    config_for(server)
    mailed_at(logging.WARNING)
    valkey.kill()
    send_mail("S", "B", None, ["kim@example.com"])
    assert [one.rcpt_tos for one in server.messages].count(("kim@example.com",)) == 1
    assert 1 <= len(server.messages) - 1 <= 5


def test_a_task_queue_that_warns_is_mailed_once(
    mailed_at: Callable[[int], None], settings: Any, task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kombu also logs warnings while it publishes."""
    use(settings, BACKENDS[0])
    mailed_at(logging.WARNING)
    notify = task_queue.notify

    def warn(queues: Any, **how: Any) -> set[str]:
        logging.getLogger("kombu").warning("Connection error")
        return notify(queues, **how)

    monkeypatch.setattr(task_queue, "notify", warn)
    assert installed() is task_queue
    send_mail("S", "B", None, ["kim@example.com"])
    assert Delivery.objects.count() == MOST


# -- in a worker ----------------------------------------------------------------------------------------------------


def work(by: Callable[[], object], *, rounds: int = 4) -> int:
    """Process due mail this many times, as workers do. Return the resulting number of deliveries."""
    for _ in range(rounds):
        by()
    return Delivery.objects.count()


def eagerly() -> None:
    dispatch.apply((queue_of("normal"),))


def over_a_crew() -> None:
    dispatch(queue_of("normal"))


@pytest.fixture(params=[eagerly, over_a_crew])
def by(
    request: pytest.FixtureRequest, settings: Any, task_queue: RecordingTaskQueue, caplog: pytest.LogCaptureFixture
) -> Callable[[], object]:
    use(settings, BACKENDS[0])
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "RETRY_FIRST": 60.0,
        "RETRY_MAX": 600.0,
        "BREAKER_PROBE_FIRST": 60.0,
        "BREAKER_PROBE_MAX": 600.0,
    }
    caplog.set_level(logging.WARNING, logger="celery")  # Celery's own lines about each task are not about mail
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("level", "faults"),
    [
        (logging.WARNING, [Fault(verb="RCPT", reply="550 5.1.1 No such user", times=None)]),
        (logging.INFO, [Fault(verb="RCPT", reply="450 4.2.0 Mailbox busy", times=None)]),
        (logging.INFO, []),
    ],
    ids=["refused", "deferred", "accepted"],
)
def test_the_outcome_of_a_mail_is_mailed_once(
    by: Callable[[], object],
    mailed_at: Callable[[int], None],
    smtp_server: Callable[..., SMTPServer],
    level: int,
    faults: list[Fault],
) -> None:
    """The mail about a mail has the same outcome as the first one."""
    server = smtp_server()
    config_for(server)
    server.inject(*faults)
    for _ in range(3):
        send_mail("S", "B", "lee@example.com", ["kim@example.com"])
    mailed_at(level)
    about_others = work(by) - 3
    assert 3 <= about_others <= 10
    assert work(by, rounds=6) == 3 + about_others


def test_a_mail_of_the_log_that_is_about_none_has_one_about_it(
    by: Callable[[], object], mailed_at: Callable[[int], None], smtp_server: Callable[..., SMTPServer]
) -> None:
    server = smtp_server()
    config_for(server)
    server.inject(Fault(verb="RCPT", reply="550 5.1.1 No such user", times=None))
    mailed_at(logging.WARNING)
    logging.getLogger("shop").error("Something broke")
    assert work(by, rounds=6) == 2


def test_a_database_that_fails_at_each_attempt_is_mailed_once(
    by: Callable[[], object], mailed_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise DatabaseError

    send_mail("S", "B", "lee@example.com", ["kim@example.com"])
    monkeypatch.setattr("email_integration.sending.attempts.Attempt._send", fail)
    routing.active_relay()  # logs its warning before the handler is installed
    mailed_at(logging.WARNING)
    assert work(by, rounds=6) == 2
