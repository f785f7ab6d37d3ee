"""Relays and configurations for the servers of a test."""

from __future__ import annotations

from typing import Any

from config.local.smtp_server import SMTPServer
from email_integration.models import SMTPConfig
from email_integration.smtp import Relay
from tests.scripted import ScriptedServer


def relay_to(server: SMTPServer | ScriptedServer, **changes: Any) -> Relay:
    """The relay that fits the server, with short timeouts."""
    return Relay(
        **{"name": "test", "from_email": "noreply@example.com", "timeout": 5.0, **_settings(server), **changes}
    )


def config_for(server: SMTPServer | ScriptedServer, **changes: Any) -> SMTPConfig:
    """An active configuration, saved, that fits the server."""
    settings = {"name": "Primary Mail Server", "from_email": "Hanna <noreply@example.com>", "is_active": True}
    return SMTPConfig.objects.create(**{**settings, "timeout": 5, **_settings(server), **changes})


def _settings(server: SMTPServer | ScriptedServer) -> dict[str, Any]:
    if isinstance(server, ScriptedServer):
        return {"host": "127.0.0.1", "port": server.port, "use_tls": False}
    return {
        "host": "localhost",
        "port": server.port,
        "username": server.user if server.requires_auth else "",
        "password": server.password if server.requires_auth else "",
        "use_tls": server.security == "starttls",
        "use_ssl": server.security == "tls",
    }
