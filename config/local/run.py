"""The playground: all services on this machine until Ctrl-C, with a mail catcher as SMTP server.

Uses the database and the broker that DATABASE_URL and REDIS_URL name, else SQLite under var/ and an embedded Valkey.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from honcho.environ import parse_procfile
from honcho.manager import Manager

from config import env
from config.local.processes import LOOPBACK, free_port, unwind_on_signals
from config.local.valkey import Valkey

ROOT = Path(__file__).resolve().parent.parent.parent
CATCHER = "Local catcher"


class PatientManager(Manager):  # type: ignore[misc]  # honcho has no types
    """Honcho's manager, which would fail on a signal that arrives while its processes start."""

    _asked = False

    def terminate(self) -> None:
        """End all processes, as soon as all of them have started."""
        self._asked = True
        if super()._all_started():
            super().terminate()

    def _all_started(self) -> bool:
        if not super()._all_started():
            return False
        if self._asked:
            super().terminate()
        return True

    def end_what_is_left(self) -> None:
        """End the remaining processes if the loop itself has failed, for example because its output is closed."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._processes.values():
                if "pid" in process and "returncode" not in process:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process["pid"], number)
            for process in self._processes.values():
                if "process" in process:
                    process["process"].join(3)


def prepare_environment(var: Path) -> tuple[int, str]:
    """Set the variables that the settings and the Procfile read. Returns the catcher's port and admin's password."""
    os.environ["DEBUG"] = "true"
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    os.environ["VAR_DIR"] = str(var)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    for name, usual in (("WEB_PORT", 8000), ("FLOWER_PORT", 5555), ("CATCHER_PORT", 2525)):
        os.environ[name] = str(free_port(env.whole(name, usual, at_least=1, at_most=65535)))
    password = env.text("ADMIN_PASSWORD")
    if not password:
        password = env.kept("ADMIN_PASSWORD", var / "admin_password", lambda: secrets.token_urlsafe(12))
    return int(os.environ["CATCHER_PORT"]), password


def prepare_database(catcher_port: int, password: str) -> str:
    """Migrate, and create the superuser and a first configuration. Returns the login."""
    # Imported here, because Django reads the environment during setup.
    import django

    django.setup()

    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.db import connections

    from email_integration.models import SMTPConfig

    call_command("migrate", verbosity=1, interactive=False)
    users = get_user_model()
    admin = users.objects.filter(username="admin").first()
    if admin is None:
        admin = users.objects.create_superuser(username="admin", email="admin@example.com", password=password)
    login = f"admin / {password}" if admin.check_password(password) else "admin / the password that you set"
    if not SMTPConfig.objects.exists():
        SMTPConfig.objects.create(
            name=CATCHER,
            host=LOOPBACK,
            port=catcher_port,
            use_tls=False,
            from_email="Playground <playground@example.com>",
            is_active=True,
        )
    # The usual port may be in use this time.
    for config in SMTPConfig.objects.filter(name=CATCHER, host=LOOPBACK).exclude(port=catcher_port):
        config.port = catcher_port
        config.save()
    connections.close_all()
    return login


def print_addresses(*, login: str, flower_login: str, catcher_port: int, mail: Path, shell_env: str) -> None:
    """Print the addresses of all services."""
    python = os.path.relpath(sys.executable, ROOT)
    code = 'from email_integration.tasks import send_email; send_email.delay("Hello", "Text", to=["you@example.com"])'
    lines = {
        "Admin": f"http://{LOOPBACK}:{os.environ['WEB_PORT']}/admin/   {login}",
        "Flower": f"http://{LOOPBACK}:{os.environ['FLOWER_PORT']}/   {flower_login}",
        "SMTP catcher": f"{LOOPBACK}:{catcher_port}, no TLS, any user and password; it stores mail in {mail}",
        "Send a mail": f"{shell_env} {python} manage.py shell -c {shlex.quote(code)}",
    }
    print(*(f"{name + ':':<14}{text}" for name, text in lines.items()), "Press Ctrl-C to stop.", sep="\n", flush=True)


def main() -> int:
    """Run the playground and return an exit code."""
    unwind_on_signals()
    os.chdir(ROOT)
    env.load_file(ROOT / ".env")
    var = Path(env.text("VAR_DIR", str(ROOT / "var"))).absolute()
    shell_env = "DEBUG=true"
    with ExitStack() as services:
        if not env.is_set("REDIS_URL"):
            valkey = services.enter_context(Valkey(var / "valkey", port=free_port(6379)))
            os.environ["REDIS_URL"] = valkey.url
            shell_env += f" REDIS_URL={valkey.url}"
        catcher_port, password = prepare_environment(var)
        flower_login = "the login in FLOWER_BASIC_AUTH"
        if not env.is_set("FLOWER_BASIC_AUTH"):
            os.environ["FLOWER_BASIC_AUTH"] = f"admin:{password}"
            flower_login = f"admin / {password}"
        login = prepare_database(catcher_port, password)
        mail = var / "mail"
        catcher = [sys.executable, "-m", "config.local.smtp_server", "--plain", "--catch-all-any-auth"]
        catcher += ["--port", str(catcher_port), "--maildir", str(mail)]

        manager = PatientManager()
        entries = parse_procfile((ROOT / "Procfile").read_text()).processes
        for name, command in {**entries, "catcher": f"exec {shlex.join(catcher)}"}.items():
            manager.add_process(name, command, cwd=str(ROOT))
        print_addresses(
            login=login, flower_login=flower_login, catcher_port=catcher_port, mail=mail, shell_env=shell_env
        )
        # Honcho handles SIGINT and SIGTERM.
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        try:
            manager.loop()
        finally:
            manager.end_what_is_left()
    # A signal is the normal way to end the playground.
    return 0 if manager.returncode in (None, 0, 130, 143) else manager.returncode


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
