"""Undocumented parts of Django that the app uses, tested on the installed version."""

from __future__ import annotations

from typing import Any
from unittest import mock

import django
import pytest
from django.core.mail import EmailMessage
from django.db import IntegrityError, connection, models, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.test.utils import CaptureQueriesContext

from email_integration import django_internals
from email_integration.models import Delivery, SMTPConfig
from tests.deliveries import submitted
from tests.made_up import made_up_alike
from tests.mail_settings import older_settings

pytestmark = pytest.mark.django_db(transaction=True)


def test_this_version_of_django_was_read() -> None:
    """Another version may have changed any of them. Read its source, and add it to READ_FOR."""
    assert django.VERSION[:2] in django_internals.READ_FOR


def test_the_supported_versions_are_those_that_were_read() -> None:
    """The classifiers of the package name the supported versions."""
    from importlib.metadata import metadata

    named = [one.rpartition(" :: ")[2] for one in metadata("celery-mail-dispatch").get_all("Classifier") or ()]
    versions = {tuple(map(int, one.split("."))) for one in named if one.count(".") == 1 and one[0] in "56"}
    assert versions == set(django_internals.READ_FOR)


def test_a_setting_is_set_if_the_project_defines_it(settings: Any) -> None:
    assert django_internals.is_set("SECRET_KEY")
    assert not django_internals.is_set("FORCE_SCRIPT_NAME")
    settings.FORCE_SCRIPT_NAME = "/mail"
    assert django_internals.is_set("FORCE_SCRIPT_NAME")
    del settings.FORCE_SCRIPT_NAME
    assert not django_internals.is_set("FORCE_SCRIPT_NAME")


def test_a_deprecated_setting_is_read_without_a_warning() -> None:
    """Every warning is an error here."""
    with older_settings(host="smtp.example.com"):
        assert django_internals.is_set("EMAIL_HOST")
        assert django_internals.read_setting("EMAIL_HOST") == "smtp.example.com"
        assert django_internals.read_setting("EMAIL_PORT") == 25
    assert not django_internals.is_set("EMAIL_HOST")


def test_a_cursor_takes_values_and_shows_in_what_was_asked() -> None:
    with CaptureQueriesContext(connection) as asked, django_internals.cursor(connection) as cursor:
        cursor.execute("SELECT CAST(%s AS CHAR(5))", ["value"])
        assert cursor.fetchone() == ("value",)
    assert len(asked) == 1


@pytest.mark.django_db
def test_a_statement_is_asked_with_values_and_shows_in_what_was_asked() -> None:
    text = "SELECT %s, '100%%' WHERE %s = 7"
    assert django_internals.ask(connection, text, ["some", 7])[0][1] == "100%"
    assert django_internals.ask(connection, text, ["some", 8]) == []
    with CaptureQueriesContext(connection) as asked:
        assert len(django_internals.ask(connection, text, ["some", 7])) == 1
    assert "100%" in asked[0]["sql"]
    seen: list[str] = []

    def watch(execute: Any, sql: str, *others: Any) -> Any:
        seen.append(sql)
        return execute(sql, *others)

    with connection.execute_wrapper(watch):
        django_internals.ask(connection, text, ["some", 7])
    assert seen == [text]


def test_octets_go_in_and_come_out_as_they_were() -> None:
    """The placeholder encodes them on the way in, and the converters decode them on the way out."""
    stored = submitted("kim@example.com")
    octets = bytes(range(256))
    field = Delivery._meta.get_field("content")
    assert isinstance(field, models.BinaryField)
    quote = connection.ops.quote_name
    table = quote(Delivery._meta.db_table)
    mark = django_internals.placeholder(connection, field)
    with django_internals.cursor(connection) as cursor:
        value = field.get_db_prep_save(octets, connection)
        cursor.execute(f"UPDATE {table} SET {quote('content')} = {mark} WHERE {quote('id')} = %s", [value, stored.pk])
        cursor.execute(f"SELECT {quote('content')} FROM {table}")
        (found,) = cursor.fetchone()
    for _place, column, convert in django_internals.converters(connection, [field], Delivery._meta.db_table):
        found = convert(found, column, connection)
    assert bytes(found) == octets


def insert(**how: Any) -> int:
    """Insert a configuration named 'Primary' by hand, with a different host each time. Return the number of inserted
    rows.
    """
    fields = [field for field in SMTPConfig._meta.concrete_fields if not field.primary_key and not field.generated]
    row = SMTPConfig(name="Primary", host=f"smtp{SMTPConfig.objects.count()}.example.com", from_email="a@example.com")
    begin, end = django_internals.insert_words(connection, fields, **how)
    quote = connection.ops.quote_name
    columns = ", ".join(quote(str(field.column)) for field in fields)
    values = [field.get_db_prep_save(field.pre_save(row, True), connection) for field in fields]
    with django_internals.cursor(connection) as cursor:
        marks = ", ".join(["%s"] * len(fields))
        cursor.execute(f"{begin} {quote(SMTPConfig._meta.db_table)} ({columns}) VALUES ({marks}) {end}", values)
        return int(cursor.rowcount)


def test_an_insert_can_ignore_or_write_over_what_is_there() -> None:
    assert insert() == 1
    with pytest.raises(IntegrityError):
        insert()
    assert insert(ignore=True) == 0
    assert SMTPConfig.objects.get().host == "smtp0.example.com"
    insert(unique=SMTPConfig._meta.get_field("name"), updated=["host"])
    assert SMTPConfig.objects.get().host == "smtp1.example.com"


def test_a_default_of_the_database_is_distinguished_from_a_value() -> None:
    assert django_internals.is_left_to_database(models.IntegerField(db_default=5).get_default())
    assert not django_internals.is_left_to_database(models.IntegerField(default=5).get_default())


def test_the_database_says_what_it_can() -> None:
    """The database features match each supported database."""
    assert django_internals.can_skip_locked_rows(connection) == (connection.vendor != "sqlite")
    assert django_internals.can_index_a_part(connection) == (connection.vendor != "mysql")


def test_an_index_can_be_of_the_beginning_of_a_text() -> None:
    with connection.schema_editor(collect_sql=True) as editor:
        field = SMTPConfig._meta.get_field("name")
        statement = str(django_internals.prefix_index(editor, SMTPConfig, [field], name="beginning", characters=255))
    assert statement.startswith("CREATE INDEX")
    assert statement.replace('"', "").replace("`", "").rstrip(" ;").endswith("(name (255))")


def test_missing_migrations_are_named() -> None:
    assert django_internals.missing_migrations(connection, {"email_integration"}) == []
    recorder = MigrationRecorder(connection)
    newest = max(name for app, name in recorder.applied_migrations() if app == "email_integration")
    recorder.record_unapplied("email_integration", newest)
    try:
        missing = django_internals.missing_migrations(connection, {"email_integration"})
        assert missing == [f"email_integration.{newest}"]
    finally:
        recorder.record_applied("email_integration", newest)


def test_an_error_inside_has_the_transaction_rolled_back() -> None:
    using = connection.alias
    with transaction.atomic():
        with pytest.raises(ValueError, match="no"), django_internals.rollback_on_error(using):
            raise ValueError("no")
        assert transaction.get_connection(using).needs_rollback
        transaction.set_rollback(True)


def test_what_waits_for_a_commit_is_seen_and_can_be_taken_away() -> None:
    called: list[str] = []

    def keep() -> None:
        called.append("kept")

    with transaction.atomic():
        transaction.on_commit(keep)
        assert django_internals.is_waiting_for_commit(connection, keep)
        with transaction.atomic():  # may be rolled back alone
            assert not django_internals.is_waiting_for_commit(connection, keep)
        before = len(django_internals.waiting_for_commit(connection))
        transaction.on_commit(lambda: called.append("taken away"))
        (_savepoints, function, *_rest) = django_internals.waiting_for_commit(connection)[-1]
        assert callable(function)
        del django_internals.waiting_for_commit(connection)[before:]
    assert called == ["kept"]


# -- mail -----------------------------------------------------------------------------------------------------------


def test_a_replaced_function_of_djangos_mail_is_noticed() -> None:
    assert django_internals.renders_mail_itself()
    with mock.patch("django.core.mail.message.EmailMessage.message"):
        assert not django_internals.renders_mail_itself()
    assert django_internals.renders_mail_itself()


def test_generated_message_ids_and_dates_are_those_of_django() -> None:
    with made_up_alike():
        mime = EmailMessage("S", "B", "a@example.com", ["kim@example.com"]).message()
        assert django_internals.mail_message_id() == str(mime["Message-ID"])
        assert django_internals.mail_date() == str(mime["Date"])


if django.VERSION < (6, 0):  # it passes headers to the standard library unchanged

    def test_a_header_is_encoded_as_django_does() -> None:
        mime = EmailMessage("S", "B", "a@example.com", ["Jürgen <j@bücher.example>"]).message()
        assert django_internals.encode_header("To", "Jürgen <j@bücher.example>") == mime["To"]
        with pytest.raises(ValueError, match="Invalid address"):
            django_internals.encode_header("To", "Jürgen")
