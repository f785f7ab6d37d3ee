"""A red run of several ends with the names of what failed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from config.local.processes import PATIENCE
from tests.stack import ROOT

TESTS = """
import pytest

def test_good():
    pass

def test_bad():
    wanted = 2
    assert wanted == 1, "first line\\nsecond line"

@pytest.fixture
def broken():
    raise LookupError("no such thing")

def test_without_its_fixture(broken):
    pass
"""


def name_failed(file: Path) -> str:
    done = subprocess.run(
        [ROOT / "tests/name-failed.sh"],
        env={**os.environ, "TEST_FAILURES": str(file)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    return done.stdout


def test_each_run_adds_what_failed_and_the_end_names_it_all(tmp_path: Path) -> None:
    """Tests, fixtures and files that cannot be read; on the database that they ran on."""
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_unreadable.py").write_text("import no_such_module")
    file = tmp_path / "failed.txt"
    # A plugin by its file's name alone: the package would start the services of a run.
    plugin = ["-p", "failures", "-p", "no:cacheprovider", "-p", "no:django", "-p", "no:randomly"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "TEST_FAILURES": str(file)}
    for name, database in (("test_some.py", ""), ("test_some.py", "mariadb"), ("test_unreadable.py", "")):
        subprocess.run(
            [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", tmp_path, *plugin, name],
            cwd=tmp_path,
            env={**env, "TEST_DATABASE": database},
            check=False,
            capture_output=True,
            timeout=PATIENCE,
        )
    assert name_failed(file).splitlines() == [
        "",
        "FAILED: 6",
        "pytest: ended with 2",
        "test_some.py::test_bad on mariadb: AssertionError: first line",
        "test_some.py::test_bad: AssertionError: first line",
        "test_some.py::test_without_its_fixture (setup) on mariadb: LookupError: no such thing",
        "test_some.py::test_without_its_fixture (setup): LookupError: no such thing",
        "test_unreadable.py: E   ModuleNotFoundError: No module named 'no_such_module'",
    ]


def test_a_red_run_without_a_failed_test_says_so(tmp_path: Path) -> None:
    assert "no test has" in name_failed(tmp_path / "missing.txt")
