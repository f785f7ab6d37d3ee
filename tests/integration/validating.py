"""What the tests of validate_notification_setup share."""

from __future__ import annotations

from io import StringIO
from typing import Any

from django.core.management import call_command

from config.local.smtp_server import SMTPServer
from email_integration.models import SMTPConfig


def validate(*arguments: str, timeout: float = 0.1) -> tuple[int, str]:
    """Run the command and return exit code and output."""
    out = StringIO()
    try:
        call_command("validate_notification_setup", "--timeout", str(timeout), *arguments, stdout=out)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


def activate(server: SMTPServer, **changes: Any) -> SMTPConfig:
    """The server as the active configuration."""
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
