"""Give every test an empty broker, an empty cache and a process without cached state."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import translation

from email_integration.ledger.task_queue import install, installed
from email_integration.routing import generation
from email_integration.sending import own_journal, recording
from tests.deliveries import RecordingTaskQueue


@pytest.fixture(autouse=True)
def _fresh(fresh_process: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    if "stack" not in request.fixturenames:
        # Readers and writers are one process here, so a change of the configuration need not wait for other processes.
        monkeypatch.setattr(generation, "TRUSTED", 0.0)
        monkeypatch.setattr(generation, "PROMPT", float("inf"))  # no second read on a busy machine
    # Retries get no random shortening: a retry that is due in a minute must not become due after a few milliseconds.
    monkeypatch.setattr(recording, "chance", lambda: 1.0)
    yield
    translation.deactivate()  # otherwise the language of a page stays active for the next test in this thread


@pytest.fixture
def task_queue() -> Iterator[RecordingTaskQueue]:
    """A task queue that records its calls and replaces Celery's."""
    before = installed()
    recording = RecordingTaskQueue()
    install(recording)
    yield recording
    install(before)


@pytest.fixture
def journals(settings: Any, tmp_path: Path) -> Iterator[Path]:
    """The folder for the journals of a test's processes. This process has no journal yet."""
    own_journal.close()
    folder = tmp_path / "journals"
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "JOURNAL_DIR": str(folder)}
    yield folder
    own_journal.close()
    own_journal._forget()  # forget a failed attempt to open a journal: the next test may open one at once
