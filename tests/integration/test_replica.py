"""A project with a replica: what must not lag behind is asked of the primary."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core import checks
from django.db import connections, models

from email_integration.models import (
    Alert,
    CircuitBreaker,
    OAuthToken,
    RefreshFamily,
    SendingPause,
    ServerQuirks,
    SMTPConfig,
)
from email_integration.models.login import current_token
from email_integration.tasks import send_email
from tests.deliveries import RecordingTaskQueue

from .validating import result_backend, validate

pytestmark = pytest.mark.django_db

#: All but deliveries, which there may be millions of: these are few, and what is done goes by them.
OF_THE_PRIMARY = (Alert, OAuthToken, RefreshFamily, CircuitBreaker, SMTPConfig, SendingPause, ServerQuirks)


class Replica:
    """A router that has everything read from a replica, which is not there: who asks it, fails."""

    def db_for_read(self, model: type[models.Model], **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: type[models.Model], **hints: Any) -> str:
        return "default"


@pytest.fixture
def replica(settings: Any) -> Iterator[Callable[[], None]]:
    """Have a replica from the call on."""
    connections.settings["replica"] = {
        **connections.settings["default"],
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "/nowhere/replica.sqlite3",
        "OPTIONS": {},
    }

    def begin() -> None:
        settings.DATABASE_ROUTERS = [f"{__name__}.Replica"]

    yield begin
    settings.DATABASE_ROUTERS = []
    connections["replica"].close()
    del connections["replica"]
    del connections.settings["replica"]


def configuration(**changes: Any) -> SMTPConfig:
    values: dict[str, Any] = {"name": "A", "host": "localhost", "port": 1, "from_email": "a@example.com", "timeout": 1}
    return SMTPConfig.objects.create(**values | changes)


def test_the_set_up_is_diagnosed_at_the_primary(settings: Any, replica: Callable[[], None]) -> None:
    """Every line is the same as without a replica, with a superuser to write to and a pause too."""
    get_user_model().objects.create_superuser("admin", "admin@example.com")
    configuration(is_active=True)
    configuration(name="B")
    SendingPause.begin(reason="a test")
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "ALERT_CONFIGURATION": "B"}
    settings.ADMINS = []
    # The result is read where django-celery-results has its rows read.
    with result_backend("disabled://"):
        expected = validate("--test-email")
        replica()
        found = validate("--test-email")
    # The seconds since the last sweep differ.
    before, after = (re.sub(r"\d+", "", "\n".join(map(str, parts))).splitlines() for parts in (expected, found))
    assert after == before


def test_the_stored_configurations_are_checked_at_the_primary(replica: Callable[[], None]) -> None:
    """By ``check --database default``, as ``migrate`` does."""
    replica()
    configuration(is_active=True, port=25)
    SMTPConfig.objects.update(host="")
    found = checks.run_checks(tags=["database"], databases=["default"])
    assert "email_integration.W007" in [message.id for message in found]


@pytest.mark.parametrize("model", OF_THE_PRIMARY, ids=lambda model: model.__name__)
def test_what_mail_goes_by_is_read_from_the_primary(model: Any, replica: Callable[[], None]) -> None:
    """Wherever it is asked for."""
    replica()
    assert model.objects.all().db == "default"
    assert model._default_manager.all().db == "default"
    assert model.objects.using("other").db == "other"
    assert model.objects.db_manager("other").all().db == "other"


def test_pausing_and_changing_ask_the_primary(replica: Callable[[], None]) -> None:
    """What is not there yet on a replica would not be found, or be overwritten."""
    replica()
    assert SendingPause.begin()
    assert SendingPause.current() is not None
    assert SendingPause.end()
    config = configuration(is_active=True)
    config.full_clean()
    config.save()
    assert current_token(config) is None


def test_what_is_read_again_is_read_from_the_primary(
    replica: Callable[[], None], task_queue: RecordingTaskQueue
) -> None:
    """That of an object which came from there, too."""
    replica()
    configuration(is_active=True)
    other = configuration(name="B")
    SMTPConfig.objects.activate(other)
    assert other.is_active
    assert SMTPConfig.objects.defer("host").get(name="B").host == "localhost"
    mail: dict[str, Any] = {"to": ["kim@example.com"], "idempotency_key": "once"}
    assert [send_email("S", "B", **mail)["status"] for _ in range(2)] == ["queued", "queued"]
