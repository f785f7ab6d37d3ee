"""Somebody else's test suite, with nothing around it: the examples of docs/testing.md, by both runners."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import django
import pytest

from config.local.processes import PATIENCE

from .pages import examples

ROOT = Path(__file__).resolve().parents[2]

#: No cache and no broker, and a server that must not be reached.
SETTINGS = """
INSTALLED_APPS += ["django_celery_results", "simple_history", "email_integration"]
CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
CELERY_RESULT_BACKEND = "django-db"
EMAIL_INTEGRATION = {"SMTP_PASSWORD_KEYS": ["MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="]}
"""
SETTINGS += (
    'MAILERS = {"default": {"OPTIONS": {"host": "smtp.example.com"}}}\n'
    if django.VERSION >= (6, 1)
    else 'EMAIL_HOST = "smtp.example.com"\n'
)

CELERY = """
from celery import Celery
app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What ``django-admin startproject`` makes, with this app added."""
    subprocess.run([sys.executable, "-m", "django", "startproject", "proj"], cwd=tmp_path, check=True, timeout=PATIENCE)
    folder = tmp_path / "proj"
    (folder / "proj" / "celery.py").write_text(CELERY)
    (folder / "proj" / "__init__.py").write_text("from .celery import app as celery_app\n__all__ = ['celery_app']\n")
    with (folder / "proj" / "settings.py").open("a") as settings:
        settings.write(SETTINGS)
    return folder


def run(folder: Path, *arguments: str) -> str:
    """Run Python in the project, which knows nothing of this one's environment; give what it said."""
    ours = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DEBUG", "ENV_FILE", "VAR_DIR", "SMTP_PASSWORD_KEYS")
    env = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("PYTEST")}
    env |= {"PYTHONPATH": str(ROOT / "worker"), "DJANGO_SETTINGS_MODULE": "proj.settings"}
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_examples_of_the_page_pass_as_they_stand(project: Path) -> None:
    shown = examples(ROOT / "docs" / "testing.md")
    by_unittest = [block for block in shown if "TestCase" in block]
    by_pytest = [block for block in shown if "TestCase" not in block]
    for number, block in enumerate(by_unittest):
        (project / f"test_page_{number}.py").write_text(block)
    for number, block in enumerate(by_pytest):
        (project / f"pytest_page_{number}.py").write_text(block)

    said = run(project, "manage.py", "test", "--parallel", "2")
    assert re.search(rf"Ran {sum(block.count('def test_') for block in by_unittest)} tests", said)
    files = [path.name for path in sorted(project.glob("pytest_page_*.py"))]
    said = run(project, "-m", "pytest", "-p", "no:cacheprovider", "-q", *files)
    assert f"{sum(block.count('def test_') for block in by_pytest)} passed" in said
    assert (len(by_unittest), len(by_pytest)) == (4, 1)
