"""Alerts: one notification when a problem begins, and one when it is over."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from email_integration import signals, web
from email_integration.alerts import channels, evaluate
from email_integration.diagnosis.configuration import diagnose_alerts
from email_integration.models import Alert, CircuitBreaker, Delivery, SMTPConfig
from email_integration.outcomes.causes import REFUSED_LOGIN, Cause
from email_integration.smtpd import SMTPServer
from tests.deliveries import RecordingTaskQueue, ago, attempt, in_threads, pretend, submitted
from tests.relays import config_for
from tests.web_hook import Hook

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

SECRETS = ("kim@", "admin@", "s3cret", "for-kim-only", "token-of-the-hook")


@pytest.fixture
def hook(settings: Any) -> Iterator[Hook]:
    """A webhook that receives alerts."""
    hook = Hook()
    use(settings, ALERT_WEBHOOK_URL=hook.url)
    yield hook
    hook.close()


@pytest.fixture
def heard() -> Iterator[list[tuple[str, str]]]:
    """The signals that were sent during the test."""
    found: list[tuple[str, str]] = []

    def began(sender: Any, alert: Alert, **given: Any) -> None:
        found.append((alert.kind, "began"))

    def ended(sender: Any, alert: Alert, **given: Any) -> None:
        assert alert.ended_at is not None
        found.append((alert.kind, "ended"))

    signals.alert_began.connect(began, sender=Alert)
    signals.alert_ended.connect(ended, sender=Alert)
    yield found
    signals.alert_began.disconnect(began, sender=Alert)
    signals.alert_ended.disconnect(ended, sender=Alert)


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def use(settings: Any, **keys: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **keys}


def refuse_login(smtp_server: Serve) -> SMTPConfig:
    """Send a mail through a server that expects another password, and return the configuration."""
    config = config_for(smtp_server(), name="Primary", password="s3cret")
    attempt(submitted("kim@example.com", subject="for-kim-only").pk)
    return config


def hold(status: str = "in_doubt") -> Delivery:
    """Store and return a mail that is held until a user decides."""
    return pretend(submitted("kim@example.com", subject="for-kim-only"), status=status, next_at=None)


def make_due() -> None:
    """Make the next evaluation notify again."""
    Alert.objects.update(notify_at=ago(1))


def test_nothing_wrong_costs_one_question() -> None:
    submitted()
    with CaptureQueriesContext(connection) as asked:
        assert evaluate() == 0
    assert len(asked) == 1


def test_people_are_notified_of_a_refused_login_at_once_and_its_end_too(
    smtp_server: Serve, hook: Hook, heard: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Each is sent once through each channel: signal, log and webhook. None contains addresses or secrets."""
    config = refuse_login(smtp_server)
    caplog.clear()
    assert (evaluate(), evaluate()) == (1, 1)
    assert hook.notifications == [("login_refused", "began")]
    assert "Primary" in hook.received[0]["text"]
    CircuitBreaker.objects.all().delete()
    config.delete()
    assert (evaluate(), evaluate()) == (0, 0)
    both = [("login_refused", "began"), ("login_refused", "ended")]
    assert hook.notifications == heard == both
    assert not Alert.objects.exists()
    lines = [record for record in caplog.records if record.name == "email_integration.alerts.evaluation"]
    assert [(one.levelname, one.__dict__["alert"], one.__dict__["state"]) for one in lines] == [
        ("ERROR", "login_refused", "began"),
        ("WARNING", "login_refused", "ended"),
    ]
    sent = caplog.text + json.dumps(hook.received)
    assert not [secret for secret in SECRETS if secret in sent]


def trip(cause: str, reason: str) -> None:
    now = timezone.now()
    CircuitBreaker.objects.create(
        key="k", smtp_config="P", host="h", cause=cause, reason=reason, opened_at=now, probe_at=now
    )


@pytest.mark.parametrize("cause", sorted(REFUSED_LOGIN))
def test_a_refused_login_is_known_by_its_cause(cause: str, hook: Hook) -> None:
    """The wording of the reply does not matter."""
    trip(cause, "in other words")
    assert evaluate() == 1
    assert hook.notifications == [("login_refused", "began")]
    assert "in other words" in hook.received[0]["text"]


@pytest.mark.parametrize("cause", [Cause.LIMIT, Cause.ACCOUNT_BLOCKED, Cause.NOT_CONNECTED, "of_another_version"])
def test_words_do_not_make_a_refused_login(cause: str, hook: Hook) -> None:
    trip(cause, f"{Cause.LOGIN.words} (535)")
    assert evaluate() == 0


@pytest.mark.parametrize("is_ended", [False, True])
def test_an_alert_of_an_unknown_kind_is_left_alone(
    hook: Hook, heard: list[tuple[str, str]], caplog: pytest.LogCaptureFixture, is_ended: bool
) -> None:
    """During an update, a worker of a newer version may store kinds that this version does not know."""
    newer = {"kind": "of_another_version", "subject": "P", "text": "New", "pending_channels": "hook"}
    Alert.objects.create(**newer, notify_at=ago(1), ended_at=ago(2) if is_ended else None)
    before = Alert.objects.values().get()
    caplog.clear()
    assert evaluate() == 0
    hold()
    assert (evaluate(), evaluate()) == (1, 1)
    assert Alert.objects.values().get(kind="of_another_version") == before
    assert hook.notifications == heard == [("in_doubt", "began")]
    lines = [record for record in caplog.records if record.name == "email_integration.alerts.evaluation"]
    assert [one.__dict__["alert"] for one in lines] == ["in_doubt"]


@pytest.mark.parametrize(
    ("kind", "make_wrong"),
    [
        ("in_doubt", lambda: hold()),
        ("quarantined", lambda: hold("quarantined")),
        ("queue_late", lambda: pretend(submitted(), due_at=ago(3600))),
    ],
)
def test_people_are_notified_of_mail_that_needs_one(hook: Hook, kind: str, make_wrong: Callable[[], Delivery]) -> None:
    delivery = make_wrong()
    evaluate()
    assert hook.notifications == [(kind, "began")]
    delivery.delete()
    evaluate()
    assert hook.notifications == [(kind, "began"), (kind, "ended")]


def test_a_campaign_may_be_late(hook: Hook) -> None:
    pretend(submitted(priority="bulk"), due_at=ago(3600))
    assert evaluate() == 0


def test_people_are_notified_of_a_server_at_fault_after_a_while(hook: Hook) -> None:
    """Most servers recover without help."""
    config = SMTPConfig.objects.create(
        name="Primary", host="127.0.0.1", port=1, from_email="a@example.com", is_active=True
    )
    attempt(submitted().pk)
    assert evaluate() == 0
    CircuitBreaker.objects.update(opened_at=ago(301))
    assert evaluate() == 1
    assert hook.notifications == [("relay_at_fault", "began")]
    assert config.name in hook.received[0]["text"]


def test_of_many_evaluations_at_once_only_one_notifies(hook: Hook, heard: list[tuple[str, str]]) -> None:
    delivery = hold()
    in_threads(*[evaluate] * 4)
    assert hook.notifications == heard == [("in_doubt", "began")]
    delivery.delete()
    in_threads(*[evaluate] * 4)
    assert hook.notifications == heard == [("in_doubt", "began"), ("in_doubt", "ended")]


@pytest.mark.parametrize(("repeat", "times"), [(60.0, 2), (0.0, 1)])
def test_what_goes_on_is_notified_again_after_alert_repeat(
    hook: Hook, settings: Any, heard: list[tuple[str, str]], repeat: float, times: int
) -> None:
    """With zero, it is never repeated. The signal is sent only once in any case."""
    use(settings, ALERT_REPEAT=repeat)
    hold()
    evaluate()
    alert = Alert.objects.get()
    if repeat:
        assert alert.notify_at is not None
        assert timezone.now() < alert.notify_at <= timezone.now() + dt.timedelta(seconds=repeat)
        make_due()
        hold()
    evaluate()
    evaluate()
    assert hook.notifications == [("in_doubt", "began"), ("in_doubt", "goes_on")][:times]
    assert (
        hook.received[-1]["text"]
        == ("Still: 2 mails are" if repeat else "1 mail is") + " in doubt and held until a person decides"
    )
    assert heard == [("in_doubt", "began")]


@pytest.mark.parametrize("status", [500, 302])
def test_a_notification_that_failed_is_tried_again(hook: Hook, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """It is repeated later, but not at each evaluation. A redirect is not followed."""
    elsewhere = Hook()
    hook.status, hook.location = status, elsewhere.url
    hold()
    evaluate()
    evaluate()
    assert hook.notifications == [("in_doubt", "began")]
    assert f"An alert could not be sent to the web hook (it answered with status {status})" in caplog.text
    assert "token-of-the-hook" not in caplog.text
    hook.status = 200
    make_due()
    evaluate()
    evaluate()
    assert hook.notifications == [("in_doubt", "began")] * 2
    assert Alert.objects.get().pending_channels == ""
    assert not elsewhere.received
    elsewhere.close()


def test_it_is_not_tried_for_ever(hook: Hook) -> None:
    hook.status = 500
    delivery = hold()
    for _ in range(20):
        evaluate()
        Alert.objects.filter(pending_channels="hook").update(notify_at=ago(1))
    assert 2 < len(hook.notifications) < 20
    delivery.delete()
    for _ in range(20):
        evaluate()
        Alert.objects.filter(pending_channels="hook").update(notify_at=ago(1))
    assert not Alert.objects.exists()


def test_a_hook_that_hangs_does_not_delay_the_sweep(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A concurrent evaluation does not notify a second time."""
    monkeypatch.setattr(channels, "_PATIENCE", 0.5)
    hook.go_on.clear()
    hold()
    in_threads(evaluate, evaluate)
    assert hook.notifications == [("in_doubt", "began")]
    assert "An alert could not be sent to the web hook" in caplog.text
    hook.go_on.set()


def test_what_ends_before_its_notification_is_notified_as_over(hook: Hook) -> None:
    hook.status = 500
    delivery = hold()
    evaluate()
    hook.status = 200
    delivery.delete()
    evaluate()
    assert hook.notifications[1:] == [("in_doubt", "ended")]
    assert not Alert.objects.exists()


def test_what_comes_back_before_its_end_was_notified_begins_again(hook: Hook, heard: list[tuple[str, str]]) -> None:
    hold()
    evaluate()
    Delivery.objects.all().delete()
    hook.status = 500
    evaluate()
    hook.status = 200
    hold()
    evaluate()
    assert heard == [("in_doubt", state) for state in ("began", "ended", "began")]
    assert hook.notifications == [("in_doubt", state) for state in ("began", "ended", "began")]
    assert Alert.objects.get().ended_at is None


def test_admins_are_written_to_by_another_configuration(
    smtp_server: Serve, settings: Any, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    """The mail goes neither through the queue nor through the server that refuses us. Each of the two channels notifies
    once.
    """
    server = smtp_server()
    other = config_for(server, name="Other", is_active=False)
    refuse_login(smtp_server)
    use(settings, ALERT_CONFIGURATION=other.name)
    settings.ADMINS = [("Admin", "admin@example.com")]
    before = Delivery.objects.count()
    hook.status = 500
    evaluate()
    [received] = server.messages
    assert received.rcpt_tos == ("admin@example.com",)
    assert "The server of Primary refuses the login" in received.parsed.get_payload()
    hook.status = 200
    make_due()
    evaluate()
    assert (len(server.messages), hook.notifications) == (1, [("login_refused", "began")] * 2)
    assert Delivery.objects.count() == before
    assert "kim@" not in received.content.decode()
    assert not [secret for secret in SECRETS if secret in caplog.text]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"ALERT_CONFIGURATION": "Missing"}, "no SMTP configuration has the name"),
        ({"ADMINS": []}, "ADMINS is empty"),
        ({"ALLOWED_RECIPIENTS": ["example.org"]}, "no address of ADMINS is in ALLOWED_RECIPIENTS"),
        ({"password": "s3cret"}, "auth"),
    ],
)
def test_admins_that_cannot_be_written_to_are_a_line_in_the_log(
    smtp_server: Serve, settings: Any, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any], why: str
) -> None:
    wrong = dict(wrong)
    settings.ADMINS = wrong.pop("ADMINS", [("Admin", "admin@example.com")])
    server = smtp_server()
    config_for(server, name="Other", is_active=False, password=wrong.pop("password", server.password))
    use(settings, **{"ALERT_CONFIGURATION": "Other", **wrong})
    hold()
    evaluate()
    assert "could not be sent to the admins by mail" in caplog.text
    assert why in caplog.text.lower() or why in caplog.text
    assert not server.messages
    assert not [secret for secret in SECRETS if secret in caplog.text]


def test_a_receiver_that_raises_stops_nothing(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    def receive(**given: Any) -> None:
        raise RuntimeError("a receiver's own fault")

    signals.alert_began.connect(receive)
    try:
        hold()
        with caplog.at_level(logging.ERROR):
            evaluate()
    finally:
        signals.alert_began.disconnect(receive)
    assert hook.notifications == [("in_doubt", "began")]


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://hooks.example.com/x", True),
        ("http://127.0.0.1:8000/x", True),
        ("http://localhost/x", True),
        ("http://[::1]/x", True),
        ("http://hooks.example.com/x", False),
        ("http://localhost.example.com/", False),
        ("file:///etc/passwd", False),
        ("https://", False),
        ("https://host:port/", False),
        ("hooks.example.com", False),
    ],
)
def test_a_hook_is_called_encrypted_or_on_this_machine(url: str, good: bool) -> None:
    assert web.is_url(url) == good


@pytest.mark.parametrize(("name", "level"), [("Missing", "error"), ("Primary Mail Server", "warning"), ("Other", "ok")])
def test_the_configuration_that_alerts_are_written_by_is_diagnosed(
    smtp_server: Serve, settings: Any, name: str, level: str
) -> None:
    server = smtp_server()
    config_for(server)
    config_for(server, name="Other", is_active=False)
    assert diagnose_alerts() == []
    use(settings, ALERT_CONFIGURATION=name)
    [finding] = diagnose_alerts()
    assert (finding.level, name in finding.text) == (level, True)


def test_wrong_settings_are_found_by_the_checks(settings: Any) -> None:
    """The message does not contain the URL, which is a secret."""
    use(settings, ALERT_WEBHOOK_URL="http://example.com/token-of-the-hook", ALERT_CONFIGURATION="Other")
    settings.ADMINS = []
    found = {message.id: str(message) for message in run_checks(tags=["email_integration"])}
    assert set(found) == {"email_integration.E017", "email_integration.E018"}
    assert "token-of-the-hook" not in str(found)
