"""Without an active configuration, mail is sent through the server that the project's settings name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from config.local.workers import OF_MAIL
from email_integration.models import Delivery, SMTPConfig
from tests.acceptance.conftest import Activate
from tests.acceptance.test_switch import ROUND, Serve, got, send_round, serve
from tests.stack import Stack

pytestmark = pytest.mark.extra


def test_without_an_active_configuration_the_settings_count(
    stack: Callable[..., Stack], smtp_server: Serve, activate: Activate
) -> None:
    fallback, own = serve(smtp_server), serve(smtp_server)
    environment = {
        "EMAIL_HOST": fallback.host,
        "EMAIL_PORT": str(fallback.port),
        "DEFAULT_FROM_EMAIL": "us@example.com",
    }
    running = stack(queues=OF_MAIL, env=environment)
    send_round("settings")
    config = activate(own, "Own")
    send_round("own")
    SMTPConfig.objects.filter(pk=config.pk).update(is_active=False)
    send_round("settings again")
    assert (got(fallback), got(own)) == ({"settings": ROUND, "settings again": ROUND}, {"own": ROUND})
    assert {message.mail_from for message in fallback.messages} == {"us@example.com"}
    assert set(Delivery.objects.values_list("smtp_config", flat=True)) == {"Django settings", "Own"}
    warning = "No active SMTP Configuration found in database. Falling back to Django settings."
    assert warning in running.logs()
