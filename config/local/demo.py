"""The demo: sixty mails, two SMTP servers, one switch during sending, one outage.

All services are real and on loopback: Valkey, SQLite, two SMTP servers with STARTTLS and AUTH, a Celery worker of two
processes, and beat. The demo ends without input, and ends all its processes.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from cryptography.fernet import Fernet

from config.local.certificates import Certificates, make_certificates
from config.local.demo_evidence import BACKUP, EACH, PHASES, PRIMARY, WORKER_PROCESSES, Evidence, Switch, collect
from config.local.maildir import read_maildir
from config.local.processes import LOOPBACK, Process, Processes, free_port, unwind_on_signals, wait_until
from config.local.valkey import Valkey
from config.local.workers import OF_MAIL, start_beat, start_worker
from email_integration import conf

ROOT = Path(__file__).resolve().parent.parent.parent

#: Seconds that a server takes for each message, so that mail is being sent during the switch.
PACE = 0.5
#: Seconds for which the active server is stopped.
OUTAGE = 3.0


class DemoFailed(Exception):
    """The demo did not show the expected result."""


class DemoServer:
    """One of the two SMTP servers: a process that keeps its port after a restart."""

    def __init__(self, name: str, *, folder: Path, certificates: Certificates, processes: Processes) -> None:
        self.name = name
        self.port = free_port()
        self.maildir = folder / name
        self.password = secrets.token_urlsafe(12)
        self._certificates = certificates
        self._processes = processes
        self._process: Process | None = None
        self._starts = 0

    def start(self) -> None:
        """Start the process. ``wait()`` waits until it listens."""
        self._starts += 1
        command = [sys.executable, "-m", "config.local.smtp_server", "--port", str(self.port)]
        command += ["--maildir", str(self.maildir), "--user", "demo", "--password-from-env", "SMTP_SERVER_PASSWORD"]
        command += ["--certificate", str(self._certificates.certificate), "--key", str(self._certificates.key)]
        self._process = self._processes.start(
            f"{self.name} {self._starts}",
            [*command, "--pace", str(PACE)],
            env={"SMTP_SERVER_PASSWORD": self.password},
        )

    def wait(self) -> None:
        """Wait until it listens."""
        if self._process is not None:
            self._process.wait_for_log("ready on")

    def stop(self) -> None:
        """Stop in an orderly way: send 421 to the open sessions, and accept no more connections."""
        if self._process is not None:
            self._process.end()

    def received(self) -> list[str]:
        """Return the Message-IDs of the accepted messages, one for each copy."""
        return [str(message["Message-ID"]).strip() for message in read_maildir(self.maildir)]


class Clock:
    """Prints events, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line."""
        print(f"{time.monotonic() - self._start:6.1f} s  {text}", flush=True)

    def watch(self, count: Callable[[], int], *, goal: int, what: str) -> None:
        """Wait until ``count`` reaches ``goal``, and print the progress."""
        shown = -1

        def reached() -> bool:
            nonlocal shown
            now = count()
            if now >= goal or now >= shown + EACH // 4:
                self.say(f"  {now} {what}")
                shown = now
            return now >= goal

        wait_until(reached, what=f"{goal} {what}")


def prepare_environment(folder: Path, *, broker: str, certificates: Certificates) -> None:
    """Set the environment from which Django, here and in the child processes, reads its settings."""
    ours = {"ADMINS", "DEFAULT_FROM_EMAIL", *conf.DEFAULTS}
    for name in list(os.environ):
        if name in ours or name.startswith(("EMAIL_", "DJANGO_", "CELERY_")):
            del os.environ[name]
    os.environ.update(
        certificates.env,
        DATABASE_URL=f"sqlite:///{folder / 'db.sqlite3'}",
        DEBUG="true",
        DJANGO_SETTINGS_MODULE="config.settings",
        ENV_FILE="",
        LOG_LEVEL="INFO",
        REDIS_URL=broker,
        SECRET_KEY=secrets.token_urlsafe(50),
        SMTP_PASSWORD_KEYS=Fernet.generate_key().decode(),
        VAR_DIR=str(folder / "var"),
        JOURNAL_DIR=str(folder / "var" / "journals"),
        # Short enough for people who watch the demo.
        SWEEP_INTERVAL="0.5",
        RETRY_FIRST="0.2",
        RETRY_MAX="2",
        BREAKER_PROBE_FIRST="0.2",
        BREAKER_PROBE_MAX="2",
    )


def show(clock: Clock, folder: Path, servers: dict[str, DemoServer], logs: Path) -> Evidence:
    """Send the mails, with the switch and the outage, and collect the evidence."""
    # Imported here, because Django reads the environment during setup.
    import django

    django.setup()

    from django.core.management import call_command
    from django.utils import timezone

    from email_integration.models import Delivery, SMTPConfig, Status
    from email_integration.tasks import send_email

    call_command("migrate", verbosity=0, interactive=False)
    configs = {
        name: SMTPConfig.objects.create(
            name=name,
            host=LOOPBACK,
            port=server.port,
            username="demo",
            password=server.password,
            use_tls=True,
            from_email="Demo <demo@example.com>",
            is_active=name == PRIMARY,
        )
        for name, server in servers.items()
    }
    phase_of: dict[str, str] = {}

    def submit(phase: str) -> None:
        for number in range(1, EACH + 1):
            mail = send_email.delay(f"Mail {number} {phase}", "Sent by the demo.", to=[f"user{number}@example.com"])
            phase_of[str(mail.id)] = phase

    def accepted() -> int:
        return Delivery.objects.filter(status=Status.ACCEPTED).count()

    with Processes(logs, cwd=ROOT) as processes:
        clock.say(f"Starting a worker of {WORKER_PROCESSES} processes, and beat")
        start_worker(processes, concurrency=WORKER_PROCESSES, queues=OF_MAIL)
        start_beat(processes, schedule=folder / "beat-schedule")

        clock.say(f"Submitting {EACH} mails; '{PRIMARY}' is active")
        submit(PHASES[0])
        wait_until(lambda: accepted() >= EACH // 4, what=f"{EACH // 4} mails accepted")

        backup = configs[BACKUP]
        backup.is_active = True
        called = timezone.now()
        backup.save()
        switch = Switch(called=called, returned=timezone.now())
        unsent = EACH - accepted()
        clock.say(f"'{BACKUP}' is active now, while {unsent} mails are not sent yet; submitting {EACH} more")
        submit(PHASES[1])
        clock.watch(accepted, goal=2 * EACH, what="accepted")

        clock.say(f"'{BACKUP}' shuts down in an orderly way; submitting {EACH} more")
        servers[BACKUP].stop()
        submit(PHASES[2])
        time.sleep(OUTAGE)
        waiting = len(phase_of) - accepted()
        clock.say(f"  {waiting} mails wait for it; it starts again")
        servers[BACKUP].start()
        servers[BACKUP].wait()
        clock.watch(accepted, goal=3 * EACH, what="accepted")
        # If there were a second copy, the next sweeps would send it.
        time.sleep(1.5)

        clock.say("Stopping the worker and beat")
    received = {name: server.received() for name, server in servers.items()}
    return collect(phase_of, received=received, switch=switch)


def run(folder: Path) -> Evidence:
    """Start the services in ``folder``, run the demo, and end them. If it fails, print their logs."""
    clock = Clock()
    logs = folder / "logs"
    try:
        with ExitStack() as services:
            clock.say("Starting Valkey and two SMTP servers with STARTTLS and AUTH")
            certificates = make_certificates(folder / "certificates")
            valkey = services.enter_context(Valkey(folder / "valkey"))
            prepare_environment(folder, broker=valkey.url, certificates=certificates)
            processes = services.enter_context(Processes(logs, cwd=ROOT))
            servers = {
                name: DemoServer(name, folder=folder / "mail", certificates=certificates, processes=processes)
                for name in (PRIMARY, BACKUP)
            }
            for server in servers.values():
                server.start()
            for server in servers.values():
                server.wait()
            return show(clock, folder, servers, logs)
    except Exception:
        for log in sorted(logs.glob("*.log")):
            print(f"--- {log.stem}", *log.read_text(errors="replace").splitlines()[-30:], sep="\n", flush=True)
        raise


def main() -> int:
    """Run the demo and print the result. Returns 0 if every mail arrived exactly once, at the right server."""
    unwind_on_signals()
    try:
        with tempfile.TemporaryDirectory(prefix="mail-dispatch-demo-") as folder:
            evidence = run(Path(folder))
        print(f"\n{evidence.table()}\n", flush=True)
        if problems := evidence.problems():
            raise DemoFailed(", ".join(problems))
    except KeyboardInterrupt:
        print("demo: FAILED - interrupted", flush=True)
        return 130
    except SystemExit as exit:  # a signal, or the settings' error for a wrong variable
        print(f"demo: FAILED - stopped: {exit.code}", flush=True)
        return exit.code if isinstance(exit.code, int) else 1
    except Exception as error:
        print(f"demo: FAILED - {str(error) or type(error).__name__}", flush=True)
        return 1
    print(
        f"demo: OK - {len(evidence.mails)} submitted, {evidence.accepted} accepted, {evidence.lost} lost, "
        f"{evidence.duplicated} duplicated, switch seen by all workers in {evidence.milliseconds} ms",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
