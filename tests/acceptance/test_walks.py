"""The steps of docs/tutorial.md and docs/adding.md: the test writes every file and runs every command as shown.

Only the ports differ, because those of the pages may be in use.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import django
import pytest

from config.local.processes import LOOPBACK, PATIENCE, Process, free_port, wait_until
from config.local.valkey import Valkey
from tests.host_project import CELERY

from .pages import blocks

ROOT = Path(__file__).resolve().parents[2]

_OWN_TERMINAL = re.compile(r"terminal of its own")
#: Each takes half a minute on an idle machine, and several times as long on a busy one.
pytestmark = pytest.mark.extra

_READY = {"worker": " ready.", "beat": "beat: Starting"}


def packages(folder: Path) -> Path:
    """Link all installed packages except this one, for a venv that installs this package without a network."""
    folder.mkdir()
    for path in map(Path, sys.path):
        if path.name != "site-packages":
            continue
        for entry in path.iterdir():
            ours = "mail_dispatch" in entry.name or entry.suffix == ".pth"
            if not ours and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
    return folder


class Walk:
    """A reader's folder, shell, terminals and editor."""

    def __init__(self, folder: Path, *, ports: dict[int, int]) -> None:
        self.folder = folder / "walk"
        self.folder.mkdir()
        self._logs = folder / "logs"
        self._state = folder / "state"
        self._ports = ports
        self._terminals: list[Process] = []
        hatchling = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
        wheels = str(self.folder / "wheels")
        subprocess.run([*hatchling, wheels], cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
        ours = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DEBUG", "ENV_FILE", "VAR_DIR", "SMTP_PASSWORD_KEYS")
        env = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("DJANGO_")}
        env |= {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(packages(folder / "packages")),
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        self._known = (*env, "PATH", "VIRTUAL_ENV", "PWD", "OLDPWD", "SHLVL", "_")
        # A shell keeps its folder and its variables from one command to the next.
        subprocess.run(
            ["bash", "-c", f"declare -px > {self._state}"], env=env, cwd=self.folder, check=True, timeout=PATIENCE
        )

    def follow(self, page: Path) -> None:
        """Follow all instructions of the page for the Django in use, in their order."""
        said = ""
        is_terminal = False
        for block in blocks(self.with_our_ports(page.read_text())):
            before, kind, text = block.before, block.kind, block.text
            # Consecutive blocks share the paragraph before the first.
            is_terminal = bool(_OWN_TERMINAL.search(before)) or (is_terminal and not before)
            if kind == "python":
                self._edit(before, text)
            elif kind == "sh" and (is_terminal or " worker " in text or " beat " in text):
                self.open_terminal(text.strip())
            elif kind == "sh":
                said = self.run(text)
            elif kind == "text":
                for line in text.splitlines():
                    assert line in said.splitlines()

    def repeat(self, page: Path, word: str) -> None:
        """Run the commands that contain ``word`` again, as for a reader who did the same in the admin before."""
        for block in blocks(self.with_our_ports(page.read_text())):
            if block.kind == "sh" and word in block.text:
                self.run(block.text)

    def run(self, commands: str) -> str:
        """Return the output of the commands; each must succeed."""
        script = f"set -e\n{commands}\ndeclare -px > {self._state}\n"
        done = subprocess.run(self._shell(script), cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def is_of_the_wheel(self) -> bool:
        """Return whether the app that runs there is the one installed from the wheel."""
        where = self.run("python -c 'import email_integration; print(email_integration.__file__)'")
        return Path(where.strip()).is_relative_to(self.folder / ".venv")

    def logs(self) -> str:
        return "\n".join(f"--- {terminal.name}\n{terminal.read_log()[-4000:]}" for terminal in self._terminals)

    def printed(self, port: int) -> str:
        """Return the output of the terminal that uses this port of the page."""
        (found,) = [terminal for terminal in self._terminals if str(self._ports[port]) in terminal.name]
        return found.read_log()

    def close(self) -> None:
        for terminal in reversed(self._terminals):
            terminal.end()

    def with_our_ports(self, text: str) -> str:
        """Return the text with free ports in place of the ports that the pages name."""
        return re.sub(r"\b\d{4}\b", lambda found: str(self._ports.get(int(found[0]), found[0])), text)

    def _edit(self, before: str, text: str) -> None:
        how, name = re.fullmatch(r"(Write|[Aa]t the end of) `([\w./]+)`(?:, add)?:", before).groups()  # type: ignore[union-attr]
        with (self.folder / name).open("w" if how == "Write" else "a") as file:
            file.write(text if how == "Write" else f"\n{text}")

    def open_terminal(self, command: str) -> None:
        """Start a long-running command, and wait until it is ready."""
        number = len(self._terminals)
        # A variable exported in one terminal does not exist in another.
        known = f"' {' '.join(self._known)} '"
        forget = f'for name in $(compgen -e); do case {known} in *" $name "*) ;; *) unset $name;; esac; done'
        terminal = Process(
            command, self._shell(f"{forget}\nexec {command}"), log=self._logs / f"{number}.log", cwd=self.folder
        )
        self._terminals.append(terminal)
        for word, line in _READY.items():
            if f" {word} " in command:
                terminal.wait_for_log(line)
        for port in re.findall(rf"{re.escape(LOOPBACK)}:(\d+)", command):
            wait_until(lambda port=port: _answers(int(port)), what=command)  # type: ignore[misc]

    def _shell(self, script: str) -> list[str]:
        return ["env", "-i", "bash", "-c", f". {self._state}\n{script}"]


def _answers(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def walk(tmp_path: Path, valkey: Valkey) -> Iterator[Walk]:
    """An empty folder with the wheel, a Redis server, and free ports in place of those of the page."""
    walk = Walk(tmp_path, ports={6379: valkey.port, **{port: free_port() for port in (8000, 8025, 8026)}})
    yield walk
    walk.close()


def test_the_tutorial_leads_to_the_first_mail_and_through_a_switch(walk: Walk) -> None:
    """The first server receives the first mails, the second server those after the switch."""
    walk.follow(ROOT / "docs" / "tutorial.md")

    newest = walk.run("python manage.py delivery list --limit 1").split()[0]
    assert "Second" in walk.run(f"python manage.py delivery show {newest}")
    assert walk.is_of_the_wheel()
    wait_until(lambda: "Subject: Your order" in walk.printed(8025), what="the mail of send_mail()")
    assert "Subject: Welcome" in walk.printed(8025)
    assert "Subject: Switched" in walk.printed(8026)
    assert "Subject: Switched" not in walk.printed(8025)
    # Run the same commands for a reader who has added both configurations in the admin before.
    walk.repeat(ROOT / "docs" / "tutorial.md", "SMTPConfig.objects")


#: The settings of a project before it adds the app.
_SETTINGS = """
CELERY_BROKER_URL = "redis://127.0.0.1:6379/0"
DEFAULT_FROM_EMAIL = "proj@example.com"
"""

#: The project's mail server: each Django accepts one of the two forms.
_MAILERS = """
MAILERS = {
    "default": {
        "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "OPTIONS": {"host": "127.0.0.1", "port": 8025, "timeout": 5},
    }
}
"""
_EMAIL_SETTINGS = """
EMAIL_HOST = "127.0.0.1"
EMAIL_PORT = 8025
EMAIL_TIMEOUT = 5
"""


def test_a_project_that_sends_mail_goes_on_sending_through_this_app(walk: Walk) -> None:
    """Follow the page in a project with a Celery app and a mail server in Django's settings."""
    walk.run("python3 -m venv .venv\n. .venv/bin/activate\npython -m django startproject proj .")
    (walk.folder / "proj" / "celery.py").write_text(CELERY)
    (walk.folder / "proj" / "__init__.py").write_text("from .celery import app as celery_app\n")
    with (walk.folder / "proj" / "settings.py").open("a") as settings:
        server = _MAILERS if django.VERSION >= (6, 1) else _EMAIL_SETTINGS
        settings.write(walk.with_our_ports(_SETTINGS + server))
    walk.open_terminal(walk.with_our_ports("python -m aiosmtpd -n -l 127.0.0.1:8025"))

    walk.follow(ROOT / "docs" / "adding.md")

    assert walk.is_of_the_wheel()
    wait_until(lambda: "Subject: Your order" in walk.printed(8025), what="the mail of send_mail()")
