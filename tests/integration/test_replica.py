"""A project with a replica: queries that must not lag behind use the primary."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.core import checks
from django.db import connections, models
from django.urls import reverse

from email_integration import alerts
from email_integration.admin import selections
from email_integration.delivery import erasure, manual, retention
from email_integration.ledger import batches
from email_integration.metrics import ledger as metrics
from email_integration.models import Delivery, DeliveryAttempt, SendingPause, SMTPConfig, Status
from email_integration.models.audit import AuditEntry
from email_integration.models.login import current_token
from email_integration.queue import retry_now, sweeper
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests.claims import claimed
from tests.deliveries import RecordingTaskQueue, ago, attempt, due_again, pretend, submitted
from tests.relays import config_for

from .admin_site import logged_in
from .validating import result_backend, validate

pytestmark = pytest.mark.django_db

#: All models of the app except the history models of simple-history.
OF_THE_PRIMARY = [
    model for model in apps.get_app_config("email_integration").get_models() if not issubclass(model, AuditEntry)
]


class Replica:
    """A router that sends all reads to a replica that does not exist: each such read fails."""

    def db_for_read(self, model: type[models.Model], **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: type[models.Model], **hints: Any) -> str:
        return "default"


class ReplicaOfMail:
    """The same router for the models of the app only, as the pages also query users and their sessions."""

    def db_for_read(self, model: type[models.Model], **hints: Any) -> str | None:
        return "replica" if model in OF_THE_PRIMARY else None

    def db_for_write(self, model: type[models.Model], **hints: Any) -> str:
        return "default"


@pytest.fixture
def replica(settings: Any) -> Iterator[Callable[..., None]]:
    """Configure a replica when the fixture's function is called."""
    connections.settings["replica"] = {
        **connections.settings["default"],
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "/nowhere/replica.sqlite3",
        "OPTIONS": {},
    }

    def begin(router: type = Replica) -> None:
        settings.DATABASE_ROUTERS = [f"{__name__}.{router.__name__}"]

    yield begin
    settings.DATABASE_ROUTERS = []
    connections["replica"].close()
    del connections["replica"]
    del connections.settings["replica"]


def configuration(**changes: Any) -> SMTPConfig:
    values: dict[str, Any] = {"name": "A", "host": "localhost", "port": 1, "from_email": "a@example.com", "timeout": 1}
    return SMTPConfig.objects.create(**values | changes)


def test_the_set_up_is_diagnosed_at_the_primary(settings: Any, replica: Callable[[], None]) -> None:
    """Every line is the same as without a replica. There is a superuser to write to, and a pause."""
    get_user_model().objects.create_superuser("admin", "admin@example.com")
    configuration(is_active=True)
    configuration(name="B")
    SendingPause.begin(reason="a test")
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "ALERT_CONFIGURATION": "B"}
    settings.ADMINS = []
    # django-celery-results chooses its own database for reads.
    with result_backend("disabled://"):
        expected = validate("--test-email")
        replica()
        found = validate("--test-email")
    # The seconds since the last sweep differ.
    before, after = (re.sub(r"\d+", "", "\n".join(map(str, parts))).splitlines() for parts in (expected, found))
    assert after == before


def test_the_stored_configurations_are_checked_at_the_primary(replica: Callable[[], None]) -> None:
    """With ``check --database default``, as in ``migrate``."""
    replica()
    configuration(is_active=True, port=25)
    SMTPConfig.objects.update(host="")
    found = checks.run_checks(tags=["database"], databases=["default"])
    assert "email_integration.W007" in [message.id for message in found]


@pytest.mark.parametrize("model", OF_THE_PRIMARY, ids=lambda model: model.__name__)
def test_models_that_decide_about_mail_are_read_from_the_primary(model: Any, replica: Callable[[], None]) -> None:
    """Every query of such a model uses the primary."""
    replica()
    assert model.objects.all().db == "default"
    assert model._default_manager.all().db == "default"
    assert model.objects.filter(pk=1).order_by().all().db == "default"
    assert model.objects.db == "default"
    assert model.objects.using("other").db == "other"
    assert model.objects.db_manager("other").all().db == "other"
    assert model.objects.db_manager("other").db == "other"


def test_pausing_and_changing_ask_the_primary(replica: Callable[[], None]) -> None:
    """A row that is missing on the replica would not be found, or would be overwritten."""
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
    """So is an object that came from the replica."""
    replica()
    configuration(is_active=True)
    other = configuration(name="B")
    SMTPConfig.objects.activate(other)
    assert other.is_active
    assert SMTPConfig.objects.defer("host").get(name="B").host == "localhost"
    mail: dict[str, Any] = {"to": ["kim@example.com"], "idempotency_key": "once"}
    assert [send_email("S", "B", **mail)["status"] for _ in range(2)] == ["queued", "queued"]


def test_a_mail_is_submitted_tried_and_sent_by_the_primary(
    replica: Callable[[], None], smtp_server: Callable[..., SMTPServer], task_queue: RecordingTaskQueue
) -> None:
    """All steps: claims, records, the circuit breaker, the sweep, alerts and statistics."""
    server = smtp_server(faults=[Fault(verb="RCPT", reply="450 4.2.0 Greylisted", times=1)])
    config_for(server)
    replica()
    delivery = submitted("kim@example.com", idempotency_key="once")
    assert submitted("kim@example.com", idempotency_key="once").pk == delivery.pk
    tried = attempt(delivery.pk)
    assert tried is not None
    assert tried.status == Status.DEFERRED
    due_again(delivery.pk)
    retry_now.wake()
    sweeper.sweep()
    alerts.evaluate()
    assert b"mail" in metrics.exposition()
    sent = attempt(delivery.pk)
    assert sent is not None
    assert sent.status == Status.ACCEPTED
    assert [tried.outcome for tried in sent.attempt_log.all()] == [Status.DEFERRED, Status.ACCEPTED]


def test_a_mail_is_decided_about_erased_and_pruned_at_the_primary(
    replica: Callable[[], None], task_queue: RecordingTaskQueue
) -> None:
    """This includes a mail that a lost process had claimed, and one that waits."""
    replica()
    for _ in range(2):
        submitted("kim@example.com")
    lost = claimed(submitted("kim@example.com"))
    assert batches.release(lost)
    first, second, third = Delivery.objects.order_by("pk").values_list("pk", flat=True)
    assert manual.cancel(first)
    copy = manual.resend(second)
    assert manual.send_now(copy.pk)
    assert erasure.erase_recipient("kim@example.com").deliveries
    pretend(Delivery.objects.get(pk=third), finished_at=ago(10_000_000), continue_after=None)
    assert retention.prune().deliveries == 1


def test_what_was_left_out_and_what_belongs_to_a_row_is_read_from_the_primary(
    replica: Callable[[], None], task_queue: RecordingTaskQueue
) -> None:
    replica()
    delivery = Delivery.objects.only("status").get(pk=submitted("kim@example.com").pk)
    assert delivery.recipients
    delivery.refresh_from_db()
    logged = DeliveryAttempt.objects.create(delivery=delivery, number=1, started_at=ago(1), outcome=Status.DEFERRED)
    assert DeliveryAttempt.objects.get(pk=logged.pk).delivery == delivery
    assert list(delivery.attempt_log.all()) == [logged]
    assert Delivery.objects.prefetch_related("attempt_log").get().attempt_log.all()[0] == logged


def test_a_query_to_the_replica_may_have_deliveries_in_it(replica: Callable[[], None]) -> None:
    """Django refuses a subquery that names another database with ``using()``."""
    replica()
    users = get_user_model()._default_manager.filter(username__in=Delivery.objects.values("pk"))
    assert users.db == "replica"
    assert "email_integration_delivery" in users.query.get_compiler("replica").as_sql()[0]


@pytest.mark.parametrize("listed", [0, 1])
def test_the_list_in_the_admin_is_read_from_the_replica_and_what_is_decided_is_not(
    replica: Callable[..., None], task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    """This includes mails that are found by the filter, because they are not listed."""
    monkeypatch.setattr(selections, "LISTED", listed)
    delivery = submitted("kim@example.com")
    client = logged_in("view_delivery", "change_delivery", "view_delivery_content")
    replica(ReplicaOfMail)
    page = reverse("admin:email_integration_delivery_changelist")
    with pytest.raises(AssertionError, match="to 'replica' are not allowed"):
        client.get(page)
    assert client.get(reverse("admin:email_integration_delivery_change", args=[delivery.pk])).status_code == 200
    asked = client.post(page, {"action": "cancel", "_selected_action": [delivery.pk], "select_across": "1"})
    confirm = reverse("admin:email_integration_delivery_confirm")
    assert client.post(confirm, {"key": asked.context["key"]})["Location"] == page
    assert Delivery.objects.get().status == Status.CANCELLED
