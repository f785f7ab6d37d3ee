"""A project without USE_TZ: every way to give a time, and the displayed times."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from email_integration import submit_many, timezones
from email_integration.alerts import channels
from email_integration.exceptions import InvalidMail
from email_integration.ledger import clock, events
from email_integration.models import Alert, Delivery, Status
from email_integration.smtpd import SMTPServer
from email_integration.tasks import send_email
from email_integration.templatetags.email_integration import with_offset
from tests.deliveries import RecordingTaskQueue, mail, submitted
from tests.relays import config_for
from tests.web_hook import Hook

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = dt.timedelta(hours=1)
ZONE = "Asia/Kathmandu"


@pytest.fixture(params=[ZONE, "UTC", "America/New_York"], autouse=True)
def naive(settings: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """Without USE_TZ, in time zones ahead of UTC, at UTC and behind it."""
    use_tz, zone = settings.USE_TZ, settings.TIME_ZONE
    settings.USE_TZ, settings.TIME_ZONE = False, request.param
    connection.close()  # PostgreSQL's driver gets USE_TZ when it connects
    clock.forget()
    yield
    settings.USE_TZ, settings.TIME_ZONE = use_tz, zone
    connection.close()
    clock.forget()


def sent(**options: Any) -> Delivery:
    """Return the delivery of a mail that was submitted with these options of ``apply_async``."""
    result = send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, **options)
    return Delivery.objects.get(pk=result.id)


def is_in_an_hour(moment: dt.datetime) -> bool:
    """Return whether the time is of the database's kind, and an hour from now."""
    return timezone.is_naive(moment) and abs(moment - timezone.now() - HOUR) < dt.timedelta(minutes=10)


@pytest.mark.parametrize(
    "option",
    [
        lambda: {"countdown": 3600},
        lambda: {"eta": dt.datetime.now() + HOUR},  # noqa: DTZ005  # as Django does without USE_TZ
        lambda: {"eta": dt.datetime.now(dt.UTC) + HOUR},
        lambda: {"eta": (dt.datetime.now(dt.UTC) + HOUR).isoformat()},
    ],
)
def test_celerys_eta_is_when_it_is_due(task_queue: RecordingTaskQueue, option: Any) -> None:
    delivery = sent(**option())
    assert is_in_an_hour(delivery.due_at)
    assert delivery.next_at == delivery.due_at


@pytest.mark.parametrize(
    "expires",
    [
        lambda: 3600,
        lambda: dt.datetime.now() + HOUR,  # noqa: DTZ005
        lambda: dt.datetime.now(dt.timezone(-7 * HOUR)) + HOUR,
    ],
)
def test_celerys_expires_is_when_it_is_sent_no_more(task_queue: RecordingTaskQueue, expires: Any) -> None:
    delivery = sent(expires=expires())
    assert is_in_an_hour(delivery.expires_at)
    assert not is_in_an_hour(delivery.due_at)


@pytest.mark.parametrize("now", [lambda: dt.datetime.now(), lambda: dt.datetime.now(dt.UTC)])  # noqa: DTZ005
def test_times_of_the_mail_itself_are_the_deliverys(task_queue: RecordingTaskQueue, now: Any) -> None:
    ids = [
        submitted(due_at=now() + HOUR, expires_at=now() + HOUR).pk,
        *submit_many([mail()], due_at=now() + HOUR, expires_at=now() + HOUR),
        send_email.delay("S", "B", to=["kim@example.com"], due_at=now() + HOUR, expires_at=now() + HOUR).id,
    ]
    for delivery in Delivery.objects.filter(pk__in=ids):
        assert is_in_an_hour(delivery.due_at)
        assert is_in_an_hour(delivery.expires_at)
    assert len(ids) == 3


@pytest.mark.parametrize("now", [lambda: dt.datetime.now(), lambda: dt.datetime.now(dt.UTC)])  # noqa: DTZ005
def test_a_prepared_mail_has_its_times_from_itself_or_from_its_call(task_queue: RecordingTaskQueue, now: Any) -> None:
    def prepared(call: dict[str, Any], **given: Any) -> Delivery:
        signature = send_email.prepare("S", "B", to=["kim@example.com"], **given)
        return Delivery.objects.get(pk=signature.apply_async(**call).delivery_id)

    for found in (prepared({"eta": now() + HOUR}), prepared({"countdown": 3600}), prepared({}, due_at=now() + HOUR)):
        assert is_in_an_hour(found.due_at)
        assert found.status == "queued"
        assert found.next_at == found.due_at
    for found in (prepared({"expires": now() + HOUR}), prepared({}, expires_at=now() + HOUR)):
        assert is_in_an_hour(found.expires_at)


def test_what_leaves_the_process_has_its_offset_or_is_in_utc(
    task_queue: RecordingTaskQueue,
    settings: Any,
    smtp_server: Callable[..., SMTPServer],
    caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: Any,
) -> None:
    """Alerts by webhook and by mail, the log, and the version of a configuration."""
    noon = dt.datetime(2040, 1, 1, 12, tzinfo=dt.UTC)
    stored = timezones.as_stored(noon)
    alert = Alert(kind="in_doubt", text="One", since=stored, ended_at=stored)
    server, hook = smtp_server(), Hook()
    config = config_for(server)
    own = {"ALERT_WEBHOOK_URL": hook.url, "ALERT_CONFIGURATION": config.name}
    settings.EMAIL_INTEGRATION, settings.ADMINS = {**settings.EMAIL_INTEGRATION, **own}, ["admin@example.com"]
    try:
        assert channels.notify("hook", alert, "ended")
    finally:
        hook.close()
    for time in (hook.received[0]["since"], hook.received[0]["ended_at"]):
        assert dt.datetime.fromisoformat(time) == noon
    assert channels.notify("mail", alert, "ended")
    assert "Since 2040-01-01 12:00 UTC." in server.messages[0].content.decode()
    delivery = submitted()
    delivery.status, delivery.due_at = Status.DEFERRED, stored
    with django_capture_on_commit_callbacks(execute=True):
        for _what, log in events.moved(delivery):
            log()
    assert dt.datetime.fromisoformat(caplog.records[-1].__dict__["due_at"]) == noon
    assert dt.datetime.fromisoformat(with_offset(stored)) == noon
    assert abs(dt.datetime.fromisoformat(config.version) - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=10)


def test_what_is_no_time_is_refused_as_ever(task_queue: RecordingTaskQueue) -> None:
    with pytest.raises(InvalidMail, match=r"^eta must be a datetime"):
        sent(eta="tomorrow")
    with pytest.raises(InvalidMail, match=r"^countdown must be a number"):
        sent(countdown=1e12)


def test_people_read_the_time_of_the_project(settings: Any) -> None:
    moment = dt.datetime(2040, 1, 1, 0, 0, tzinfo=dt.UTC)
    with timezone.override("Pacific/Auckland"):  # Django ignores it without USE_TZ
        assert timezones.local_time(timezones.as_stored(moment)) == moment
        read = timezones.local_time(timezones.as_stored(moment))
    expected = {ZONE: 5, "UTC": 0, "America/New_York": 19}
    assert read.hour == expected[settings.TIME_ZONE]
    assert abs(timezones.today() - dt.datetime.now(read.tzinfo).date()) <= dt.timedelta(days=1)
