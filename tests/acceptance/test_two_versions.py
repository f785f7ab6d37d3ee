"""A new version is deployed while mail flows: old and new code use the migrated tables at the same time."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from config.local.processes import PATIENCE, Process, Processes, wait_until
from config.local.valkey import Valkey
from config.local.workers import start_beat, start_worker
from email_integration.smtpd import SMTPServer
from tests.stack import FAST, PATIENT, ROOT

pytestmark = pytest.mark.extra

FIELD = '    campaign = models.CharField(max_length=20, db_default="none")\n'

#: A line of the model, beside which the new field goes.
BESIDE = "    options = models.TextField(blank=True)\n"

MIGRATION = """
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("email_integration", "{before}")]
    operations = [
        migrations.AddField("delivery", "campaign", models.CharField(max_length=20, db_default="none")),
    ]
"""

#: An application that submits a mail now and then, each in its own transaction, until a file exists.
SUBMITTER = """
import os, sys, time
import django
django.setup()
from email_integration.tasks import send_email
while not os.path.exists(sys.argv[1]):
    send_email.delay("Subject", "Text", to=["kim@example.com"])
    time.sleep(0.05)
"""

CONFIGURATION = """
import sys
import django
django.setup()
from email_integration.models import SMTPConfig
SMTPConfig.objects.create(
    name="Only", host="localhost", port=int(sys.argv[1]), use_tls=False, from_email="mail@example.com", is_active=True
)
"""


class Version:
    """The code of one version and its processes, which run beside those of the other version."""

    def __init__(self, name: str, code: Path, folder: Path, common: dict[str, str]) -> None:
        self.name = name
        self._env = {**os.environ, **common, "PYTHONPATH": f"{code}{os.pathsep}{ROOT}"}
        self.processes = Processes(folder / "logs", env=self._env, cwd=ROOT)

    def run(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr

    def start_worker(self) -> Process:
        return start_worker(self.processes, name=self.name)

    def submit(self, until: Path) -> Process:
        return self.processes.start(f"{self.name}-web", [sys.executable, "-c", SUBMITTER, str(until)])


def group_of(child: int) -> int:
    """Return the worker of this pool process (its process group), or 0 if the process has ended."""
    try:
        return os.getpgid(child)
    except ProcessLookupError:
        return 0


def next_version(folder: Path) -> Path:
    """Return a copy of the package with one more migration: a NOT NULL column with a database default."""
    code = folder / "next"
    shutil.copytree(ROOT / "worker", code, ignore=shutil.ignore_patterns("__pycache__"))
    app = code / "email_integration"
    (before,) = sorted(file.stem for file in (app / "migrations").glob("0*.py"))[-1:]
    (app / "migrations" / "9999_campaign.py").write_text(MIGRATION.format(before=before))
    models = app / "models" / "delivery.py"
    text = models.read_text()
    assert text.count(BESIDE) == 1
    models.write_text(text.replace(BESIDE, FIELD + BESIDE))
    return code


def test_an_old_and_a_new_worker_share_the_mail_and_none_is_lost_or_doubled(
    valkey: Valkey, smtp_server: Callable[..., SMTPServer], tmp_path: Path
) -> None:
    """The new version migrates while the old one sends; then its workers start, then its web process."""
    server = smtp_server(security="plain", user=None)
    file = tmp_path / "db.sqlite3"
    times = {name: str(value) for name, value in FAST.items()}
    common = {**times, **PATIENT, "DATABASE_URL": f"sqlite:///{file}", "DJANGO_SETTINGS_MODULE": "config.settings"}
    old = Version("old", ROOT / "worker", tmp_path, common)
    new = Version("new", next_version(tmp_path), tmp_path, common)

    def accepted() -> Counter[int]:
        """Return how many mails each worker has sent, by process id; 0 stands for pool processes that have ended."""
        with sqlite3.connect(file, timeout=20) as database:
            asked = "SELECT worker FROM email_integration_delivery WHERE status = 'accepted'"
            children = [int(worker.rpartition(":")[2]) for (worker,) in database.execute(asked)]
        return Counter(map(group_of, children))

    def has_sent(more: int, *workers: Process) -> bool:
        now = accepted()
        return all(now[worker.pid] >= before[worker.pid] + more for worker in workers)

    before: Counter[int] = Counter()
    try:
        old.run("manage.py", "migrate", "--verbosity", "0")
        old.run("-c", CONFIGURATION, str(server.port))
        first = old.start_worker()
        start_beat(old.processes, schedule=tmp_path / "schedule")
        old_web = old.submit(until=tmp_path / "old-ends")
        wait_until(lambda: has_sent(10, first), what="mails of the old version alone")

        new.run("manage.py", "migrate", "--verbosity", "0")
        before = accepted()
        wait_until(lambda: has_sent(10, first), what="mails of the old version on the new tables")
        second = new.start_worker()
        new_web = new.submit(until=tmp_path / "new-ends")
        before = accepted()
        wait_until(lambda: has_sent(10, first, second), what="mails of both versions")
        (tmp_path / "old-ends").touch()
        assert old_web.wait(seconds=PATIENCE) == 0, old_web.read_log()
        first.end()
        before = accepted()
        wait_until(lambda: has_sent(10, second), what="mails of the new version alone")
        (tmp_path / "new-ends").touch()
        assert new_web.wait(seconds=PATIENCE) == 0, new_web.read_log()
        with sqlite3.connect(file, timeout=20) as database:
            (mails,) = database.execute("SELECT count(*) FROM email_integration_delivery").fetchone()
        wait_until(lambda: accepted().total() == mails, what="all mails")
    finally:
        new.processes.end()
        old.processes.end()

    assert len(server.messages) == len({message.message_id for message in server.messages}) == mails
    with sqlite3.connect(file) as database:
        found = database.execute("SELECT campaign, count(*) FROM email_integration_delivery GROUP BY 1").fetchall()
    assert found == [("none", mails)]
