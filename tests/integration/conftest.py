"""Every test here starts with an empty broker and cache, and a process that remembers nothing."""

from collections.abc import Iterator

import pytest
from django.utils import translation

from email_integration.ledger import task_queue
from email_integration.routing import stamp
from tests.deliveries import RecordingDoorbell


@pytest.fixture(autouse=True)
def _fresh(fresh_process: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    if "stack" not in request.fixturenames:
        # Who writes and who reads are one process here: it need not wait for itself at each change.
        monkeypatch.setattr(stamp, "TRUSTED", 0.0)
        monkeypatch.setattr(stamp, "PROMPT", float("inf"))  # nor ask again where the machine is busy
    # What an earlier test submitted and never committed would ring here: harmless, for nobody finds it, but counted.
    task_queue._waiting.__dict__.clear()
    yield
    translation.deactivate()  # a page in another language leaves it to whoever comes next in this thread


@pytest.fixture
def bell() -> Iterator[RecordingDoorbell]:
    """A doorbell that remembers, in the place of Celery's."""
    before = task_queue.installed()
    recording = RecordingDoorbell()
    task_queue.install(recording)
    yield recording
    task_queue.install(before)
