"""Shared fixtures of the acceptance tests: workers that know the application's tasks, and a server to send to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from email_integration.models import SMTPConfig
from email_integration.smtpd import SMTPServer
from tests import services
from tests.acceptance import tasks
from tests.stack import FAILED, FAST, Stack

Activate = Callable[..., SMTPConfig]


@pytest.fixture
def fast(settings: Any) -> None:
    """Give the submitting test the same short times as the workers."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **FAST}


@pytest.fixture(scope="module")
def workers(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A pool of two processes and beat, for all tests of a module."""
    services.need_broker()
    folder = tmp_path_factory.mktemp("workers")
    stack = Stack(folder, env=environment(folder / "notes"))
    try:
        stack.start_worker()
        stack.start_beat()
        yield stack
    finally:
        stack.end()


def environment(notes: Path) -> dict[str, str]:
    """Return the environment of workers that know the application's tasks."""
    return {"DJANGO_SETTINGS_MODULE": "tests.acceptance.settings", tasks.NOTES: str(notes), "LOG_LEVEL": "DEBUG"}


@pytest.fixture
def app(workers: Stack, transactional_db: None, fast: None, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The module's workers, with an empty database."""
    start = len(workers.logs())
    yield workers
    if request.node.stash.get(FAILED, False):
        print(workers.logs()[start:])


@pytest.fixture
def notes(workers: Stack) -> Callable[[str], list[Any]]:
    """Return the notes that the application's tasks have written under a tag."""
    return lambda tag: tasks.noted(workers.folder / "notes", tag)


@pytest.fixture
def tag() -> str:
    """A tag that only this test uses."""
    return f"tag{next(_numbers)}"


_numbers = itertools.count(1)


@pytest.fixture
def activate(transactional_db: None) -> Activate:
    """Make a server the active configuration."""

    def activate(server: SMTPServer, name: str = "Primary Mail Server", **fields: Any) -> SMTPConfig:
        return SMTPConfig.objects.create(
            name=name,
            **{
                "host": "localhost",
                "port": server.port,
                "username": server.user or "",
                "password": (server.password or "") if server.user else "",
                "use_tls": server.security == "starttls",
                "use_ssl": server.security == "tls",
                "from_email": "Hanna <noreply@example.com>",
                "is_active": True,
                **fields,
            },
        )

    return activate


@pytest.fixture
def server(smtp_server: Callable[..., SMTPServer], activate: Activate) -> SMTPServer:
    """A server without login and without TLS, as the active configuration."""
    server = smtp_server(security="plain", user=None)
    activate(server)
    return server
