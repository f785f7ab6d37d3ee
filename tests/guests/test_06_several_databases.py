"""A schema for each tenant, and a separate database for mail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from email_integration.smtpd import SMTPServer
from tests.host_project import CONFIGURE, POSTGRESQL, SEND, HostProject

pytestmark = pytest.mark.extra

#: Like django-tenants: the connection's search path is the tenant's schema.
TENANT = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("CREATE SCHEMA IF NOT EXISTS tenant_a; SET search_path TO tenant_a, public")
"""

TWO = """
DATABASES["mail"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "mail.sqlite3"}
DATABASE_ROUTERS = ["proj.routers.Mail"]
"""

ROUTER = """
APPS = ("email_integration",)
class Mail:
    def db_for_read(self, model, **hints):
        return "mail" if model._meta.app_label in APPS else None
    db_for_write = db_for_read
    def allow_relation(self, one, other, **hints):
        return True
    def allow_migrate(self, db, app_label, **hints):
        # The tables of users are in both: those of mail refer to them.
        return app_label in (*APPS, "auth", "contenttypes") if db == "mail" else app_label not in APPS
"""

ROLLED_BACK = """
from django.db import transaction
from email_integration.models import Delivery
from django.core.mail import EmailMessage
from email_integration.delivery import submit
def order(*databases):
    try:
        with transaction.atomic(), transaction.atomic(using=databases[0]):
            submit(EmailMessage("S", "B", "a@example.com", ["kim@example.com"]))
            raise KeyError
    except KeyError:
        return Delivery.objects.count()
print(order("default"), order("mail"))
"""


def test_a_table_in_the_schema_of_a_tenant_is_said(
    row: Callable[[str, str], None], host: Callable[..., HostProject], postgresql: str
) -> None:
    row("the app in the schema of a tenant", "'check' and 'validate' report that its mail stays there")
    project = host(POSTGRESQL, env={"DATABASE": postgresql})
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.shell(
        TENANT
        + "with connection.cursor() as cursor:\n"
        + "    cursor.execute('CREATE TABLE tenant_a.email_integration_delivery "
        + "(LIKE public.email_integration_delivery INCLUDING ALL)')"
    )
    assert "email_integration.W026" in project.attempt("manage.py", "check", "--database", "default").stderr
    assert (
        "is in the schema “public” and also in tenant_a"
        in project.attempt("manage.py", "validate_notification_setup").stdout
    )


def test_an_app_of_tenants_is_refused(row: Callable[[str, str], None], host: Callable[..., HostProject]) -> None:
    row("TENANT_APPS with the app", "'check' refuses it")
    done = host("TENANT_APPS = ['email_integration']").attempt("manage.py", "check")
    assert done.returncode == 1
    assert "email_integration.E031" in done.stderr


def test_mail_of_tenants_is_sent_from_the_schema_that_all_share(
    row: Callable[[str, str], None],
    host: Callable[..., HostProject],
    postgresql: str,
    smtp_server: Callable[..., SMTPServer],
) -> None:
    row("a schema per tenant, the app in the shared schema", "mail is sent")
    project = host(POSTGRESQL, env={"DATABASE": postgresql})
    project.run("manage.py", "migrate", "--verbosity", "0")
    project.shell(CONFIGURE.format(port=smtp_server().port))
    project.start_worker()
    assert project.shell(TENANT + SEND).strip() == "accepted"


def test_mail_in_a_database_of_its_own_is_sent(
    row: Callable[[str, str], None],
    host: Callable[..., HostProject],
    smtp_server: Callable[..., SMTPServer],
) -> None:
    row("two databases by router", "mail is sent, 'check' explains the effect on transactions")
    project = host(TWO)
    (project.folder / "proj" / "routers.py").write_text(ROUTER)
    said = project.attempt("manage.py", "check").stderr
    assert "email_integration.W024" in said
    for database in ("default", "mail"):
        project.run("manage.py", "migrate", "--database", database, "--verbosity", "0")
    # As documented: a rollback in the other database keeps the mail, a rollback in the mail database removes it.
    assert project.shell(ROLLED_BACK).split() == ["1", "1"]
    project.shell(CONFIGURE.format(port=smtp_server().port))
    project.start_worker()
    assert project.shell(SEND).strip() == "accepted"
