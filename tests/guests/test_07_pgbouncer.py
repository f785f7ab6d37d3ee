"""A connection pooler that lends a database connection for one transaction only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from config.local.processes import wait_until
from email_integration.smtpd import SMTPServer
from tests import services
from tests.host_project import CONFIGURE, POSTGRESQL, HostProject
from tests.pgbouncer import PgBouncer

from .conftest import running

pytestmark = pytest.mark.extra

Row = Callable[[str, str], None]
Host = Callable[..., HostProject]
Serve = Callable[..., SMTPServer]

#: The option that docs/deployment.md says to leave out, or to set to None, behind such a pooler.
PREPARING = f"""{POSTGRESQL}
DATABASES["default"].setdefault("OPTIONS", {{}})["prepare_threshold"] = 2
"""

SAID = "email_integration.W014"

#: Sends some mails in turn and some together, so that each of our statements runs often enough to be prepared.
SEND_SOME = """
from django.core.mail import EmailMessage
from email_integration import submit_many
from email_integration.tasks import send_email
for _ in range(4):
    print(send_email.delay("Subject", "Text", to=["kim@example.com"]).get(timeout=100)["status"])
submit_many([EmailMessage("Together", "Text", None, ["kim@example.com"]) for _ in range(20)])
"""


@pytest.fixture
def pooler(postgresql: str) -> Iterator[Callable[[str], str]]:
    """``pooler(mode)``: start a pooler and return the URL of an empty database behind it."""
    with contextlib.ExitStack() as stack:

        def start(mode: str) -> str:
            bouncer = PgBouncer(services.temporary_folder(), postgresql, mode=mode)
            stack.enter_context(running("PgBouncer", bouncer.start, bouncer.end))
            return bouncer.url

        yield start


def said_by_checks(project: HostProject) -> bool:
    done = project.attempt("manage.py", "check", "--database", "default")
    assert done.returncode == 0, done.stderr
    return SAID in done.stderr


@pytest.mark.parametrize(
    ("mode", "settings", "what"),
    [("transaction", POSTGRESQL, "as the README has it"), ("session", PREPARING, "prepare_threshold")],
    ids=["transaction", "session"],
)
def test_mail_is_sent(
    row: Row, host: Host, smtp_server: Serve, pooler: Callable[[str], str], mode: str, settings: str, what: str
) -> None:
    row(f"pgbouncer in {mode} mode, {what}", "mail is sent; no check complains")
    server, project = smtp_server(), host(settings, env={"DATABASE": pooler(mode)})
    project.run("manage.py", "migrate", "--verbosity", "0")
    assert not said_by_checks(project)
    project.shell(CONFIGURE.format(port=server.port))
    worker = project.start_worker()
    assert project.shell(SEND_SOME).split() == ["accepted"] * 4
    wait_until(lambda: len(server.messages) == 24, what="all mails")
    assert "prepare_threshold" not in worker.read_log()


def test_statements_that_are_lost_are_said_at_the_start(
    row: Row, host: Host, pooler: Callable[[str], str], smtp_server: Serve
) -> None:
    """Otherwise mail would wait for ever: each attempt meets a prepared statement that is missing or different."""
    row("pgbouncer in transaction mode, prepare_threshold", "reported by worker, check and validate")
    project = host(PREPARING, env={"DATABASE": pooler("transaction")})
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.shell(CONFIGURE.format(port=smtp_server().port))
    assert said_by_checks(project)
    worker = project.start_worker()
    worker.wait_for_log("prepare_threshold")
    validated = project.attempt("manage.py", "validate_notification_setup")
    assert validated.returncode == 1
    assert "prepare_threshold" in validated.stdout + validated.stderr
