"""A faulty server: the admin names it and the reason, and can start a probe now."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from email_integration import conf
from email_integration.admin import routing_status
from email_integration.models import CircuitBreaker, Delivery, SendingPause, ServerQuirks, SMTPConfig, Status
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred
from email_integration.queue import retry_now
from email_integration.routing import active_relay, breaker, settings_relay
from email_integration.smtp import Relay
from email_integration.smtpd import Fault, SMTPServer
from email_integration.timezones import exactly
from tests.deliveries import RecordingTaskQueue, ago, attempt, pretend, submitted
from tests.history import ended, tried
from tests.mail_settings import name_server

from .admin_site import SECRET, config, form_of, logged_in, said, url
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


def save_unchanged(client: Client) -> None:
    """Save the form of the only configuration as the page shows it."""
    stored = SMTPConfig.objects.get()
    response = client.post(url("change", stored.pk), form_of(stored))
    assert response.status_code == 302, response.context["errors"]


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
    assert "it is the active configuration. The server is not working: the server refused the login" in text
    assert "check the user name and password of the configuration (535 5.7.8). Down since " in text
    assert "mails held for it: 3." in text
    assert 'value="Try now"' in text

    since = CircuitBreaker.objects.get().opened_at
    task_queue.sweeps = 0
    response = admin.post(TRY, follow=True)
    assert "Retrying mail held for “Primary Mail Server” now." in said(response)
    assert f"Down since {exactly(since)}; next try: with the next mail;" in top(admin)
    assert task_queue.sweeps == 1
    assert Delivery.objects.filter(due_at__lte=timezone.now()).count() == 3
    for delivery in deliveries:
        attempt(delivery.pk)
    assert len(server.messages) == 3
    assert "is not working" not in top(admin)


def test_it_says_when_it_is_tried_next(admin: Client) -> None:
    config(is_active=True)
    row = tripped(probe_at=timezone.now().replace(hour=14, minute=5) + dt.timedelta(days=1))
    assert f"next try: {exactly(row.probe_at)}; mails" in top(admin)
    CircuitBreaker.objects.filter(pk=row.pk).update(probe_at=timezone.now())
    assert "next try: with the next mail;" in top(admin)


def test_what_waits_is_counted_to_a_bound(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    config(is_active=True)
    tripped()
    monkeypatch.setattr(routing_status, "_COUNTED", 2)
    waits(2)
    pretend(submitted(), status=Status.DEFERRED)
    assert "mails held for it: 2." in top(admin)
    waits(1)
    assert "mails held for it: more than 2." in top(admin)


def test_the_server_of_the_settings_can_be_at_fault_too(admin: Client, settings: Any) -> None:
    name_server(settings, host="fallback.example.com")
    tripped(settings_relay())
    text = top(admin)
    assert "fallback.example.com:25 now, by the settings of this project" in text
    assert "is not working" in text
    admin.post(TRY)
    assert CircuitBreaker.objects.get().probe_at <= timezone.now()


def test_another_servers_fault_is_not_shown_of_this_one(admin: Client) -> None:
    tripped(Relay(name="Other", host="other.example.com"))
    config(is_active=True)
    assert "is not working" not in top(admin)
    assert 'value="Try now"' not in top(admin)


def test_fixed_settings_are_another_server(admin: Client) -> None:
    stored = config(is_active=True)
    tripped()
    stored.password = "changed"
    stored.save()
    assert "is not working" not in top(admin)


def test_it_is_shown_in_the_language_of_the_reader(admin: Client) -> None:
    config(is_active=True)
    tripped()
    page = admin.get(url("changelist"), headers={"Accept-Language": "de"}).content.decode()
    assert "Der Server funktioniert nicht" in page
    assert 'value="Jetzt versuchen"' in page


def test_every_list_and_form_says_it_and_a_pause_comes_first(admin: Client) -> None:
    stored = config(is_active=True)
    tripped()
    for address in (
        url("changelist"),
        url("change", stored.pk),
        reverse("admin:email_integration_delivery_changelist"),
    ):
        assert "is not working" in top(admin, address)
    SendingPause.begin()
    assert "is not working" not in top(admin)
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
    assert "is not working" in top(looking)
    assert 'value="Try now"' not in top(looking)
    assert looking.post(TRY).status_code == 403
    changing = logged_in("view_smtpconfig", "change_smtpconfig", name="lee")
    assert 'value="Try now"' in top(changing)
    assert changing.get(TRY).status_code == 403
    assert CircuitBreaker.objects.get().probe_at > timezone.now()
    assert Client(enforce_csrf_checks=True).post(TRY).status_code == 403
    assert changing.post(TRY).status_code == 302
    assert CircuitBreaker.objects.get().probe_at <= timezone.now()
    assert SMTPConfig.objects.get().is_active


def test_down_since_stays_until_mail_is_accepted(admin: Client) -> None:
    """“Try now”, a pause and its end, and an unchanged save leave it: only the server can show that it works again."""
    config(is_active=True)
    since = timezone.now() - dt.timedelta(hours=5)
    tripped(opened_at=since, failures=7)
    down = f"Down since {exactly(since)};"
    assert down in top(admin)
    admin.post(TRY)
    assert down in top(admin)
    SendingPause.begin()
    SendingPause.end()
    assert down in top(admin)
    save_unchanged(admin)
    assert down in top(admin)
    relay = active_relay()
    assert isinstance(relay, Relay)
    assert breaker.ask(relay)  # a probe, whose failure begins the backoff again
    wait = breaker.trip(relay, Deferred(cause=Cause.LOGIN, reason="the login is wrong"), probing=True)
    assert wait <= conf.get("BREAKER_PROBE_FIRST") * 1.5
    assert down in top(admin)
    retry_now.reset_breaker(relay)
    assert "Down since" not in top(admin)


@pytest.mark.parametrize("paused", [False, True])
def test_saving_unchanged_settings_tries_the_server_at_once_and_keeps_since(admin: Client, paused: bool) -> None:
    stored = config(is_active=True)
    tripped(opened_at=ago(5 * 3600), failures=7)
    opened_at = CircuitBreaker.objects.get().opened_at
    tripped(Relay(name="Former", host="former.example.com"))
    if paused:
        SendingPause.begin()
    version = stored.version
    save_unchanged(admin)
    assert SMTPConfig.objects.get().version != version
    SendingPause.end()
    found = CircuitBreaker.objects.get()  # the one of the former server is gone
    assert (found.opened_at, found.failures) == (opened_at, 0)
    assert found.probe_at <= timezone.now()
    relay = active_relay()
    assert isinstance(relay, Relay)
    assert breaker.is_open(relay)


@pytest.mark.parametrize(
    "change",
    [
        {"host": "other.example.com", "password": SECRET},
        {"password": "another secret"},
        {"username": "lee", "password": SECRET},
        {"encryption": "none", "port": 25, "password": SECRET},
        {"from_email": "other@example.com"},
        {"timeout": 7},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_setting_is_another_server(admin: Client, change: dict[str, Any]) -> None:
    stored = config(is_active=True)
    tripped()
    response = admin.post(url("change", stored.pk), form_of(stored, **change))
    assert response.status_code == 302
    assert not CircuitBreaker.objects.exists()


@pytest.mark.parametrize("name", ["oauth_client_id", "oauth_client_secret", "oauth_scope"])
def test_a_changed_setting_of_oauth_is_another_server(name: str) -> None:
    stored = config(
        is_active=True,
        authentication="oauth",
        oauth_endpoint="https://login.example.com/token",
        oauth_client_id="app",
        oauth_client_secret=SECRET,
        oauth_scope="smtp",
    )
    tripped()
    stored.save()
    assert CircuitBreaker.objects.exists()
    setattr(stored, name, "another")
    stored.save()
    assert not CircuitBreaker.objects.exists()


def test_saving_a_configuration_that_is_not_used_leaves_the_fault_of_the_one_in_use(admin: Client) -> None:
    config(is_active=True)
    other = config("Other", host="other.example.com")
    opened_at = tripped(opened_at=ago(3600)).opened_at
    other.timeout = 5
    other.save()
    assert CircuitBreaker.objects.get().opened_at == opened_at


def test_notice_and_page_of_a_mail_give_the_same_next_try(admin: Client) -> None:
    """The mail's own time is when it would be looked at; the server is tried at the time of its probe."""
    config(is_active=True)
    row = tripped()
    held = pretend(submitted(), status=Status.DEFERRED, waits_for_relay=True, due_at=ago(-7200))
    queued, later = submitted(), pretend(submitted(), due_at=ago(-3600))
    at = exactly(row.probe_at)
    assert f"next try: {at};" in top(admin)
    for delivery, expected in ((held, at), (queued, at), (later, exactly(later.due_at))):
        page = admin.get(reverse("admin:email_integration_delivery_change", args=[delivery.pk]))
        times, timeline = page.content.decode().split('class="module email-timeline"')
        assert expected in times.split("field-due")[1].split("</div>")[0]
        assert expected in timeline.split("Next attempt")[0].rsplit("<li>", 1)[1]
    listed = admin.get(reverse("admin:email_integration_delivery_changelist")).content.decode()
    assert listed.count(f'title="{at}"') == 2
    SendingPause.begin()
    page = admin.get(reverse("admin:email_integration_delivery_change", args=[held.pk])).content.decode()
    assert exactly(held.due_at) not in page
    said_next = page.split("<strong>Next attempt")[1:]
    assert len(said_next) == 2  # at the top, and in the timeline
    for text in said_next:  # a time would be wrong: it is tried when sending is resumed
        assert "The mail is held until sending is resumed." in text.split("</p>")[0]
        assert "<time" not in text.split("</p>")[0]
    assert "<time" not in page.rpartition("<strong>Next attempt")[0].rpartition("<li>")[2]


def test_every_time_has_seconds_and_zone(admin: Client, settings: Any) -> None:
    """On the notices, the page of a mail, both histories, the dashboard, the lists, and a form: in one format."""
    settings.TIME_ZONE = "Europe/Berlin"
    stored = config(is_active=True)
    ServerQuirks.objects.create(pk="x", smtp_config="Primary", host="smtp.example.com", mails=5)
    tripped()
    delivery = ended(1, at=timezone.now())[0]
    tried([delivery])
    cancelled = submitted().pk
    asked = {"action": "cancel", "_selected_action": cancelled}
    question = admin.post(reverse("admin:email_integration_delivery_changelist"), asked)
    admin.post(reverse("admin:email_integration_delivery_confirm"), {"key": question.context["key"]})
    pages = {
        "notice": (url("changelist"), 2),
        "mail": (reverse("admin:email_integration_delivery_change", args=[delivery.pk]), 7),
        "history of a mail": (
            reverse("admin:email_integration_delivery_history", args=[cancelled]),
            1,
        ),
        "history of a configuration": (url("history", stored.pk), 1),
        "dashboard": (reverse("admin:email_integration_dashboard"), 3),
        "list of configurations": (url("changelist"), 3),
        "form": (url("change", stored.pk), 5),
        "learned limits": (reverse("admin:email_integration_serverquirks_changelist"), 2),
    }
    exact = re.compile(r"[A-Z][a-z]+\.? \d{1,2}, \d{4}, \d\d:\d\d:\d\d CES?T")
    rough = re.compile(r"\d{1,2}/\d{1,2}/\d{4} |\d (a|p)\.m\.|, \d{4}, \d(?!\d?:\d\d:\d\d CES?T)")
    for name, (address, number) in pages.items():
        page = top(admin, address) if name == "notice" else unescape(admin.get(address).content.decode())
        text = re.sub("<[^>]+>", " ", page)
        assert len(exact.findall(text)) >= number, name
        assert not rough.search(text), name
