"""``SMTPConfig``: at most one active configuration, the ways to activate one, and validation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core import serializers
from django.core.exceptions import ValidationError
from django.db import DatabaseError, IntegrityError, connection, transaction

from email_integration.models import NO_ACTIVE_CONFIG, SMTPConfig
from email_integration.routing import Nowhere, active_relay
from email_integration.smtp import Relay

pytestmark = pytest.mark.django_db

KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def configuration(name: str = "Primary Mail Server", **changes: Any) -> SMTPConfig:
    values: dict[str, Any] = {
        "host": "mail.hanna.co.zw",
        "username": "user",
        "password": "keep-secret",
        "from_email": "noreply@hanna.co.zw",
    }
    return SMTPConfig.objects.create(name=name, **values | changes)


def active() -> list[str]:
    return list(SMTPConfig.objects.filter(is_active=True).values_list("name", flat=True))


def test_it_reads_as_documented() -> None:
    """It shows the name, the server, and whether the configuration is active."""
    config = configuration(is_active=True)

    assert str(config) == "Primary Mail Server - mail.hanna.co.zw:587 (Active)"
    config.is_active = False
    assert str(config) == "Primary Mail Server - mail.hanna.co.zw:587 (Inactive)"


def test_the_defaults_are_those_of_a_server_with_starttls() -> None:
    """Port 587, TLS, ten seconds, inactive."""
    config = SMTPConfig.objects.create(name="n", host="h", from_email="a@example.com")
    config.refresh_from_db()

    assert (config.port, config.use_tls, config.use_ssl, config.timeout) == (587, True, False, 10)
    assert (config.username, config.password, config.is_active) == ("", "", False)
    assert config.created_at <= config.updated_at


class TestOneActive:
    """At most one configuration is active, in every way to change it."""

    def test_creating_an_active_one_takes_the_place_of_the_other(self) -> None:
        """As documented: ``objects.create(..., is_active=True)``."""
        configuration("A", is_active=True)
        configuration("B", is_active=True)

        assert active() == ["B"]

    def test_the_documented_switch(self) -> None:
        """The code of the documentation, word for word."""
        configuration("Primary Mail Server", is_active=True)
        configuration("Backup SMTP Server")

        SMTPConfig.objects.all().update(is_active=False)
        assert active() == []
        config = SMTPConfig.objects.get(name="Backup SMTP Server")
        config.is_active = True
        config.save()

        assert active() == ["Backup SMTP Server"]
        relay = active_relay()
        assert isinstance(relay, Relay)
        assert relay.name == "Backup SMTP Server"

    def test_activate_and_deactivate(self) -> None:
        """The methods of the manager."""
        a, b = configuration("A", is_active=True), configuration("B")

        SMTPConfig.objects.activate(b)
        assert (active(), b.is_active) == (["B"], True)
        SMTPConfig.objects.activate(a)
        assert active() == ["A"]
        SMTPConfig.objects.activate(a)
        assert active() == ["A"]

        SMTPConfig.objects.deactivate()
        assert active() == []

    def test_activating_saves_nothing_else_of_a_stale_instance(self) -> None:
        """Activating an old copy does not revert changes made in the meantime."""
        stale = configuration("A")
        SMTPConfig.objects.filter(pk=stale.pk).update(host="new.example.com")

        SMTPConfig.objects.activate(stale)

        assert SMTPConfig.objects.get().host == "new.example.com"
        assert stale.host == "new.example.com"

    def test_activating_what_was_deleted_says_so(self) -> None:
        """Nothing changes."""
        configuration("A", is_active=True)
        gone = configuration("B")
        SMTPConfig.objects.filter(pk=gone.pk).delete()

        with pytest.raises(SMTPConfig.DoesNotExist):
            SMTPConfig.objects.activate(gone)

        assert active() == ["A"]

    def test_an_update_that_activates_one_takes_the_place_of_the_other(self) -> None:
        """It works like a save, and both changes are recorded."""
        configuration("A", is_active=True)
        configuration("B")

        SMTPConfig.objects.filter(name="B").update(is_active=True)

        assert active() == ["B"]
        assert {config.name: config.history.first().event for config in SMTPConfig.objects.all()} == {
            "A": "deactivated",
            "B": "activated",
        }

    def test_an_update_that_activates_several_is_refused(self) -> None:
        """The call does not say which of them is to be active."""
        configuration("A", is_active=True)
        configuration("B")

        with pytest.raises(ValidationError, match="Only one configuration can be active"):
            SMTPConfig.objects.update(is_active=True)

        assert active() == ["A"]

    def test_creating_several_active_ones_is_refused(self) -> None:
        """The call does not say which of them is to be active."""
        configuration("A", is_active=True)
        fresh = [SMTPConfig(name=name, host="h", from_email="a@example.com", is_active=True) for name in "CD"]

        with pytest.raises(ValidationError, match="Only one configuration can be active"):
            SMTPConfig.objects.bulk_create(fresh)

        assert active() == ["A"]

    def test_the_database_refuses_a_second(self) -> None:
        """Raw SQL bypasses the app's own code."""
        configuration("A", is_active=True)
        configuration("B")

        with pytest.raises(IntegrityError), transaction.atomic():
            raw("UPDATE email_integration_smtpconfig SET is_active = TRUE")

        assert active() == ["A"]

    def test_bulk_update_can_move_it_by_two_steps_only(self) -> None:
        """It needs two calls, each of which is an ordinary update."""
        a, b = configuration("A", is_active=True), configuration("B")
        a.is_active = False
        SMTPConfig.objects.bulk_update([a], ["is_active"])
        b.is_active, b.password = True, "another"
        SMTPConfig.objects.bulk_update([b], ["is_active", "password"])

        assert active() == ["B"]
        assert SMTPConfig.objects.get(name="B").password == "another"
        assert stored("B").startswith("fernet$")

    def test_deleting_the_active_one_leaves_none(self) -> None:
        """No other configuration is activated automatically."""
        configuration("B")
        configuration("A", is_active=True).delete()

        assert active() == []


def raw(sql: str, *parameters: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


def stored(name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT password FROM email_integration_smtpconfig WHERE name = %s", [name])
        return str(cursor.fetchone()[0])


def test_without_an_active_one_there_is_none_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The warning has exactly this text."""
    configuration()

    with caplog.at_level(logging.WARNING):
        assert SMTPConfig.objects.get_active_config() is None

    assert NO_ACTIVE_CONFIG == "No active SMTP Configuration found in database. Falling back to Django settings."
    assert [record.getMessage() for record in caplog.records if "email_integration" in record.name] == [
        NO_ACTIVE_CONFIG
    ]


def test_the_active_one_is_given_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """This is the usual case."""
    config = configuration(is_active=True)

    assert SMTPConfig.objects.get_active_config() == config
    assert not caplog.records


class TestRequiredTest:
    """REQUIRE_TEST_BEFORE_ACTIVATE, for every way to activate."""

    @pytest.fixture(autouse=True)
    def _required(self, settings: Any) -> None:
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "REQUIRE_TEST_BEFORE_ACTIVATE": True}

    @pytest.mark.parametrize(
        "route",
        [
            lambda config: SMTPConfig.objects.activate(config),
            lambda config: config.save_active(True),
            lambda config: SMTPConfig.objects.filter(pk=config.pk).update(is_active=True),
            lambda config: SMTPConfig.objects.create(name="B", host="h", from_email="a@example.com", is_active=True),
            lambda config: SMTPConfig.objects.bulk_create(
                [SMTPConfig(name="B", host="h", from_email="a@example.com", is_active=True)]
            ),
        ],
        ids=["activate", "save", "update", "create", "bulk_create"],
    )
    def test_what_was_not_tested_is_refused(self, route: Callable[[SMTPConfig], object]) -> None:
        """The message says what to do."""
        config = configuration("A")

        with pytest.raises(ValidationError, match="has not passed a connection test since its last change"):
            route(config)

        assert active() == []

    def test_what_passed_is_let_through(self) -> None:
        """Every way to activate is allowed, and again later."""
        config = configuration("A")
        config.record_test(passed=True, detail="TLSv1.3")

        SMTPConfig.objects.activate(config)
        SMTPConfig.objects.deactivate()
        SMTPConfig.objects.filter(pk=config.pk).update(is_active=True)

        assert active() == ["A"]

    def test_what_failed_is_not(self) -> None:
        """The last test decides."""
        config = configuration("A")
        config.record_test(passed=True, detail="")
        config.record_test(passed=False, detail="auth: 535")

        with pytest.raises(ValidationError):
            SMTPConfig.objects.activate(config)

    @pytest.mark.parametrize(
        "change",
        [
            {"host": "other.example.com"},
            {"port": 2525},
            {"username": "other"},
            {"password": "other"},
            {"use_tls": False},
            {"use_tls": False, "use_ssl": True},
            {"ehlo_name": "mail.example.com"},
        ],
        ids=lambda change: " ".join(change),
    )
    def test_a_change_of_what_was_tested_asks_for_another_test(self, change: dict[str, Any]) -> None:
        """By save or by update. After the change is reverted, the old test counts again."""
        config = configuration("A")
        config.record_test(passed=True, detail="")
        before = {field: getattr(config, field) for field in change}

        for field, value in change.items():
            setattr(config, field, value)
        config.save()
        assert not SMTPConfig.objects.get().passed_test
        SMTPConfig.objects.update(**before)
        assert SMTPConfig.objects.get().passed_test
        SMTPConfig.objects.update(**change)
        assert not SMTPConfig.objects.get().passed_test

    def test_a_change_of_anything_else_does_not(self) -> None:
        """A connection does not use names and senders."""
        config = configuration("A")
        config.record_test(passed=True, detail="")

        config.name, config.from_email, config.timeout = "Renamed", "b@example.com", 30
        config.save()

        assert SMTPConfig.objects.get().passed_test

    def test_the_active_one_can_be_changed(self) -> None:
        """It is already active, and a wrong password must be correctable at once."""
        config = configuration("A")
        config.record_test(passed=True, detail="")
        SMTPConfig.objects.activate(config)

        config.password = "corrected"
        config.save()

        assert active() == ["A"]

    def test_a_lost_key_is_no_passed_test(self, settings: Any) -> None:
        """Unreadable values cannot equal the tested ones."""
        config = configuration("A")
        config.record_test(passed=True, detail="")
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [KEY]}

        assert not SMTPConfig.objects.get().passed_test


class TestValidation:
    """The messages of ``full_clean``, which the admin also shows."""

    @pytest.mark.parametrize(
        ("change", "field", "says"),
        [
            ({"host": "smtp://mail.example.com"}, "host", "host name alone"),
            ({"host": "mail.example.com/x"}, "host", "host name alone"),
            ({"host": "user@example.com"}, "host", "not a mail address"),
            ({"host": "mail example.com"}, "host", "not contain spaces"),
            ({"host": "mail.example.com:587"}, "host", "port in its own field"),
            ({"host": "[::1]:587"}, "host", "port in its own field"),
            ({"host": "[::1"}, "host", "or an address"),
            ({"host": "::1]"}, "host", "or an address"),
            ({"host": "[mail.example.com]"}, "host", "or an address"),
            ({"host": "mail.example.com:587:25"}, "host", "or an address"),
            ({"host": "mail.example.com\u200b"}, "host", "U+200B ZERO WIDTH SPACE"),
            ({"host": "mail.example.com\u00a0"}, "host", "U+00A0 NO-BREAK SPACE"),
            ({"username": "kim "}, "username", "begins or ends with a space"),
            ({"username": " kim"}, "username", "begins or ends with a space"),
            ({"username": "kim\u00a0"}, "username", "U+00A0 NO-BREAK SPACE"),
            ({"username": "k\u200bim"}, "username", "U+200B ZERO WIDTH SPACE"),
            ({"username": "kim\n"}, "username", "U+000A"),
            ({"ehlo_name": "web"}, "ehlo_name", "full domain name"),
            ({"ehlo_name": "[2001:db8::1]"}, "ehlo_name", "full domain name"),
            ({"host": ""}, "host", "blank"),
            ({"name": ""}, "name", "blank"),
            ({"port": 0}, "port", "greater than or equal to 1"),
            ({"port": 65536}, "port", "less than or equal to 65535"),
            ({"port": 465, "use_tls": True}, "use_tls", "Choose TLS (use_ssl)"),
            ({"port": 587, "use_tls": False, "use_ssl": True}, "use_ssl", "Choose STARTTLS (use_tls)"),
            ({"port": 2525, "use_tls": True, "use_ssl": True}, "use_ssl", "exclude each other"),
            ({"timeout": 0}, "timeout", "greater than or equal to 1"),
            ({"timeout": 121}, "timeout", "less than or equal to 120"),
            ({"from_email": "noreply"}, "from_email", "noreply@example.com"),
            ({"from_email": "a@example.com, b@example.com"}, "from_email", "noreply@example.com"),
            ({"from_email": "a@example.com\nBcc: x@example.com"}, "from_email", "noreply@example.com"),
        ],
        ids=lambda value: " ".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, dict) else "",
    )
    def test_what_cannot_work_is_refused_with_a_sentence(self, change: dict[str, Any], field: str, says: str) -> None:
        """The message is at the field that it concerns."""
        values = {"name": "n", "host": "mail.example.com", "from_email": "a@example.com"}

        with pytest.raises(ValidationError) as refused:
            SMTPConfig(**values | change).full_clean()

        assert says in " ".join(refused.value.message_dict[field])

    @pytest.mark.parametrize(
        "change",
        [
            {"host": "bücher.example"},
            {"host": "192.0.2.1"},
            {"host": "2001:db8::1"},
            {"host": "[2001:db8::1]"},
            {"host": "fe80::1%eth0"},
            {"host": "[192.0.2.1]"},
            {"username": "first last"},
            {"ehlo_name": "mail.example.com"},
            {"ehlo_name": "[IPv6:2001:db8::1]"},
            {"host": "localhost"},
            {"port": 465, "use_tls": False, "use_ssl": True},
            {"port": 25, "use_tls": False},
            {"username": "müller", "password": "pässwörd"},
            {"from_email": "Jürgen Müller <noreply@bücher.example>"},
        ],
        ids=lambda change: " ".join(f"{key}={item}" for key, item in change.items()),
    )
    def test_what_can_work_is_let_through(self, change: dict[str, Any]) -> None:
        """Non-ASCII names, numeric addresses, and servers without encryption."""
        values = {"name": "n", "host": "mail.example.com", "from_email": "a@example.com"}
        config = SMTPConfig(**values | change)

        config.full_clean()
        config.save()

        saved = SMTPConfig.objects.get()
        assert all(getattr(saved, field) == value for field, value in change.items())
        saved.full_clean()

    def test_a_name_taken_is_refused(self) -> None:
        """The form and the database both refuse it."""
        configuration("A")
        values = {"name": "A", "host": "h", "from_email": "a@example.com"}

        with pytest.raises(ValidationError, match="already exists"):
            SMTPConfig(**values).full_clean()
        with pytest.raises(IntegrityError), transaction.atomic():
            SMTPConfig.objects.create(**values)

    @pytest.mark.parametrize("change", [{"host": "other"}, {"port": 25}, {"username": "other"}, {"use_tls": False}])
    def test_another_server_or_user_wants_the_password_again(self, change: dict[str, Any]) -> None:
        """Otherwise a user could send a stored secret to any server."""
        configuration()
        config = SMTPConfig.objects.get()
        for field, value in change.items():
            setattr(config, field, value)

        with pytest.raises(ValidationError, match="Enter the password again"):
            config.full_clean()

        config.password = "keep-secret"
        config.full_clean()

    @pytest.mark.parametrize("change", [{"name": "other"}, {"timeout": 5}, {"ehlo_name": "mail.example.com"}])
    def test_other_changes_do_not(self, change: dict[str, Any]) -> None:
        """A server without a password is also accepted."""
        configuration()
        config = SMTPConfig.objects.get()
        for field, value in change.items():
            setattr(config, field, value)
        config.full_clean()

        without = configuration("B", password="")
        without.host = "other"
        without.full_clean()

    def test_tls_and_ssl_are_refused_by_save_and_by_the_database(self) -> None:
        """This protects code that skips validation."""
        with pytest.raises(ValidationError, match="exclude each other"):
            configuration(use_ssl=True)
        configuration()
        with pytest.raises(DatabaseError), transaction.atomic():
            raw("UPDATE email_integration_smtpconfig SET use_ssl = TRUE")
        with pytest.raises(DatabaseError), transaction.atomic():
            SMTPConfig.objects.update(use_ssl=True)

    @pytest.mark.parametrize("port", [0, 65536, -1])
    def test_a_port_out_of_range_is_refused_by_the_database(self, port: int) -> None:
        """It does not matter which code writes it."""
        configuration()
        with pytest.raises(DatabaseError), transaction.atomic():
            raw("UPDATE email_integration_smtpconfig SET port = %s", port)


class TestDamage:
    """Damage by raw SQL or by a lost key."""

    @pytest.mark.parametrize("password", ["fernet$nonsense", "fernet$", "fernet$gAAAAAB"])
    def test_a_damaged_password_spoils_nothing_but_itself(self, password: str) -> None:
        """The row can be listed, displayed, changed and repaired."""
        configuration("Damaged")
        configuration("Fine")
        raw("UPDATE email_integration_smtpconfig SET password = %s WHERE name = 'Damaged'", password)

        damaged = SMTPConfig.objects.get(name="Damaged")
        assert [config.is_readable for config in SMTPConfig.objects.order_by("name")] == [False, True]
        damaged.timeout = 20
        damaged.full_clean()
        damaged.save()
        damaged.password = "again"
        damaged.full_clean()
        damaged.save()

        assert SMTPConfig.objects.get(name="Damaged").password == "again"

    def test_no_text_of_it_shows_the_password(self) -> None:
        """Neither the plain password nor the stored one."""
        config = configuration()
        token = stored(config.name)

        for shown in (repr(config), str(config), repr(SMTPConfig.objects.get().sealed_password)):
            assert "keep-secret" not in shown
            assert token not in shown

    def test_a_dump_carries_it_sealed_and_can_be_loaded(self) -> None:
        """Loading needs the same keys."""
        configuration()
        dump = serializers.serialize("json", SMTPConfig.objects.all())
        assert "keep-secret" not in dump
        SMTPConfig.objects.all().delete()

        for entry in serializers.deserialize("json", dump):
            entry.save()

        assert SMTPConfig.objects.get().password == "keep-secret"


class TestCopies:
    """Instances that were read before another change was stored."""

    def test_saving_other_fields_of_an_old_copy_leaves_alone_what_is_active(self) -> None:
        """The history does not record an activation either."""
        configuration("A", is_active=True)
        old = SMTPConfig.objects.get(name="A")
        SMTPConfig.objects.activate(configuration("B"))

        old.timeout = 20
        old.save(update_fields=["timeout"])

        assert active() == ["B"]
        newest = old.history.first()
        assert (newest.event, newest.timeout, newest.is_active) == ("changed", 20, False)

    def test_creating_many_with_one_active_takes_the_place_of_the_other(self) -> None:
        """It works like a save. Two active configurations are refused."""
        configuration("A", is_active=True)
        fresh = [SMTPConfig(name=name, host="h", from_email="a@example.com", is_active=name == "C") for name in "BC"]

        SMTPConfig.objects.bulk_create(fresh)

        assert active() == ["C"]


class TestDefects:
    """Rows that were damaged despite the constraints: a clear error, and no mail is sent wrongly."""

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            ("port = 0", "A port is a number from 1 to 65535."),
            ("use_ssl = TRUE", "TLS and SSL exclude each other"),
            ("timeout = 0", "a timeout of at least one second"),
            ("password = 'fernet$nonsense'", "cannot be opened with the keys in SMTP_PASSWORD_KEYS"),
        ],
    )
    def test_a_damaged_row_is_named_and_mail_waits(
        self, damage: str, words: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The log and the reason of the waiting mail name it. Other rows are unaffected."""
        configuration("Damaged", is_active=True)
        with constraints_off():
            raw(f"UPDATE email_integration_smtpconfig SET {damage} WHERE name = 'Damaged'")
            route = active_relay()
            SMTPConfig.objects.activate(configuration("Fine"))

        assert isinstance(route, Nowhere)
        assert route.name == "Damaged"
        assert words in route.reason
        assert "“Damaged” cannot be used" in route.reason
        assert any(record.levelname == "ERROR" and words in record.getMessage() for record in caplog.records)
        assert isinstance(active_relay(), Relay)


@contextmanager
def constraints_off() -> Iterator[None]:
    """Switch off the constraints of the database."""
    if connection.vendor == "sqlite":
        raw("PRAGMA ignore_check_constraints = ON")
        yield
        raw("PRAGMA ignore_check_constraints = OFF")
    elif connection.vendor == "mysql":
        raw("SET check_constraint_checks = OFF")
        yield
        raw("SET check_constraint_checks = ON")
    else:
        for name in ("smtpconfig_tls_or_ssl", "smtpconfig_port"):
            raw(f"ALTER TABLE email_integration_smtpconfig DROP CONSTRAINT {name}")  # undone with the transaction
        yield
