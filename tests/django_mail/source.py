"""The source distribution of the Django that is installed: its tests are in no wheel.

It comes through pip, as this machine has it configured, and stays in a cache outside of the checkout. The lock file of
the Django in use decides: nothing is unpacked unless its hash is there.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django

LOCK = Path(__file__).resolve().parents[2] / "requirements" / f"dev-django-{django.VERSION[0]}.{django.VERSION[1]}.txt"

#: Seconds for pip to fetch 11 MB over a slow network. pip itself notices a network that is silent, or not there.
DOWNLOAD_LIMIT = 600


class Unavailable(Exception):
    """The source distribution cannot be had here."""


def unpack_mail_tests(folder: Path) -> Path:
    """Unpack Django's mail tests below ``folder`` and return what is to be on the path to import ``mail.tests``.

    Raises ``Unavailable``.
    """
    archive = _archive()
    top = archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive) as tar:
        # Python 3.11 has it from 3.11.4 on; without, the hash has to do.
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        tar.extractall(folder, members=[member for member in tar if member.name.startswith(f"{top}/tests/mail/")])
    return folder / top / "tests"


def _archive() -> Path:
    locked = _locked()
    kept = _cache() / f"django-{django.__version__}.tar.gz"
    if not (kept.is_file() and _sha256(kept) in locked):
        _download(locked, kept)
    return kept


def _download(locked: str, kept: Path) -> None:
    """Have pip fetch and check it; moved into its place whole, for others may be at it too."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        requirement = Path(folder) / "django.txt"
        requirement.write_text(locked)
        options = ["--timeout", "30", "--retries", "3", "--require-hashes", "--no-deps", "--no-binary", "django"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", folder, "-r", str(requirement)]
        try:
            subprocess.run(pip, check=True, capture_output=True, text=True, timeout=DOWNLOAD_LIMIT)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"pip did not get Django's source distribution within {DOWNLOAD_LIMIT} s") from error
        except subprocess.CalledProcessError as error:
            errors = [line for line in error.stderr.splitlines() if line.startswith("ERROR: ")]
            reason = "; ".join(errors) or error.stderr
            raise Unavailable(f"pip did not get Django's source distribution: {reason}") from error
        (archive,) = Path(folder).glob("*.tar.gz")
        archive.replace(kept)


def _locked() -> str:
    """The lock file's lines for the installed Django, hashes included."""
    found = re.search(rf"^django=={re.escape(django.__version__)} (?:.*\\\n)*.*", LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise Unavailable(f"Django {django.__version__} is installed, but not the one in {LOCK.name}")
    return found[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "celery-mail-dispatch"
