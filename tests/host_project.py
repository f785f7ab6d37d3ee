"""A host project: the output of ``django-admin startproject``, with Celery and this app added."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from config.local.processes import PATIENCE, Process

ROOT = Path(__file__).resolve().parent.parent

#: The code from Celery's own guide, 'First steps with Django'.
CELERY = """
import os
from celery import Celery
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""

#: The README's additions to the settings of a new project. BROKER is also the URL of the cache.
SETTINGS = """
import os
INSTALLED_APPS += ["django_celery_results", "simple_history", "email_integration"]
MIDDLEWARE += ["simple_history.middleware.HistoryRequestMiddleware"]
CELERY_BROKER_URL = os.environ["BROKER"]
CELERY_RESULT_BACKEND = "django-db"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": os.environ["BROKER"]}}
EMAIL_INTEGRATION = {"SMTP_PASSWORD_KEYS": [os.environ["SMTP_PASSWORD_KEYS"]]}
"""

#: Use the PostgreSQL database whose URL is in DATABASE.
POSTGRESQL = """
import dj_database_url
DATABASES = {"default": dj_database_url.parse(os.environ["DATABASE"])}
"""

#: A program that creates the active configuration; ``CONFIGURE.format(port=…)``.
CONFIGURE = """
from email_integration.models import SMTPConfig
SMTPConfig.objects.create(name="Ours", host="localhost", port={port}, username="user", password="password",
                          from_email="noreply@example.com", is_active=True)
"""

#: A program that sends a mail, waits until it is finished, and prints its status.
SEND = """
from email_integration.tasks import send_email
print(send_email.delay("Subject", "Text", to=["kim@example.com"]).get(timeout=100)["status"])
"""

#: Variables of this process's own project, which the host project must not see.
_OURS = ("BROKER_URL", "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DEBUG", "ENV_FILE", "VAR_DIR")


class HostProject:
    """A Django project ``proj`` in ``parent / "proj"``, with these settings below those of ``startproject``.

    ``site`` is the folder from which it imports the app. ``env`` is added to the environment of all its processes.
    """

    def __init__(
        self, parent: Path, settings: str, *, site: Path = ROOT / "worker", env: Mapping[str, str] | None = None
    ) -> None:
        subprocess.run(
            [sys.executable, "-m", "django", "startproject", "proj"], cwd=parent, check=True, timeout=PATIENCE
        )
        self.folder = parent / "proj"
        (self.folder / "proj" / "celery.py").write_text(CELERY)
        (self.folder / "proj" / "__init__.py").write_text(
            "from .celery import app as celery_app\n__all__ = ['celery_app']\n"
        )
        with (self.folder / "proj" / "settings.py").open("a") as file:
            file.write(settings)
        self.env = {
            name: value for name, value in os.environ.items() if name not in _OURS and not name.startswith("PYTEST")
        }
        self.env |= {"PYTHONPATH": str(site), "DJANGO_SETTINGS_MODULE": "proj.settings", **(env or {})}
        self.started: list[Process] = []

    def attempt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments in the project, without checking the result."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def run(self, *arguments: str) -> str:
        """Run Python with these arguments in the project, and return the output. It must succeed."""
        done = self.attempt(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shell(self, program: str) -> str:
        """Run a program in the project, with Django set up, and return the output."""
        return self.run("-c", f"import django; django.setup()\n{program}")

    def start(self, name: str, *arguments: str, ready: str) -> Process:
        """Start Python with these arguments, and wait until its log contains ``ready``."""
        # Process adds to this process's environment, but the project needs a clean one.
        clean = "import os, sys; os.execvpe(sys.argv[1], sys.argv[1:], eval(os.environ['CLEAN']))"
        command = [sys.executable, "-c", clean, sys.executable, *arguments]
        process = Process(
            name, command, log=self.folder / f"{name}.log", env={"CLEAN": repr(self.env)}, cwd=self.folder
        )
        self.started.append(process)
        process.wait_for_log(ready)
        return process

    def start_worker(self, *options: str, python: tuple[str, ...] = (), beat: bool = True) -> Process:
        """Run ``celery -A proj worker -B`` with these options.

        ``python`` has options for Python itself.
        """
        command = ("-m", "celery", "-A", "proj", "worker", *(["-B"] if beat else []), "--loglevel", "INFO")
        return self.start("worker", *python, *command, *options, ready=" ready.")

    def start_beat(self, *options: str) -> Process:
        """Run ``celery -A proj beat`` with these options: greenlet pools cannot run beat."""
        return self.start(
            "beat", "-m", "celery", "-A", "proj", "beat", "--loglevel", "INFO", *options, ready="Starting"
        )

    def end(self) -> None:
        """End all its processes."""
        for process in self.started:
            process.end()
