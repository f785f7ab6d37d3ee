"""Erasing the data of a person: all of it goes, and no data of other persons."""

from __future__ import annotations

import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from email_integration.delivery import erasure, manual
from email_integration.delivery.erasure import Erased, erase_recipient
from email_integration.exceptions import ContentUnavailable, InvalidMail
from email_integration.ledger import batches, continuation, transitions
from email_integration.message import content
from email_integration.models import FINAL, Delivery, DeliveryAttempt, Status
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted
from email_integration.smtpd import Fault, SMTPServer
from tests import claims
from tests.deliveries import RecordingTaskQueue, ago, attempt, pretend, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

KIM, LEE, SAM = "kim@example.com", "lee@example.com", "sam@example.com"
NOTHING = Erased(deliveries=0, stopped=0, contents=0, replies=0, left=())

Serve = Callable[..., SMTPServer]


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def finished(*to: str, status: Status = Status.FAILED, **how: Any) -> Delivery:
    """A mail that servers have refused with replies that quote its recipients, and whose content is still stored."""
    delivery = submitted(*to, **how)
    recipients = [
        {"address": item["address"], "status": "failed", "code": 550, "reply": f"550 <{item['address']}> is unknown"}
        for item in delivery.recipients
    ]
    DeliveryAttempt.objects.create(
        delivery=delivery, number=1, started_at=ago(0), outcome=status, reply=f"550 no mailbox <{to[0]}>"
    )
    return pretend(delivery, status=status, recipients=recipients, finished_at=ago(0), next_at=None)


def dump() -> str:
    """Return the text of all tables in lower case, with sealed values decrypted."""
    rows = [
        {**row, "content": content.read(Delivery.objects.get(pk=row["id"])) if row["has_content"] else b""}
        for row in Delivery.objects.values()
    ]
    return repr([*rows, *DeliveryAttempt.objects.values()]).lower()


@pytest.mark.parametrize("status", sorted(FINAL))
def test_an_erased_finished_mail_has_no_addresses(status: Status, settings: Any, tmp_path: Path) -> None:
    """The row, its attempts and the file are erased. The type and the outcome of the mail stay."""
    use_files(settings, tmp_path)
    delivery = finished(KIM, status=status, idempotency_key=f"welcome-{KIM}", body=f"Dear {KIM}")
    pretend(delivery, redirected_to=KIM, options=f'{{"link": "{KIM}"}}')
    assert KIM in dump()

    done = erase_recipient(KIM)

    assert done == Erased(deliveries=1, stopped=0, contents=1, replies=1, left=())
    assert "kim" not in dump()
    row = Delivery.objects.get()
    assert (row.status, row.has_content, row.content_seal, row.idempotency_key) == (status, False, "", None)
    assert row.recipients == [{"address": "erased", "status": "failed", "code": 550}]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert erase_recipient(KIM) == NOTHING


def use_files(settings: Any, folder: Path) -> None:
    backend = "django.core.files.storage.FileSystemStorage"
    options = {"location": folder}
    settings.STORAGES = {**settings.STORAGES, "email_integration": {"BACKEND": backend, "OPTIONS": options}}
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "PAYLOAD_STORAGE_THRESHOLD": 0}


def test_a_mail_to_several_keeps_the_others_and_loses_its_content() -> None:
    finished(KIM, LEE)
    erase_recipient(KIM)
    row = Delivery.objects.get()
    assert not row.has_content
    assert row.recipients[1] == {
        "address": LEE,
        "status": "failed",
        "code": 550,
        "reply": f"550 <{LEE}> is unknown",
    }


def test_erasure_keeps_other_recipients() -> None:
    """Similar addresses stay as well."""
    others = (
        "joakim@example.com",
        "kim@example.com.br",
        "kim@example.community",
        "kim+news@example.com",
        "o'kim@example.com",
        "x.kim@example.com",
        "kim@mail.example.com",
    )
    for address in others:
        finished(address, idempotency_key=address)
    before = dump()
    assert erase_recipient(KIM) == NOTHING
    assert dump() == before


@pytest.mark.parametrize(
    ("kept", "given"),
    [
        (KIM, "KIM@Example.COM"),
        ("Kim@EXAMPLE.com", KIM),
        (KIM, f"Kim Doe <{KIM}>"),
        ("kim@bücher.example", "kim@xn--bcher-kva.example"),
        ("kim@xn--bcher-kva.example", "KIM@BÜCHER.example"),
        ("kim@[192.0.2.1]", "kim@[192.0.2.1]"),
    ],
)
def test_an_address_is_found_however_it_is_written(kept: str, given: str) -> None:
    finished(kept)
    assert erase_recipient(given).deliveries == 1
    assert "kim" not in dump()


def test_the_sender_of_a_finished_mail_is_erased_too() -> None:
    """The sender is erased from the From header, the envelope and the content, with the name."""
    for how in ({"from_email": f'"Kim Doe" <{KIM}>'}, {"from_email": LEE, "envelope_sender": KIM}):
        finished(SAM, **how)
    assert erase_recipient(KIM).deliveries == 2
    assert "kim" not in dump()
    assert SAM in dump()


def test_a_sender_at_an_address_literal_is_erased_on_each_python() -> None:
    """The strict parser of newer Python versions rejects such an address."""
    finished(SAM, from_email="Kim Doe <kim@[192.0.2.1]>")
    assert erase_recipient("kim@[192.0.2.1]").deliveries == 1
    assert "kim" not in dump()


def test_a_reply_that_names_the_person_in_another_mail_is_erased() -> None:
    """The rest of that mail is unchanged."""
    delivery = finished(LEE)
    pretend(delivery, recipients=[{**delivery.recipients[0], "reply": f"551 not here; try <{KIM}>."}])
    DeliveryAttempt.objects.update(reply=f"551 not here; try <{KIM.upper()}>.")

    assert erase_recipient(KIM) == Erased(deliveries=1, stopped=0, contents=0, replies=1, left=())

    row = Delivery.objects.get()
    assert (row.recipients[0]["address"], row.recipients[0]["reply"]) == (LEE, "551 not here; try <erased>.")
    assert DeliveryAttempt.objects.get().reply == "551 not here; try <erased>."
    assert content.read(row)


# -- unfinished mail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.QUEUED, Status.DEFERRED, Status.IN_DOUBT])
def test_a_mail_on_its_way_is_stopped(task_queue: RecordingTaskQueue, smtp_server: Serve, status: Status) -> None:
    server = smtp_server()
    config_for(server)
    delivery = pretend(submitted(KIM), status=status)

    assert erase_recipient(KIM) == Erased(deliveries=1, stopped=1, contents=1, replies=0, left=())

    row = Delivery.objects.get()
    assert (row.status, row.reason, row.has_content, row.next_at) == ("cancelled", "erased", False, None)
    assert task_queue.results == [(delivery.pk, "cancelled")]
    assert attempt(delivery.pk) is None
    assert not server.messages
    assert "kim" not in dump()


def test_what_follows_a_mail_that_was_stopped_is_seen_to_by_a_worker(task_queue: RecordingTaskQueue) -> None:
    delivery = submitted(KIM)
    task_queue.followed.add(delivery.pk)
    task_queue.woken.clear()
    erase_recipient(KIM)
    row = Delivery.objects.get()
    assert (row.status, row.is_settled) == ("cancelled", False)
    assert task_queue.sweeps == 1
    assert [one.pk for one in continuation.take_due(10)] == [delivery.pk]


def test_a_mail_to_several_goes_on_to_the_others(smtp_server: Serve) -> None:
    """Its content is deleted when it finishes, regardless of the settings."""
    server = smtp_server()
    config_for(server)
    delivery = submitted(KIM, LEE)

    assert erase_recipient(KIM) == Erased(deliveries=0, stopped=1, contents=0, replies=0, left=())

    attempt(delivery.pk)
    (message,) = server.messages
    assert message.rcpt_tos == (LEE,)
    row = Delivery.objects.get()
    assert (row.status, row.reason) == ("accepted", "accepted by the server for 1 of 2 recipients")
    assert "kim" not in dump()


@pytest.mark.parametrize("how", ["accepted", "cancelled", "expired", "failed", "quarantined"])
def test_its_content_goes_however_it_ends(how: str, smtp_server: Serve, settings: Any) -> None:
    """The contents of other finished mail may be kept for days; this one is deleted."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "CONTENT_RETENTION_DAYS": 7}
    refuses = {"faults": [Fault(verb="RCPT", reply="550 5.1.1 unknown")]} if how == "failed" else {}
    config_for(smtp_server(**refuses))
    delivery = submitted(KIM, LEE)
    erase_recipient(KIM)
    if how == "cancelled":
        assert transitions.cancel(delivery.pk)
    elif how == "quarantined":
        assert transitions.end(Delivery.objects.get(), Status.QUARANTINED, Cause.WORKER_LOST)
    else:
        pretend(delivery, **({"expires_at": ago(1), "next_at": ago(1)} if how == "expired" else {}))
        attempt(delivery.pk)
    row = Delivery.objects.get()
    assert (row.status, row.has_content) == (how, False)


def test_a_copy_does_not_go_to_who_was_erased(smtp_server: Serve) -> None:
    delivery = submitted(KIM, LEE)
    erase_recipient(KIM)
    assert [item["address"] for item in manual.resend(delivery.pk).recipients] == [LEE]
    erase_recipient(LEE)
    with pytest.raises(ContentUnavailable):
        manual.resend(delivery.pk)


def test_a_recipient_that_was_accepted_before_stays_accepted() -> None:
    delivery = submitted(KIM, LEE)
    first, second = delivery.recipients
    pretend(delivery, recipients=[{**first, "status": "accepted", "code": 250}, second], status=Status.DEFERRED)
    erase_recipient(LEE)
    row = Delivery.objects.get()
    assert (row.status, [item["status"] for item in row.recipients]) == ("accepted", ["accepted", "failed"])


def test_a_mail_that_is_being_sent_is_left_and_named() -> None:
    """It is stopped if the server has not accepted it yet, and can be erased after that."""
    delivery = submitted(KIM)
    batch = claims.claimed(delivery)
    before = Delivery.objects.values().get()
    left = Erased(deliveries=0, stopped=0, contents=0, replies=0, left=(delivery.pk,))
    assert erase_recipient(KIM, dry_run=True) == left
    assert Delivery.objects.values().get() == before
    assert erase_recipient(KIM) == left
    assert Delivery.objects.values().get() == {**before, "cancel_requested": True}
    assert batches.release(batch)
    assert Delivery.objects.get().status == Status.CANCELLED
    assert erase_recipient(KIM).deliveries == 1
    assert "kim" not in dump()


def test_a_mail_in_the_persons_name_goes_first_and_is_erased_then(smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server)
    delivery = submitted(LEE, from_email=KIM)
    assert erase_recipient(KIM).left == (delivery.pk,)
    attempt(delivery.pk)
    assert server.messages[0].mail_from == KIM
    assert erase_recipient(KIM).left == ()
    assert "kim" not in dump()


def test_a_mail_to_several_that_is_being_sent_goes_on(smtp_server: Serve) -> None:
    """The other recipients must get it, and the erased recipient may have it already."""
    delivery = submitted(KIM, LEE)
    batch = claims.claimed(delivery)
    assert erase_recipient(KIM).left == (delivery.pk,)
    assert not Delivery.objects.get().cancel_requested
    assert claims.record(batch)
    assert erase_recipient(KIM).deliveries == 1


def test_a_late_reply_does_not_bring_an_address_back(smtp_server: Serve) -> None:
    """The mail was in doubt when its recipient was erased."""
    batch = claims.claimed(submitted(KIM, LEE))
    claims.lose(batch)
    erase_recipient(KIM)
    assert claims.record(batch, Accepted(code=250, accepted=(KIM, LEE), refused={}))
    row = Delivery.objects.get()
    assert (row.status, [item["address"] for item in row.recipients]) == ("accepted", ["erased", LEE])


# -- damaged rows and many rows -------------------------------------------------------------------------------------


def test_a_row_that_cannot_be_read_is_erased_all_the_same() -> None:
    for recipients in ({"to": [KIM]}, [KIM, 3, None], f"<{KIM}>"):
        pretend(submitted(LEE), recipients=recipients)
    assert erase_recipient(KIM).deliveries == 3
    assert KIM not in dump()
    assert set(Delivery.objects.values_list("status", flat=True)) == {"quarantined"}


def test_all_rows_are_searched_in_batches_without_their_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "BATCH", 3)
    for _ in range(10):
        finished(KIM)
        finished(LEE)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert erase_recipient("unknown@example.com") == NOTHING
    assert len(queries) == 7 + 1 + 1 + 1  # seven batches, the last one empty; replies; unfinished bulk actions
    assert not any('"content"' in query["sql"] or "`content`" in query["sql"] for query in queries)
    assert erase_recipient(KIM).deliveries == 10


def test_a_row_that_is_moved_meanwhile_is_erased_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = submitted(KIM)
    real, moved = transitions.erase, threading.Event()

    def moves_first(loaded: Delivery, *args: Any, **changes: Any) -> bool:
        if not moved.is_set():
            moved.set()
            pretend(delivery, version=loaded.version + 1, status=Status.DEFERRED)
        return real(loaded, *args, **changes)

    monkeypatch.setattr(transitions, "erase", moves_first)
    assert erase_recipient(KIM) == Erased(deliveries=1, stopped=1, contents=1, replies=0, left=())
    assert "kim" not in dump()


# -- the command ----------------------------------------------------------------------------------------------------


def said(*arguments: str) -> tuple[int, list[str]]:
    out = StringIO()
    try:
        call_command("erase_recipient", *arguments, stdout=out)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue().splitlines()
    return 0, out.getvalue().splitlines()


def test_the_command_says_how_many_and_with_dry_run_does_nothing() -> None:
    finished(KIM)
    submitted(KIM)
    submitted(KIM, LEE)
    before = dump()
    numbers = [
        "  2 deliveries that named the person",
        "  2 unsent mails to the person, stopped",
        "  2 contents",
        "  1 replies of servers",
    ]
    assert said(KIM, "--dry-run") == (0, ["Would be erased:", *numbers])
    assert dump() == before
    assert said(KIM) == (0, ["Erased:", *numbers])
    assert said(KIM)[1][1] == "  0 deliveries that named the person"


def test_the_command_ends_with_1_when_something_is_left() -> None:
    delivery = submitted(KIM)
    claims.claimed(delivery)
    code, lines = said(KIM)
    assert code == 1
    assert lines[-1].startswith(f"✗ {delivery.pk} still names the person")
    assert "kim" not in "".join(lines)


@pytest.mark.parametrize("wrong", ["", "kim", "example.com", "kim@", "a@example.com, b@example.com"])
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidMail):
        erase_recipient(wrong)
    with pytest.raises(CommandError):
        said(wrong)
