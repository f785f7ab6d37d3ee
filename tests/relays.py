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
    """Return a relay for the server, with short timeouts."""
    return Relay(
        **{"name": "test", "from_email": "noreply@example.com", "timeout": 5.0, **_settings(server), **changes}
    )


def config_for(server: SMTPServer | ScriptedServer | PeculiarServer, **changes: Any) -> SMTPConfig:
    """Return an active configuration for the server, which is saved."""
    settings = {"name": "Primary Mail Server", "from_email": "Hanna <noreply@example.com>", "is_active": True}
    return SMTPConfig.objects.create(**{**settings, "timeout": 5, **_settings(server), **changes})


def patient_but(monkeypatch: pytest.MonkeyPatch, *verbs: str) -> None:
    """Apply the relay's timeout only at these verbs, at which the server is silent.

    So the timeout can be short, while a busy machine has enough time at all other verbs.
    """
    silent = {phase for verb in verbs for phase in _PHASES.get(verb) or [Phase[verb]]}

    def chosen(phase: Phase, timeout: float) -> float:
        return patience(phase, timeout if phase in silent else PATIENCE)

    monkeypatch.setattr(dialogue, "patience", chosen)


def wait_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each retry wait for the longest time of its random range."""
    monkeypatch.setattr(recording, "chance", lambda: 1.0)


@contextlib.contextmanager
def soon(seconds: float = 20) -> Iterator[None]:
    """Fail if the block takes more than ``seconds``.

    For code that ends by a timeout of at most a second, and would wait for minutes or forever without it. Only the
    clock can show this, so the limit is far above the time that a busy machine needs.
    """
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


#: The phases whose clock runs while a server is silent at a verb, if they have another name than the verb: the clock of
#: the next step begins in the phase before.
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
