"""The shared cache in the database: its faults are reported and break no transaction of the caller."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.core import checks
from django.core.cache import BaseCache
from django.core.cache.backends.db import DatabaseCache
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from email_integration import routing
from email_integration.models import ServerQuirks, SMTPConfig
from email_integration.queue import sweeper
from email_integration.routing import generation, quirks
from email_integration.smtp import Relay

from .validating import validate

pytestmark = pytest.mark.django_db(transaction=True)

BACKEND = "django.core.cache.backends.db.DatabaseCache"


class Unwritable(DatabaseCache):
    """A cache that stores nothing, as when its disk is full."""

    is_full = False

    def set(self, key: Any, *args: Any, **kwargs: Any) -> None:
        if not self.is_full:
            super().set(key, *args, **kwargs)


@pytest.fixture
def cache_in(settings: Any) -> Iterator[Callable[..., None]]:
    """Configure the shared cache in a table with this name."""
    made: list[str] = []

    def use(table: str, *, backend: str = BACKEND) -> None:
        made.append(table)
        settings.CACHES = {**settings.CACHES, "shared": {"BACKEND": backend, "LOCATION": table}}
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "CACHE": "shared"}
        routing.forget()

    yield use
    with connection.cursor() as cursor:
        for table in made:
            cursor.execute(f"DROP TABLE IF EXISTS {table}")


def configure(**changes: Any) -> SMTPConfig:
    values: dict[str, Any] = {"name": "A", "host": "a.example.com", "port": 25, "from_email": "a@example.com"}
    return SMTPConfig.objects.create(**values | changes)


def _heartbeat() -> None:
    with suppress(DatabaseError):
        sweeper.last_heartbeat()


@pytest.mark.parametrize(
    "act",
    [configure, routing.active_relay, generation.is_reachable, sweeper.leave_heartbeat, _heartbeat, validate],
    ids=["save", "send", "is_reachable", "leave_heartbeat", "last_heartbeat", "validate"],
)
def test_a_table_that_is_not_there_breaks_no_transaction(
    cache_in: Callable[[str], None], act: Callable[[], Any]
) -> None:
    cache_in("not_there")
    with transaction.atomic():
        SMTPConfig.objects.count()
        act()
        configure(name="B")
    assert SMTPConfig.objects.filter(name="B").exists()


def test_nor_does_it_break_one_that_is_begun_by_hand(cache_in: Callable[[str], None]) -> None:
    """With autocommit off, each statement is in a transaction without a surrounding ``atomic()``."""
    cache_in("not_there")
    transaction.set_autocommit(False)
    try:
        with CaptureQueriesContext(connection) as asked:
            sweeper.leave_heartbeat()
        assert sum(query["sql"].startswith("ROLLBACK TO SAVEPOINT") for query in asked) == 1
        configure(name="B")
        transaction.commit()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert SMTPConfig.objects.filter(name="B").exists()


def test_it_is_logged_and_the_database_is_asked(
    cache_in: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    cache_in("not_there")
    with transaction.atomic():
        configure(is_active=True)
        relay = routing.active_relay()
    assert isinstance(relay, Relay)
    assert relay.host == "a.example.com"
    assert "The shared cache did not answer (" in caplog.text


def test_a_change_is_seen_at_once_by_a_cache_in_the_database(cache_in: Callable[[str], None]) -> None:
    """Inside and outside of transactions."""
    cache_in("cache_entries")
    call_command("createcachetable", verbosity=0)
    config = configure(is_active=True)
    assert routing.active_relay().host == "a.example.com"
    with transaction.atomic():
        SMTPConfig.objects.update(host="b.example.com")
        assert routing.active_relay().host == "b.example.com"
    assert routing.active_relay().host == "b.example.com"
    with suppress(KeyError), transaction.atomic():
        SMTPConfig.objects.update(host="c.example.com")
        raise KeyError
    assert routing.active_relay().host == "b.example.com"
    config.delete()


def test_a_cache_that_keeps_nothing_without_a_word_is_noticed(
    cache_in: Callable[..., None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django's database cache ignores every database error during a write."""
    cache_in("cache_entries", backend=f"{__name__}.Unwritable")
    call_command("createcachetable", verbosity=0)
    configure(is_active=True)
    assert routing.active_relay().host == "a.example.com"
    monkeypatch.setattr(Unwritable, "is_full", True)
    with caplog.at_level(logging.ERROR):
        SMTPConfig.objects.update(host="b.example.com")
    assert "workers see the changed SMTP configuration after up to" in caplog.text


def test_validate_says_what_is_missing(cache_in: Callable[[str], None]) -> None:
    cache_in("not_there")
    code, output = validate()
    assert code == 1
    assert "✗ The cache “shared” cannot use its table “not_there” in the database “default”" in output
    assert "Run `manage.py createcachetable`." in output


def test_the_check_tries_it(cache_in: Callable[[str], None]) -> None:
    """The check writes to the cache, but only with ``check --database`` and ``migrate``."""

    def found(databases: list[str] | None) -> list[str]:
        messages = checks.run_checks(databases=databases)
        return [str(message.msg) for message in messages if message.id == "email_integration.W021"]

    cache_in("not_there")
    assert found(None) == []
    (message,) = found(["default"])
    assert message.startswith("The cache “shared” cannot use its table “not_there” in the database “default”")
    cache_in("cache_entries")
    call_command("createcachetable", verbosity=0)
    assert found(["default"]) == []


@pytest.mark.usefixtures("fresh_process")
def test_what_is_learned_of_servers_breaks_no_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds for another optional table of this app."""
    configure(is_active=True)
    relay = routing.active_relay()
    assert isinstance(relay, Relay)
    monkeypatch.setattr(ServerQuirks._meta, "db_table", "not_there")
    with transaction.atomic():
        quirks.memory.recall(relay)
        configure(name="B")
    assert SMTPConfig.objects.filter(name="B").exists()


class Gone(BaseCache):
    """A cache like a memcached client whose server has been away for a while: it stores nothing and
    reports no error.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def add(self, key: Any, value: Any, timeout: Any = None, version: Any = None) -> bool:
        return False

    def get(self, key: Any, default: Any = None, version: Any = None) -> Any:
        return default

    def set(self, key: Any, value: Any, timeout: Any = None, version: Any = None) -> None:
        pass


def test_a_cache_that_is_gone_without_a_word_is_out_of_reach(cache_in: Callable[..., None]) -> None:
    """The admin then says how long workers may take, and the database is queried each time."""
    cache_in("cache_entries", backend=f"{__name__}.Gone")
    configure(is_active=True)
    assert generation.read() is None
    assert not generation.is_reachable()
