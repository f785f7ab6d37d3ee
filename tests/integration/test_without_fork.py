"""On a Python without fork(), poll() and fcntl, as on Windows: the app can be imported, submits and sends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from config.local.processes import PATIENCE, free_port
from email_integration.smtpd import SMTPServer
from tests.stack import ROOT

PROGRAM = """
# These look at sys.platform, which says here what it is.
import os, select, sys, time
import billiard.process, celery.app.base, celery.platforms, django, kombu, uuid
MISSING = {
    os: ("register_at_fork", "fork", "forkpty", "getuid", "geteuid", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC",
         "O_DIRECTORY"),
    select: ("poll", "epoll"),
    time: ("tzset",),
}
for module, names in MISSING.items():
    for name in names:
        delattr(module, name)
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None

import asyncio, importlib, json, pkgutil
import django
django.setup()
from django.conf import settings
from django.core.mail import EmailMessage
from django.core.management import call_command
import email_integration
for module in pkgutil.walk_packages(email_integration.__path__, "email_integration."):
    if not module.name.startswith("email_integration.migrations"):
        importlib.import_module(module.name)
call_command("migrate", verbosity=0)

from email_integration import asend_email, submit_many
from email_integration.backends.direct import EmailBackend as Direct
from email_integration.backends.queued import EmailBackend as Queued
from email_integration import references
from email_integration.exceptions import SecretUnavailable
from email_integration.models import Delivery, SMTPConfig
from email_integration.tasks import send_email

SMTPConfig.objects.create(name="Ours", host="localhost", port=int(sys.argv[1]), username="user", password="password",
                          from_email="noreply@example.com", is_active=True)
def message():
    return EmailMessage("Subject", "Text", to=["kim@example.com"])
send_email.delay("Subject", "Text", to=["kim@example.com"])
asyncio.run(asend_email("Subject", "Text", to=["kim@example.com"]))
submit_many([message()])
Queued().send_messages([message()])
in_files = Delivery.objects.exclude(content_file="").count()
large = message()
large.attach("large.bin", b"x" * 5_000_000, "application/octet-stream")
submit_many([large])
in_files = [in_files, Delivery.objects.exclude(content_file="").count()]
direct = [Direct().send_messages([message(), message()])]
settings.EMAIL_INTEGRATION["SECRET_REFERENCES"] = ["file:/etc/hostname"]
try:
    references.resolve("file:/etc/hostname")
except SecretUnavailable as error:
    said = str(error)
queued = Delivery.objects.filter(status="queued").count()
print(json.dumps({"queued": queued, "sent": direct, "in files": in_files, "said": said}))
"""


def test_the_app_imports_submits_and_sends(smtp_server: Callable[..., SMTPServer], tmp_path: Path) -> None:
    server = smtp_server()
    env = {
        **os.environ,
        "BROKER_TIMEOUT": "0.1",
        "BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "VAR_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(server.port)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "queued": 5,
        "sent": [2],
        "in files": [0, 1],
        "said": "On Windows, passwords cannot be read from a file. Use an environment variable: env:NAME.",
    }
    assert len(server.messages) == 2
