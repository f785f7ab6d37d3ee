"""The active relay: the generation, this process's copy, and the fallback to the project's settings."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.core.cache import cache, caches
from django.db import connection, transaction

from config.local.valkey import Valkey
from email_integration import conf
from email_integration.django_internals import read_setting
from email_integration.models import NO_ACTIVE_CONFIG, SMTPConfig
from email_integration.routing import Nowhere, Route, active_relay, forget, generation, resolver
from email_integration.smtp import Relay
from tests.deliveries import Clock
from tests.mail_settings import HAS_MAILERS, QUEUED, name_server

pytestmark = pytest.mark.django_db(transaction=True)


def config(name: str = "Primary", *, active: bool = True, **changes: Any) -> SMTPConfig:
    return SMTPConfig.objects.create(
        **{
            "name": name,
            "host": f"{name.lower()}.example.com",
            "from_email": "a@example.com",
            "is_active": active,
            **changes,
        }
    )


def name() -> str:
    """Return the name of the active relay."""
    route = active_relay()
    assert isinstance(route, Relay)
    return route.name


@pytest.fixture
def patient(settings: Any) -> None:
    """Set such a long TTL that only the generation can reveal a change."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "CONFIG_CACHE_TTL": 3600.0}


def test_the_active_configuration_is_the_relay() -> None:
    found = config(port=2525, username="user", password="s3cret", use_tls=False, use_ssl=True, timeout=7)
    config("Backup", active=False)
    assert active_relay() == Relay(
        name="Primary",
        host="primary.example.com",
        port=2525,
        username="user",
        password="s3cret",
        use_tls=False,
        use_ssl=True,
        from_email="a@example.com",
        timeout=7.0,
        version=found.version,
    )


def test_a_current_copy_costs_no_query(patient: None, django_assert_num_queries: Any) -> None:
    config()
    active_relay()
    with django_assert_num_queries(0):
        for _ in range(5):
            active_relay()


def test_the_cache_holds_nothing_of_a_configuration(valkey: Valkey) -> None:
    config(password="s3cret")
    active_relay()
    stored = str(cache.get(generation.KEY))
    assert len(stored) == 16
    assert "primary" not in stored
    assert "s3cret" not in stored


WRITES: dict[str, Callable[[SMTPConfig, SMTPConfig], Any]] = {
    "save": lambda primary, backup: save_active(backup),
    "activate": lambda primary, backup: SMTPConfig.objects.activate(backup),
    "update": lambda primary, backup: SMTPConfig.objects.filter(pk=primary.pk).update(host="new.example.com"),
    "delete": lambda primary, backup: primary.delete(),
    "QuerySet.delete": lambda primary, backup: SMTPConfig.objects.filter(pk=primary.pk).delete(),
    "bulk_update": lambda primary, backup: bulk_update(primary),
    "bulk_create": lambda primary, backup: SMTPConfig.objects.bulk_create(
        [SMTPConfig(name="Third", host="third.example.com", from_email="a@example.com")]
    ),
    "update_or_create": lambda primary, backup: SMTPConfig.objects.update_or_create(
        name="Primary", defaults={"host": "new.example.com"}
    ),
}


def save_active(backup: SMTPConfig) -> None:
    backup.is_active = True
    backup.save()


def bulk_update(primary: SMTPConfig) -> None:
    primary.host = "new.example.com"
    SMTPConfig.objects.bulk_update([primary], ["host"])


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_every_write_is_seen_at_once(patient: None, write: Callable[[SMTPConfig, SMTPConfig], Any]) -> None:
    primary, backup = config(), config("Backup", active=False)
    active_relay()
    before = generation.read()
    write(primary, backup)
    assert generation.read() not in (before, None)
    expected = SMTPConfig.objects.filter(is_active=True).first()
    route = active_relay()
    if expected is None:
        assert isinstance(route, Nowhere)
    else:
        assert isinstance(route, Relay)
        assert (route.name, route.host) == (expected.name, expected.host)


def test_while_a_change_is_under_way_everybody_asks_the_database(patient: None, django_assert_num_queries: Any) -> None:
    primary = config()
    active_relay()
    with transaction.atomic():
        primary.save()
        assert generation.read() is None
        assert cache.get(generation.KEY) == generation.DIRTY
        with django_assert_num_queries(2):  # the pause, the configuration
            active_relay()
    assert generation.read() is not None


def test_the_writer_sees_its_own_change_before_the_commit(patient: None) -> None:
    primary = config()
    active_relay()
    with transaction.atomic():
        SMTPConfig.objects.filter(pk=primary.pk).update(name="Renamed")
        assert name() == "Renamed"
        transaction.set_rollback(True)
    assert name() == "Primary"


def test_a_copy_is_never_made_inside_a_transaction(patient: None, django_assert_num_queries: Any) -> None:
    config()
    forget()
    with transaction.atomic():
        active_relay()
        with django_assert_num_queries(2):
            active_relay()


def test_a_change_that_was_rolled_back_leaves_everybody_asking_until_the_mark_is_gone(
    patient: None, valkey: Valkey, django_assert_num_queries: Any
) -> None:
    primary = config()
    active_relay()
    with transaction.atomic():
        primary.save()
        transaction.set_rollback(True)
    with django_assert_num_queries(2):
        active_relay()
    with redis.Redis.from_url(valkey.url) as client:
        assert 0 < client.ttl(cache.make_key(generation.KEY)) <= 60
    cache.delete(generation.KEY)  # the same as its expiry
    active_relay()
    with django_assert_num_queries(0):
        active_relay()


def test_a_writer_that_dies_after_its_commit_leaves_no_stale_reader(patient: None) -> None:
    """Its mark is in the cache and its row in the database, but it has not made the new generation."""
    config()
    backup = config("Backup", active=False)
    active_relay()
    current = cache.get(generation.KEY)
    SMTPConfig.objects.activate(backup)
    generation.mark_dirty()
    assert current is not None
    assert name() == "Backup"


def test_a_generation_is_made_only_where_there_is_none() -> None:
    cache.delete(generation.KEY)
    first = generation.read()
    assert first is not None
    assert generation.read() == first
    generation.renew()
    assert generation.read() not in (first, None)


def test_a_generation_is_relied_on_for_a_while(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read of the cache costs as much as a sixth of sending a mail."""
    config()
    cached, reads = caches[conf.get("CACHE")], []
    get = cached.get
    monkeypatch.setattr(cached, "get", lambda key: (reads.append(key), get(key))[1])
    monkeypatch.setattr(generation, "TRUSTED", 3600.0)
    for _ in range(5):
        active_relay()
    assert reads == [generation.KEY]
    monkeypatch.setattr(generation, "TRUSTED", 0.0)
    active_relay()
    assert reads == [generation.KEY] * 2


def test_a_new_generation_waits_until_no_process_relies_on_the_old_one(
    patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may use the generation that it read just before without asking again."""
    primary = config()
    monkeypatch.setattr(generation, "TRUSTED", 0.2)
    cached, made_at = caches[conf.get("CACHE")], []
    write = cached.set

    def writing(key: str, value: str, **how: Any) -> None:
        write(key, value, **how)
        made_at.append(time.monotonic())

    monkeypatch.setattr(cached, "set", writing)
    primary.save()
    assert cached.get(generation.KEY) != generation.DIRTY
    assert time.monotonic() - made_at[-1] >= 0.2


def test_a_change_of_its_own_a_process_knows_at_once(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    primary = config()
    monkeypatch.setattr(generation, "TRUSTED", 0.2)
    active_relay()
    with transaction.atomic():
        SMTPConfig.objects.filter(pk=primary.pk).update(name="Renamed")
        assert name() == "Renamed"
    assert name() == "Renamed"


def test_a_flushed_cache_costs_a_query_and_nothing_else(
    patient: None, valkey: Valkey, django_assert_num_queries: Any
) -> None:
    config()
    active_relay()
    valkey.flush()
    with django_assert_num_queries(2):
        assert name() == "Primary"
    with django_assert_num_queries(0):
        active_relay()


def test_a_copy_older_than_the_ttl_is_renewed(settings: Any, django_assert_num_queries: Any) -> None:
    """The TTL limits how long a copy can be stale after raw SQL or a writer without the cache."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "CONFIG_CACHE_TTL": 0.0}
    config()
    active_relay()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE email_integration_smtpconfig SET host = 'raw.example.com'")
    with django_assert_num_queries(2):
        route = active_relay()
    assert isinstance(route, Relay)
    assert route.host == "raw.example.com"


def test_a_copy_is_renewed_early_by_those_who_ask_for_it(
    patient: None, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    """All other callers find it renewed."""
    clock = Clock()
    monkeypatch.setattr(resolver, "time", clock)
    config()
    active_relay()
    with django_assert_num_queries(0):
        active_relay(early=True)
    clock.sleep(3600.0 * 0.9)
    with django_assert_num_queries(0):
        active_relay()
    with django_assert_num_queries(2):
        active_relay(early=True)
    clock.sleep(3600.0 * 0.2)
    with django_assert_num_queries(0):
        active_relay()


def test_without_the_cache_the_database_is_asked_each_time(
    patient: None, valkey: Valkey, django_assert_num_queries: Any, caplog: pytest.LogCaptureFixture
) -> None:
    primary = config()
    active_relay()
    valkey.stop()
    with django_assert_num_queries(2):
        assert name() == "Primary"
    SMTPConfig.objects.filter(pk=primary.pk).update(name="Renamed")  # the save succeeds, and logs the consequence
    assert name() == "Renamed"
    assert "the database is asked each time" in caplog.text
    assert "workers see the changed SMTP configuration after up to 3600.0 s" in caplog.text
    valkey.start()
    forget()
    assert name() == "Renamed"


# -- the fallback ---------------------------------------------------------------------------------------------------


def quiet() -> Route:
    forget()
    return active_relay()


def test_the_fallback_speaks_smtp_whatever_the_backend(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = {"host": "smtp.example.com", "port": 2525, "username": "user", "password": "s3cret", "use_tls": True}
    # With MAILERS, an entry of another backend names no SMTP server.
    backend = QUEUED if HAS_MAILERS else "django.core.mail.backends.console.EmailBackend"
    name_server(settings, backend=backend, **server)
    settings.DEFAULT_FROM_EMAIL = "default@example.com"
    with caplog.at_level(logging.WARNING):
        route = quiet()
    assert route == Relay(
        name="Django settings",
        host="smtp.example.com",
        port=2525,
        username="user",
        password="s3cret",
        use_tls=True,
        from_email="default@example.com",
        timeout=10.0,
    )
    assert [record.getMessage() for record in caplog.records] == [
        "No active SMTP Configuration found in database. Falling back to Django settings."
    ]
    assert caplog.records[0].getMessage() == NO_ACTIVE_CONFIG


def test_the_warning_is_not_repeated_for_every_mail(patient: None, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        active_relay()
    assert caplog.text.count(NO_ACTIVE_CONFIG) == 1


def test_djangos_default_localhost_is_not_a_decision(settings: Any) -> None:
    assert read_setting("EMAIL_HOST") == "localhost"
    assert isinstance(quiet(), Nowhere)


def test_the_first_configuration_ends_the_fallback_at_once(patient: None, settings: Any) -> None:
    name_server(settings, host="smtp.example.com")
    assert name() == "Django settings"
    config()
    assert name() == "Primary"
    SMTPConfig.objects.deactivate()
    assert name() == "Django settings"
