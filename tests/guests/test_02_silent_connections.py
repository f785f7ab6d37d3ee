"""Database connections that become silent: a firewall drops them, a host loses power, a cable is unplugged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from config import services
from config.local.processes import wait_until
from email_integration.smtpd import SMTPServer
from tests.host_project import CONFIGURE, POSTGRESQL, HostProject
from tests.silent_network import SilentNetwork

from .conftest import running

pytestmark = pytest.mark.extra

#: Connects to the first address, then to the second.
FAR = """
DATABASES["default"]["OPTIONS"] |= %r
if "FAR" in os.environ:
    DATABASES["default"] |= {"HOST": os.environ["FAR"], "PORT": os.environ["PORT"]}
    DATABASES["default"]["OPTIONS"].pop("host", None)
CELERY_DB_REUSE_MAX = 500
"""

SUBMIT = """
from email_integration.tasks import send_email
send_email.delay({subject!r}, "Text", to=["kim@example.com"])
"""


@pytest.fixture
def socket(postgresql: str) -> Path:
    """The Unix socket of the PostgreSQL server."""
    (folder,) = parse_qs(urlsplit(postgresql).query)["host"]
    return Path(folder) / ".s.PGSQL.5432"


@pytest.fixture
def network(socket: Path, tmp_path: Path) -> Iterator[SilentNetwork]:
    network = SilentNetwork(socket, tmp_path)
    with running("a network", network.start, network.stop):
        yield network


def _is_asleep(url: str) -> bool:
    with psycopg.connect(url) as near:
        return bool(near.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchone())


def test_the_options_end_each_wait(row: Callable[[str, str], None], network: SilentNetwork, postgresql: str) -> None:
    row("keepalives and tcp_user_timeout of config/", "a reply, a statement and a new connection time out")
    user = {"user": urlsplit(postgresql).username, "dbname": urlsplit(postgresql).path.strip("/")}
    where: dict[str, Any] = {"host": network.first, "port": network.port, **user, **services.POSTGRESQL_OPTIONS}
    waiting, idle = psycopg.connect(**where), psycopg.connect(**where)
    waiting.execute("SELECT 1")
    idle.execute("SELECT 1")
    with ThreadPoolExecutor(3) as threads:
        reply = threads.submit(waiting.execute, "SELECT pg_sleep(600)")
        wait_until(lambda: _is_asleep(postgresql), seconds=50, what="the statement")
        network.silence(network.first)
        statement = threads.submit(idle.execute, "SELECT 2")
        connection = threads.submit(psycopg.connect, **where)
        for what in (reply, statement, connection):
            with pytest.raises(psycopg.OperationalError):
                what.result(timeout=250)


def test_a_worker_goes_on_over_another_connection(
    row: Callable[[str, str], None],
    host: Callable[..., HostProject],
    network: SilentNetwork,
    postgresql: str,
    smtp_server: Callable[..., SMTPServer],
) -> None:
    row("connections that become silent, with the documented options", "the worker continues over other connections")
    server = smtp_server()
    settings = POSTGRESQL + FAR % services.POSTGRESQL_OPTIONS
    project = host(settings, env={"DATABASE": postgresql, "PORT": str(network.port)})
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.shell(CONFIGURE.format(port=server.port))
    near = dict(project.env)
    project.env["FAR"] = f"{network.first},{network.second}"
    worker = project.start_worker("--concurrency", "1")
    project.env = near
    project.shell(SUBMIT.format(subject="before"))
    wait_until(lambda: len(server.messages) == 1, seconds=100, what="the first mail")
    network.silence(network.first)
    project.shell(SUBMIT.format(subject="after"))
    wait_until(lambda: len(server.messages) == 2, seconds=250, what="the second mail")
    assert worker.is_running


@pytest.mark.parametrize("options", ["{}", "{'keepalives': 0, 'tcp_user_timeout': 20000, 'connect_timeout': 5}"])
def test_the_check_says_what_is_missing(
    row: Callable[[str, str], None], host: Callable[..., HostProject], options: str
) -> None:
    row(f"PostgreSQL on another host, OPTIONS = {options}", "'check' names the missing options")
    database = f"{{'ENGINE': 'django.db.backends.postgresql', 'HOST': 'db.example.com', 'OPTIONS': {options}}}"
    found = host(f"\nDATABASES = {{'default': {database}}}\n").attempt("manage.py", "check").stderr
    assert "email_integration.W023" in found
