"""Fixtures: services, SMTP servers, and real worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import TransactionTestCase
from hypothesis import settings as hypothesis_settings

from config.local.certificates import Certificates
from config.local.processes import free_port
from config.local.valkey import Valkey
from email_integration.queue import wakeups
from email_integration.routing import forget
from email_integration.sending.sessions import pool
from email_integration.smtpd import SMTPServer
from email_integration.tasks import mail
from tests import emptying, services, tables
from tests.headless_browser import chromium  # noqa: F401  # a fixture, once: a process can have only one Playwright
from tests.stack import FAILED, FAST, Stack

pytest_plugins = ["tests.durations"]

# The deadline of an example uses the wall clock, and a busy machine exceeds it.
hypothesis_settings.register_profile("busy", deadline=None)
hypothesis_settings.load_profile("busy")


def pytest_report_header() -> list[str]:
    """Name the services of this run, unless it has several of each."""
    if services.only_hands_out_tests():
        return []
    lines = [f"database: {services.database}, broker: {services.broker.url}, cache: {services.valkey.url}"]
    return [*lines, *(f"missing: {name} ({reason})" for name, reason in services.missing.items())]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the slowest files to the front, after the shuffling: with '-n' the last ones would run alone."""
    longest = {item.path for item in items if item.get_closest_marker("timeout")}
    long = {item.path for item in items if {"acceptance", "browser", "guests", "servers"} & set(item.path.parts)}
    items.sort(key=lambda item: (item.path not in longest, item.path not in long))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table rows that tests have recorded."""
    reports = [
        report for kind in ("passed", "failed", "skipped", "error") for report in terminalreporter.getreports(kind)
    ]
    for line in (*tables.lines(reports), *tables.attacks(reports), *tables.guests(reports)):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_blocker: Any) -> Iterator[None]:
    """Migrate the run's own database. It has no separate test name, so child processes use the same one."""
    if services.database != "sqlite":
        services.need(services.database)
    with django_db_blocker.unblock(), mock.patch.object(TransactionTestCase, "_fixture_teardown", emptying.empty):
        call_command("migrate", verbosity=0, interactive=False)
        yield
        connections.close_all()


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    """Return the authority that this process trusts by SSL_CERT_FILE, and a certificate for localhost."""
    return services.certificates


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """Yield the empty cache, which is also the broker by default. Restart it after the test if needed."""
    services.need_broker()
    mail._task_queue._open_until = 0.0  # the breaker may be open after the test before
    yield services.valkey
    services.valkey.thaw()
    services.valkey.start()


@pytest.fixture
def fresh_process(valkey: Valkey) -> Iterator[None]:
    """Empty the broker and cache, and remove relays, sessions and wake-ups of earlier tests from this process."""
    forget()
    wakeups.forget()
    yield
    pool.close()
    forget()


@pytest.fixture
def smtp_server(certificates: Certificates) -> Iterator[Callable[..., SMTPServer]]:
    """Start an SMTP server, by default with STARTTLS and AUTH (``user``, ``password``).

    ``smtp_server(faults=[...], security="plain", user=None)``: the arguments are those of ``SMTPServer``.
    """
    started: list[SMTPServer] = []

    def start(**arguments: Any) -> SMTPServer:
        if arguments.get("security") != "plain":
            arguments.setdefault("tls_context", certificates.server_context())
        server = SMTPServer(**{"port": free_port(), **arguments})
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def stack(
    transactional_db: None, fresh_process: None, settings: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Stack]]:
    """Start a real worker of two processes, and beat, on the test's database and broker.

    ``stack(beat=True, concurrency=2, queues=(), pool="prefork", env={...})``. The test's own settings get the same
    times, so that a sweep finds its mail as fast as the mail that workers defer.
    """
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **FAST}
    started: list[Stack] = []

    def start(
        *,
        beat: bool = True,
        concurrency: int = 2,
        queues: tuple[str, ...] = (),
        pool: str = "prefork",
        env: dict[str, str] | None = None,
    ) -> Stack:
        times = {name: float(value) for name, value in (env or {}).items() if name in FAST}
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **times}
        folder = tmp_path / f"stack{len(started) + 1}"
        stack = Stack(folder, concurrency=concurrency, queues=queues, pool=pool, env=env)
        started.append(stack)
        stack.start_worker()
        if beat:
            stack.start_beat()
        return stack

    yield start
    for stack in reversed(started):
        stack.end()
    failed = request.node.stash.get(FAILED, False)
    for stack in started if failed else ():
        print(stack.logs())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Mark a failed test, so that fixtures print their logs."""
    report = yield
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
    return report
