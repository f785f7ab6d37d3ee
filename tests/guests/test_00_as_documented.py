"""A project as the README describes it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from email_integration.smtpd import SMTPServer
from tests.host_project import CONFIGURE, POSTGRESQL, SEND, HostProject

pytestmark = pytest.mark.extra


def test_mail_is_sent(
    row: Callable[[str, str], None],
    host: Callable[..., HostProject],
    postgresql: str,
    smtp_server: Callable[..., SMTPServer],
) -> None:
    row("as in the README, on PostgreSQL", "mail is sent")
    project = host(POSTGRESQL, env={"DATABASE": postgresql})
    project.run("manage.py", "check", "--fail-level", "WARNING")
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.shell(CONFIGURE.format(port=smtp_server().port))
    project.start_worker()
    assert project.shell(SEND).strip() == "accepted"
