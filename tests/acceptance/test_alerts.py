"""Alerts from a real worker and beat."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from config.local.processes import wait_until
from email_integration.models import Delivery
from email_integration.smtpd import SMTPServer
from email_integration.tasks import send_email
from tests.acceptance.conftest import Activate
from tests.stack import Stack
from tests.web_hook import Hook

pytestmark = pytest.mark.extra


@pytest.mark.django_db(transaction=True)
def test_people_are_notified_once_of_a_refused_login_and_once_of_its_end(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    """The only actions are to send a mail and, later, to correct the password."""
    config = activate(smtp_server(), name="Primary", password="s3cret")
    hook = Hook()
    try:
        running = stack(env={"ALERT_INTERVAL": "0.5", "ALERT_WEBHOOK_URL": hook.url, "LOG_FORMAT": "json"})
        delivery = send_email.delay("secret-subject", "secret-body", to=["kim@example.com"])
        wait_until(lambda: hook.notifications, what="the notification that the alert began")
        config.password = "password"
        config.save()
        wait_until(lambda: Delivery.objects.get(pk=delivery.id).status == "accepted", what="the mail")
        wait_until(lambda: len(hook.notifications) > 1, what="the notification that the alert ended")
    finally:
        hook.close()
    assert hook.notifications == [("login_refused", "began"), ("login_refused", "ended")]
    logs = running.logs()
    assert '"state": "began"' in logs
    assert "token-of-the-hook" not in logs
