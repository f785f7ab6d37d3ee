"""Subjects of mails: sealed for their row, kept after acceptance, and erased with a person."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils.translation import gettext_lazy

from email_integration.delivery import erase_recipient, resend, submit
from email_integration.ledger import transitions
from email_integration.message import sealed_subjects
from email_integration.message.options import MailOptions
from email_integration.models import Delivery, Status
from email_integration.outcomes.causes import Cause
from email_integration.queue.bulk import Submission
from tests.deliveries import RecordingTaskQueue, attempt, pretend, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db

KIM, LEE = "kim@example.com", "lee@example.com"
SECRET = "Your diagnosis"


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def stored(delivery: Delivery) -> str:
    return Delivery.objects.values_list("subject", flat=True).get(pk=delivery.pk)


def shown(delivery: Delivery) -> str:
    return sealed_subjects.of(Delivery.objects.get(pk=delivery.pk))


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_subject_is_sealed_as_the_content_is(encrypted: bool, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "ENCRYPT_CONTENT": encrypted}
    delivery = submitted(subject=SECRET)
    assert (SECRET in stored(delivery)) != encrypted
    assert bool(delivery.content_seal) == encrypted
    assert shown(delivery) == SECRET


@pytest.mark.parametrize(
    "subject", ["Your order", "Grüße aus Köln", "ab" * 400, "=?utf-8?q?a?= b", "שלום \u202eabc", "", "a" * 3000]
)
def test_the_stored_subject_is_that_of_the_content(subject: str) -> None:
    """Also of a mail that Django renders, and of one in a batch."""
    attached = EmailMultiAlternatives(subject, "Text", "a@example.com", [KIM])
    attached.attach("a.txt", "text")
    lazy = EmailMessage(gettext_lazy(subject) if subject else "", "Text", "a@example.com", [KIM])  # type: ignore[arg-type]
    batch = Submission(MailOptions())
    batch.take(EmailMessage(subject, "Text", "a@example.com", [KIM]))
    batch.store()
    for delivery in (submitted(subject=subject), submit(attached), submit(lazy), Delivery.objects.get(pk=batch.ids[0])):
        subject = subject.replace("=?utf-8?q?a?=", "a")  # as each client decodes it
        assert shown(delivery) == subject[: sealed_subjects.LONGEST]


def test_a_subject_stays_when_the_mail_is_accepted_and_its_content_dropped(smtp_server: Any) -> None:
    config_for(smtp_server())
    delivery = submitted(subject=SECRET)
    attempt(delivery.pk)
    row = Delivery.objects.get()
    assert (row.status, row.has_content) == (Status.ACCEPTED, False)
    assert shown(delivery) == SECRET


@pytest.mark.parametrize("status", [Status.ACCEPTED, Status.FAILED])
def test_a_subject_is_erased_with_a_person(status: Status) -> None:
    erased, other = (pretend(submitted(to, subject=SECRET), status=status) for to in (KIM, LEE))
    erase_recipient(KIM)
    assert stored(erased) == ""
    assert shown(other) == SECRET


@pytest.mark.parametrize("how", ["accepted", "cancelled", "quarantined", "at once"])
def test_a_subject_is_erased_however_a_mail_with_an_erased_recipient_ends(
    how: str, smtp_server: Any, settings: Any
) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "CONTENT_RETENTION_DAYS": 7}
    config_for(smtp_server())
    delivery = submitted(KIM, LEE, subject=SECRET)
    erase_recipient(KIM)
    if how == "at once":
        erase_recipient(LEE)
    elif how == "cancelled":
        assert transitions.cancel(delivery.pk)
    elif how == "quarantined":
        assert transitions.end(Delivery.objects.get(), Status.QUARANTINED, Cause.WORKER_LOST)
    else:
        assert shown(delivery) == SECRET
        attempt(delivery.pk)
    assert Delivery.objects.get().status in (how, Status.CANCELLED)
    assert stored(delivery) == ""


def test_a_copy_has_the_subject_and_names_its_original() -> None:
    original = submitted(subject=SECRET)
    older = submitted(subject="Another")
    Delivery.objects.filter(pk=older.pk).update(subject="")  # as a version without the column stored it
    for delivery, subject in ((original, SECRET), (older, "Another")):
        copy = resend(delivery.pk)
        assert (copy.copy_of, shown(copy)) == (delivery.pk, subject)
        assert stored(copy) != stored(delivery)


@pytest.mark.parametrize("damaged", ["gcm$1$nonsense:AAAA", "no seal", ":", "gcm", "x:%%"])
def test_a_damaged_subject_is_not_shown_and_breaks_nothing(damaged: str) -> None:
    delivery = submitted(subject=SECRET)
    Delivery.objects.filter(pk=delivery.pk).update(subject=damaged)
    assert shown(delivery) == ""
