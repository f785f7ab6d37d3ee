"""Another project's test suite in isolation: the examples of docs/testing.md, run by both test runners."""

from __future__ import annotations

import re
from pathlib import Path

import django
import pytest

from tests.host_project import ROOT, HostProject

from .pages import examples

pytestmark = pytest.mark.extra

#: No cache, no broker, and a server that must not be reached.
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


@pytest.fixture
def project(tmp_path: Path) -> HostProject:
    """The project that ``django-admin startproject`` makes, with this app added."""
    return HostProject(tmp_path, SETTINGS)


def run(project: HostProject, *arguments: str) -> str:
    """Run Python in the project; return all its output."""
    done = project.attempt("-W", "error", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_examples_of_the_page_pass_as_they_stand(project: HostProject) -> None:
    shown = examples(ROOT / "docs" / "testing.md")
    by_unittest = [block for block in shown if "TestCase" in block]
    by_pytest = [block for block in shown if "TestCase" not in block]
    for number, block in enumerate(by_unittest):
        (project.folder / f"test_page_{number}.py").write_text(block)
    for number, block in enumerate(by_pytest):
        (project.folder / f"pytest_page_{number}.py").write_text(block)

    said = run(project, "manage.py", "test", "--parallel", "2")
    assert re.search(rf"Ran {sum(block.count('def test_') for block in by_unittest)} tests", said)
    files = [path.name for path in sorted(project.folder.glob("pytest_page_*.py"))]
    said = run(project, "-m", "pytest", "-p", "no:cacheprovider", "-q", *files)
    assert f"{sum(block.count('def test_') for block in by_pytest)} passed" in said
    assert (len(by_unittest), len(by_pytest)) == (4, 1)
