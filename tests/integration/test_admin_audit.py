"""Page views are recorded with user and time if AUDIT_VIEWS is on."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from email_integration.models import SMTPConfig
from tests.deliveries import RecordingTaskQueue, submitted

from .admin_site import config, logged_in, url

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


@pytest.fixture
def audited(settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "AUDIT_VIEWS": True}


def view_everything(client: Client, stored: SMTPConfig, mail: str) -> None:
    """Open the pages of one configuration, with an earlier version, and of one mail, and addresses that do not count as
    views.
    """
    deliveries = "admin:email_integration_delivery_"
    for address in (
        url("changelist"),
        url("history", stored.pk),
        url("simple_history", stored.pk, stored.history.earliest("history_date").pk),
        url("history", 4711),
        reverse(f"{deliveries}changelist"),
        reverse(f"{deliveries}change", args=[mail]),
        reverse(f"{deliveries}history", args=[mail]),
        reverse(f"{deliveries}change", args=["nowhere"]),
    ):
        client.get(address)


@pytest.mark.usefixtures("audited")
def test_each_view_of_a_page_is_recorded_with_who() -> None:
    """Lists and pages that do not exist are not recorded."""
    stored, mail = config(), submitted()
    view_everything(logged_in(superuser=True), stored, mail.pk)
    views = stored.history.filter(event="viewed").order_by("history_date", "history_id")
    recorded = [(view.history_user.username, view.history_change_reason) for view in views]
    assert recorded == [("kim", "the history"), ("kim", "an earlier version")]
    entries = LogEntry.objects.order_by("action_time", "pk")
    assert [(entry.user.username, entry.object_id, entry.change_message) for entry in entries] == [
        ("kim", mail.pk, "Viewed."),
        ("kim", mail.pk, "Its history was viewed."),
    ]


@pytest.mark.usefixtures("audited")
def test_a_refused_view_is_not_recorded() -> None:
    stored, mail = config(), submitted()
    view_everything(logged_in(), stored, mail.pk)
    assert not stored.history.filter(event="viewed").exists()
    assert not LogEntry.objects.exists()


def test_without_the_setting_only_the_form_of_a_configuration_is_recorded() -> None:
    stored, mail = config(), submitted()
    client = logged_in(superuser=True)
    view_everything(client, stored, mail.pk)
    assert not stored.history.filter(event="viewed").exists()
    assert not LogEntry.objects.exists()
    client.get(url("change", stored.pk))
    assert stored.history.filter(event="viewed").count() == 1
