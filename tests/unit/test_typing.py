"""The types of the public names: a project's code passes mypy in strict mode, and its mistakes are found."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import email_integration
from config.local.processes import PATIENCE
from email_integration import delivery, testing

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "typing"
PROJECT = FOLDER / "project.py"

#: Apart from the cache of 'make check', whose options differ.
CACHE = ROOT / ".mypy_cache" / "typing"


def checked(file: Path) -> subprocess.CompletedProcess[str]:
    """Check a file as a project does that has this app on its path."""
    options = ["--config-file", str(FOLDER / "mypy.ini"), "--cache-dir", str(CACHE), "--no-error-summary"]
    env = {**os.environ, "MYPYPATH": os.pathsep.join([str(ROOT / "worker"), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(file)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_a_project_passes_and_each_of_its_mistakes_is_found() -> None:
    done = checked(PROJECT)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_a_type_that_has_changed_is_reported(tmp_path: Path) -> None:
    """The check above can fail: an ignored mistake that is none, and another type than the asserted one."""
    file = tmp_path / "changed.py"
    file.write_text(
        "from typing import assert_type\n"
        "from email_integration.delivery import cancel\n"
        'cancel("1")  # type: ignore[arg-type]\n'
        'assert_type(cancel("1"), str)\n'
    )
    done = checked(file)
    assert done.returncode == 1, done.stderr
    assert 'Unused "type: ignore" comment' in done.stdout
    assert "assert-type" in done.stdout


def test_the_project_uses_every_public_name() -> None:
    """Of the modules that list theirs."""
    imported: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(PROJECT.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            imported.setdefault(node.module, set()).update(alias.name for alias in node.names)
    for module in (email_integration, delivery, testing):
        assert set(module.__all__) - imported[module.__name__] <= {"ParsedMail"}  # a base class
