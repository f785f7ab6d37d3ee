"""The wheel in another project: a new Django project with only the settings of the README."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.local.processes import PATIENCE, wait_until
from config.local.valkey import Valkey
from email_integration.smtpd import SMTPServer
from tests.host_project import CONFIGURE, ROOT, SETTINGS, HostProject

pytestmark = pytest.mark.extra

#: A warning ends the process, except Celery's own about its user: containers run tests as root.
_STRICT = ("-W", "error", "-W", "default:You're running the worker with superuser privileges")

SEND = """
import json, socket, sys
from email_integration.tasks import send_email
connections, waits = [], []
sys.addaudithook(lambda event, arguments: connections.append(event) if event == "socket.connect" else None)
class Watched(socket.socket):
    def settimeout(self, seconds):
        waits.append(seconds)
        super().settimeout(seconds)
socket.socket = Watched
result = send_email.apply_async(({subject!r}, "Text"), {{"to": ["kim@example.com"]}}, {options})
measured = {{"connections": len(connections), "waits": waits}}
print(json.dumps({{**measured, "result": result.get(timeout=100) if {wait} else None}}))
"""


class Project(HostProject):
    """A project with the wheel's content, which Python finds before this checkout."""

    def send(self, subject: str, *, wait: bool = True, **options: Any) -> Any:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        return json.loads(self.shell(SEND.format(subject=subject, options=given, wait=wait)))

    def send_without_broker(self, subject: str) -> None:
        """Submit a mail; check that it tries the broker at most twice, a second (BROKER_TIMEOUT) each.

        Before that, it asks the cache once, which may take a quarter of a second. These time limits are the app's
        defaults, not settings that a project must know: without them the call would hang.
        """
        measured = self.send(subject, wait=False)
        of_cache = [seconds for seconds in measured["waits"] if seconds == 0.25]
        of_broker = [seconds for seconds in measured["waits"] if seconds != 0.25]
        assert 1 <= measured["connections"] - bool(of_cache) <= 2
        assert of_broker
        assert all(seconds is not None and 0 < seconds <= 1 for seconds in of_broker)


@pytest.fixture
def project(tmp_path: Path, valkey: Valkey) -> Iterator[Project]:
    """The project that ``django-admin startproject`` makes, with Celery and this app added."""
    hatchling = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(hatchling, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True, capture_output=True, timeout=PATIENCE)
    project = Project(tmp_path, SETTINGS, site=site, env={"BROKER": valkey.url})
    yield project
    project.end()


def test_a_new_project_sends_its_first_mail(
    project: Project,
    smtp_server: Callable[..., SMTPServer],
    valkey: Valkey,
) -> None:
    server = smtp_server()
    where = project.shell("import email_integration; print(email_integration.__file__)")
    assert str(project.folder.parent / "site") in where
    project.run(*_STRICT, "manage.py", "check", "--fail-level", "WARNING")
    project.run("manage.py", "makemigrations", "--check", "--dry-run")
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.shell(CONFIGURE.format(port=server.port))
    running = project.start_worker(python=_STRICT)

    assert project.send("first")["result"]["status"] == "accepted"
    # The app brings beat's entry with it: nothing else wakes a worker for a mail that is due later.
    assert project.send("later", countdown=0.5)["result"]["status"] == "accepted"
    assert "Sending due task email_integration" in running.read_log()
    valkey.freeze()
    project.send_without_broker("frozen")
    valkey.thaw()
    assert [message.subject for message in server.messages][:2] == ["first", "later"]


def test_its_mails_leave_once_its_broker_is_back(
    project: Project,
    smtp_server: Callable[..., SMTPServer],
    valkey: Valkey,
) -> None:
    """The project has the app's default times, so up to half a minute passes before a sweep.

    Kombu 5.7 may end the worker when its broker dies during a message that is not acknowledged. The test then starts
    the worker again, as a supervisor does.
    """
    server = smtp_server()
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.shell(CONFIGURE.format(port=server.port))
    running = project.start_worker(python=_STRICT)
    valkey.freeze()
    project.send_without_broker("frozen")
    valkey.kill()
    project.send_without_broker("stopped")
    valkey.start()

    def have_both_left() -> bool:
        nonlocal running
        if not running.is_running:
            running = project.start_worker(python=_STRICT)
        return len(server.messages) == 2

    wait_until(have_both_left, seconds=300, what="both mails")
