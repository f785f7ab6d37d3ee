"""Django's own mail tests, through both backends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import django
import pytest

from .source import DOWNLOAD_LIMIT, Unavailable, unpack_mail_tests

ROOT = Path(__file__).resolve().parents[2]

#: Django 6.1 has MAILERS and therefore another set of test classes.
SUITES = "tests.django_mail.suites_with_mailers" if django.VERSION >= (6, 1) else "tests.django_mail.suites"

#: Seconds for one run, about ten times the time on an idle machine.
RUN_LIMIT = 300

pytestmark = [pytest.mark.extra, pytest.mark.timeout(DOWNLOAD_LIMIT + RUN_LIMIT + 60)]


@pytest.fixture(scope="module")
def django_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory from which ``mail.tests`` can be imported."""
    try:
        return unpack_mail_tests(tmp_path_factory.mktemp("django"))
    except Unavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["queued", "direct"])
def test_djangos_own_mail_tests_pass(name: str, django_tests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All tests pass except those in ``left_out``, which fail."""
    env = {"PYTHONPATH": str(django_tests), "BACKEND": f"email_integration.backends.{name}.EmailBackend"}
    command = ["-W", "error", "-m", "django", "test", "--settings", "tests.django_mail.settings"]
    done = subprocess.run(
        [sys.executable, *command, SUITES],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    ended = re.search(r"^OK \(expected failures=(\d+)\)$", done.stderr, re.MULTILINE)
    assert ran, done.stderr
    assert ended, f"some tests were skipped:\n{done.stderr}"
    left_out = int(ended[1])
    passed = int(ran[1]) - left_out
    with capsys.disabled():
        print(f"\nMail tests of Django {django.__version__}, {name}: {passed} passed, {left_out} left out")
