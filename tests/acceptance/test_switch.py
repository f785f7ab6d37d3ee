"""All running workers follow the active configuration at once, however it was changed."""

from __future__ import annotations

from collections.abc import Callable

from django.db import transaction

from config.local.processes import PATIENCE, wait_until
from config.local.workers import OF_MAIL
from email_integration.models import Delivery, DeliveryAttempt, SMTPConfig
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests.acceptance.conftest import Activate
from tests.mail_settings import NO_SERVER
from tests.stack import Stack

Serve = Callable[..., SMTPServer]

#: Enough mails for both processes to send some of them.
SLOW = Fault(verb="DOT", delay=0.05)
ROUND = 120


def serve(smtp_server: Serve) -> SMTPServer:
    return smtp_server(security="plain", user=None, faults=[SLOW])


def send_round(word: str) -> None:
    """Send some mails and wait until they are accepted and both processes have sent some."""
    with transaction.atomic():
        ids = [send_email.delay(word, "Text", to=["kim@example.com"]).id for _ in range(ROUND)]
    wait_until(
        lambda: Delivery.objects.filter(pk__in=ids, status="accepted").count() == ROUND,
        what=f"round {word}",
    )
    tried = DeliveryAttempt.objects.filter(delivery_id__in=ids)
    assert tried.count() == ROUND
    assert len(set(tried.values_list("worker", flat=True))) == 2


def got(server: SMTPServer) -> dict[str, int]:
    subjects = [message.subject for message in server.messages]
    return {subject: subjects.count(subject) for subject in dict.fromkeys(subjects)}


def test_every_kind_of_change_is_followed_at_once(
    stack: Callable[..., Stack], smtp_server: Serve, activate: Activate
) -> None:
    stack(queues=OF_MAIL)
    first, second = serve(smtp_server), serve(smtp_server)
    a, b = activate(first, "A"), activate(second, "B", is_active=False)
    send_round("created")
    b.is_active = True
    b.save()
    send_round("saved")
    SMTPConfig.objects.filter(pk=b.pk).update(port=first.port)
    send_round("updated")
    with transaction.atomic():
        SMTPConfig.objects.update(is_active=False)
        SMTPConfig.objects.filter(pk=b.pk).update(port=second.port)
        SMTPConfig.objects.filter(pk=b.pk).update(is_active=True)
    send_round("updated in a transaction")
    with transaction.atomic():
        SMTPConfig.objects.filter(pk=b.pk).update(port=first.port)
        transaction.set_rollback(True)
    send_round("rolled back")
    b.port = first.port
    SMTPConfig.objects.bulk_update([b], ["port"])
    send_round("bulk")
    b.delete()
    SMTPConfig.objects.filter(pk=a.pk).update(is_active=True, port=second.port)
    send_round("deleted")
    assert got(first) == {"created": ROUND, "updated": ROUND, "bulk": ROUND}
    assert got(second) == {"saved": ROUND, "updated in a transaction": ROUND, "rolled back": ROUND, "deleted": ROUND}


def test_mail_waits_while_there_is_no_server_and_leaves_once_there_is(
    stack: Callable[..., Stack], smtp_server: Serve, activate: Activate
) -> None:
    stack()
    config = activate(serve(smtp_server), "Off", is_active=False)
    results = [send_email.delay("waits", "Text", to=["kim@example.com"]) for _ in range(3)]
    waiting = Delivery.objects.filter(status="deferred", reason__contains=NO_SERVER)
    wait_until(lambda: waiting.count() == 3, what="three waiting mails")
    assert {result.state for result in results} == {"RETRY"}
    assert all(result.result.code is None for result in results)
    config.is_active = True
    config.save()
    assert {result.get(timeout=PATIENCE)["smtp_config"] for result in results} == {"Off"}
