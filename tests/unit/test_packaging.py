"""The contents of the wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from config.local.processes import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "worker" / "email_integration"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from this checkout."""
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    (path,) = target.glob("celery_mail_dispatch-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_alone(wheel: zipfile.ZipFile) -> None:
    """The folders config/ and tests/, and anything else, must not reach the site-packages of other projects."""
    folders = {name.split("/")[0] for name in wheel.namelist()}

    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"email_integration"}
    assert len(folders) == 2


def test_the_wheel_holds_the_whole_package(wheel: zipfile.ZipFile) -> None:
    """Including py.typed, templates, translations, static files and migrations."""
    expected = {
        str(path.relative_to(PACKAGE.parent))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert "email_integration/py.typed" in expected
    assert expected <= set(wheel.namelist())


def test_the_wheel_carries_the_licence(wheel: zipfile.ZipFile) -> None:
    """The MIT licence requires the notice in all copies."""
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


@pytest.mark.parametrize(
    "name", ["uv.txt", *(f"dev-django-{django}.txt" for django in ("5.2", "6.0", "6.1")), "run.txt", "docs.txt"]
)
def test_the_lock_files_name_no_machine(name: str) -> None:
    """They contain no registry address and no path, so they work on any machine."""
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        assert "://" not in line
        assert not line.startswith("-")
        assert " /" not in line
