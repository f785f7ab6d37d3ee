"""The project of this checkout on each Django: neither Python nor Django warns about its code."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from config.local.processes import PATIENCE
from email_integration.tasks import send_email
from tests.acceptance.conftest import Activate
from tests.acceptance.test_switch import Serve
from tests.stack import Stack

#: Every warning is an error, except Celery's about root: CI runs as root.
STRICT = {"PYTHONWARNINGS": "error,ignore:You're running the worker with superuser privileges"}


@pytest.mark.usefixtures("fast")
def test_a_worker_and_beat_start_and_send_without_a_warning(
    stack: Callable[..., Stack], smtp_server: Serve, activate: Activate
) -> None:
    activate(smtp_server())
    running = stack(env=STRICT)
    result = send_email.delay("Hello", "Text", to=["kim@example.com"])
    assert result.get(timeout=PATIENCE)["status"] == "accepted"
    assert "Warning" not in running.logs()


@pytest.mark.parametrize(
    "server",
    [{}, {"EMAIL_HOST": "smtp.example.com", "EMAIL_PORT": "587", "EMAIL_USE_TLS": "true", "EMAIL_TIMEOUT": "5"}],
    ids=["no server", "a server"],
)
def test_the_checks_are_silent(stack: Callable[..., Stack], server: dict[str, str]) -> None:
    """They are silent with and without a server in the environment."""
    given = {**STRICT, **server, "DEFAULT_FROM_EMAIL": "noreply@example.com"}
    done = stack(beat=False, env=given).run("check", "--fail-level", "WARNING")
    assert (done.stdout, done.stderr) == ("System check identified no issues (0 silenced).\n", "")
