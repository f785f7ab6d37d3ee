"""The project uses django-simple-history too, and its settings change the history tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.host_project import HostProject

pytestmark = pytest.mark.extra

#: Saves, updates, tests and deletes a configuration, and prints the recorded history.
CHANGE = """
from email_integration.models import SMTPConfig
config = SMTPConfig.objects.create(name="Ours", host="localhost", port=25, from_email="a@example.com", is_active=True)
config._change_reason = "x" * 100
config.save()
SMTPConfig.objects.update(port=26)
config.refresh_from_db()
config.record_test(passed=True, detail="x" * 200)
config.delete()
print(*SMTPConfig.history.order_by("history_id").values_list("event", flat=True))
"""


@pytest.mark.parametrize(
    "setting",
    [
        "HISTORY_ID_USE_UUID = True",
        "HISTORY_CHANGE_REASON_USE_TEXT_FIELD = True",
        "DATE_INDEX = False",
        "DATE_INDEX = 'composite'",
        "FILEFIELD_TO_CHARFIELD = True",
    ],
)
def test_its_settings_change_no_table_of_the_app(
    row: Callable[[str, str], None], host: Callable[..., HostProject], setting: str
) -> None:
    row(f"SIMPLE_HISTORY_{setting}", "no migration is missing, changes are recorded")
    project = host(f"SIMPLE_HISTORY_{setting}")
    project.run("manage.py", "makemigrations", "--check", "--dry-run")
    project.run("manage.py", "migrate", "--verbosity", "0")
    assert project.shell(CHANGE).split() == ["created", "changed", "changed", "tested", "deleted"]


def test_a_history_that_is_switched_off_is_said(
    row: Callable[[str, str], None], host: Callable[..., HostProject]
) -> None:
    row("SIMPLE_HISTORY_ENABLED = False", "works, and 'check' names what is missing")
    project = host("SIMPLE_HISTORY_ENABLED = False")
    project.run("manage.py", "migrate", "--verbosity", "0")
    assert project.shell(CHANGE).split() == []
    assert "email_integration.W020" in project.attempt("manage.py", "check").stderr


def test_the_shell_imports_every_model(row: Callable[[str, str], None], host: Callable[..., Any]) -> None:
    row("manage.py shell", "imports all models of the app")
    done = host().attempt("manage.py", "shell", "--verbosity", "2", "-c", "print(HistoricalSMTPConfig.__module__)")
    assert "could not be automatically imported" not in done.stdout + done.stderr
    assert "email_integration.models.config" in done.stdout
