"""Every test here starts with an empty broker and cache, and a process that remembers nothing."""

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
        # Who writes and who reads are one process here: it need not wait for itself at each change.
        monkeypatch.setattr(generation, "TRUSTED", 0.0)
        monkeypatch.setattr(generation, "PROMPT", float("inf"))  # nor ask again where the machine is busy
    # What is to be tried in a minute is not due after a few milliseconds, once in a while.
    monkeypatch.setattr(recording, "chance", lambda: 1.0)
    yield
    translation.deactivate()  # a page in another language leaves it to whoever comes next in this thread


@pytest.fixture
def task_queue() -> Iterator[RecordingTaskQueue]:
    """A task queue that remembers, in the place of Celery's."""
    before = installed()
    recording = RecordingTaskQueue()
    install(recording)
    yield recording
    install(before)


@pytest.fixture
def journals(settings: Any, tmp_path: Path) -> Iterator[Path]:
    """The folder of the journals of a test's processes; this one has none yet."""
    own_journal.close()
    folder = tmp_path / "journals"
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "JOURNAL_DIR": str(folder)}
    yield folder
    own_journal.close()
    own_journal._forget()  # that there could be none, perhaps: the next test may have one at once
