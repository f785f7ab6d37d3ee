"""The schedule entries that the app provides for beat."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from celery import current_app

from config.local.processes import PATIENCE
from tests.stack import ROOT

APP = """
from django.apps import AppConfig

class Early(AppConfig):
    name = "early"

    def ready(self):
        from email_integration.tasks import send_email

        self.send = send_email.delay
"""

PROGRAM = """
import django
django.setup()
from celery import current_app
print(*sorted(entry["task"] for entry in current_app.conf.beat_schedule.values()))
"""


def test_it_is_whole_when_another_app_has_touched_a_task_before_this_one_was_ready(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(APP)
    (tmp_path / "early_settings.py").write_text(
        "from tests.base_settings import *\nINSTALLED_APPS = ['early.Early', *INSTALLED_APPS]\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT / "worker"), str(ROOT)])
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "early_settings", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    tasks = ("evaluate_alerts", "prune", "sweep")
    assert done.stdout.split() == [f"email_integration.tasks.{task}" for task in tasks]


def test_each_entry_expires_by_both_names() -> None:
    """django-celery-beat ignores Celery's ``expires``, and supports whole seconds only."""
    current_app.finalize()
    entries = [
        entry for entry in current_app.conf.beat_schedule.values() if entry["task"].startswith("email_integration")
    ]
    assert len(entries) == 3
    for entry in entries:
        options = entry["options"]
        assert type(options["expire_seconds"]) is int
        assert options["expire_seconds"] == options["expires"] > 0
