"""A project without USE_TZ: every way to say when, and what people read of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone

from email_integration import submit_many, timezones
from email_integration.exceptions import InvalidMail
from email_integration.models import Delivery
from email_integration.tasks import send_email
from tests.deliveries import RecordingDoorbell, mail, submitted

pytestmark = pytest.mark.django_db

HOUR = dt.timedelta(hours=1)
ZONE = "Asia/Kathmandu"


@pytest.fixture(params=[ZONE, "UTC", "America/New_York"], autouse=True)
def naive(settings: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """Without USE_TZ, in the time zones that are before, at and after UTC."""
    settings.USE_TZ, settings.TIME_ZONE = False, request.param
    return


def sent(**options: Any) -> Delivery:
    """The delivery of a mail submitted with these options of ``apply_async``."""
    result = send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, **options)
    return Delivery.objects.get(pk=result.id)


def is_in_an_hour(moment: dt.datetime) -> bool:
    """Whether it is what the database takes, an hour from now."""
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
def test_celerys_eta_is_when_it_is_due(bell: RecordingDoorbell, option: Any) -> None:
    delivery = sent(**option())
    assert is_in_an_hour(delivery.due_at)
    assert delivery.ring_after == delivery.due_at


@pytest.mark.parametrize(
    "expires",
    [
        lambda: 3600,
        lambda: dt.datetime.now() + HOUR,  # noqa: DTZ005
        lambda: dt.datetime.now(dt.timezone(-7 * HOUR)) + HOUR,
    ],
)
def test_celerys_expires_is_when_it_is_sent_no_more(bell: RecordingDoorbell, expires: Any) -> None:
    delivery = sent(expires=expires())
    assert is_in_an_hour(delivery.expires_at)
    assert not is_in_an_hour(delivery.due_at)


@pytest.mark.parametrize("now", [lambda: dt.datetime.now(), lambda: dt.datetime.now(dt.UTC)])  # noqa: DTZ005
def test_times_of_the_mail_itself_are_the_deliverys(bell: RecordingDoorbell, now: Any) -> None:
    ids = [
        submitted(due_at=now() + HOUR, expires_at=now() + HOUR).pk,
        *submit_many([mail()], due_at=now() + HOUR, expires_at=now() + HOUR),
        send_email.delay("S", "B", to=["kim@example.com"], due_at=now() + HOUR, expires_at=now() + HOUR).id,
    ]
    for delivery in Delivery.objects.filter(pk__in=ids):
        assert is_in_an_hour(delivery.due_at)
        assert is_in_an_hour(delivery.expires_at)
    assert len(ids) == 3


def test_what_is_no_time_is_refused_as_ever(bell: RecordingDoorbell) -> None:
    with pytest.raises(InvalidMail, match=r"^eta must be a datetime"):
        sent(eta="tomorrow")
    with pytest.raises(InvalidMail, match=r"^countdown must be a number"):
        sent(countdown=1e12)


def test_people_read_the_time_of_the_project(settings: Any) -> None:
    moment = dt.datetime(2040, 1, 1, 0, 0, tzinfo=dt.UTC)
    with timezone.override("Pacific/Auckland"):  # which Django does not heed without USE_TZ
        assert timezones.local_time(timezones.as_stored(moment)) == moment
        read = timezones.local_time(timezones.as_stored(moment))
    expected = {ZONE: 5, "UTC": 0, "America/New_York": 19}
    assert read.hour == expected[settings.TIME_ZONE]
    assert abs(timezones.today() - dt.datetime.now(read.tzinfo).date()) <= dt.timedelta(days=1)
