"""The checks of databases: remote databases that may stop responding, several databases with a router, and one schema
per tenant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core import checks
from django.db import connection, connections, models

from config import services
from email_integration.models import Delivery

from .validating import validate

POSTGRESQL = "django.db.backends.postgresql"


def found(**options: Any) -> dict[str, str]:
    """Return the messages of the app's checks by id."""
    messages = checks.run_checks(tags=["email_integration", *(["database"] if options else [])], **options)
    return {str(message.id).removeprefix("email_integration."): str(message.msg) for message in messages}


class Routed:
    """A router that puts the models selected by ``place`` into one database, and all others into the default one."""

    @staticmethod
    def place(model: type[models.Model]) -> str | None:
        return None

    def db_for_read(self, model: type[models.Model], **hints: Any) -> str | None:
        return self.place(model)

    db_for_write = db_for_read


@pytest.fixture
def mail(settings: Any) -> Iterator[Callable[..., None]]:
    """Configure a database ``mail`` with these settings that holds the models selected by ``place``."""

    def use(place: Callable[[Any], str | None], **database: Any) -> None:
        connections.settings["mail"] = {**connections.settings["default"], "OPTIONS": {}, **database}
        assert connections["mail"].alias == "mail"
        Routed.place = staticmethod(place)  # type: ignore[method-assign]
        settings.DATABASE_ROUTERS = [f"{__name__}.Routed"]

    yield use
    settings.DATABASE_ROUTERS = []
    if "mail" in connections.settings:
        del connections["mail"]
        del connections.settings["mail"]


def of_the_app(model: Any) -> str | None:
    return "mail" if model._meta.app_label == "email_integration" else None


@pytest.mark.parametrize(
    ("host", "options", "lacks"),
    [
        ("db.example.com", {}, "connect_timeout, keepalives_idle, tcp_user_timeout"),
        ("10.0.0.5", {"keepalives_idle": 10, "tcp_user_timeout": "0", "connect_timeout": 5}, "tcp_user_timeout"),
        ("10.0.0.5", {**services.POSTGRESQL_OPTIONS, "keepalives": 0}, "keepalives=1"),
        ("localhost,db.example.com", {"connect_timeout": 5, "tcp_user_timeout": 9}, "keepalives_idle"),
        ("", {"host": "db.example.com", "connect_timeout": 5, "keepalives_idle": 5}, "tcp_user_timeout"),
        ("db.example.com", services.POSTGRESQL_OPTIONS, None),
        ("db.example.com", {"service": "mail"}, None),
        ("localhost", {}, None),
        ("127.0.0.1", {}, None),
        ("/run/postgresql", {}, None),
        ("", {}, None),
    ],
)
def test_options_that_a_far_database_lacks_are_said(
    mail: Callable[..., None], host: str, options: dict[str, Any], lacks: str | None
) -> None:
    mail(of_the_app, ENGINE=POSTGRESQL, HOST=host, OPTIONS=options)
    assert found().get("W023") == (lacks and f"DATABASES['mail']['OPTIONS'] lacks {lacks}.")


def test_mail_in_another_database_is_no_part_of_transactions(mail: Callable[..., None]) -> None:
    """Users in another database cannot be referenced from the app's tables."""
    mail(of_the_app)
    said = found()
    assert said["W024"].startswith("DATABASE_ROUTERS put mail into the database 'mail'")
    assert said["W025"] == "Users are in the database 'default', but email_integration is in 'mail'."
    assert "E030" not in said


def test_all_in_another_database_is_said_too(mail: Callable[..., None]) -> None:
    """Submitting is transactional only in that database."""
    mail(lambda model: "mail")
    assert found().keys() & {"E030", "W024", "W025"} == {"W024"}


def test_models_in_several_databases_are_an_error(mail: Callable[..., None]) -> None:
    mail(lambda model: "mail" if model is Delivery else None)
    assert "; Delivery into 'mail'." in found()["E030"]


def test_one_database_is_fine() -> None:
    assert not found().keys() & {"E030", "W023", "W024", "W025"}


@pytest.mark.parametrize("name", ["email_integration", "email_integration.apps.EmailIntegrationConfig"])
def test_an_app_of_tenants_is_an_error(settings: Any, name: str) -> None:
    """The check reads the setting of django-tenants and its forks."""
    settings.TENANT_APPS = ["shop"]
    assert "E031" not in found()
    settings.TENANT_APPS = ("shop", name)
    assert "E031" in found()


@pytest.mark.django_db(transaction=True)
def test_a_table_in_several_schemas_is_said() -> None:
    """It does not matter which tool created them."""
    if connection.vendor != "postgresql":
        assert "W026" not in found(databases=["default"])
        return
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA tenant_a; CREATE TABLE tenant_a.email_integration_delivery (id int)")
    try:
        said = found(databases=["default"])["W026"]
        _, output = validate()
        assert "W026" not in found()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP SCHEMA tenant_a CASCADE")
    assert "is in the schema “public” and also in tenant_a" in said
    assert f"⚠ {said}" in output
    assert "W026" not in found(databases=["default"])
