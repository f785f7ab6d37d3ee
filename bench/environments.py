"""Environments of the contenders, outside the repository, made from the lock files in ``requirements/``."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = Path(__file__).resolve().parent / "requirements"

#: The environment of this checkout has the packages that ``make run`` and the image install.
LOCKS = {"ours": ROOT / "requirements" / "run.txt"}


def folder() -> Path:
    """Return the folder of the environments."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "celery-mail-dispatch" / "bench"


def program(environment: str, name: str = "python") -> str:
    """Return the path of a program in an environment."""
    return str(folder() / environment / "bin" / name)


def prepare(environment: str) -> None:
    """Create the environment, or create it again if its lock file has changed."""
    lock = LOCKS.get(environment, REQUIREMENTS / f"{environment}.txt")
    here = folder() / environment
    marker = here / ".installed"
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    if marker.exists() and marker.read_text() == wanted:
        return
    print(f"Installing the environment {environment!r} ...", flush=True)
    shutil.rmtree(here, ignore_errors=True)
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, here], check=True)
    python = program(environment)
    subprocess.run([*uv, "pip", "install", "--python", python, "--require-hashes", "-r", lock], check=True)
    marker.write_text(wanted)
