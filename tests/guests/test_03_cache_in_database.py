"""The shared cache in the project's database, with its table and without."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from email_integration.smtpd import SMTPServer
from tests.host_project import CONFIGURE, POSTGRESQL, SEND, HostProject

pytestmark = pytest.mark.extra

CACHE = """
CACHES = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache_entries"}}
"""

IN_TRANSACTION = """
from django.db import transaction
from django.contrib.auth.models import User
with transaction.atomic():
    User.objects.create(username="before")
    {program}
    User.objects.create(username="after")
print(User.objects.count())
"""

#: Code that has switched autocommit off.
BY_HAND = """
from django.db import transaction
from django.contrib.auth.models import User
from email_integration import routing
transaction.set_autocommit(False)
User.objects.create(username="by hand, before")
routing.active_relay()
User.objects.create(username="by hand, after")
transaction.commit()
print(User.objects.count())
"""


def test_without_its_table_transactions_go_on(
    row: Callable[[str, str], None],
    host: Callable[..., HostProject],
    postgresql: str,
    smtp_server: Callable[..., SMTPServer],
) -> None:
    row("cache in the database without its table", "transactions continue, mail is sent, checks report it")
    project = host(POSTGRESQL + CACHE, env={"DATABASE": postgresql})
    assert "email_integration.W021" in project.attempt("manage.py", "migrate", "--verbosity", "0").stderr
    configure = CONFIGURE.format(port=smtp_server().port).replace("\n", "\n    ")
    assert project.shell(IN_TRANSACTION.format(program=configure)).strip() == "2"
    assert project.shell(BY_HAND).strip() == "4"
    assert "createcachetable" in project.attempt("manage.py", "validate_notification_setup").stdout
    project.start_worker()
    assert project.shell(SEND).strip() == "accepted"


def test_with_its_table_a_change_is_followed_at_once(
    row: Callable[[str, str], None],
    host: Callable[..., HostProject],
    postgresql: str,
    smtp_server: Callable[..., SMTPServer],
) -> None:
    row("cache in the database", "mail is sent, workers notice a change at once")
    project = host(POSTGRESQL + CACHE, env={"DATABASE": postgresql})
    project.run("manage.py", "createcachetable")
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.run("manage.py", "check", "--database", "default", "--fail-level", "WARNING")
    first, second = smtp_server(), smtp_server()
    project.shell(CONFIGURE.format(port=first.port))
    project.start_worker()
    assert project.shell(SEND).strip() == "accepted"
    change = f"from email_integration.models import SMTPConfig; SMTPConfig.objects.update(port={second.port})"
    assert project.shell(f"{change}\n{SEND}").strip() == "accepted"
    assert (len(first.messages), len(second.messages)) == (1, 1)
