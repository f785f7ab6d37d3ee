"""Memory needed to submit a large mail, in a separate process: its peak as counted by the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.local.processes import PATIENCE

ROOT = Path(__file__).resolve().parents[2]

#: Octets of the attachment.
SIZE = 64 * 1024 * 1024

PROGRAM = """
import os, sys
import django
django.setup()
from django.core.mail import EmailMessage
from django.core.management import call_command
from email_integration.ledger import task_queue
from email_integration.queue.submission import submit
from email_integration.tasks import send_email

from django.conf import settings

size = int(sys.argv[2])
if sys.argv[3] == "database":
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "PAYLOAD_STORAGE": ""}
SMALL = dict(subject="S", body="B", from_email="a@example.com", to=["kim@example.com"])


def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024


def by_message(octets):
    message = EmailMessage(**SMALL)
    message.attach("a.bin", octets, "application/octet-stream")
    return submit(message)


def by_task(octets):
    return send_email(**SMALL, attachments=[("a.bin", octets, "application/octet-stream")])


way = {"submit": by_message, "send_email": by_task}[sys.argv[1]]
task_queue.notify_on_commit = lambda *args, **kwargs: None
call_command("migrate", verbosity=0)
way(b"small")
before = peak()
octets = os.urandom(size)
way(octets)
print((peak() - before) / size)
"""


@pytest.mark.parametrize("way", ["submit", "send_email"])
def test_submitting_takes_at_most_three_times_its_size(way: str, tmp_path: Path) -> None:
    """This includes the octets that the caller holds."""
    assert times_its_size(way, "storage", f"sqlite:///{tmp_path}/db.sqlite3") <= 3.0


def times_its_size(way: str, place: str, database: str) -> float:
    """Return the peak of a process that submits an attachment, divided by the attachment's size. The content is stored
    in ``place``.
    """
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": database}
    command = [sys.executable, "-c", PROGRAM, way, str(SIZE), place]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])
