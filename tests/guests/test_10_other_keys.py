"""A project whose worker has another key than the submitting processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.fernet import Fernet

from email_integration.smtpd import SMTPServer
from tests.host_project import CONFIGURE, POSTGRESQL, HostProject

pytestmark = pytest.mark.extra


def test_another_key_in_a_worker_is_noticed(
    row: Callable[[str, str], None],
    host: Callable[..., HostProject],
    postgresql: str,
    smtp_server: Callable[..., SMTPServer],
) -> None:
    row("another key in the worker's terminal", "validate_notification_setup names the worker")
    here, there = (Fernet.generate_key().decode() for _number in range(2))
    project = host(POSTGRESQL, env={"DATABASE": postgresql, "SMTP_PASSWORD_KEYS": here})
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.shell(CONFIGURE.format(port=smtp_server().port))
    project.env["SMTP_PASSWORD_KEYS"] = there
    project.start_worker("--hostname", "stranger@example.com")
    project.env["SMTP_PASSWORD_KEYS"] = here
    done = project.attempt("manage.py", "validate_notification_setup")
    assert done.returncode != 0
    (line,) = [line for line in done.stdout.splitlines() if "other keys" in line]
    assert line.lstrip().startswith("✗")
    assert "stranger@example.com" in line
    for key in (here, there):
        assert key not in done.stdout + done.stderr


def test_a_new_key_before_the_old_one_is_none_of_another(
    row: Callable[[str, str], None], host: Callable[..., HostProject], postgresql: str
) -> None:
    row("a new key that the worker does not have yet, and then has", "reported, and then no longer")
    new, old = (Fernet.generate_key().decode() for _number in range(2))
    keys = '\nEMAIL_INTEGRATION = {"SMTP_PASSWORD_KEYS": os.environ["SMTP_PASSWORD_KEYS"].split(",")}\n'
    project = host(POSTGRESQL + keys, env={"DATABASE": postgresql, "SMTP_PASSWORD_KEYS": old})
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.start_worker()

    def says_other_keys(*given: str) -> bool:
        project.env["SMTP_PASSWORD_KEYS"] = ",".join(given)
        return "other keys" in project.attempt("manage.py", "validate_notification_setup").stdout

    assert says_other_keys(new, old)  # the worker cannot open secrets sealed here from now on
    assert not says_other_keys(old, new)
    assert not says_other_keys(old)
