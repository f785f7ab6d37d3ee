"""The matrix of Pythons and Djangos: the rules for 'not found', 'passed' and 'failed'."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests import matrix
from tests.matrix import Result, failed_name, main, table

THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_an_interpreter_that_does_not_run_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """For example pyenv's commands, which are on the PATH for versions that are not selected."""
    shim = tmp_path / "python3.99"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert main(["--pairs", "3.98-6.1 3.99-6.1", "--parts", "unit"]) == 0
    said = capfd.readouterr().out
    assert "Python 3.98  not found\nPython 3.99  not found" in said
    assert "passed" not in said


def test_a_pair_that_make_refuses_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"python{THIS_PYTHON}").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert main(["--pairs", f"{THIS_PYTHON}-1.2", "--parts", "unit"]) == 1
    said = capfd.readouterr().out
    assert "DJANGO must be 5.2, 6.0 or 6.1, not '1.2'" in said
    assert f"failed on Python {THIS_PYTHON} with Django 1.2: see its output" in said


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (
            "FAILED tests/unit/test_ids.py::test_one[a - b] - assert x[1] == 2",
            "tests/unit/test_ids.py::test_one[a - b]",
        ),
        ("ERROR tests/unit/test_ids.py", "tests/unit/test_ids.py"),
        ("make[1]: *** [Makefile:110: pair-demo] Error 1", "demo"),
        ("make: *** [Makefile:103: test-pair] Error 2", None),
        ("tests/unit/test_ids.py ..F.", None),
    ],
)
def test_the_names_of_what_failed_are_read_off_the_run(line: str, name: str | None) -> None:
    assert failed_name(f"{line}\n") == name


def test_the_table_has_a_row_for_each_python_and_a_column_for_each_django() -> None:
    results = {
        ("3.11", "5.2"): Result(word="passed", minutes=12.34),
        ("3.13", "5.2"): Result(word="not found"),
        ("3.13", "6.1"): Result(word="failed", minutes=3.0, failed=["demo"]),
    }

    assert table(results).splitlines() == [
        "             Django 5.2       Django 6.1",
        "Python 3.11  passed 12.3 min  -",
        "Python 3.13  not found        failed 3.0 min",
    ]


def test_the_makefile_names_only_pairs_that_can_be_made() -> None:
    """Each pair has a lock file, and Django 6 needs Python 3.12."""
    (line,) = [line for line in (matrix.ROOT / "Makefile").read_text().splitlines() if line.startswith("PAIRS ?= ")]
    pairs = [pair.split("-") for pair in line.removeprefix("PAIRS ?= ").split()]

    assert len(pairs) == 7
    for python, django in pairs:
        assert (matrix.ROOT / "requirements" / f"dev-django-{django}.txt").exists()
        assert django == "5.2" or python != "3.11"
