"""Once a save has returned, no attempt begins with an older configuration: counted under load, not assumed.

Every switch activates a different row, so the configuration name in an attempt shows which switch it had seen.
"""

from __future__ import annotations

import datetime as dt
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.core.mail import EmailMessage
from django.db import connection, transaction
from django.utils import timezone

from config.local.processes import Processes, free_port, wait_until
from config.local.valkey import Valkey
from config.local.workers import OF_MAIL
from email_integration.models import Delivery, DeliveryAttempt, SMTPConfig
from email_integration.queue.submission import submit
from tests.stack import FAST, ROOT, Stack

pytestmark = pytest.mark.extra

#: Enough mails for a busy half minute on two slow cores.
MAILS, SWITCHES = 1000, 200

#: Mails for a few seconds of attempts.
ENOUGH = 500


@dataclass(frozen=True, kw_only=True)
class Switch:
    """One change of the active configuration: when the save began and when it had returned."""

    number: int
    began: dt.datetime
    returned: dt.datetime


def configure(ports: list[int], *, count: int) -> list[SMTPConfig]:
    """Create ``count`` inactive configurations, which use the servers in turn."""
    SMTPConfig.objects.bulk_create(
        SMTPConfig(
            name=f"switch {number:04}",
            host="127.0.0.1",
            port=ports[number % len(ports)],
            use_tls=False,
            from_email="noreply@example.com",
        )
        for number in range(count)
    )
    return list(SMTPConfig.objects.order_by("name"))


def switch(config: SMTPConfig, number: int) -> Switch:
    """Activate ``config`` by one of the documented ways, in turn."""
    began = timezone.now()
    if number % 3 == 0:
        config.is_active = True
        config.save()
    elif number % 3 == 1:
        SMTPConfig.objects.activate(config)
    else:
        with transaction.atomic():
            SMTPConfig.objects.all().update(is_active=False)
            SMTPConfig.objects.filter(pk=config.pk).update(is_active=True)
    return Switch(number=number, began=began, returned=timezone.now())


def submit_mails(count: int) -> list[str]:
    """Submit ``count`` mails in one transaction and return their ids."""
    message = EmailMessage("S", "B" * 500, to=["kim@example.com"])
    message.from_email = ""
    with transaction.atomic():
        return [submit(message).pk for _ in range(count)]


def count_stale(switches: list[Switch]) -> tuple[int, int, list[float]]:
    """Return the number of attempts, the number of stale ones, and each switch's seconds until its first attempt.

    An attempt is stale if it began after a later switch had returned.
    """
    attempts = [
        (started_at, int(name.rpartition(" ")[2]))
        for started_at, name in DeliveryAttempt.objects.exclude(smtp_config="").values_list("started_at", "smtp_config")
    ]
    stale = sum(
        any(later.number > number and later.returned <= started_at for later in switches)
        for started_at, number in attempts
    )
    seen = []
    for one in switches[1:]:  # the first was active before the workers started
        first = min((started_at for started_at, number in attempts if number == one.number), default=None)
        if first is not None:
            seen.append(max(0.0, (first - one.returned).total_seconds()))
    return len(attempts), stale, seen


def report(
    capsys: pytest.CaptureFixture[str], what: str, switches: int, attempts: int, stale: int, seen: list[float]
) -> None:
    """Print the measurements."""
    with capsys.disabled():
        print(
            f"\n{what}: {switches} switches, {attempts} attempts, {stale} stale; from the return of the save to the "
            f"first attempt with the new configuration: median {statistics.median(seen) * 1000:.0f} ms, "
            f"longest {max(seen) * 1000:.0f} ms, over the {len(seen)} switches that an attempt met"
        )


@pytest.fixture
def sinks(tmp_path: Path) -> Iterator[list[int]]:
    """Two SMTP servers in separate processes, so that they do not slow down the switching."""
    processes = Processes(tmp_path / "sinks", env={}, cwd=ROOT)
    ports = [free_port(), free_port()]
    for number, port in enumerate(ports):
        arguments = ["--port", str(port), "--maildir", str(tmp_path / f"mail{number}"), "--plain"]
        processes.start(f"sink{number}", [sys.executable, "-m", "config.local.smtp_server", *arguments])
    for port in ports:
        wait_until(lambda port=port: answers(port), what=f"the SMTP server on {port}")
    yield ports
    processes.end(seconds=5)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as found:
            return found.recv(3) == b"220"
    except OSError:
        return False


def test_no_attempt_is_stale_while_workers_send_and_the_configuration_is_switched(
    stack: Callable[..., Stack], sinks: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight real worker processes send without pause while another process switches hundreds of times."""
    configs = configure(sinks, count=SWITCHES)
    switches = [switch(configs[0], 0)]
    # Beat runs too, because a wake-up may be lost on a busy machine.
    stack(concurrency=8, queues=OF_MAIL)
    submit_mails(MAILS // SWITCHES)
    for number in range(1, SWITCHES):
        submit_mails(MAILS // SWITCHES)  # so that attempts begin under each of them
        switches.append(switch(configs[number], number))
    wait_until(
        lambda: not Delivery.objects.exclude(status="accepted").exists(), seconds=300, what="every mail accepted"
    )
    attempts, stale, seen = count_stale(switches)
    report(capsys, f"Celery, {connection.vendor}", len(switches), attempts, stale, seen)
    assert attempts >= MAILS
    assert stale == 0
    assert len(seen) > SWITCHES / 10


class Attempting:
    """Processes that attempt deliveries without pause and without a broker."""

    def __init__(self, *, count: int) -> None:
        """Start ``count`` processes."""
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.acceptance.attempting"],
                cwd=ROOT,
                env={
                    **os.environ,
                    **{name: str(value) for name, value in FAST.items()},
                    "DJANGO_SETTINGS_MODULE": "config.settings",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for _ in range(count)
        ]

    def feed(self) -> None:
        """Keep enough mail queued for attempts, whatever the speed of the test and of the processes."""
        if Delivery.objects.filter(status="queued").count() > ENOUGH:
            return
        ids = submit_mails(ENOUGH)
        for number, process in enumerate(self.processes):
            assert process.stdin is not None
            process.stdin.write("".join(f"{one}\n" for one in ids[number :: len(self.processes)]))
            process.stdin.flush()

    def __enter__(self) -> Attempting:
        """Return this object; the processes already run."""
        return self

    def __exit__(self, *error: object) -> None:
        """Kill the processes."""
        for process in self.processes:
            process.kill()
            process.communicate()


def attempts_with(config: SMTPConfig) -> int:
    return DeliveryAttempt.objects.filter(smtp_config=config.name).count()


def test_no_attempt_is_stale_when_the_cache_is_killed_and_comes_back(
    transactional_db: None, valkey: Valkey, sinks: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the cache every attempt asks the database. When the cache is back, no old generation is trusted."""
    configs = configure(sinks, count=40)
    switches = [switch(configs[0], 0)]
    with Attempting(count=3) as attempting:
        for number in range(1, len(configs)):
            if number == 10:
                valkey.kill()
            if number == 25:
                valkey.start()
            switches.append(switch(configs[number], number))
            attempting.feed()
            wait_until(
                lambda number=number: attempts_with(configs[number]) >= 2,
                what=f"attempts with {configs[number].name}",
            )
    attempts, stale, seen = count_stale(switches)
    report(capsys, f"cache killed and back, {connection.vendor}", len(switches), attempts, stale, seen)
    assert stale == 0


WRITER = """
import os, sys, django
django.setup()
from django.db import transaction
from email_integration.models import SMTPConfig
with transaction.atomic():
    # The first hook to run after the commit: the process is gone before the one that makes the new generation.
    transaction.on_commit(lambda: os._exit(9))
    SMTPConfig.objects.activate(SMTPConfig.objects.get(name=sys.argv[1]))
"""


def test_a_writer_that_dies_between_commit_and_generation_leaves_no_worker_behind(
    transactional_db: None, valkey: Valkey, sinks: list[int]
) -> None:
    """The generation is already marked dirty, and a dirty generation means: ask the database."""
    configs = configure(sinks, count=2)
    switches = [switch(configs[0], 0)]
    with Attempting(count=2) as attempting:
        attempting.feed()
        wait_until(lambda: attempts_with(configs[0]) >= 20, what="attempts with the first configuration")
        began = timezone.now()
        writer = subprocess.run(
            [sys.executable, "-c", WRITER, configs[1].name],
            cwd=ROOT,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings"},
            check=False,
            capture_output=True,
        )
        assert writer.returncode == 9, writer.stderr
        switches.append(Switch(number=1, began=began, returned=timezone.now()))
        attempting.feed()
        wait_until(lambda: attempts_with(configs[1]) >= 20, what="attempts with the second configuration")
    _attempts, stale, _seen = count_stale(switches)
    assert stale == 0
