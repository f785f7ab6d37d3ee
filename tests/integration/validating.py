"""Helpers shared by the tests of validate_notification_setup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from celery import current_app
from django.core.management import call_command

from email_integration.models import SMTPConfig
from email_integration.smtpd import SMTPServer


def validate(*arguments: str, timeout: float = 0.1) -> tuple[int, str]:
    """Run the command and return exit code and output."""
    out = StringIO()
    try:
        call_command("validate_notification_setup", "--timeout", str(timeout), *arguments, stdout=out)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


@contextmanager
def result_backend(address: str) -> Iterator[None]:
    """Let Celery, which already has its backend, store results there."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(current_app.conf, "result_backend", address)
        patched.setitem(current_app.conf, "result_backend_transport_options", {"retry_policy": {"max_retries": 0}})
        _forget_backend()
        try:
            yield
        finally:
            _forget_backend()


def _forget_backend() -> None:
    current_app._local.__dict__.pop("backend", None)
    current_app._backend_cache = None


def activate(server: SMTPServer, **changes: Any) -> SMTPConfig:
    """Activate and return a configuration of this server."""
    values: dict[str, Any] = {
        "name": "Primary Mail Server",
        "host": "localhost",
        "port": server.port,
        "username": "user",
        "password": "password",
        "from_email": "Example <noreply@example.com>",
        "timeout": 3,
        "is_active": True,
    }
    return SMTPConfig.objects.create(**values | changes)
