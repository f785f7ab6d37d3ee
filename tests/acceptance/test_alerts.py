"""Alerts from a real worker and beat."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from config.local.processes import wait_until
from config.local.smtp_server import SMTPServer
from email_integration.models import Delivery
from email_integration.tasks import send_email
from tests.acceptance.conftest import Activate
from tests.stack import Stack
from tests.web_hook import Hook


@pytest.mark.django_db(transaction=True)
def test_a_refused_login_is_told_once_and_its_end_once(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    """Nobody does anything but send a mail, and mend the password later."""
    config = activate(smtp_server(), name="Primary", password="s3cret")
    hook = Hook()
    try:
        running = stack(env={"ALERT_INTERVAL": "0.5", "ALERT_WEBHOOK_URL": hook.url, "LOG_FORMAT": "json"})
        delivery = send_email.delay("secret-subject", "secret-body", to=["kim@example.com"])
        wait_until(lambda: hook.told, what="the alert")
        config.password = "password"
        config.save()
        wait_until(lambda: Delivery.objects.get(pk=delivery.id).status == "accepted", what="the mail")
        wait_until(lambda: len(hook.told) > 1, what="its end")
    finally:
        hook.close()
    assert hook.told == [("login_refused", "began"), ("login_refused", "ended")]
    logs = running.logs()
    assert '"state": "began"' in logs
    assert "token-of-the-hook" not in logs
