"""The app decrypts no copied ciphertext: a ciphertext opens only in its own field of its own row."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection, models, transaction
from django.db.models import F
from django.test import Client
from django.utils import timezone

from email_integration import routing
from email_integration.admin.connection_tests import run_stored
from email_integration.diagnosis import configuration
from email_integration.exceptions import ContentUnavailable, SecretUnreadable
from email_integration.message import content, encryption, previews
from email_integration.models import Delivery, OAuthToken, SMTPConfig
from email_integration.models.server import SECRETS
from email_integration.smtpd import SMTPServer
from tests.deliveries import submitted
from tests.integration.admin_site import config, form_of, logged_in, said, url

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("task_queue")]

SECRET = "correct horse battery"
TABLE = "email_integration_smtpconfig"
Serve = Callable[..., SMTPServer]


def column(row: models.Model, name: str = "password") -> str:
    """Return the column's value as the database stores it."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {name} FROM {row._meta.db_table} WHERE {row._meta.pk.column} = %s", [row.pk])
        return str(cursor.fetchone()[0])


def write(row: models.Model, value: str, name: str = "password") -> None:
    """Write to the database directly, without Django's models."""
    with connection.cursor() as cursor:
        table, key = row._meta.db_table, row._meta.pk.column
        cursor.execute(f"UPDATE {table} SET {name} = %s WHERE {key} = %s", [value, row.pk])


def opened(row: SMTPConfig, name: str = "password") -> Any:
    return getattr(SMTPConfig.objects.get(pk=row.pk), name)


def sealed(row: SMTPConfig, name: str = "password") -> Any:
    """Return the sealed value, as ``values()`` gives it."""
    return SMTPConfig.objects.values_list(name, flat=True).get(pk=row.pk)


@pytest.fixture
def victim() -> SMTPConfig:
    return config("Victim", password=SECRET)


@pytest.fixture
def mine() -> SMTPConfig:
    return config("Mine", password="my own", host="localhost")


# -- text stays text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["new", "own"])
def test_a_column_that_is_pasted_into_the_connection_test_is_sent_as_it_is(
    which: str, victim: SMTPConfig, smtp_server: Serve
) -> None:
    """Backups show the sealed column. The password itself never reaches a server that the tester has named."""
    stolen = column(victim)
    client: Client = logged_in("view_smtpconfig", "add_smtpconfig", "change_smtpconfig", "test_smtpconfig")
    own = config("Mine", password="my own", host="localhost") if which == "own" else None
    address = url("test", own.pk) if own else url("test_new")
    for known, works in ((SECRET, False), (stolen, True)):
        server = smtp_server(password=known)
        typed = SMTPConfig(name="Mine", host="localhost", port=server.port, username="user", from_email="a@b.example")
        page = client.post(address, form_of(typed, password=stolen), headers={"X-Requested-With": "fetch"})
        assert ("The connection works" in page.content.decode()) == works


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("before", ["", " ", "\n"])
def test_text_that_looks_sealed_is_text_to_the_constructor_to_full_clean_and_to_code(
    name: str, before: str, victim: SMTPConfig
) -> None:
    stolen = before + column(victim)
    field = SMTPConfig._meta.get_field(name)
    assert field.to_python(stolen) == stolen
    assert field.clean(stolen, victim) == stolen
    made = SMTPConfig(name="Mine", host="h", from_email="a@example.com", **{name: stolen})
    assert getattr(made, name) == stolen
    made.clean_fields()
    assert getattr(made, name) == stolen
    setattr(victim, name, stolen)
    assert getattr(victim, name) == stolen


def test_a_pasted_column_is_stored_as_a_password_of_these_letters(victim: SMTPConfig, mine: SMTPConfig) -> None:
    stolen = column(victim)
    client = logged_in(superuser=True)
    answer = client.post(url("change", mine.pk), form_of(mine, password=stolen, confirm_secret="on"))
    assert answer.status_code == 302
    assert opened(mine) == stolen
    assert column(mine) != stolen


def test_a_sealed_value_of_a_dump_cannot_be_entered_by_a_form_or_code(victim: SMTPConfig) -> None:
    out = StringIO()
    call_command("dumpdata", "email_integration.smtpconfig", stdout=out)
    stolen = json.loads(out.getvalue())[0]["fields"]["password"]
    assert not isinstance(stolen, str)
    field = SMTPConfig._meta.get_field("password")
    with pytest.raises(ValidationError):
        field.clean(stolen, victim)
    forged = SMTPConfig(name="Mine", host="h", from_email="a@example.com", password=stolen)
    with pytest.raises((ValidationError, TypeError)):
        forged.full_clean()
    with pytest.raises((ValidationError, TypeError)):
        forged.save()
    assert forged.password == stolen
    for text in (json.dumps(stolen), str(stolen)):
        assert field.clean(text, victim) == text


# -- a ciphertext opens only in its place -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SECRETS)
def test_a_column_of_another_row_does_not_open(name: str, victim: SMTPConfig, mine: SMTPConfig) -> None:
    write(mine, column(victim), name)
    with pytest.raises(SecretUnreadable, match="another"):
        opened(mine, name)


def test_a_column_of_another_field_of_the_same_row_does_not_open(victim: SMTPConfig) -> None:
    write(victim, column(victim), "oauth_client_secret")
    with pytest.raises(SecretUnreadable, match="another"):
        opened(victim, "oauth_client_secret")
    assert opened(victim) == SECRET


def test_an_old_password_of_the_same_row_opens(victim: SMTPConfig) -> None:
    """Restoring a backup is not an attack."""
    before = column(victim)
    victim.password = "newer"
    victim.save()
    write(victim, before)
    assert opened(victim) == SECRET


def test_a_moved_secret_is_sent_to_no_server_and_the_reason_is_shown(
    victim: SMTPConfig, mine: SMTPConfig, smtp_server: Serve
) -> None:
    server = smtp_server(password=SECRET)
    SMTPConfig.objects.filter(pk=mine.pk).update(port=server.port, is_active=True)
    write(mine, column(victim))
    routing.forget()
    route = routing.active_relay()
    assert isinstance(route, routing.Nowhere)
    assert "another" in route.reason
    test = run_stored(SMTPConfig.objects.get(pk=mine.pk), user=None)
    assert test.report is None
    assert "another" in " ".join(test.problems)
    assert server.auths == 0
    page = logged_in(superuser=True).get(url("change", mine.pk))
    assert "sealed for another row" in page.content.decode()


def test_both_commands_name_the_row(victim: SMTPConfig, mine: SMTPConfig) -> None:
    """Both commands name the row, and neither asks for a key, because no key would help."""
    write(mine, column(victim))
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("rotate_smtp_passwords", stdout=out)
    assert "✗ “Mine”: a secret in this row was encrypted for another row" in out.getvalue()
    assert "1 password already encrypted with the newest key" in out.getvalue()
    found = [one for one in configuration.diagnose_passwords() if one.level != "ok"]
    assert [one.text for one in found] == [
        "A secret of “Mine”, which is not active, was encrypted for another row or another field"
    ]


def _created(victim: SMTPConfig, mine: SMTPConfig) -> None:
    SMTPConfig.objects.create(name="C", host="h", from_email="a@example.com", password=sealed(victim))


def _saved(victim: SMTPConfig, mine: SMTPConfig) -> None:
    mine.password = victim.sealed("password")
    mine.save()


def _bulk_created(victim: SMTPConfig, mine: SMTPConfig) -> None:
    SMTPConfig.objects.bulk_create([SMTPConfig(name="C", host="h", from_email="a@x.example", password=sealed(victim))])


def _updated(victim: SMTPConfig, mine: SMTPConfig) -> None:
    SMTPConfig.objects.filter(pk=mine.pk).update(password=sealed(victim))


def _bulk_updated(victim: SMTPConfig, mine: SMTPConfig) -> None:
    mine.password = sealed(victim)
    SMTPConfig.objects.bulk_update([mine], ["password"])


def _by_expression(victim: SMTPConfig, mine: SMTPConfig) -> None:
    SMTPConfig.objects.filter(pk=mine.pk).update(oauth_client_secret=F("password"))


def _by_subquery(victim: SMTPConfig, mine: SMTPConfig) -> None:
    found = SMTPConfig.objects.filter(pk=victim.pk).values("password")
    SMTPConfig.objects.filter(pk=mine.pk).update(password=models.Subquery(found))


def _assigned_expression(victim: SMTPConfig, mine: SMTPConfig) -> None:
    mine.password = F("name")
    mine.save()


def _by_key(victim: SMTPConfig, mine: SMTPConfig) -> None:
    copy = SMTPConfig.objects.get(pk=victim.pk)
    copy.pk, copy.name = None, "C"
    copy.save()


def _update_or_create(victim: SMTPConfig, mine: SMTPConfig) -> None:
    SMTPConfig.objects.update_or_create(name="Mine", defaults={"password": sealed(victim)})


def _on_conflict(victim: SMTPConfig, mine: SMTPConfig) -> None:
    row = SMTPConfig(name="Mine", host="h", from_email="a@x.example", password="plain")
    SMTPConfig.objects.bulk_create([row], update_conflicts=True, update_fields=["password"], unique_fields=["name"])


WAYS = [
    _created,
    _saved,
    _bulk_created,
    _updated,
    _bulk_updated,
    _by_expression,
    _by_subquery,
    _assigned_expression,
    _by_key,
    _update_or_create,
    _on_conflict,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
def test_a_sealed_value_is_not_copied(way: Callable[..., None], victim: SMTPConfig, mine: SMTPConfig) -> None:
    """Each way is refused with an error that says so, and all rows stay unchanged."""
    before = {row.pk: [column(row, name) for name in SECRETS] for row in (victim, mine)}
    with pytest.raises((SecretUnreadable, TypeError), match=r"another|one row|cannot copy"), transaction.atomic():
        way(victim, mine)
    assert {row.pk: [column(row, name) for name in SECRETS] for row in SMTPConfig.objects.all()} == before


def test_a_copy_of_the_admin_is_sealed_for_itself(victim: SMTPConfig) -> None:
    client = logged_in(superuser=True)
    client.post(url("changelist"), {"action": "duplicate", "_selected_action": victim.pk})
    copy = SMTPConfig.objects.get(name="Victim (copy)")
    assert opened(copy) == opened(victim) == SECRET
    write(copy, column(victim))
    with pytest.raises(SecretUnreadable):
        opened(copy)


def test_what_cannot_be_opened_is_not_copied_by_the_admin(victim: SMTPConfig, mine: SMTPConfig) -> None:
    write(mine, column(victim))
    client = logged_in(superuser=True)
    answer = client.post(url("changelist"), {"action": "duplicate", "_selected_action": mine.pk}, follow=True)
    assert "“Mine”" in said(answer)
    assert "another" in said(answer)
    assert all(not column(row) for row in SMTPConfig.objects.filter(name__startswith="Mine (copy"))


def test_the_history_brings_back_no_password_of_another(victim: SMTPConfig, mine: SMTPConfig) -> None:
    """An earlier version of one row, saved as another row, is refused, and that row keeps its own secrets."""
    earlier = victim.history.first().instance
    assert earlier.password == SECRET
    earlier.pk = mine.pk
    earlier.name = "Mine"
    with pytest.raises(SecretUnreadable, match="another"):
        earlier.save()
    assert opened(mine) == "my own"


def test_text_that_is_copied_by_code_is_sealed_anew(victim: SMTPConfig, mine: SMTPConfig) -> None:
    """Code that has the text needs no ciphertext: each row gets its own."""
    mine.password = victim.password
    mine.save()
    assert opened(mine) == SECRET
    SMTPConfig.objects.update(password=victim.password, oauth_scope="x")
    assert {opened(row) for row in (victim, mine)} == {SECRET}
    assert column(victim) != column(mine)
    victim.password = "one"
    mine.password = "two"
    SMTPConfig.objects.bulk_update([victim, mine], ["password", "host"])
    assert (opened(victim), opened(mine)) == ("one", "two")


def test_text_for_no_row_in_particular_is_not_stored(victim: SMTPConfig) -> None:
    """The managers of migrations do not have our update()."""
    with pytest.raises(TypeError, match="one row"), transaction.atomic():
        models.QuerySet(SMTPConfig).update(password="plain")
    assert opened(victim) == SECRET


def test_an_access_token_of_another_configuration_does_not_open(victim: SMTPConfig, mine: SMTPConfig) -> None:
    one, two = (OAuthToken.objects.create(config=row, settings="x", access_token=row.name) for row in (victim, mine))
    assert OAuthToken.objects.get(pk=one.pk).access_token == "Victim"
    write(two, column(one, "access_token"), "access_token")
    with pytest.raises(SecretUnreadable, match="another"):
        assert OAuthToken.objects.get(pk=two.pk).access_token
    with pytest.raises((SecretUnreadable, TypeError), match=r"another|copied"):
        OAuthToken.objects.filter(pk=two.pk).update(
            access_token=OAuthToken.objects.values_list("access_token", flat=True).get(pk=one.pk)
        )


# -- contents of mails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 100_000], ids=["small", "large"])
@pytest.mark.parametrize("forged", [False, True], ids=["copied", "and made to fit"])
def test_a_content_opens_in_no_other_mail(size: int, forged: bool, settings: Any) -> None:
    """The content is copied with all its columns, in several ways; it is never shown to another mail's recipient."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "ENCRYPT_CONTENT": True}
    settings.EMAIL_INTEGRATION |= {"PAYLOAD_STORAGE_THRESHOLD": 10**9}
    secret, own = submitted(body="the secret" * size), submitted(body="another body")
    seal = column(secret, "content_seal")
    if forged:
        seal = seal.replace(content.place_of(secret).check(), content.place_of(own).check())
    names = ("content", "content_size", "eight_bit", "from_at", "from_header")
    copied = {name: getattr(secret, name) for name in names}
    # Without a stored subject, the admin looks for it in the content.
    models.QuerySet(Delivery).filter(pk=own.pk).update(**copied, subject="")
    write(own, seal, "content_seal")
    _is_not_opened(own, "damaged" if forged else "another mail")
    Delivery.objects.filter(pk=own.pk).update(
        content_seal=Delivery.objects.values_list("content_seal", flat=True).get(pk=secret.pk)
    )
    _is_not_opened(own, "another mail")
    Delivery.objects.filter(pk=own.pk).update(content_seal=F("message_id"))
    _is_not_opened(own, "damaged")
    # Read as an unsealed content it has the wrong length; even with the right length it would disclose nothing.
    Delivery.objects.filter(pk=own.pk).update(content_seal="")
    with pytest.raises(ContentUnavailable, match="damaged"):
        content.read(Delivery.objects.get(pk=own.pk))
    Delivery.objects.filter(pk=own.pk).update(content_size=len(secret.content), from_at=None)
    assert b"the secret" not in content.read(Delivery.objects.get(pk=own.pk))
    assert b"the secret" in content.read(Delivery.objects.get(pk=secret.pk))


def _is_not_opened(row: Delivery, says: str) -> None:
    moved = Delivery.objects.get(pk=row.pk)
    with pytest.raises(ContentUnavailable, match=says):
        content.read(moved)
    with pytest.raises(ContentUnavailable, match=says):
        content.beginning(moved, bytes(moved.content)[: encryption.SEALED_PIECE])
    with pytest.raises(ContentUnavailable, match=says):
        previews.preview(moved)
    assert previews.subjects([moved]) == {}


@pytest.mark.parametrize("forged", [False, True], ids=["copied", "and made to fit"])
def test_a_subject_opens_in_no_other_mail(forged: bool, settings: Any) -> None:
    """It is copied as it is, and with the checksum of the other row."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "ENCRYPT_CONTENT": True}
    secret, own = submitted(subject="The secret"), submitted(subject="Another")
    stored = secret.subject
    assert "secret" not in stored
    if forged:
        places = [encryption.ContentPlace(Delivery._meta.label_lower, "subject", one.pk) for one in (secret, own)]
        assert places[0].check() in stored
        stored = stored.replace(places[0].check(), places[1].check())
    Delivery.objects.filter(pk=own.pk).update(subject=stored, content=b"", has_content=False)
    assert previews.subjects([Delivery.objects.get(pk=own.pk)]) == {own.pk: ""}
    assert previews.subjects([secret]) == {secret.pk: "The secret"}


def test_a_file_opens_for_no_other_mail(settings: Any, tmp_path: Path) -> None:
    """The file is named in the other mail's row, with the seal that belongs to the file."""
    _keep_in_files(settings, tmp_path)
    secret, own = submitted(body="the secret"), submitted(body="another body")
    names = ("content_file", "content_size", "content_seal")
    models.QuerySet(Delivery).filter(pk=own.pk).update(**{name: getattr(secret, name) for name in names})
    assert secret.content_file
    with pytest.raises(ContentUnavailable, match="another mail"):
        content.read(Delivery.objects.get(pk=own.pk))
    assert b"the secret" in content.read(Delivery.objects.get(pk=secret.pk))


def _keep_in_files(settings: Any, folder: Path) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "ENCRYPT_CONTENT": True, "PAYLOAD_STORAGE_THRESHOLD": 0}
    storage = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": folder}}
    settings.STORAGES = {**settings.STORAGES, "email_integration": storage}


def test_a_password_is_not_read_as_a_content(settings: Any, victim: SMTPConfig) -> None:
    """A content is not read as a password either, neither by its seal nor by its octets."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "ENCRYPT_CONTENT": True}
    own = submitted()
    token = column(victim)
    raw = base64.urlsafe_b64decode(token.removeprefix("fernet$1$"))
    for octets in (token.encode(), raw):
        models.QuerySet(Delivery).filter(pk=own.pk).update(content=octets, content_size=len(octets) - 16)
        with pytest.raises(ContentUnavailable, match="damaged"):
            content.read(Delivery.objects.get(pk=own.pk))
    write(own, token[:100], "content_seal")
    with pytest.raises(ContentUnavailable, match="damaged"):
        content.read(Delivery.objects.get(pk=own.pk))
    mail = submitted(body="a mail")
    write(victim, column(mail, "content_seal"))
    assert opened(victim) == column(mail, "content_seal")  # a password of these letters, which discloses nothing
    write(victim, "fernet$1$" + base64.urlsafe_b64encode(bytes(mail.content)).decode())
    with pytest.raises(SecretUnreadable, match="cannot be opened"):
        opened(victim)


# -- dumps ------------------------------------------------------------------------------------------------------------


def _dump(tmp_path: Path, kind: str, label: str = "email_integration.smtpconfig") -> Path:
    file = tmp_path / f"dump.{kind}"
    call_command("dumpdata", label, format=kind, output=file, verbosity=0)
    return file


@pytest.mark.parametrize("kind", ["json", "jsonl", "yaml"])
def test_a_dump_shows_nothing_and_loads_again(kind: str, tmp_path: Path, victim: SMTPConfig, mine: SMTPConfig) -> None:
    file = _dump(tmp_path, kind)
    assert SECRET not in file.read_text()
    SMTPConfig.objects.all().delete()
    call_command("loaddata", file, verbosity=0)
    assert (opened(victim), opened(mine)) == (SECRET, "my own")
    call_command("loaddata", file, verbosity=0)
    assert (opened(victim), opened(mine)) == (SECRET, "my own")


def test_a_dump_of_mails_loads_again(tmp_path: Path, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "ENCRYPT_CONTENT": True}
    delivery = submitted(body="the secret")
    file = _dump(tmp_path, "json", "email_integration.delivery")
    Delivery.objects.all().delete()
    call_command("loaddata", file, verbosity=0)
    assert b"the secret" in content.read(Delivery.objects.get(pk=delivery.pk))


def test_a_text_in_a_dump_is_a_text(tmp_path: Path, victim: SMTPConfig) -> None:
    """A ciphertext that is loaded as text becomes a password of these letters.

    So does a hand-written fixture's text.
    """
    stolen = column(victim)
    for password in (stolen, "written by hand"):
        fields = {"name": "Mine", "host": "h", "from_email": "a@example.com", "password": password}
        times = dict.fromkeys(("created_at", "updated_at"), timezone.now().isoformat())
        file = tmp_path / "fixture.json"
        file.write_text(json.dumps([{"model": TABLE.replace("_smtp", ".smtp"), "pk": 900, "fields": fields | times}]))
        call_command("loaddata", file, verbosity=0)
        row = SMTPConfig.objects.get(pk=900)
        assert row.password == password
        assert column(row) not in (stolen, password)


def test_a_sealed_value_of_a_dump_is_loaded_into_no_other_row(
    tmp_path: Path, victim: SMTPConfig, mine: SMTPConfig
) -> None:
    file = _dump(tmp_path, "json")
    rows = json.loads(file.read_text())
    of = {row["pk"]: row["fields"] for row in rows}
    of[mine.pk]["password"] = of[victim.pk]["password"]
    file.write_text(json.dumps(rows))
    with pytest.raises(SecretUnreadable, match="another"):
        call_command("loaddata", file, verbosity=0)
    assert opened(mine) == "my own"
