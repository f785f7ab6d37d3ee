"""``validate_notification_setup``: the storage of large contents, in this process and in the workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, storages

from email_integration.message import content
from tests.stack import Stack

from .validating import validate

pytestmark = pytest.mark.django_db


def lines(output: str) -> list[str]:
    """Return the lines about the storage."""
    return [line.strip() for line in output.splitlines() if "storage “" in line or "that this process stores" in line]


def files() -> list[str]:
    location = Path(getattr(storages["email_integration"], "location"))  # noqa: B009  # not every storage has one
    return [path.name for path in location.rglob("*") if path.is_file()]


@pytest.mark.django_db(transaction=True)
def test_each_worker_that_does_not_share_the_storage_is_named(stack: Callable[..., Stack], tmp_path: Path) -> None:
    """One of two workers shares the storage. The test file is removed afterwards."""
    before = files()
    current = stack(beat=False)
    _, output = validate(timeout=2)
    assert lines(output) == [
        "✓ The storage “email_integration” stores files and returns them",
        "✓ The workers see the files that this process stores",
    ]

    current.processes.env["PAYLOAD_DIR"] = str(tmp_path / "elsewhere")
    blind_worker = current.start_worker()
    code, output = validate(timeout=2)
    assert code == 1
    works, blind = lines(output)
    assert works.startswith("✓")
    assert blind.startswith(f"✗ The worker {blind_worker.name}@")
    assert "does not see the files that this process stores. All workers and all processes" in blind
    assert files() == before


def test_without_a_worker_it_cannot_be_known() -> None:
    """The storage itself is tested nevertheless."""
    _, output = validate()
    assert lines(output)[0].startswith("✓ The storage “email_integration” stores files")
    assert "ℹ No worker answered, so it is not known whether workers see these files" in output


def test_without_a_storage_nothing_is_said(settings: Any) -> None:
    settings.STORAGES = {name: one for name, one in settings.STORAGES.items() if name != "email_integration"}
    assert lines(validate()[1]) == []


class Full(FileSystemStorage):
    def _save(self, name: str, content: Any) -> str:
        raise OSError(28, "No space left on device")


class Forgetful(FileSystemStorage):
    def _save(self, name: str, content: Any) -> str:
        return name


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        (f"{__name__}.Full", "✗ The storage “email_integration” does not accept files"),
        (f"{__name__}.Forgetful", "✗ The storage “email_integration” does not accept files"),
        ("no.such.Storage", "✗ The storage “email_integration” cannot be used (InvalidStorageError)"),
    ],
)
def test_a_storage_that_does_not_work_is_reported(backend: str, says: str, settings: Any, tmp_path: Path) -> None:
    options = {"location": tmp_path}
    settings.STORAGES = {**settings.STORAGES, "email_integration": {"BACKEND": backend, "OPTIONS": options}}
    code, output = validate()
    assert code == 1
    assert lines(output)[0].startswith(says)


def test_a_storage_that_cannot_be_read_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "has_file", lambda name: False)
    says = "✗ The storage “email_integration” does not return a file that it stored. Check the storage."
    assert lines(validate()[1]) == [says]
