"""``validate_notification_setup``: the storage of large contents, here and at the workers."""

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
    """What is said of the storage."""
    return [line.strip() for line in output.splitlines() if "storage “" in line or "stored here" in line]


def files() -> list[str]:
    location = Path(getattr(storages["email_integration"], "location"))  # noqa: B009  # not every storage has one
    return [path.name for path in location.rglob("*") if path.is_file()]


@pytest.mark.django_db(transaction=True)
def test_each_worker_that_does_not_share_the_storage_is_named(stack: Callable[..., Stack], tmp_path: Path) -> None:
    """Of two workers one does; the probe is gone afterwards."""
    before = files()
    current = stack(beat=False)
    _, output = validate(timeout=2)
    assert lines(output) == [
        "✓ The storage “email_integration” takes files and gives them back",
        "✓ The workers see the files that are stored here",
    ]

    current.processes.env["PAYLOAD_DIR"] = str(tmp_path / "elsewhere")
    blind_worker = current.start_worker()
    code, output = validate(timeout=2)
    assert code == 1
    works, blind = lines(output)
    assert works.startswith("✓")
    assert blind.startswith(f"✗ The worker {blind_worker.name}@")
    assert "does not see the files that are stored here. Have all processes" in blind
    assert files() == before


def test_without_a_worker_it_cannot_be_known() -> None:
    """The storage itself is tried all the same."""
    _, output = validate()
    assert lines(output)[0].startswith("✓ The storage “email_integration” takes files")
    assert "ℹ Whether workers see them too cannot be told: none answers" in output


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
        (f"{__name__}.Full", "✗ The storage “email_integration” takes no file"),
        (f"{__name__}.Forgetful", "✗ The storage “email_integration” takes no file"),
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
    assert lines(validate()[1]) == ["✗ The storage “email_integration” does not give back what it was given. Check it."]
