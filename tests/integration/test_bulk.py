"""Many mails at once: in batches, in order, each once. One invalid mail does not lose the others."""

from __future__ import annotations

import datetime as dt
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.db import transaction
from django.utils import timezone

from config.local.processes import PATIENCE
from config.local.valkey import Valkey
from email_integration import submit_many
from email_integration.exceptions import InvalidMail
from email_integration.message import content, sealed_subjects
from email_integration.models import Delivery
from email_integration.queue import bulk
from email_integration.tasks import canvas, send_email
from tests.broker import messages
from tests.deliveries import RecordingTaskQueue, in_threads, submitted

pytestmark = pytest.mark.django_db(transaction=True)


def mails(number: int, *, start: int = 0) -> Iterator[EmailMessage]:
    for one in range(start, start + number):
        yield EmailMessage(f"S{one}", "B", "a@example.com", [f"u{one}@example.com"])


def address(message: EmailMessage) -> str:
    return str(message.to[0])


def stored(ids: list[str]) -> list[Delivery]:
    rows = Delivery.objects.in_bulk(ids)
    return [rows[pk] for pk in ids]


def recipients(ids: list[str]) -> list[str]:
    return [delivery.recipients[0]["address"] for delivery in stored(ids)]


def test_each_is_a_delivery_of_priority_bulk_in_the_order_given(task_queue: RecordingTaskQueue) -> None:
    ids = submit_many(mails(25), batch_size=10)
    assert recipients(ids) == [f"u{one}@example.com" for one in range(25)]
    assert {delivery.priority for delivery in stored(ids)} == {"bulk"}
    assert task_queue.woken == ["mail.bulk"] * 3


def test_what_is_stored_is_what_submit_would_have_stored(task_queue: RecordingTaskQueue) -> None:
    """Only the ids, keys and times of each mail differ."""
    message = EmailMultiAlternatives("Grüße", "Text", "a@example.com", ["kim@example.com"], bcc=["lee@example.com"])
    message.attach_alternative("<p>Text</p>", "text/html")
    message.extra_headers = {"Message-ID": "<one@example.com>", "Date": "Mon, 20 Nov 2023 10:00:00 +0000"}
    [pk] = submit_many([message], ignore_result=False, priority="normal")
    first, second = stored([pk])[0], submitted()
    own = {"id", "content_seal", "content", "subject", "created_at", "due_at", "expires_at", "next_at"}
    other = {"message_id", "from_header", "from_at", "recipients", "content_size"}  # differs between mails here
    for field in Delivery._meta.concrete_fields:
        if field.name not in own | other:
            assert getattr(first, field.name) == getattr(second, field.name), field.name
    assert first.message_id == "<one@example.com>"
    assert [item["address"] for item in first.recipients] == ["kim@example.com", "lee@example.com"]
    assert b"multipart/alternative" in content.read(first)
    assert sealed_subjects.of(first) == "Grüße"


def test_a_batch_is_a_transaction_and_is_reported_once_it_is_committed(task_queue: RecordingTaskQueue) -> None:
    progress: list[tuple[int, int, int]] = []
    submit_many(
        mails(25),
        batch_size=10,
        on_progress=lambda done: progress.append((done, Delivery.objects.count(), len(task_queue.woken))),
    )
    assert progress == [(10, 10, 1), (20, 20, 2), (25, 25, 3)]


def test_inside_a_transaction_all_are_committed_with_it_or_none(task_queue: RecordingTaskQueue) -> None:
    with transaction.atomic():
        submit_many(mails(5), batch_size=2)
        assert task_queue.woken == []
        transaction.set_rollback(True)
    assert not Delivery.objects.exists()
    with transaction.atomic():
        submit_many(mails(5), batch_size=2)
    assert task_queue.woken == ["mail.bulk"]


def test_a_generator_is_read_no_further_than_a_batch_ahead(task_queue: RecordingTaskQueue) -> None:
    """The contents of mails that were not read yet take no memory."""
    read: list[int] = []

    def reading() -> Iterator[EmailMessage]:
        for number, message in enumerate(mails(30)):
            read.append(number)
            yield message

    ahead: list[int] = []
    submit_many(reading(), batch_size=5, on_progress=lambda done: ahead.append(len(read) - done))
    assert max(ahead) <= 5


def test_large_mails_make_smaller_batches(task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_OCTETS", 3000)
    done: list[int] = []
    submit_many(
        (EmailMessage("S", "x" * 60 + "\n" * 2000, None, ["k@example.com"]) for _ in range(3)), on_progress=done.append
    )
    assert done == [1, 2, 3]


def test_what_waits_for_a_commit_holds_no_content(task_queue: RecordingTaskQueue) -> None:
    with transaction.atomic():
        ids = set(submit_many(mails(3)))
        gc.collect()
        held = [one for one in gc.get_objects() if type(one) is Delivery and one.pk in ids]
        assert not [one for one in held if one.__dict__.get("content")]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_wrong_message_is_named_and_all_before_it_are_submitted(
    task_queue: RecordingTaskQueue, batch_size: int
) -> None:
    given = [*mails(7), EmailMessage("S", "B", None, ["not an address"]), *mails(3, start=8)]
    with pytest.raises(InvalidMail, match=r"^Message 8: to: "):
        submit_many(given, batch_size=batch_size)
    found = Delivery.objects.values_list("recipients__0__address", flat=True)
    assert set(found) == {f"u{one}@example.com" for one in range(7)}
    assert set(task_queue.woken) == {"mail.bulk"}


def test_what_fails_while_messages_are_made_is_passed_on_and_those_before_are_submitted(
    task_queue: RecordingTaskQueue,
) -> None:
    def failing() -> Iterator[EmailMessage]:
        yield from mails(4)
        raise LookupError("no such user")

    with pytest.raises(LookupError, match="no such user"):
        submit_many(failing(), batch_size=3)
    assert Delivery.objects.count() == 4


def test_run_again_with_keys_nothing_is_sent_twice(task_queue: RecordingTaskQueue) -> None:
    """For example after an invalid message was corrected: new mails are submitted, and known mails keep
    their first id.
    """
    given = [*mails(5), EmailMessage("S", "B", None, [""]), *mails(2, start=6)]
    with pytest.raises(InvalidMail):
        submit_many(given, idempotency_key=lambda message: f"news {address(message)}", batch_size=2)
    before = list(Delivery.objects.order_by("created_at", "pk").values_list("pk", flat=True))
    task_queue.woken.clear()
    ids = submit_many(mails(8), idempotency_key=lambda message: f"news {address(message)}", batch_size=3)
    assert recipients(ids) == [f"u{one}@example.com" for one in range(8)]
    assert set(ids[:5]) == set(before)
    assert task_queue.woken == ["mail.bulk"] * 2  # the first batch has no new mail
    assert Delivery.objects.count() == 8


def test_a_key_that_cannot_be_given_names_the_message(task_queue: RecordingTaskQueue) -> None:
    keys = ["one"]

    def key(message: EmailMessage) -> str:
        if not keys:
            raise InvalidMail("no key")
        return keys.pop()

    with pytest.raises(InvalidMail, match=r"^Message 2: no key"):
        submit_many(mails(3), idempotency_key=key)
    assert Delivery.objects.count() == 1


def test_a_key_that_comes_twice_in_a_batch_is_one_mail(task_queue: RecordingTaskQueue) -> None:
    first, other, again = submit_many([*mails(2), *mails(1)], idempotency_key=address)
    assert again == first != other
    assert Delivery.objects.count() == 2
    assert task_queue.woken == ["mail.bulk"]


def test_the_same_at_once_in_another_order_is_submitted_once(task_queue: RecordingTaskQueue) -> None:
    """The two transactions do not wait for each other in a circle."""
    forward, backward = list(mails(60)), list(mails(60))[::-1]
    found = in_threads(
        lambda: submit_many(forward, idempotency_key=address), lambda: submit_many(backward, idempotency_key=address)
    )
    assert found[0] == found[1][::-1]
    assert Delivery.objects.count() == 60


def test_a_file_of_a_mail_that_was_there_before_is_removed(
    task_queue: RecordingTaskQueue, settings: Any, tmp_path: Path
) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "PAYLOAD_STORAGE_THRESHOLD": 1}
    storage = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(tmp_path)}}
    settings.STORAGES = {**settings.STORAGES, "email_integration": storage}
    for _ in range(2):
        submit_many(mails(2), idempotency_key=address)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 2


def test_a_later_bulk_wakes_no_worker_now(task_queue: RecordingTaskQueue) -> None:
    due = timezone.now() + dt.timedelta(hours=1)
    ids = submit_many(mails(2), due_at=due)
    assert task_queue.woken == []
    assert {delivery.due_at for delivery in stored(ids)} == {due}


@pytest.mark.parametrize("given", [{"priority": "slow"}, {"in_doubt": "ask"}, {"due_at": "now"}])
def test_what_is_wrong_for_all_is_said_before_anything_is_read(
    task_queue: RecordingTaskQueue, given: dict[str, Any]
) -> None:
    with pytest.raises(InvalidMail):
        submit_many(iter(lambda: pytest.fail("the generator was read"), None), **given)


def test_an_empty_list_submits_no_mail(task_queue: RecordingTaskQueue) -> None:
    assert submit_many([]) == []
    assert task_queue.woken == []


def test_a_sender_left_out_is_the_configurations(task_queue: RecordingTaskQueue) -> None:
    [pk] = submit_many([EmailMessage("S", "B", None, ["kim@example.com"])])
    assert Delivery.objects.get(pk=pk).from_header == ""


def test_one_message_wakes_the_bulk_queue(valkey: Valkey) -> None:
    submit_many(mails(60))
    assert [message.arguments[0] for message in messages(valkey, "mail.bulk")] == ["mail.bulk"]


def test_results_are_awaited_only_on_request(task_queue: RecordingTaskQueue) -> None:
    [without], [kept] = submit_many(mails(1)), submit_many(mails(1), ignore_result=False)
    assert canvas.as_options(Delivery.objects.get(pk=without).options) == {"ignore_result": True}
    assert Delivery.objects.get(pk=kept).options == ""


def test_a_single_mail_may_have_no_result_either(task_queue: RecordingTaskQueue) -> None:
    to = {"to": ["kim@example.com"]}
    found = [send_email.apply_async(("S", "B"), to, ignore_result=ignored).id for ignored in (True, False)]
    assert [canvas.as_options(delivery.options).get("ignore_result") for delivery in stored(found)] == [True, None]


def test_the_package_can_be_imported_before_django_is_set_up() -> None:
    """INSTALLED_APPS imports it this way. Its exports are loaded on first use."""
    code = "import sys, email_integration; sys.exit('django' in sys.modules or hasattr(email_integration, 'nothing'))"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "worker"}, timeout=PATIENCE)
