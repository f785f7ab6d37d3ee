"""Relays and configurations for the servers of a test."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from config.local.processes import PATIENCE
from email_integration.models import SMTPConfig
from email_integration.sending import recording
from email_integration.smtp import Phase, Relay, dialogue
from email_integration.smtp.timeouts import patience
from email_integration.smtpd import SMTPServer
from tests.peculiar import PeculiarServer
from tests.scripted import ScriptedServer


def relay_to(server: SMTPServer | ScriptedServer | PeculiarServer, **changes: Any) -> Relay:
    """The relay that fits the server, with short timeouts."""
    return Relay(
        **{"name": "test", "from_email": "noreply@example.com", "timeout": 5.0, **_settings(server), **changes}
    )


def config_for(server: SMTPServer | ScriptedServer | PeculiarServer, **changes: Any) -> SMTPConfig:
    """An active configuration, saved, that fits the server."""
    settings = {"name": "Primary Mail Server", "from_email": "Hanna <noreply@example.com>", "is_active": True}
    return SMTPConfig.objects.create(**{**settings, "timeout": 5, **_settings(server), **changes})


def patient_but(monkeypatch: pytest.MonkeyPatch, *verbs: str) -> None:
    """Let the relay's timeout count at these verbs alone, at which the server is silent.

    So it can be short, and a busy machine has its time at all others.
    """
    silent = {phase for verb in verbs for phase in _PHASES.get(verb) or [Phase[verb]]}

    def chosen(phase: Phase, timeout: float) -> float:
        return patience(phase, timeout if phase in silent else PATIENCE)

    monkeypatch.setattr(dialogue, "patience", chosen)


def wait_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each retry wait for as long as it may, which is a matter of chance."""
    monkeypatch.setattr(recording, "chance", lambda: 1.0)


@contextlib.contextmanager
def soon(seconds: float = 20) -> Iterator[None]:
    """Fail when this takes longer: for what ends by a timeout of a second at most, and would wait for minutes, or for
    ever, without. Nothing but the clock can tell, so the limit is far above what a busy machine needs.
    """
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


#: The phases whose time runs while a server is silent at a verb, where they are not called like it: the clock for what
#: comes next begins in the phase before.
_GROUP = [Phase.MAIL, Phase.RCPT, Phase.DATA]
_PHASES = {
    "CONNECT": [Phase.CONNECT, Phase.GREETING],
    "GROUP": _GROUP,
    "MAIL": _GROUP,
    "RCPT": _GROUP,
    "DATA": _GROUP,
    "DOT": [Phase.FINAL_DOT],
}


def _settings(server: SMTPServer | ScriptedServer | PeculiarServer) -> dict[str, Any]:
    if isinstance(server, ScriptedServer | PeculiarServer):
        return {"host": "127.0.0.1", "port": server.port, "use_tls": False}
    return {
        "host": "localhost",
        "port": server.port,
        "username": server.user if server.requires_auth else "",
        "password": server.password if server.requires_auth else "",
        "use_tls": server.security == "starttls",
        "use_ssl": server.security == "tls",
    }
