"""A case: the server's options, the submitted mail, the events during sending, and the expected results."""

from __future__ import annotations

import contextlib
import dataclasses
import smtplib
import time
from collections.abc import Callable
from typing import Any

from django.utils import timezone

from config.local.processes import LOOPBACK, wait_until
from email_integration.models import FINAL, CircuitBreaker, Delivery, Priority, SMTPConfig
from email_integration.queue import retry_now
from email_integration.routing import breaker
from email_integration.sending.sessions import pool
from tests.deliveries import send_due

from .server import PASSWORD, USER, Options, Server


class Run:
    """A case that is running."""

    def __init__(self, case: Case, server: Server) -> None:
        self.case, self.server = case, server
        self.config = self._configuration()
        self.held: list[smtplib.SMTP] = []

    def _configuration(self) -> SMTPConfig:
        case, server = self.case, self.server
        values: dict[str, Any] = {
            "name": server.name,
            "host": "localhost",
            "port": server.tls_port if case.tls == "TLS" else server.port,
            "use_tls": case.tls == "STARTTLS",
            "use_ssl": case.tls == "TLS",
            "from_email": "Hanna <noreply@example.com>",
            "timeout": 60,
            "is_active": True,
        }
        if case.tls:
            values["ca_certificates"] = server.certificates["good"].authority.read_text()
        if case.options.login:
            values |= {"username": USER, "password": PASSWORD}
        return SMTPConfig.objects.create(**{**values, **case.config})

    def change(self, **values: Any) -> None:
        """Change the configuration, as an administrator does."""
        for name, value in values.items():
            setattr(self.config, name, value)
        self.config.save()


def nothing(run: Run) -> None:
    pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """``refused`` is the most attempts that the server refuses. The other counts are exact."""

    name: str
    options: Options = dataclasses.field(default_factory=Options)
    submit: Callable[[], list[str]]
    arrived: int
    failed: int = 0
    refused: int = 0
    #: STARTTLS, TLS or ''; and further values of the configuration.
    tls: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    #: Runs first, and ``fix`` after no more mail can be sent.
    before: Callable[[Run], None] = nothing
    fix: Callable[[Run], None] = nothing
    #: Runs once ``after`` mails were accepted: between two mails, or in another thread while others are sent.
    amid: Callable[[Run], None] | None = None
    after: int = 0
    by_another: bool = False
    #: Expected output of ``validate_notification_setup --test-email`` before the fix.
    says: tuple[str, ...] = ()
    test_to: str = "test@example.com"
    #: Seconds of the server's own clock between two rounds.
    pause: float = 0
    #: Whether all times are real.
    real: bool = False
    rounds: int = 6


# -- events ---------------------------------------------------------------------------------------------------------


def hold_connection(run: Run) -> None:
    """Open all connections that the server allows, as another client on this machine."""

    def another() -> bool:
        try:
            run.held.append(smtplib.SMTP(LOOPBACK, run.server.port))
        except (smtplib.SMTPException, OSError):
            return False
        return True

    # The server may still count the connection that tested whether it listens.
    wait_until(another, what=f"a connection to {run.server.name}")
    while another():
        assert len(run.held) < 10, "the server has no limit of connections"


def let_go(run: Run) -> None:
    for held in run.held:
        with contextlib.suppress(smtplib.SMTPException):
            held.quit()
    run.held.clear()


def right_certificate(run: Run) -> None:
    run.server.start(dataclasses.replace(run.case.options, certificate="good"))


def certificate_authority(run: Run) -> None:
    run.change(ca_certificates=run.server.certificates["good"].authority.read_text())


def right_password(run: Run) -> None:
    run.change(password=PASSWORD)


def stop(run: Run) -> None:
    run.server.stop()


def resume(run: Run) -> None:
    run.server.resume()


def restart(run: Run) -> None:
    run.server.restart()


# -- sending --------------------------------------------------------------------------------------------------------


def work_off() -> None:
    """Send all due mail, and mail that becomes due immediately afterwards, as a worker does."""
    for priority in Priority.values:
        send_due(priority)


def unfinished() -> Any:
    return Delivery.objects.exclude(status__in=FINAL)


def let_time_pass(seconds: float) -> None:
    """Make all waiting mail due, and let ``seconds`` really pass."""
    pool.close()
    time.sleep(seconds)
    now = timezone.now()
    CircuitBreaker.objects.update(probe_at=now)
    unfinished().update(due_at=now, next_at=now)


def wait_for_the_next(deadline: float) -> None:
    """Wait until the next mail is due by the clock. Mail that waits for its relay is due when a probe is."""
    times = [*unfinished().values_list("due_at", flat=True), *CircuitBreaker.objects.values_list("probe_at", flat=True)]
    seconds = max((min(times) - timezone.now()).total_seconds(), 0.05)
    assert time.monotonic() + seconds < deadline, "the mails are not finished in time"
    time.sleep(seconds)
    if breaker.due():
        retry_now.wake_one()
