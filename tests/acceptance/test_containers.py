"""The Dockerfile and docker-compose.yml without Docker: the test runs each of their commands as it is written.

The image's files are laid out in a temporary folder. Paths, ports and the addresses of other containers are replaced by
local ones. The test cannot check that packages install, nor how third-party images behave.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from config.local.processes import PATIENCE, Process, Processes, free_port, wait_until
from config.local.valkey import Valkey
from email_integration.smtpd import SMTPServer
from tests.stack import ROOT

pytestmark = pytest.mark.extra

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
BIN = Path(sys.executable).parent


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


class Host:
    """A machine with the image, the secrets and the containers' network."""

    def __init__(self, folder: Path, *, database: str, redis: str) -> None:
        self.app = folder / "app"
        self.tmp = folder / "tmp"
        self.folder = folder
        self.tmp.mkdir()
        self._database, self._redis = database, redis
        self._ports = {port: str(free_port()) for port in ("8000", "5555")}
        self.processes = Processes(folder / "logs", cwd=self.app)

    def build(self) -> None:
        """Copy the files that the Dockerfile copies from here, and run its commands on them."""
        lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
        left_out = [line.removeprefix("**/") for line in lines if line != "*" and not line.startswith("!")]
        for *sources, target in [line.split() for line in instructions("COPY") if not line.startswith("--from=")]:
            for source in sources:
                assert f"!{source}" in lines, "Docker's build context does not include it"
                to = self.app / (target if len(sources) == 1 else Path(target) / source)
                to.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_file():
                    shutil.copy2(ROOT / source, to)
                else:
                    shutil.copytree(ROOT / source, to, ignore=self._leave_out(left_out))
        (build,) = [line for line in instructions("RUN") if "collectstatic" in line]
        self._run(["sh", "-c", self._here(build)], {})
        # The folders that volumes cover. They belong to this user, because the processes run as this user here.
        (folders,) = [line for line in instructions("RUN") if line.startswith("install ")]
        self._run([word for word in shlex.split(folders) if not word.startswith(("--owner=", "--group="))], {})

    def _leave_out(self, patterns: list[str]) -> Callable[[str, list[str]], set[str]]:
        def ignored(folder: str, names: list[str]) -> set[str]:
            paths = {name: str((Path(folder) / name).relative_to(ROOT)) for name in names}
            return {name for name, path in paths.items() if any(fnmatch(path, p) or fnmatch(name, p) for p in patterns)}

        return ignored

    def make_secrets(self) -> None:
        subprocess.run([ROOT / "deploy/compose/make-secrets.sh"], cwd=self.folder, check=True, timeout=PATIENCE)

    def start(self, name: str) -> Process:
        """Start a container that keeps running."""
        command = self._command(name)
        # Each container has its own host name, and a worker takes its name from that.
        own_name = ["--hostname", f"celery@{name}"] if "worker" in command else []
        return self.processes.start(name, ["env", "-i", *self._environment(name), *command, *own_name])

    def run(self, name: str, command: list[str] | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a container's command, or another command in the container."""
        return self._run(command or self._command(name), OURS[name]["environment"], **more)

    def is_healthy(self, name: str) -> bool:
        """Run the health check as Docker does."""
        kind, *test = OURS[name]["healthcheck"]["test"]
        assert kind in {"CMD", "CMD-SHELL"}
        command = ["sh", "-c", *test] if kind == "CMD-SHELL" else test
        command = [self._here(part).replace("$$", "$") for part in command]
        full = ["env", "-i", *self._environment(name), *command]
        return subprocess.run(full, cwd=self.app, capture_output=True, timeout=PATIENCE, check=False).returncode == 0

    def written(self) -> dict[str, float]:
        """Return each file and folder of the image with its modification time, except the folders of volumes."""
        paths = [path for path in self.app.rglob("*") if not {"payloads", "journals"} & {*path.parts}]
        return {str(path.relative_to(self.app)): path.lstat().st_mtime for path in paths}

    def _command(self, name: str) -> list[str]:
        (of_image,) = instructions("CMD")
        return [self._here(part) for part in OURS[name].get("command") or yaml.safe_load(of_image)]

    def _environment(self, name: str) -> list[str]:
        variables = {**self._variables(OURS[name]["environment"]), "HOSTNAME": name}
        return [f"{key}={value}" for key, value in variables.items()]

    def _variables(self, given: dict[str, str]) -> dict[str, str]:
        (of_image,) = instructions("ENV")
        image = dict(word.split("=", 1) for word in shlex.split(of_image))
        found = {key: self._here(value) for key, value in {**image, **given}.items()}
        found |= {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.app), "TMPDIR": str(self.tmp)}
        return found | {"DATABASE_URL": self._database, "REDIS_URL": self._redis}

    def _run(self, command: list[str], given: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
        variables = {**self._variables(given), **more}
        done = subprocess.run(command, cwd=self.app, env=variables, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def _here(self, text: str) -> str:
        text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)
        places = {"/run/secrets": self.folder / "secrets", "/venv/bin": BIN, "/app": self.app, "/tmp": self.tmp}
        pattern = rf"(?<![\w/])({'|'.join(places)})\b"
        text = re.sub(pattern, lambda place: str(places[place[0]]), text)
        return re.sub(r"\b(8000|5555)\b", lambda port: self._ports[port[0]], text)


@pytest.fixture
def host(tmp_path: Path, valkey: Valkey) -> Iterator[Host]:
    host = Host(tmp_path, database=f"sqlite:///{tmp_path / 'db.sqlite3'}", redis=valkey.url)
    yield host
    host.processes.end()


def test_the_secrets_are_made_once_and_kept_from_others(tmp_path: Path) -> None:
    """Existing secrets stay unchanged, and the secret of each compose file is made."""
    script = ROOT / "deploy/compose/make-secrets.sh"
    subprocess.run([script], cwd=tmp_path, check=True, timeout=PATIENCE)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    declared = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["secrets"]
    assert {one["file"] for one in declared.values()} == {f"secrets/{name}" for name in made}
    assert len(set(made.values())) == len(made)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    login = dict(line.split(" = ") for line in made["rabbitmq_login"].splitlines())
    url = urlsplit(made["broker_url"].strip())
    assert (login["default_user"], login["default_pass"], url.hostname) == (url.username, url.password, "rabbitmq")
    (tmp_path / "secrets" / "secret_key").unlink()
    subprocess.run([script], cwd=tmp_path, check=True, timeout=PATIENCE)
    again = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert {name for name in made if made[name] != again[name]} == {"secret_key"}


def test_the_whole_stack_runs_and_sends_and_writes_nowhere_but_where_it_may(
    host: Host, smtp_server: Callable[..., SMTPServer]
) -> None:
    """Build, migrate and start the stack, check its health, send a test mail as documented, and end it with TERM.

    The image's files must be the same as before.
    """
    server = smtp_server(security="plain", user=None)
    host.build()
    host.make_secrets()
    before = host.written()
    host.run("migrate")
    running = {name: host.start(name) for name in OURS if name != "migrate"}
    for name, line in {"beat": "beat: Starting", **{name: " ready." for name in OURS if "worker" in name}}.items():
        running[name].wait_for_log(line)
    for name in OURS:
        if "healthcheck" in OURS[name]:
            wait_until(lambda name=name: host.is_healthy(name), what=f"{name} to be healthy")  # type: ignore[misc]

    (documented,) = {
        line.strip()
        for line in (ROOT / "docs/deployment.md").read_text().splitlines()
        if line.startswith("    docker compose exec web python manage.py validate_notification_setup --test-email ")
    }
    fallback = {"EMAIL_HOST": "localhost", "EMAIL_PORT": str(server.port), "DEFAULT_FROM_EMAIL": "mail@example.com"}
    _, command = documented.split(" exec web ")
    said = host.run("web", shlex.split(command), **fallback).stdout
    assert len(server.messages) == 1, said
    for process in running.values():
        process.send_signal(15)
    ends = {name: process.wait(seconds=PATIENCE) for name, process in running.items()}

    assert set(ends.values()) <= {0, 143}, ends
    assert "Traceback" not in "".join(process.read_log() for process in running.values())
    changed = {name for name, when in host.written().items() if before.get(name) != when}
    assert changed == set()
    for folder in ("payloads", "journals"):
        assert stat.S_IMODE((host.app / "var" / folder).stat().st_mode) == 0o700
    assert (host.tmp / "celerybeat-schedule").exists() or list(host.tmp.glob("celerybeat-schedule*"))
