"""Check the databases of the project: their settings, and, where a check may connect, the databases themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.cache import caches
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DEFAULT_DB_ALIAS, DatabaseError, InterfaceError, connections, router

from email_integration import caching, conf
from email_integration.diagnosis import configuration, database, workers
from email_integration.diagnosis.findings import Level
from email_integration.ledger import rows
from email_integration.models import SMTPConfig

#: Options by vendor. Without them, a query on a silent connection waits until the kernel's timeout.
_BOUNDS = {
    "postgresql": ("connect_timeout", "keepalives_idle", "tcp_user_timeout"),
    "mysql": ("connect_timeout", "read_timeout", "write_timeout"),
}

#: Options that name a file or a service, which may contain the options above.
_ELSEWHERE = ("service", "read_default_file")


@register("email_integration")
def check_silent_connections(**kwargs: Any) -> list[CheckMessage]:
    """Check that queries on silent connections have a timeout. Uses no network."""
    found: list[CheckMessage] = []
    for alias in sorted({router.db_for_write(model) for model in _models()} & set(connections)):
        connection = connections[alias]
        options = connection.settings_dict.get("OPTIONS") or {}
        wanted = _BOUNDS.get(connection.vendor, ())
        missing = [name for name in wanted if not _is_set(options.get(name))]
        if connection.vendor == "postgresql" and str(options.get("keepalives", 1)) == "0":
            missing.append("keepalives=1")
        far = _is_far(str(connection.settings_dict.get("HOST") or options.get("host") or ""))
        if missing and far and not any(name in options for name in _ELSEWHERE):
            found.append(
                Warning(
                    f"DATABASES[{alias!r}]['OPTIONS'] lacks {', '.join(missing)}.",
                    hint="Without them, a worker that waits on a silent connection hangs until the kernel gives up, "
                    "which can take hours. See docs/databases.md.",
                    id="email_integration.W023",
                )
            )
    return found


def _is_set(value: Any) -> bool:
    return value is not None and str(value) not in ("", "0", "-1")


def _is_far(hosts: str) -> bool:
    """Return whether one of the hosts, separated by commas as for PostgreSQL, is another machine."""
    near = ("/", "@", "127.", "localhost", "::1", "[::1]")
    return any(host and not host.startswith(near) for host in hosts.replace(" ", "").split(","))


def _models() -> list[Any]:
    return list(apps.get_app_config("email_integration").get_models())


@register("email_integration")
def check_routers(**kwargs: Any) -> list[CheckMessage]:
    """Check which databases the routers choose for the tables of this app. Connects to no database."""
    found: list[CheckMessage] = []
    places: dict[str, list[str]] = {}
    for model in _models():
        places.setdefault(router.db_for_write(model), []).append(model.__name__)
    if len(places) > 1:
        found.append(
            Error(
                "DATABASE_ROUTERS put the models of email_integration into several databases: "
                + "; ".join(f"{', '.join(sorted(names))} into {alias!r}" for alias, names in sorted(places.items()))
                + ".",
                hint="The models refer to each other and are written in one transaction. Route all of them to one "
                "database.",
                id="email_integration.E030",
            )
        )
    if not settings.DATABASES or places.keys() == {DEFAULT_DB_ALIAS}:
        return found
    here = rows.database()
    if here != DEFAULT_DB_ALIAS:
        found.append(
            Warning(
                f"DATABASE_ROUTERS put mail into the database {here!r}, so submitting a mail is not part of a "
                f"transaction in {DEFAULT_DB_ALIAS!r}.",
                hint="A mail that is submitted in such a transaction is sent even if the transaction is rolled back. "
                f"Submit it with transaction.on_commit(), or also inside transaction.atomic(using={here!r}). "
                "See docs/databases.md.",
                id="email_integration.W024",
            )
        )
    users = router.db_for_write(get_user_model())
    if users not in places:
        found.append(
            Warning(
                f"Users are in the database {users!r}, but email_integration is in {here!r}.",
                hint="The tables of email_integration refer to users, and a database cannot check references to "
                f"another database. Route email_integration to {users!r}, or migrate users into {here!r} too.",
                id="email_integration.W025",
            )
        )
    return found


@register(Tags.database)
def check_rows(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check the active configuration and the stored passwords; only with ``check --database`` and ``migrate``.

    The results are warnings, because an error would stop ``migrate``.
    """
    if router.db_for_write(SMTPConfig) not in (databases or ()):
        return []
    try:
        found = configuration.wrong_with_rows()
    except (DatabaseError, InterfaceError):  # unreachable, or not migrated yet
        return []
    ids = {"smtp.password": "email_integration.W006", "smtp.valid": "email_integration.W007"}
    return [Warning(f"{finding.text}.", hint=finding.hint, id=ids[finding.check]) for finding in found]


@register(Tags.database)
def check_pooler(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check that a connection pooler keeps prepared statements; only with ``check --database`` and ``migrate``."""
    alias = rows.database()
    if alias not in (databases or ()):
        return []
    try:
        found = database.diagnose_pooler(alias)
    except (DatabaseError, InterfaceError):  # unreachable
        return []
    return [Warning(f"{finding.text}.", hint=finding.hint, id="email_integration.W014") for finding in found]


@register(Tags.database)
def check_cache_table(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check the shared cache if one of ``databases`` stores it; only with ``check --database`` and ``migrate``."""
    alias = conf.get("CACHE")
    try:
        lies_in = caching.databases(caches[alias])
    except Exception:  # reported by check_settings, or by Django
        return []
    if not set(lies_in) & set(databases or ()):
        return []
    found: list[CheckMessage] = []
    if lies_in[0] != lies_in[-1]:
        found.append(
            Warning(
                f"The cache {alias!r} is read from the database {lies_in[0]!r} and written to {lies_in[-1]!r}.",
                hint="While the first database lags behind the second, workers use the previous SMTP configuration. "
                "Have the router name the same database for both.",
                id="email_integration.W022",
            )
        )
    tried = workers.diagnose_cache()
    if tried.level is Level.ERROR:
        found.append(Warning(f"{tried.text}.", hint=tried.hint, id="email_integration.W021"))
    return found


@register("email_integration")
def check_tenants(**kwargs: Any) -> list[CheckMessage]:
    """Check that the app is shared if each tenant has a schema, by the settings of django-tenants."""
    names = ("email_integration", "email_integration.apps.EmailIntegrationConfig")
    if not any(name in getattr(settings, "TENANT_APPS", ()) for name in names):
        return []
    return [
        Error(
            "TENANT_APPS contains 'email_integration', so mail that is submitted in a tenant's schema is not sent.",
            hint="Workers send only the mail in their own schema. List the app in SHARED_APPS only. "
            "See docs/databases.md.",
            id="email_integration.E031",
        )
    ]


@register(Tags.database)
def check_schemas(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check that there is only one table of deliveries; only with ``check --database`` and ``migrate``."""
    if rows.database() not in (databases or ()):
        return []
    try:
        found = database.diagnose_schemas(rows.database())
    except (DatabaseError, InterfaceError):
        return []
    return [Warning(f"{finding.text}.", hint=finding.hint, id="email_integration.W026") for finding in found]
