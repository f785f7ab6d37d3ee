"""The walks of docs/tutorial.md and docs/adding.md: every file written and every command run as it stands there.

Only the ports are others, for those of the page may be taken.
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
#: A machine that has its hands full takes several times as long as an idle one: half a minute each.
pytestmark = pytest.mark.extra

_READY = {"worker": " ready.", "beat": "beat: Starting"}


def packages(folder: Path) -> Path:
    """All that is installed here but this package, for a venv that shall install it by itself and has no network."""
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
    """Somebody in a folder, with a shell, some terminals and an editor."""

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
        """Do all that the page says to a reader with the Django in use, in its order."""
        said = ""
        is_terminal = False
        for block in blocks(self.with_our_ports(page.read_text())):
            before, kind, text = block.before, block.kind, block.text
            # Blocks that follow each other share the paragraph before the first.
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
        """Run the commands with that word again: the page has said to do the same in the admin before."""
        for block in blocks(self.with_our_ports(page.read_text())):
            if block.kind == "sh" and word in block.text:
                self.run(block.text)

    def run(self, commands: str) -> str:
        """What they print; each must succeed."""
        script = f"set -e\n{commands}\ndeclare -px > {self._state}\n"
        done = subprocess.run(self._shell(script), cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def is_of_the_wheel(self) -> bool:
        """Whether the app that runs there is the one that the walker has installed."""
        where = self.run("python -c 'import email_integration; print(email_integration.__file__)'")
        return Path(where.strip()).is_relative_to(self.folder / ".venv")

    def logs(self) -> str:
        return "\n".join(f"--- {terminal.name}\n{terminal.read_log()[-4000:]}" for terminal in self._terminals)

    def printed(self, port: int) -> str:
        """What the terminal with that port of the page has printed."""
        (found,) = [terminal for terminal in self._terminals if str(self._ports[port]) in terminal.name]
        return found.read_log()

    def close(self) -> None:
        for terminal in reversed(self._terminals):
            terminal.end()

    def with_our_ports(self, text: str) -> str:
        """The text, with the free ports in the place of those that the pages name."""
        return re.sub(r"\b\d{4}\b", lambda found: str(self._ports.get(int(found[0]), found[0])), text)

    def _edit(self, before: str, text: str) -> None:
        how, name = re.fullmatch(r"(Write|[Aa]t the end of) `([\w./]+)`(?:, add)?:", before).groups()  # type: ignore[union-attr]
        with (self.folder / name).open("w" if how == "Write" else "a") as file:
            file.write(text if how == "Write" else f"\n{text}")

    def open_terminal(self, command: str) -> None:
        """Start what goes on running, and wait until it does."""
        number = len(self._terminals)
        # What one terminal exports, another one does not have.
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
    """In an empty folder, with the wheel, a Redis server, and free ports in the place of those of the page."""
    walk = Walk(tmp_path, ports={6379: valkey.port, **{port: free_port() for port in (8000, 8025, 8026)}})
    yield walk
    walk.close()


def test_the_tutorial_leads_to_the_first_mail_and_through_a_switch(walk: Walk) -> None:
    """Run as it stands: the first mails come out of the first server, those after the switch out of the second."""
    walk.follow(ROOT / "docs" / "tutorial.md")

    newest = walk.run("python manage.py delivery list --limit 1").split()[0]
    assert "Second" in walk.run(f"python manage.py delivery show {newest}")
    assert walk.is_of_the_wheel()
    wait_until(lambda: "Subject: Your order" in walk.printed(8025), what="the mail of send_mail()")
    assert "Subject: Welcome" in walk.printed(8025)
    assert "Subject: Switched" in walk.printed(8026)
    assert "Subject: Switched" not in walk.printed(8025)
    # A reader who has added both in the admin before.
    walk.repeat(ROOT / "docs" / "tutorial.md", "SMTPConfig.objects")


#: What a project has before, in its settings.
_SETTINGS = """
CELERY_BROKER_URL = "redis://127.0.0.1:6379/0"
DEFAULT_FROM_EMAIL = "proj@example.com"
"""

#: Its server: Django takes one or the other.
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
    """Run as it stands, in a project with a Celery app and a mail server in Django's settings."""
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
