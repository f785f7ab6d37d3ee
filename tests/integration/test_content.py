"""Contents in rows and in files, sealed and plain: the worker sends exactly the submitted content, or nothing."""

from __future__ import annotations

import base64
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.files.storage import FileSystemStorage
from django.db import connection

from config.local.processes import PATIENCE
from email_integration import conf
from email_integration.exceptions import ContentUnavailable
from email_integration.message import content, encryption
from email_integration.models import Delivery
from email_integration.smtpd import SMTPServer
from tests.deliveries import RecordingTaskQueue, ago, attempt, pretend, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

Serve = Callable[..., SMTPServer]
Keys = Callable[..., None]

MEGABYTE = "keep secret this line, and do not show it\n" * 25_600


@pytest.fixture
def keys(settings: Any) -> Keys:
    """Set keys of the setting."""

    def keys(**changes: Any) -> None:
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **changes}

    return keys


@pytest.fixture(autouse=True)
def folder(task_queue: RecordingTaskQueue, keys: Keys, settings: Any, tmp_path: Path) -> Path:
    """A storage for this test alone, with the options of ``config.settings``."""
    use(settings, "django.core.files.storage.FileSystemStorage", tmp_path / "payloads")
    keys(RETRY_FIRST=60.0, RETRY_MAX=600.0)
    return tmp_path / "payloads"


def use(settings: Any, backend: str, location: Path) -> None:
    options = {"location": location, "file_permissions_mode": 0o600, "directory_permissions_mode": 0o700}
    settings.STORAGES = {**settings.STORAGES, "email_integration": {"BACKEND": backend, "OPTIONS": options}}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def reread(delivery: Delivery) -> Delivery:
    return Delivery.objects.get(pk=delivery.pk)


def tried(delivery: Delivery) -> Delivery:
    """Attempt the delivery although it is not due, and return its row afterwards."""
    pretend(delivery, due_at=ago(1))
    attempt(delivery.pk)
    return reread(delivery)


# -- unchanged contents ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypt", [True, False], ids=["sealed", "plain"])
@pytest.mark.parametrize("threshold", [10**9, 0], ids=["row", "file"])
@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_000])
def test_any_content_is_read_as_it_was_stored(
    encrypt: bool, threshold: int, size: int, keys: Keys, folder: Path
) -> None:
    """It is read in blocks of a bounded size, and can be read any number of times. An empty content is never put into a
    file.
    """
    keys(ENCRYPT_CONTENT=encrypt, PAYLOAD_STORAGE_THRESHOLD=threshold)
    plain = os.urandom(size)
    delivery = submitted()
    delivery.content_file = ""
    content.store(delivery, plain)
    delivery.save()

    row = reread(delivery)

    stored = content.stored(row)
    assert (stored.size, stored.eight_bit) == (size, not plain.isascii())
    for _ in range(2):
        blocks = list(stored.blocks())
        assert b"".join(blocks) == plain
        assert all(len(block) <= 65536 + 16 for block in blocks)
    assert bool(row.content_file) == (size > threshold)
    assert bool(row.content_seal) == encrypt
    assert bool(bytes(row.content)) == (not row.content_file and (encrypt or size > 0))


def test_a_large_mail_is_in_a_private_file_and_gone_when_it_is_accepted(smtp_server: Serve, folder: Path) -> None:
    server = smtp_server()
    config_for(server)
    delivery = submitted(body=MEGABYTE)
    assert not reread(delivery).content
    (file,) = files(folder)
    assert file == folder / delivery.content_file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {stat.S_IMODE(one.stat().st_mode) for one in file.parents if folder in one.parents} == {0o700}
    before = content.read(delivery)

    assert tried(delivery).status == "accepted"

    (message,) = server.messages
    _, _, body = before.partition(b"\n\n")
    assert message.content.replace(b"\r\n", b"\n").endswith(body)
    assert not files(folder)


@pytest.mark.parametrize("threshold", [10**9, 0], ids=["row", "file"])
def test_nothing_of_a_mail_can_be_read_in_database_or_storage(threshold: int, keys: Keys, folder: Path) -> None:
    """The raw bytes contain no body, no subject and no key that decrypts them."""
    keys(PAYLOAD_STORAGE_THRESHOLD=threshold)
    delivery = submitted(subject="Keep secret", body=MEGABYTE)
    raw = [everything_in_the_database(), *(file.read_bytes() for file in files(folder))]
    assert delivery.message_id.encode() in raw[0]
    assert delivery.content_seal.encode() in raw[0]
    for words in (b"keep secret", b"Keep secret", b"Subject", *keys_of_contents()):
        assert not any(words in one for one in raw)
    assert b"keep secret" in content.read(delivery)


def keys_of_contents() -> list[bytes]:
    """Return the configured key, encoded and as bytes, and the derived keys for the contents of today and yesterday."""
    given = conf.get("SMTP_PASSWORD_KEYS")[0]
    master = base64.urlsafe_b64decode(given)
    days = [str(int(time.time()) // 86400 - ago) for ago in (0, 1)]
    return [given.encode(), master, *(encryption._key_of_day(master, day) for day in days)]


def everything_in_the_database() -> bytes:
    """Return the files of SQLite, or the text of all rows of other databases."""
    if connection.vendor == "sqlite":
        name = Path(connection.settings_dict["NAME"])
        return b"".join(path.read_bytes() for path in name.parent.glob(f"{name.name}*"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM email_integration_delivery")
        return b" ".join(
            bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
            for row in cursor.fetchall()
            for value in row
        )


@pytest.mark.parametrize("threshold", [10**9, 0], ids=["row", "file"])
@pytest.mark.parametrize("at_first", [True, False], ids=["sealed", "plain"])
def test_encryption_can_be_switched_while_mail_waits(
    at_first: bool, threshold: int, keys: Keys, smtp_server: Serve, folder: Path
) -> None:
    server = smtp_server()
    config_for(server)
    keys(ENCRYPT_CONTENT=at_first, PAYLOAD_STORAGE_THRESHOLD=threshold)
    delivery = submitted(body="keep secret")
    stored = bytes(delivery.content) + b"".join(file.read_bytes() for file in files(folder))
    assert (b"keep secret" in stored) is not at_first
    keys(ENCRYPT_CONTENT=not at_first)
    assert tried(delivery).status == "accepted"
    assert b"keep secret" in server.messages[0].content


def test_the_same_mail_submitted_again_leaves_no_second_file(folder: Path) -> None:
    """The mail can be recognized by its idempotency key or by its id."""
    first = submitted(body=MEGABYTE, idempotency_key="once")
    again = [submitted(body=MEGABYTE, idempotency_key="once"), submitted(body=MEGABYTE, delivery_id=first.pk)]
    assert [delivery.pk for delivery in again] == [first.pk, first.pk]
    assert [str(file.relative_to(folder)) for file in files(folder)] == [first.content_file]


# -- a failing storage ----------------------------------------------------------------------------------------------


class Full(FileSystemStorage):
    """A storage that writes only half of a file."""

    def _save(self, name: str, given: Any) -> str:
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(given.read(1000))
        raise OSError(28, "No space left on keep-secret")


class Odd(FileSystemStorage):
    """A storage with its own exceptions, like those of a network storage."""

    class Error(Exception):
        pass

    def _save(self, name: str, given: Any) -> str:
        raise Odd.Error("keep-secret")

    def _open(self, name: str, mode: str = "rb") -> Any:
        raise Odd.Error("keep-secret")

    def delete(self, name: str) -> None:
        raise Odd.Error("keep-secret")


class Elsewhere(FileSystemStorage):
    """A storage that is not on a disk of this machine."""

    def path(self, name: str) -> str:
        raise NotImplementedError

    def _save(self, name: str, given: Any) -> str:
        FileSystemStorage(self.location).save(name, given)
        return name

    def _open(self, name: str, mode: str = "rb") -> Any:
        return FileSystemStorage(self.location).open(name, mode)

    def exists(self, name: str) -> bool:
        return FileSystemStorage(self.location).exists(name)


@pytest.mark.parametrize("backend", [f"{__name__}.Full", f"{__name__}.Odd", "no.such.Storage"])
def test_a_storage_that_takes_nothing_costs_no_mail(
    backend: str, settings: Any, smtp_server: Serve, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The content goes into the row and an error into the log. The half-written file is removed."""
    use(settings, backend, folder)
    with caplog.at_level(logging.ERROR, "email_integration"):
        delivery = submitted(body=MEGABYTE)
    assert "The storage refused a file" in caplog.text
    assert "keep" not in caplog.text
    assert (delivery.content_file, bool(delivery.content)) == ("", True)
    assert not files(folder)
    server = smtp_server()
    config_for(server)
    assert tried(delivery).status == "accepted"


def test_a_folder_that_cannot_be_written_costs_no_mail(settings: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    use(settings, "django.core.files.storage.FileSystemStorage", tmp_path / "file")
    assert content.read(submitted(body=MEGABYTE))


def test_a_storage_that_is_on_no_disk_works(settings: Any, folder: Path) -> None:
    use(settings, f"{__name__}.Elsewhere", folder)
    delivery = submitted(body=MEGABYTE)
    assert delivery.content_file
    assert b"keep secret" in content.read(delivery)


def test_a_project_without_a_storage_keeps_all_in_the_database(settings: Any) -> None:
    settings.STORAGES = {name: one for name, one in settings.STORAGES.items() if name != "email_integration"}
    delivery = submitted(body=MEGABYTE)
    assert not delivery.content_file
    assert b"keep secret" in content.read(reread(delivery))


def test_a_file_that_cannot_be_deleted_does_not_matter(
    settings: Any, smtp_server: Serve, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The mail is accepted, and the file is deleted later."""
    config_for(smtp_server())
    delivery = submitted(body=MEGABYTE)

    class Stubborn(FileSystemStorage):
        def delete(self, name: str) -> None:
            raise Odd.Error("keep-secret")

    globals()["Stubborn"] = Stubborn
    use(settings, f"{__name__}.Stubborn", folder)
    assert tried(delivery).status == "accepted"
    assert "could not be deleted (Error)" in caplog.text
    assert "keep-secret" not in caplog.text


# -- damaged contents -----------------------------------------------------------------------------------------------


def changed(stored: bytes) -> bytes:
    return stored[:500_000] + bytes([stored[500_000] ^ 1]) + stored[500_001:]


def swapped(stored: bytes) -> bytes:
    piece = 65536 + 16
    return stored[piece : 2 * piece] + stored[:piece] + stored[2 * piece :]


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "changed at its end": lambda stored: stored[:-1] + bytes([stored[-1] ^ 1]),
    "changed": changed,
    "cut": lambda stored: stored[:-1],
    "cut between two pieces": lambda stored: stored[: 8 * (65536 + 16)],
    "empty": lambda stored: b"",
    "swapped": swapped,
    "appended": lambda stored: stored + b"more",
    "another's": lambda stored: os.urandom(len(stored)),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_content_that_was_spoiled_is_never_sent(how: str, smtp_server: Serve, folder: Path) -> None:
    """Even if the damage is found after most of the content was sent: without the final dot, the server does not accept
    it.
    """
    server = smtp_server()
    config_for(server)
    delivery = submitted(body=MEGABYTE)
    (file,) = files(folder)
    right = file.read_bytes()
    file.write_bytes(SPOILED[how](right))

    with pytest.raises(ContentUnavailable, match="damaged"):
        content.read(reread(delivery))
    row = tried(delivery)

    assert (row.status, row.reason, row.attempts) == ("deferred", "the stored content is damaged", 1)
    assert not server.messages
    # The file is restored.
    file.write_bytes(right)
    assert tried(delivery).status == "accepted"
    assert len(server.messages) == 1


def test_a_plain_content_that_was_cut_is_never_sent_either(keys: Keys, smtp_server: Serve, folder: Path) -> None:
    keys(ENCRYPT_CONTENT=False)
    server = smtp_server()
    config_for(server)
    delivery = submitted(body=MEGABYTE)
    (file,) = files(folder)
    file.write_bytes(file.read_bytes()[:-1])
    assert tried(delivery).reason == "the stored content is damaged"
    assert not server.messages


@pytest.mark.parametrize("key", ["nonsense", "AAAA", "é", "A" * 44])
def test_a_key_that_is_none_opens_nothing(key: str) -> None:
    delivery = pretend(submitted(), content_seal=key)
    with pytest.raises(ContentUnavailable, match="damaged"):
        content.read(delivery)


def test_the_content_of_another_mail_is_not_taken_for_this_one(folder: Path) -> None:
    """Neither the file nor the column of another mail can be exchanged for its own."""
    one, two = submitted(body=MEGABYTE), submitted(body=MEGABYTE)
    with pytest.raises(ContentUnavailable, match="damaged"):
        content.read(pretend(one, content_file=two.content_file))
    one, two = submitted(), submitted()
    with pytest.raises(ContentUnavailable, match="damaged"):
        content.read(pretend(one, content=two.content))


def test_a_mail_waits_for_its_file_and_goes_when_it_is_back(smtp_server: Serve, folder: Path) -> None:
    """For example when a volume was not mounted."""
    server = smtp_server()
    config_for(server)
    delivery = submitted(body=MEGABYTE)
    folder.rename(folder.with_name("away"))
    row = tried(delivery)
    assert (row.status, row.reason) == ("deferred", "the file with the content is not in the storage")
    assert not server.messages
    folder.with_name("away").rename(folder)
    assert tried(delivery).status == "accepted"


@pytest.mark.parametrize("backend", [f"{__name__}.Odd", "no.such.Storage"])
def test_a_mail_waits_for_a_storage_that_cannot_be_read(
    backend: str, settings: Any, smtp_server: Serve, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The mail gives this as its reason, without the storage's own error message."""
    config_for(smtp_server())
    delivery = submitted(body=MEGABYTE)
    before = settings.STORAGES
    use(settings, backend, folder)
    assert tried(delivery).reason == "the storage with the content cannot be read"
    assert "keep-secret" not in caplog.text
    settings.STORAGES = before
    assert tried(delivery).status == "accepted"


def test_a_mail_waits_for_a_storage_that_is_no_more(keys: Keys, smtp_server: Serve) -> None:
    config_for(smtp_server())
    delivery = submitted(body=MEGABYTE)
    keys(PAYLOAD_STORAGE="another")
    assert tried(delivery).reason == "the storage with the content cannot be read"
    keys(PAYLOAD_STORAGE="email_integration")
    assert tried(delivery).status == "accepted"


@pytest.mark.parametrize("given", [[], [Fernet.generate_key().decode()]])
def test_a_mail_waits_for_its_key(given: list[str], keys: Keys, smtp_server: Serve, settings: Any) -> None:
    server = smtp_server(user=None)
    config_for(server)
    delivery = submitted()
    before = settings.EMAIL_INTEGRATION["SMTP_PASSWORD_KEYS"]
    keys(SMTP_PASSWORD_KEYS=given)
    row = tried(delivery)
    assert row.status == "deferred"
    assert row.reason == "the content cannot be opened with the keys in SMTP_PASSWORD_KEYS"
    assert not server.messages
    keys(SMTP_PASSWORD_KEYS=before)
    assert tried(delivery).status == "accepted"


# -- memory ---------------------------------------------------------------------------------------------------------

#: A program that attempts one small mail, and then a large one under measurement. It does not use ``getrusage``, which
#: includes the peak of the parent process.
SENDING = """
import re, sys, django
django.setup()
from tests.deliveries import attempt
def memory(which):
    return int(re.search(which + r":\\s*(\\d+) kB", open("/proc/self/status").read())[1])
attempt(sys.argv[1])
before = memory("VmRSS")
print(attempt(sys.argv[2]).status, memory("VmHWM") - before)
"""


@pytest.fixture
def child(folder: Path) -> Iterator[Callable[[str, str], tuple[str, int]]]:
    """Send in a separate process. Return the status, and the growth of its memory in KiB."""

    def child(*ids: str) -> tuple[str, int]:
        command = [sys.executable, "-c", SENDING, *ids]
        env = {**os.environ, "PAYLOAD_DIR": str(folder)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert not done.returncode, done.stderr
        status, grown = done.stdout.split()[-2:]
        return status, int(grown)

    return child


@pytest.mark.extra
def test_sending_25_mb_takes_less_than_10_mb_of_memory(
    child: Callable[[str, str], tuple[str, int]], smtp_server: Serve, folder: Path
) -> None:
    server = smtp_server()
    config_for(server)
    small, large = submitted(), submitted(body=MEGABYTE * 25)
    assert len(files(folder)) == 1
    status, grown = child(small.pk, large.pk)
    print(f"memory grew by {grown} KiB")
    assert status == "accepted"
    assert len(server.messages[1].content) > 25_000_000
    assert grown < 10 * 1024
