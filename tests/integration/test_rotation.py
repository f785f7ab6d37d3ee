"""``rotate_smtp_passwords``, and the migration from plain text."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.test import TestCase

from email_integration.exceptions import ContentUnavailable
from email_integration.ledger import batches
from email_integration.message import content, resealing, sealed_subjects
from email_integration.models import Delivery, SMTPConfig
from email_integration.routing import active_relay
from email_integration.smtpd import SMTPServer
from tests.claims import claimed
from tests.deliveries import attempt, submitted
from tests.integration.validating import activate

pytestmark = pytest.mark.django_db

OLD, NEW, LOST = (Fernet.generate_key().decode() for _ in range(3))


@pytest.fixture
def keys(settings: Any) -> Callable[..., None]:
    """Set the keys, newest first."""

    def set_(*keys: str, encrypt: bool = True) -> None:
        changes = {"SMTP_PASSWORD_KEYS": list(keys), "ENCRYPT_CONTENT": encrypt}
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **changes}

    return set_


def rotate() -> tuple[int, str]:
    out = StringIO()
    try:
        call_command("rotate_smtp_passwords", stdout=out)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


def configuration(name: str, password: str = "keep-secret", **values: Any) -> SMTPConfig:
    return SMTPConfig.objects.create(name=name, host="h", from_email="a@example.com", password=password, **values)


def stored(name: str) -> str:
    """Return the stored value of the column."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT password FROM email_integration_smtpconfig WHERE name = %s", [name])
        return str(cursor.fetchone()[0])


def test_all_passwords_are_sealed_under_the_newest_key(keys: Callable[..., None]) -> None:
    """The command prints the number. Afterwards the old key is no longer needed."""
    keys(OLD)
    configuration("One", "first")
    configuration("Two", "sécond")
    configuration("None", "")

    keys(NEW, OLD)
    assert rotate() == (0, "2 passwords re-encrypted with the newest key.\n")

    keys(NEW)
    assert [config.password for config in SMTPConfig.objects.order_by("name")] == ["", "first", "sécond"]


def test_a_second_run_changes_nothing(keys: Callable[..., None]) -> None:
    """The tokens stay the same too."""
    keys(OLD)
    configuration("One")
    keys(NEW, OLD)
    rotate()
    before = stored("One")

    assert rotate() == (
        0,
        "0 passwords re-encrypted with the newest key.\n1 password already encrypted with the newest key.\n",
    )
    assert stored("One") == before


def test_a_password_that_no_key_opens_is_named_and_the_others_are_done(keys: Callable[..., None]) -> None:
    """It stays unchanged, and can still be decrypted once its key is found."""
    keys(LOST)
    configuration("Lost", "lost")
    keys(OLD)
    configuration("Main", "main")
    before = stored("Lost")

    keys(NEW, OLD)
    code, output = rotate()

    assert code == 1
    assert "1 password re-encrypted" in output
    assert "✗ “Lost”: no key in SMTP_PASSWORD_KEYS can decrypt its password" in output
    assert stored("Lost") == before
    keys(NEW, LOST)
    assert rotate()[0] == 0
    keys(NEW)
    assert [config.password for config in SMTPConfig.objects.order_by("name")] == ["lost", "main"]


def test_plain_text_in_the_column_is_sealed(keys: Callable[..., None]) -> None:
    """It can be used before and after."""
    keys(NEW)
    configuration("One")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE email_integration_smtpconfig SET password = 'plain'")
    assert SMTPConfig.objects.get().password == "plain"

    _, output = rotate()

    assert "1 password found in plain text and encrypted." in output
    assert stored("One").startswith("fernet$")
    assert SMTPConfig.objects.get().password == "plain"


def test_the_history_gets_one_entry_without_a_secret(keys: Callable[..., None]) -> None:
    """The entry says that the password was sealed again, not that it changed."""
    keys(OLD)
    config = configuration("One")
    keys(NEW, OLD)

    rotate()
    rotate()

    entries = list(config.history.all())
    assert [(entry.event, entry.password_changed) for entry in entries] == [("changed", False), ("created", True)]
    assert entries[0].history_change_reason == "the password is now encrypted with the newest key"
    assert "keep-secret" not in repr([vars(entry) for entry in entries])


@pytest.mark.django_db(transaction=True)
def test_workers_follow_without_a_restart(keys: Callable[..., None], smtp_server: Callable[..., SMTPServer]) -> None:
    """The relay stays the same, cached or read again. A passed test stays passed."""
    keys(OLD)
    config = activate(smtp_server())
    config.record_test(passed=True, detail="")
    before = active_relay()
    updated_at = SMTPConfig.objects.get().updated_at

    keys(NEW, OLD)
    rotate()

    assert active_relay() == before
    keys(NEW)
    assert active_relay() == before
    after = SMTPConfig.objects.get()
    assert after.is_active
    assert after.passed_test
    assert after.updated_at == updated_at


@pytest.mark.parametrize("threshold", [10**9, 0], ids=["row", "file"])
@pytest.mark.parametrize("size", [1, 100_000], ids=["small", "large"])
def test_contents_are_opened_by_the_new_key_alone(
    threshold: int, size: int, keys: Callable[..., None], folder: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else of a mail changes, a second run changes nothing, and plain contents stay plain."""
    monkeypatch.setattr(resealing, "BATCH", 2)
    keys(OLD)
    settings.EMAIL_INTEGRATION |= {"PAYLOAD_STORAGE_THRESHOLD": threshold}
    deliveries = [submitted(body=f"Body {number}" * size) for number in range(5)]
    gone = submitted()
    content.remove_file(gone.content_file)
    Delivery.objects.filter(pk=gone.pk).update(**content.NONE)
    keys(OLD, encrypt=False)
    plain = submitted()
    before = {row["id"]: row for row in Delivery.objects.values()}

    keys(NEW, OLD)
    submitted()
    with TestCase.captureOnCommitCallbacks(execute=True):
        assert rotate()[1].splitlines()[1:] == [
            "The contents of 5 mails re-encrypted with the newest key.",
            "The content of 1 mail already encrypted with the newest key.",
            "The subjects of 6 mails re-encrypted with the newest key.",
        ]
    after = {pk: Delivery.objects.values().get(pk=pk) for pk in before}
    anew = {pk for pk in before if after[pk]["content_seal"] != before[pk]["content_seal"]}
    assert anew == {delivery.pk for delivery in deliveries}
    for pk in before:
        changed = {name for name, value in after[pk].items() if value != before[pk][name]}
        of_content = {"content_seal", "content" if threshold else "content_file"} if pk in anew else set()
        assert changed == of_content | (set() if pk == plain.pk else {"subject"})
    kept = set(Delivery.objects.exclude(content_file="").values_list("content_file", flat=True))
    assert {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()} == kept
    assert len(kept) == (0 if threshold else 7)
    keys(NEW)
    for number, delivery in enumerate(deliveries):
        assert f"Body {number}" in content.read(Delivery.objects.get(pk=delivery.pk)).decode()
    assert content.read(Delivery.objects.get(pk=plain.pk))
    assert {sealed_subjects.of(one) for one in Delivery.objects.all()} == {"S"}
    assert rotate()[1].splitlines()[1:] == ["The contents of 6 mails already encrypted with the newest key."]


def test_contents_stay_sealed_though_new_ones_are_not(keys: Callable[..., None]) -> None:
    keys(OLD)
    delivery = submitted(body="keep secret")
    keys(NEW, OLD, encrypt=False)
    rotate()
    row = Delivery.objects.get(pk=delivery.pk)
    assert row.content_seal
    assert b"keep secret" not in bytes(row.content)
    keys(NEW)
    assert b"keep secret" in content.read(row)


def test_a_storage_that_takes_no_file_keeps_the_old_one(
    keys: Callable[..., None], folder: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command counts it, and the next run seals it again."""
    keys(OLD)
    settings.EMAIL_INTEGRATION |= {"PAYLOAD_STORAGE_THRESHOLD": 0}
    delivery = submitted()
    keys(NEW, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(content, "save_file", lambda sealed: "")
        code, output = rotate()
    assert code == 1
    assert "✗ The content of 1 mail" in output
    row = Delivery.objects.get(pk=delivery.pk)
    assert (row.content_file, row.content_seal) == (delivery.content_file, delivery.content_seal)
    assert content.read(row)
    assert rotate()[0] == 0


@pytest.fixture
def folder(settings: Any, tmp_path: Path) -> Path:
    """The folder of the storage of contents."""
    storage = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": tmp_path}}
    settings.STORAGES = {**settings.STORAGES, "email_integration": storage}
    return tmp_path


def test_a_content_that_no_key_opens_is_counted_and_left_alone(keys: Callable[..., None]) -> None:
    """The others are sealed again. It can be decrypted once its key is back."""
    keys(LOST)
    lost = submitted()
    keys(OLD)
    submitted()
    keys(NEW, OLD)

    code, output = rotate()

    assert code == 1
    assert "The content of 1 mail re-encrypted with the newest key.\n" in output
    assert "✗ The content of 1 mail that no key in SMTP_PASSWORD_KEYS can decrypt. Put the missing key" in output
    with pytest.raises(ContentUnavailable, match="cannot be opened"):
        content.read(Delivery.objects.get(pk=lost.pk))
    keys(NEW, LOST)
    assert content.read(Delivery.objects.get(pk=lost.pk))
    assert rotate()[0] == 0


def test_a_worker_that_has_read_the_old_key_sends_all_the_same(keys: Callable[..., None]) -> None:
    """The worker has both keys."""
    keys(OLD)
    delivery = Delivery.objects.get(pk=submitted().pk)
    keys(NEW, OLD)
    rotate()
    assert content.read(delivery)


@pytest.mark.parametrize(("given", "says"), [([], "not set"), (["nonsense"], "not a Fernet key")])
def test_without_keys_nothing_is_done(given: list[str], says: str, keys: Callable[..., None]) -> None:
    """The output says what is missing."""
    keys(OLD)
    configuration("One")
    before = stored("One")
    keys(*given)

    with pytest.raises(CommandError, match=says):
        rotate()

    assert stored("One") == before


def test_the_documented_data_migration_works(keys: Callable[..., None]) -> None:
    """The code of docs/passwords.md, run with the models that migrations see."""
    keys(NEW)
    text = (Path(__file__).parents[2] / "docs" / "passwords.md").read_text()
    [code] = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "RunPython" in block]
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    server = SimpleNamespace(
        label="Old", hostname="smtp.example.com", port=465, login="u", plain_password="plain", sender="a@example.com"
    )
    apps = MigrationLoader(connection).project_state().apps

    class Apps:
        def get_model(self, app: str, model: str) -> Any:
            if app == "shop":
                return SimpleNamespace(objects=SimpleNamespace(using=lambda _: SimpleNamespace(all=lambda: [server])))
            return apps.get_model(app, model)

    for _ in range(2):
        namespace["copy_mail_servers"](Apps(), SimpleNamespace(connection=connection))

    config = SMTPConfig.objects.get()
    assert (config.name, config.port, config.use_ssl, config.use_tls) == ("Old", 465, True, False)
    assert config.password == "plain"
    assert stored("Old").startswith("fernet$")
    config.full_clean()


def test_the_content_and_subject_of_a_mail_that_is_being_sent_are_encrypted_afterwards(
    keys: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process records the seal that it has read. With another content in the row, the mail would be lost."""
    keys(OLD)
    delivery = submitted(subject="The subject", body="The body")
    SMTPConfig.objects.create(name="Down", host="127.0.0.1", port=1, use_tls=False, is_active=True)
    keys(NEW, OLD)
    waits: list[float] = []
    claim = batches.claim

    def rotated_meanwhile(*args: Any, **kwargs: Any) -> Any:
        found = claim(*args, **kwargs)
        if waits:
            return found
        monkeypatch.setattr(resealing, "TRIES", 2)
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", waits.append)
            code, output = rotate()
        assert code == 1
        assert "✗ Not re-encrypted, because mails are being sent: 2. Run this command again." in output
        return found

    with monkeypatch.context() as patch:
        patch.setattr(batches, "claim", rotated_meanwhile)
        attempt(delivery.pk)
    assert waits == [resealing.PAUSE] * 2
    row = Delivery.objects.get()
    assert (row.status, row.attempts) == ("deferred", 1)
    assert b"The body" in content.read(row)
    assert rotate()[0] == 0
    keys(NEW)
    row = Delivery.objects.get()
    assert b"The body" in content.read(row)
    assert sealed_subjects.of(row) == "The subject"


def test_a_mail_that_is_given_back_meanwhile_is_encrypted_in_the_same_run(
    keys: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys(OLD)
    delivery = submitted(subject="The subject", body="The body")
    batch = claimed(delivery)
    keys(NEW, OLD)
    monkeypatch.setattr(time, "sleep", lambda _seconds: batches.release(batch))
    code, output = rotate()
    assert code == 0
    assert "The content of 1 mail re-encrypted with the newest key." in output
    assert "The subject of 1 mail re-encrypted with the newest key." in output
    keys(NEW)
    row = Delivery.objects.get()
    assert (b"The body" in content.read(row), sealed_subjects.of(row)) == (True, "The subject")


@pytest.mark.django_db(transaction=True)
def test_a_rotation_waits_for_no_mail_while_it_locks_others(
    keys: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waking mail that waits for a server locks many rows too, in another order: a deadlock would end one of both."""
    keys(OLD)
    first, second = sorted((submitted(subject="The subject") for _ in range(2)), key=lambda one: one.pk)
    Delivery.objects.update(has_content=False)
    keys(NEW, OLD)
    locked, going = threading.Event(), threading.Event()
    seal, sealed = sealed_subjects.sealed, []

    def seal_and_signal(pk: str, text: bytes) -> str:
        sealed.append(pk)
        if len(sealed) == 2:
            going.set()
        return seal(pk, text)

    def waking() -> None:
        try:
            with transaction.atomic():
                Delivery.objects.filter(pk=second.pk).update(waits_for_relay=True)
                locked.set()
                going.wait(2)  # SQLite locks the whole database: there it goes on first
                Delivery.objects.filter(pk=first.pk).update(waits_for_relay=True)
        finally:
            connection.close()

    monkeypatch.setattr(sealed_subjects, "sealed", seal_and_signal)
    with ThreadPoolExecutor(1) as other:
        done = other.submit(waking)
        assert locked.wait(10)
        code, output = rotate()
        done.result()
    assert (code, "The subjects of 2 mails re-encrypted" in output) == (0, True)
    assert Delivery.objects.filter(waits_for_relay=True).count() == 2
