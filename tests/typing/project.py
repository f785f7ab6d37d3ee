"""What a project writes with the public names of the app. mypy checks it; nothing runs it.

``assert_type`` pins a type that a project sees. A line with ``type: ignore`` is a mistake of a project: if mypy no
longer finds it, it reports the comment as unused.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterator
from typing import Any, Unpack, assert_type

from celery import Signature, chain
from celery.result import AsyncResult
from django.core.mail import EmailAttachment, EmailMessage
from django.db.models import QuerySet
from django.dispatch import receiver
from django.test import TestCase
from django.urls import include, path

from email_integration import (
    MailKeywords,
    MailOptions,
    acancel,
    adiscard,
    arelease,
    aresend,
    asend_email,
    asend_now,
    asubmit,
    asubmit_many,
    submit_many,
)
from email_integration.delivery import cancel, discard, erase_recipient, release, resend, send_now, submit
from email_integration.exceptions import ContentUnavailable, DeliveryFailed, EmailIntegrationError, InvalidMail, NotSent
from email_integration.models import Alert, Delivery, DeliveryAttempt, Priority, SMTPConfig, Status
from email_integration.signals import alert_began, delivery_accepted, delivery_failed, recipient_refused
from email_integration.tasks import send_email
from email_integration.testing import (
    FakeRelay,
    Outbox,
    ReceivedMail,
    SubmittedMail,
    capture_mail,
    eager_mail,
    outbox,
    run_deliveries,
)

NOW = dt.datetime.now(dt.UTC)

# -- sending --------------------------------------------------------------------------------------------------------


def welcome(address: str) -> str | None:
    result = send_email.delay("Welcome", "Hello", to=[address], bcc=["sales@example.com"], priority="high")
    assert_type(result, AsyncResult[Any])
    later = send_email.apply_async(("Later", "Text"), {"to": [address]}, countdown=60)
    later.revoke()
    try:
        print(result.get(timeout=10)["code"])
    except DeliveryFailed as failure:
        assert_type(failure.code, int | None)
        assert_type(failure.reason, str)
        assert_type(failure.status, str)
    return result.id


def two_mails(address: str) -> AsyncResult[Any]:
    prepared = send_email.prepare("First", "Text", to=[address], due_at=NOW)
    assert_type(prepared, Signature[Any])
    steps: Signature[Any] = chain(prepared, send_email.si("Second", "Text", to=[address]))
    return steps.delay()


def newsletter(addresses: Iterator[str]) -> list[str]:
    messages = (EmailMessage("News", "Text", to=[address]) for address in addresses)
    ids = submit_many(
        messages,
        idempotency_key=lambda message: message.to[0],
        on_progress=print,
        expires_at=NOW + dt.timedelta(days=1),
        in_doubt="hold",
    )
    assert_type(ids, list[str])
    return ids


def order(message: EmailMessage, **options: Unpack[MailKeywords]) -> Delivery:
    """A function of a project that passes the options on."""
    MailOptions(**options)
    delivery = submit(message, idempotency_key="order-1", **options)
    assert_type(delivery, Delivery)
    return delivery


order(EmailMessage(), priority=Priority.BULK, envelope_sender="<>")

# -- mistakes -------------------------------------------------------------------------------------------------------

order(EmailMessage(), priority="urgent")  # type: ignore[arg-type]
order(EmailMessage(), prioritiy="high")  # type: ignore[call-arg]
submit("Subject")  # type: ignore[arg-type]
submit(EmailMessage(), due_at="tomorrow")  # type: ignore[arg-type]
submit_many([EmailMessage()], in_doubt="ask")  # type: ignore[arg-type]
submit_many([EmailMessage()], idempotency_key="order-1")  # type: ignore[arg-type]
MailOptions("high")  # type: ignore[call-arg]
MailOptions(due_at=60)  # type: ignore[arg-type]
cancel(17)  # type: ignore[arg-type]
erase_recipient("kim@example.com", True)  # type: ignore[call-arg]
FakeRelay().fail("HELO", "550 no")  # type: ignore[arg-type]
print(outbox[0].subjekt)  # type: ignore[attr-defined]
SMTPConfig.objects.activate("Primary")  # type: ignore[arg-type]

# -- deliveries and configurations ----------------------------------------------------------------------------------


def decide(delivery_id: str) -> None:
    assert_type(cancel(delivery_id), bool)
    assert_type(discard(delivery_id), bool)
    assert_type(release(delivery_id), bool)
    try:
        assert_type(send_now(delivery_id), bool)
        assert_type(resend(delivery_id), Delivery)
    except ContentUnavailable as error:
        print(error)
    except Delivery.DoesNotExist:
        print("unknown")
    erased = erase_recipient("kim@example.com", dry_run=True)
    assert_type(erased.deliveries, int)
    assert_type(erased.left, tuple[str, ...])


def report() -> None:
    failed = Delivery.objects.filter(status=Status.FAILED, priority=Priority.HIGH)
    assert_type(failed, QuerySet[Delivery, Delivery])
    for delivery in failed:
        assert_type(delivery.message_id, str)
        assert_type(delivery.cause, str)
        assert_type(delivery.code, int | None)
        assert_type(delivery.finished_at, dt.datetime | None)
        assert_type(delivery.current_status, str)
        for attempt in delivery.attempt_log.all():
            assert_type(attempt, DeliveryAttempt)


def switch() -> None:
    config = SMTPConfig.objects.create(name="Primary", host="smtp.example.com", from_email="us@example.com")
    SMTPConfig.objects.activate(config)
    assert_type(SMTPConfig.objects.get_active_config(), SMTPConfig | None)
    SMTPConfig.objects.deactivate()


urlpatterns = [path("mail/", include("email_integration.urls"))]

# -- async code -----------------------------------------------------------------------------------------------------


async def messages_one_by_one() -> AsyncIterator[EmailMessage]:
    yield EmailMessage("News", "Text", to=["kim@example.com"])


async def view(delivery_id: str) -> str:
    result = await asend_email("Welcome", "Hello", to=["kim@example.com"], priority="high")
    assert_type(await asubmit(EmailMessage(), due_at=NOW), Delivery)
    assert_type(await asubmit_many(messages_one_by_one(), priority="normal"), list[str])
    assert_type(await acancel(delivery_id), bool)
    assert_type(await asend_now(delivery_id), bool)
    assert_type(await arelease(delivery_id), bool)
    assert_type(await adiscard(delivery_id), bool)
    assert_type(await aresend(delivery_id), Delivery)
    await asend_email("Welcome", "Hello", priority="urgent")  # type: ignore[arg-type]
    await asend_email("Welcome")  # type: ignore[call-arg]
    delivery = await Delivery.objects.aget(pk=result.id)
    assert_type(delivery.status, str)
    return delivery.status


# -- signals --------------------------------------------------------------------------------------------------------


@receiver(recipient_refused)
def forget(sender: type[Delivery], delivery: Delivery, recipient: dict[str, Any], **kwargs: Any) -> None:
    print(recipient["address"], recipient["cause"])


@receiver([delivery_accepted, delivery_failed])
def count(sender: type[Delivery], delivery: Delivery, **kwargs: Any) -> None:
    print(delivery.status)


@receiver(alert_began)
def page(sender: type[Alert], alert: Alert, **kwargs: Any) -> None:
    assert_type(alert.text, str)


# -- exceptions -----------------------------------------------------------------------------------------------------


def careful(message: EmailMessage) -> None:
    try:
        submit(message)
    except InvalidMail as error:
        invalid: ValueError = error
        print(invalid)
    except NotSent as error:
        not_sent: OSError = error
        print(not_sent, error.status)
    except EmailIntegrationError as error:
        assert_type(error, EmailIntegrationError)


# -- tests of a project ---------------------------------------------------------------------------------------------


class WelcomeTest(TestCase):
    def test_outbox(self) -> None:
        mail = outbox[0]
        assert_type(mail, SubmittedMail)
        assert_type(mail.to, list[str])
        assert_type(mail.attachments, list[EmailAttachment])
        assert_type(mail.delivery, Delivery)
        assert_type(outbox[:2], list[SubmittedMail])
        with capture_mail() as mails:
            assert_type(mails, Outbox)

    def test_relay(self) -> None:
        with FakeRelay(timeout=1.0) as relay:
            relay.fail("RCPT", "550 5.1.1 No such user", match="bob@", times=1)
            relay.drop("DOT", taken=True)
            relay.hang("DATA")
            assert_type(run_deliveries(due_only=False), list[Delivery])
            assert_type(relay.messages, list[ReceivedMail])
            assert_type(relay.messages[0].sender, str)
            assert_type(relay.logins, list[str])

    def set_up(self) -> None:
        relay = self.enterContext(eager_mail())
        assert_type(relay, FakeRelay)

    @eager_mail()
    def test_decorated(self) -> None:
        send_email.delay("Receipt", "Text", to=["kim@example.com"])
