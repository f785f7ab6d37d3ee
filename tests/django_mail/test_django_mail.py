"""Django's own mail tests, through both backends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .source import Unavailable, unpack_mail_tests

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def django_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``mail.tests`` can be imported from."""
    try:
        return unpack_mail_tests(tmp_path_factory.mktemp("django"))
    except Unavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["queued", "direct"])
def test_djangos_own_mail_tests_pass(name: str, django_tests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All but those in ``left_out``, which fail."""
    env = {"PYTHONPATH": str(django_tests), "BACKEND": f"email_integration.backends.{name}.EmailBackend"}
    command = ["-W", "error", "-m", "django", "test", "--settings", "tests.django_mail.settings"]
    done = subprocess.run(
        [sys.executable, *command, "tests.django_mail.suites"],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    ended = re.search(r"^OK \(expected failures=(\d+)\)$", done.stderr, re.MULTILINE)
    assert ran, done.stderr
    assert ended, f"some were skipped:\n{done.stderr}"
    left_out = int(ended[1])
    with capsys.disabled():
        print(f"\nDjango's mail tests, {name}: {int(ran[1]) - left_out} passed, {left_out} left out")
