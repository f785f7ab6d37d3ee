"""A faulty server: the admin names it and the reason, and can start a probe now."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from email_integration.admin import routing_status
from email_integration.models import CircuitBreaker, Delivery, SendingPause, SMTPConfig, Status
from email_integration.routing import active_relay, breaker, settings_relay
from email_integration.smtp import Relay
from email_integration.smtpd import Fault, SMTPServer
from tests.deliveries import RecordingTaskQueue, attempt, pretend, submitted
from tests.mail_settings import name_server

from .admin_site import config, logged_in, said, url
from .validating import activate

pytestmark = pytest.mark.django_db(transaction=True)

TRY = reverse("admin:email_integration_try_now")
WRONG_LOGIN = "535 5.7.8 Authentication credentials invalid"


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


@pytest.fixture
def admin() -> Client:
    return logged_in(superuser=True)


def tripped(relay: Any = None, **values: Any) -> CircuitBreaker:
    """Return the open circuit breaker of the active relay."""
    relay = relay or active_relay()
    assert isinstance(relay, Relay)
    now = timezone.now()
    given = {"reason": "the login is wrong (535 5.7.8)", "code": 535, "probe_at": now + dt.timedelta(minutes=3)}
    return CircuitBreaker.objects.create(
        pk=breaker.key(relay), smtp_config=relay.name, host=relay.host, **{**given, **values}
    )


def waits(number: int) -> None:
    for _ in range(number):
        pretend(submitted(), status=Status.DEFERRED, waits_for_relay=True)


def top(client: Client, address: str = "") -> str:
    """Return the text at the top of a page."""
    page = unescape(client.get(address or url("changelist")).content.decode())
    return page.split('class="email-notices"')[1].split("</div>")[0]


def test_a_wrong_password_is_said_on_top_and_trying_now_sends_what_waits(
    admin: Client, smtp_server: Callable[..., SMTPServer], task_queue: RecordingTaskQueue
) -> None:
    """From the refused login to the delivered mail, using only the admin page."""
    server = smtp_server(faults=[Fault(verb="AUTH", reply=WRONG_LOGIN, times=1)])
    activate(server)
    deliveries = [submitted(from_email="a@example.com") for _ in range(3)]
    for delivery in deliveries:
        attempt(delivery.pk)
    assert len(server.sessions) == 1
    text = top(admin)
    assert "it is the active configuration. The server is at fault: the server refused the login: " in text
    assert "check the user name and password of the configuration (535 5.7.8). Since" in text
    assert "mails that wait for it: 3." in text
    assert 'value="Try now"' in text

    task_queue.sweeps = 0
    response = admin.post(TRY, follow=True)
    assert "is tried now." in said(response)
    assert "at fault" not in top(admin)
    assert task_queue.sweeps == 1
    assert Delivery.objects.filter(due_at__lte=timezone.now()).count() == 3
    for delivery in deliveries:
        attempt(delivery.pk)
    assert len(server.messages) == 3


def test_it_says_when_it_is_tried_next(admin: Client) -> None:
    config(is_active=True)
    row = tripped(probe_at=timezone.now().replace(hour=14, minute=5) + dt.timedelta(days=1))
    assert "next try: 2:05 p.m.;" in top(admin)
    CircuitBreaker.objects.filter(pk=row.pk).update(probe_at=timezone.now())
    assert "next try: with the next mail;" in top(admin)


def test_what_waits_is_counted_to_a_bound(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    config(is_active=True)
    tripped()
    monkeypatch.setattr(routing_status, "_COUNTED", 2)
    waits(2)
    pretend(submitted(), status=Status.DEFERRED)
    assert "mails that wait for it: 2." in top(admin)
    waits(1)
    assert "mails that wait for it: more than 2." in top(admin)


def test_the_server_of_the_settings_can_be_at_fault_too(admin: Client, settings: Any) -> None:
    name_server(settings, host="fallback.example.com")
    tripped(settings_relay())
    text = top(admin)
    assert "fallback.example.com:25 now, by the settings of this project" in text
    assert "is at fault" in text
    admin.post(TRY)
    assert not CircuitBreaker.objects.exists()


def test_another_servers_fault_is_not_shown_of_this_one(admin: Client) -> None:
    tripped(Relay(name="Other", host="other.example.com"))
    config(is_active=True)
    assert "at fault" not in top(admin)
    assert 'value="Try now"' not in top(admin)


def test_fixed_settings_are_another_server(admin: Client) -> None:
    stored = config(is_active=True)
    tripped()
    stored.password = "changed"
    stored.save()
    assert "at fault" not in top(admin)


def test_it_is_shown_in_the_language_of_the_reader(admin: Client) -> None:
    config(is_active=True)
    tripped()
    page = admin.get(url("changelist"), headers={"Accept-Language": "de"}).content.decode()
    assert "Der Server ist gestört" in page
    assert 'value="Jetzt versuchen"' in page


def test_every_list_and_form_says_it_and_a_pause_comes_first(admin: Client) -> None:
    stored = config(is_active=True)
    tripped()
    for address in (
        url("changelist"),
        url("change", stored.pk),
        reverse("admin:email_integration_delivery_changelist"),
    ):
        assert "is at fault" in top(admin, address)
    relay = active_relay()
    SendingPause.begin()  # pausing resets every breaker
    tripped(relay)
    assert "at fault" not in top(admin)
    assert "Sending is paused" in top(admin)


def test_trying_now_while_paused_resets_nothing(admin: Client) -> None:
    config(is_active=True)
    tripped()
    SendingPause.begin()
    CircuitBreaker.objects.create(pk="x", smtp_config="Primary", host="h", probe_at=timezone.now(), reason="still open")
    response = admin.post(TRY, follow=True)
    assert said(response) == ""
    assert CircuitBreaker.objects.filter(pk="x").exists()


def test_trying_takes_a_post_and_the_permission_to_change() -> None:
    config(is_active=True)
    tripped()
    looking = logged_in("view_smtpconfig", "activate_smtpconfig", "test_smtpconfig")
    assert "is at fault" in top(looking)
    assert 'value="Try now"' not in top(looking)
    assert looking.post(TRY).status_code == 403
    changing = logged_in("view_smtpconfig", "change_smtpconfig", name="lee")
    assert 'value="Try now"' in top(changing)
    assert changing.get(TRY).status_code == 403
    assert CircuitBreaker.objects.exists()
    assert Client(enforce_csrf_checks=True).post(TRY).status_code == 403
    assert changing.post(TRY).status_code == 302
    assert not CircuitBreaker.objects.exists()
    assert SMTPConfig.objects.get().is_active
