"""A page that fails while the database is down, and a log that mails each warning."""

from __future__ import annotations

from collections.abc import Callable

import django
import pytest

from config.local.processes import wait_until
from config.local.valkey import Valkey
from email_integration.smtpd import Fault, SMTPServer
from tests.host_project import CONFIGURE, HostProject

pytestmark = pytest.mark.extra

QUEUED = f"""
ADMINS = ["ada@example.com"] if {django.VERSION >= (6, 0)} else [("Ada", "ada@example.com")]
DEBUG = False
ALLOWED_HOSTS = ["*"]
if {django.VERSION >= (6, 1)}:
    MAILERS = {{"default": {{"BACKEND": "email_integration.backends.queued.EmailBackend",
                             "OPTIONS": {{"fail_silently": True}}}}}}
else:
    EMAIL_BACKEND = "email_integration.backends.queued.EmailBackend"
"""

AT_WARNING = """
LOGGING = {"version": 1, "disable_existing_loggers": False,
           "handlers": {"admins": {"class": "django.utils.log.AdminEmailHandler", "level": "WARNING"}},
           "root": {"handlers": ["admins"], "level": "WARNING"}}
"""

#: The logging that the documentation recommends.
APART = """
if {mailers}:
    MAILERS["errors"] = {{"BACKEND": "django.core.mail.backends.smtp.EmailBackend",
                          "OPTIONS": {{"host": "localhost", "port": {port}, "fail_silently": True}}}}
else:
    EMAIL_HOST, EMAIL_PORT = "localhost", {port}
LOGGING = {{"version": 1, "disable_existing_loggers": False,
            "handlers": {{"admins": {{"class": "django.utils.log.AdminEmailHandler", "level": "ERROR",
                {how}}}}},
            "loggers": {{"django": {{"handlers": ["admins"], "level": "INFO"}}}}}}
"""

DOWN = """
DATABASES["default"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": "/nowhere/db.sqlite3"}
"""

#: The page reads the password's user from the database.
VISIT = """
from django.test import Client
page = Client(raise_request_exception=False).post("/admin/login/", {"username": "kim", "password": "x"})
print(page.status_code)
"""


def test_the_page_of_an_error_is_shown_while_the_database_is_down(
    row: Callable[[str, str], None], host: Callable[..., HostProject]
) -> None:
    row("error mail by the queued backend, the database down", "the page 500 is shown, the loss is logged")
    done = host(QUEUED + DOWN).attempt("-c", f"import django; django.setup()\n{VISIT}")
    assert (done.returncode, done.stdout.strip()) == (0, "500"), done.stderr
    assert "A mail with fail_silently=True is lost" in done.stderr


def test_error_mail_by_a_server_of_its_own_arrives(
    row: Callable[[str, str], None], host: Callable[..., HostProject], smtp_server: Callable[..., SMTPServer]
) -> None:
    row("error mail by a separate backend, the database down", "the page 500 is shown, the mail arrives")
    server = smtp_server(security="plain", user=None)
    mailers = django.VERSION >= (6, 1)
    how = '"using": "errors"' if mailers else '"email_backend": "django.core.mail.backends.smtp.EmailBackend"'
    project = host(QUEUED + DOWN + APART.format(mailers=mailers, port=server.port, how=how))
    assert project.shell(VISIT).strip() == "500"
    assert [message.rcpt_tos for message in server.messages] == [("ada@example.com",)]


def test_each_warning_is_mailed_once_while_the_broker_is_down(
    row: Callable[[str, str], None], host: Callable[..., HostProject], valkey: Valkey
) -> None:
    row("AdminEmailHandler at WARNING, the broker down", "one error mail for each mail, and none for an error mail")
    project = host(QUEUED + AT_WARNING)
    project.run("manage.py", "migrate", "--verbosity", "0")
    valkey.kill()
    send = "from django.core.mail import send_mail; send_mail('S', 'B', None, ['kim@example.com'])"
    count = "from email_integration.models import Delivery; print(Delivery.objects.count())"
    assert 2 <= int(project.shell(f"{send}\n{count}")) <= 5
    assert "email_integration.W027" in project.attempt("manage.py", "check").stderr


#: Celery removes the root logger's handlers in its workers.
AT_WARNING_IN_WORKERS = """
LOGGING = {"version": 1, "disable_existing_loggers": False,
           "handlers": {"admins": {"class": "django.utils.log.AdminEmailHandler", "level": "WARNING"}},
           "loggers": {"email_integration": {"handlers": ["admins"], "level": "WARNING"}}}
"""


def test_each_refusal_is_mailed_once_by_workers(
    row: Callable[[str, str], None], host: Callable[..., HostProject], smtp_server: Callable[..., SMTPServer]
) -> None:
    row(
        "AdminEmailHandler at WARNING, the server refuses all",
        "one error mail for each mail, and none for an error mail",
    )
    server, project = smtp_server(), host(QUEUED + AT_WARNING_IN_WORKERS)
    server.inject(Fault(verb="RCPT", reply="550 5.1.1 No such user", times=None))
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.shell(CONFIGURE.format(port=server.port))
    project.start_worker()
    send = "from django.core.mail import send_mail; send_mail('S', 'B', 'a@example.com', ['kim@example.com'])"
    count = "from email_integration.models import Delivery; print({})"
    failed, all_ = (count.format(f"Delivery.objects{rows}.count()") for rows in (".filter(status='failed')", ""))
    for number in (2, 4, 6):
        project.shell(send)
        wait_until(lambda: int(project.shell(failed)) >= number, what=f"{number} failed mails")  # noqa: B023
    assert project.shell(all_).strip() == "6"
