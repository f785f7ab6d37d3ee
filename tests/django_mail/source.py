"""The source distribution of the installed Django: no wheel contains its tests.

Pip fetches it, as configured on this machine, into a cache outside the checkout. The lock file of the Django in use
must list the archive's hash, or it is not unpacked.
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

#: Seconds for pip to fetch 11 MB over a slow network. Pip itself detects a silent or missing network.
DOWNLOAD_LIMIT = 600


class Unavailable(Exception):
    """The source distribution is not available here."""


def unpack_mail_tests(folder: Path) -> Path:
    """Unpack Django's mail tests below ``folder``; return the directory from which ``mail.tests`` can be imported.

    Raises ``Unavailable``.
    """
    archive = _archive()
    top = archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive) as tar:
        # Python 3.11 has this filter from 3.11.4 on; on older ones the hash has to suffice.
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
    """Have pip fetch and check the archive.

    It is moved into place complete, because other processes may fetch it too.
    """
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
    """Return the lock file's lines for the installed Django, including the hashes."""
    found = re.search(rf"^django=={re.escape(django.__version__)} (?:.*\\\n)*.*", LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise Unavailable(f"Django {django.__version__} is installed, but not the one in {LOCK.name}")
    return found[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "celery-mail-dispatch"
