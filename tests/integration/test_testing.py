"""``email_integration.testing`` in test suites, with pytest and with ``TestCase``."""

# ruff: noqa: PT009, PT012, PT027  # half of it as users of unittest write, and exceptions that leave blocks

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from celery import chain, current_app, shared_task
from django.core import mail as django_mail
from django.core.mail import EmailMultiAlternatives, send_mail
from django.db import transaction
from django.test import TestCase, override_settings
from django.utils import timezone

from email_integration.exceptions import DeliveryDeferred, DeliveryFailed, InvalidMail
from email_integration.ledger import task_queue
from email_integration.models import Delivery, SendingPause, SMTPConfig
from email_integration.routing import Nowhere, active_relay
from email_integration.sending import direct
from email_integration.sending.sessions import pool
from email_integration.signals import delivery_accepted
from email_integration.tasks import send_email
from email_integration.testing import FakeRelay, capture_mail, eager_mail, outbox, run_deliveries
from tests.deliveries import RecordingTaskQueue
from tests.mail_settings import name_server, of_mail
from tests.relays import patient_but

KIM, LEE = "kim@example.com", "lee@example.com"
QUEUED = "email_integration.backends.queued.EmailBackend"
DIRECT = "email_integration.backends.direct.EmailBackend"

#: The arguments of the calls to the task below.
received: list[Any] = []


@shared_task
def remember(*args: Any) -> None:
    received.append(args)


@pytest.fixture(autouse=True)
def _nothing_received() -> None:
    received.clear()


@pytest.fixture
def relay() -> Iterator[FakeRelay]:
    with FakeRelay() as relay:
        yield relay


def configure(**changes: Any) -> SMTPConfig:
    """Store and return an active configuration with a server that no test may reach."""
    settings = {"name": "Real", "host": "smtp.example.com", "port": 587, "username": "us", "password": "secret"}
    return SMTPConfig.objects.create(
        **{**settings, "use_tls": True, "from_email": "Hanna <real@example.com>", "is_active": True, **changes}
    )


def later(hours: float) -> dt.datetime:
    return timezone.now() + dt.timedelta(hours=hours)


# -- with TestCase --------------------------------------------------------------------------------------------------


@override_settings(**of_mail())
class InATestCase(TestCase):
    """The transaction of this class is never committed."""

    @classmethod
    def setUpTestData(cls) -> None:
        send_email.delay("Of the class", "Text", to=[KIM])

    def test_the_outbox_has_what_was_submitted_whichever_way(self) -> None:
        send_mail("Second", "Text", "us@example.com", [KIM])
        message = EmailMultiAlternatives("Third", "Text", "us@example.com", [KIM], bcc=[LEE])
        message.attach_alternative("<p>Text</p>", "text/html")
        message.send()
        self.assertEqual([mail.subject for mail in outbox], ["Of the class", "Second", "Third"])
        self.assertEqual(len(outbox), 3)
        self.assertEqual((outbox[-1].html_body, outbox[-1].bcc), ("<p>Text</p>", [LEE]))
        self.assertEqual([mail.subject for mail in outbox[1:]], ["Second", "Third"])
        self.assertEqual(outbox[0].delivery.status, "queued")
        self.assertIn("Second", repr(outbox))

    def test_each_test_begins_with_what_the_class_submitted(self) -> None:
        self.assertEqual([mail.subject for mail in outbox], ["Of the class"])

    def test_captured_is_what_is_submitted_inside(self) -> None:
        send_email.delay("Before", "Text", to=[KIM])
        with capture_mail() as mails:
            self.assertFalse(mails)
            send_email.delay("Inside", "Text", to=[KIM])
            self.assertEqual([mail.subject for mail in mails], ["Inside"])
        send_email.delay("After", "Text", to=[KIM])
        self.assertEqual([mail.subject for mail in mails], ["Inside"])

    def test_what_is_rolled_back_was_never_submitted(self) -> None:
        with capture_mail() as mails:
            with self.assertRaises(ZeroDivisionError), transaction.atomic():
                send_email.delay("Undone", "Text", to=[KIM])
                self.assertEqual(len(mails), 1)
                raise ZeroDivisionError
            self.assertEqual(list(mails), [])

    def test_deliveries_run_without_a_commit(self) -> None:
        with FakeRelay() as relay:
            send_email.delay("Hello", "Text", to=[KIM])
            self.assertEqual(relay.messages, [])
            self.assertEqual([delivery.status for delivery in run_deliveries()], ["accepted", "accepted"])
            self.assertEqual(run_deliveries(), [])
        self.assertEqual([message.subject for message in relay.messages], ["Of the class", "Hello"])
        self.assertEqual(outbox[-1].delivery.smtp_config, "Django settings")

    def test_signals_are_sent_once_without_a_commit_and_with_one(self) -> None:
        heard: list[tuple[str, str]] = []

        def hear(delivery: Delivery, **kwargs: Any) -> None:
            heard.append((delivery.pk, delivery.status))

        delivery_accepted.connect(hear)
        self.addCleanup(delivery_accepted.disconnect, hear)
        run_deliveries()
        result = send_email.delay("Second", "Text", to=[KIM])
        with self.captureOnCommitCallbacks(execute=True):
            run_deliveries()
        with eager_mail():
            eager = send_email.delay("Third", "Text", to=[KIM])
        self.assertEqual([pk for pk, _ in heard], [mail.delivery.pk for mail in outbox])
        self.assertEqual(heard[1:], [(result.id, "accepted"), (eager.id, "accepted")])

    def test_the_result_is_there_without_a_commit(self) -> None:
        result = send_email.delay("Second", "Text", to=[KIM])
        run_deliveries()
        self.assertEqual(result.get(timeout=1)["status"], "accepted")

    def test_a_caught_commit_wakes_no_queue_where_mail_is_captured(self) -> None:
        recording, before = RecordingTaskQueue(), task_queue.installed()
        task_queue.install(recording)
        self.addCleanup(task_queue.install, before)
        with capture_mail(), self.captureOnCommitCallbacks(execute=True):
            send_email.delay("Hello", "Text", to=[KIM])
        self.assertEqual(recording.woken, [])
        self.assertIs(task_queue.installed(), recording)
        with self.captureOnCommitCallbacks(execute=True):
            send_email.delay("Hello", "Text", to=[KIM])
        self.assertEqual(len(recording.woken), 1)

    @eager_mail()
    def test_eager_is_a_decorator_too(self) -> None:
        self.assertEqual(send_email.delay("Hello", "Text", to=[KIM]).get()["status"], "accepted")


class EagerBySetUp(TestCase):
    """Eager mode for all tests of a class."""

    def setUp(self) -> None:
        self.relay = self.enterContext(eager_mail())

    def test_mail_is_sent_when_delay_returns(self) -> None:
        result = send_email.delay("Hello", "Text", to=[KIM])
        self.assertEqual([message.subject for message in self.relay.messages], ["Hello"])
        self.assertEqual(result.get()["code"], 250)
        self.assertEqual([mail.delivery.pk for mail in outbox], [result.id])

    def test_so_is_djangos_own(self) -> None:
        with override_settings(**of_mail()):
            send_mail("Hello", "Text", "us@example.com", [KIM])
        self.assertEqual([message.subject for message in self.relay.messages], ["Hello"])

    def test_a_refusal_is_raised_by_get(self) -> None:
        self.relay.fail("RCPT", "550 5.1.1 unknown")
        result = send_email.delay("Hello", "Text", to=[KIM])
        with self.assertRaises(DeliveryFailed) as caught:
            result.get()
        self.assertEqual((caught.exception.code, caught.exception.status), (550, "failed"))

    def test_mail_that_cannot_be_sent_as_given_is_refused(self) -> None:
        with self.assertRaises(InvalidMail):
            send_email.delay("Hello", "Text", to=[]).get()

    def test_a_keyword_that_it_does_not_have_is_refused(self) -> None:
        for call in (send_email.delay, send_email.s("S", "B").delay):
            with self.assertRaisesRegex(TypeError, "unexpected keyword argument 'prioritty'"):
                call(to=[KIM], prioritty="high")

    def test_a_prepared_mail_that_is_due_later_waits(self) -> None:
        for due in (None, timezone.now() + dt.timedelta(days=1)):
            for run in (lambda mail: mail.delay(), lambda mail: mail.apply(), lambda mail: mail(), self._in_a_chain):
                mail = send_email.prepare("Hello", "Text", to=[KIM], due_at=due)
                run(mail)
                row = Delivery.objects.get(pk=mail.kwargs["delivery_id"])
                self.assertEqual((row.status, row.due_at if due else None), ("queued" if due else "accepted", due))

    def _in_a_chain(self, mail: Any) -> None:
        chain(mail, remember.s()).delay()

    def test_what_was_put_off_waits_for_its_time(self) -> None:
        self.relay.fail("RCPT", "451 4.3.0 later", times=1)
        self.assertEqual(send_email.delay("Hello", "Text", to=[KIM]).get()["status"], "deferred")
        self.assertEqual(run_deliveries(), [])
        self.assertEqual([delivery.status for delivery in run_deliveries(due_only=False)], ["accepted"])

    def test_what_follows_runs_too(self) -> None:
        (send_email.si("Hello", "Text", to=[KIM]) | remember.s()).delay()
        ((summary,),) = received
        self.assertEqual(summary["status"], "accepted")


# -- with pytest ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_without_a_relay_of_ones_own_everything_is_accepted_and_nothing_leaves() -> None:
    """Not even with a real server in the active configuration."""
    configure()
    send_email.delay("Hello", "Text", to=[KIM])
    (delivery,) = run_deliveries()
    assert (delivery.status, delivery.smtp_config) == ("accepted", "Real")
    assert delivery.attempt_log.get().host == "127.0.0.1"


@pytest.mark.django_db
def test_the_active_configuration_keeps_all_but_its_server(relay: FakeRelay) -> None:
    configure()
    send_email.delay("Hello", "Text", to=[KIM])
    assert outbox[0].from_email == ""
    run_deliveries()
    (message,) = relay.messages
    assert (message.sender, message.from_email) == ("real@example.com", "Hanna <real@example.com>")
    assert outbox[0].from_email == message.from_email
    assert relay.logins == ["us"]


@pytest.mark.django_db
def test_djangos_settings_keep_all_but_their_server(relay: FakeRelay, settings: Any) -> None:
    server = {"host": "smtp.example.com", "port": 587, "use_tls": True, "username": "them", "password": "s3cret"}
    name_server(settings, **server)
    settings.DEFAULT_FROM_EMAIL = "default@example.com"
    send_email.delay("Hello", "Text", to=[KIM])
    run_deliveries()
    assert (relay.logins, relay.messages[0].sender) == (["them"], "default@example.com")


@pytest.mark.django_db
def test_a_user_name_without_a_password_is_no_login_here_either(relay: FakeRelay, settings: Any) -> None:
    name_server(settings, host="smtp.example.com", port=587, use_tls=True, username="them")
    send_email.delay("Hello", "Text", to=[KIM])
    assert [delivery.status for delivery in run_deliveries()] == ["accepted"]
    assert relay.logins == []


@pytest.mark.django_db
def test_a_login_by_token_is_one_here_too(relay: FakeRelay) -> None:
    SMTPConfig.objects.create(
        name="By token",
        host="smtp.example.com",
        username="them",
        from_email="us@example.com",
        authentication="oauth",
        oauth_endpoint="https://login.example.com/token",
        oauth_client_id="client",
        oauth_client_secret="s3cret",
        is_active=True,
    )
    send_email.delay("Hello", "Text", to=[KIM])
    assert [delivery.status for delivery in run_deliveries()] == ["accepted"]
    assert relay.logins == ["them"]


@pytest.mark.django_db
def test_it_is_found_where_the_runner_has_replaced_every_mailer(relay: FakeRelay, settings: Any) -> None:
    settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
    send_email.delay("Hello", "Text", to=[KIM], from_email="us@example.com")
    assert [delivery.status for delivery in run_deliveries()] == ["accepted"]
    assert relay.messages[0].sender == "us@example.com"


@pytest.mark.django_db
def test_no_session_outlives_it() -> None:
    with FakeRelay():
        send_email.delay("Hello", "Text", to=[KIM])
        run_deliveries()
        assert "idle=1" in repr(pool)
    assert "idle=0" in repr(pool)


@pytest.mark.django_db
def test_a_pause_is_a_pause(relay: FakeRelay) -> None:
    SendingPause.objects.create(reason="moving house")
    send_email.delay("Hello", "Text", to=[KIM])
    (delivery,) = run_deliveries()
    assert (delivery.status, relay.connections) == ("deferred", 0)


@pytest.mark.django_db
def test_the_direct_backend_is_met_by_the_relay_too(relay: FakeRelay, settings: Any) -> None:
    name_server(settings, backend=DIRECT)
    relay.fail("RCPT", "450 4.2.1 busy", times=1)
    message = django_mail.EmailMessage("Hello", "Text", "us@example.com", [KIM])
    with pytest.raises(DeliveryDeferred, match="450"):
        direct.send_directly(message)
    assert message.send() == 1
    assert [mail.subject for mail in relay.messages] == ["Hello"]


@pytest.mark.django_db
def test_each_recipient_has_an_answer_of_its_own(relay: FakeRelay) -> None:
    relay.fail("RCPT", "550 5.1.1 no such user", match="lee@")
    send_email.delay("Hello", "Text", to=[KIM, LEE])
    (delivery,) = run_deliveries()
    assert [(item["address"], item["status"]) for item in delivery.recipients] == [(KIM, "accepted"), (LEE, "failed")]
    assert relay.messages[0].recipients == [KIM]


@pytest.mark.django_db
def test_a_mail_put_off_goes_when_its_time_has_come(relay: FakeRelay) -> None:
    relay.fail("DATA", "451 4.3.0 later", times=2)
    send_email.delay("Hello", "Text", to=[KIM])
    assert [delivery.status for delivery in run_deliveries()] == ["deferred"]
    assert run_deliveries() == []
    assert [delivery.status for delivery in run_deliveries(due_only=False)] == ["deferred"]
    (delivery,) = run_deliveries(due_only=False)
    assert (delivery.status, delivery.attempts) == ("accepted", 3)


@pytest.mark.django_db
def test_a_relay_at_fault_is_left_alone_until_time_passes(relay: FakeRelay) -> None:
    relay.fail("EHLO", "421 4.3.2 not now", times=1)
    for _ in range(5):
        send_email.delay("Hello", "Text", to=[KIM])
    assert [delivery.status for delivery in run_deliveries()] == ["deferred"] * 5
    send_email.delay("Later", "Text", to=[KIM])
    assert [delivery.status for delivery in run_deliveries()] == ["deferred"]
    assert relay.connections == 1
    assert [delivery.status for delivery in run_deliveries(due_only=False)] == ["accepted"] * 6
    assert relay.connections == 2


@pytest.mark.django_db
def test_what_was_sent_can_be_looked_at(relay: FakeRelay, settings: Any) -> None:
    """Outside of tests, the content would be deleted by then."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "CONTENT_RETENTION_DAYS": 0}
    send_email.delay("Hello", "Text", to=[KIM])
    run_deliveries()
    assert outbox[0].body == relay.messages[0].body.rstrip() == "Text"


@pytest.mark.django_db
def test_time_passes_for_mail_that_is_due_later(relay: FakeRelay) -> None:
    send_email.apply_async(("Tomorrow", "Text"), {"to": [KIM]}, eta=later(24))
    assert run_deliveries() == []
    assert [delivery.status for delivery in run_deliveries(due_only=False)] == ["accepted"]


@pytest.mark.django_db
def test_mail_expires_when_it_must(relay: FakeRelay) -> None:
    send_email.delay("Too late", "Text", to=[KIM], expires_at=later(-1))
    assert [delivery.status for delivery in run_deliveries()] == ["expired"]
    assert relay.messages == []


@pytest.mark.django_db
@pytest.mark.parametrize("what", ["drop", "hang"])
def test_a_mail_in_doubt_is_sent_again_byte_for_byte(
    relay: FakeRelay, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    relay.timeout = 1
    patient_but(monkeypatch, "DOT")
    getattr(relay, what)("DOT", times=1, taken=True)
    send_email.delay("Hello", "Text", to=[KIM])
    (delivery,) = run_deliveries()
    assert (delivery.status, delivery.attempt_log.get().outcome) == ("deferred", "in_doubt")
    assert [delivery.status for delivery in run_deliveries(due_only=False)] == ["accepted"]
    first, second = relay.messages
    assert first.content == second.content


@pytest.mark.django_db
@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"])
def test_silence_and_lost_connections_put_mail_off(
    relay: FakeRelay, monkeypatch: pytest.MonkeyPatch, verb: Any
) -> None:
    relay.timeout = 0.5
    patient_but(monkeypatch, verb)
    relay.hang(verb)
    send_email.delay("Hello", "Text", to=[KIM])
    assert [delivery.status for delivery in run_deliveries()] == ["deferred"]
    relay.clear_faults()
    relay.drop(verb)
    assert [delivery.status for delivery in run_deliveries(due_only=False)] == ["deferred"]
    relay.clear_faults()
    assert [delivery.status for delivery in run_deliveries(due_only=False)] == ["accepted"]


@pytest.mark.django_db(transaction=True)
def test_mail_that_is_submitted_by_what_follows_is_returned_too_where_tests_commit(relay: FakeRelay) -> None:
    with capture_mail():
        send_email.apply_async(("First", "Text"), {"to": [KIM]}, link=send_email.si("Second", "Text", to=[KIM]))
        assert [delivery.status for delivery in run_deliveries()] == ["accepted", "accepted"]
    assert [message.subject for message in relay.messages] == ["First", "Second"]


@pytest.mark.django_db
def test_what_follows_a_mail_runs_and_the_mail_it_submits_is_sent(relay: FakeRelay) -> None:
    send_email.apply_async(
        ("First", "Text"), {"to": [KIM]}, link=[remember.s(), send_email.si("Second", "Text", to=[KIM])]
    )
    assert [delivery.status for delivery in run_deliveries()] == ["accepted", "accepted"]
    assert [message.subject for message in relay.messages] == ["First", "Second"]
    ((summary,),) = received
    assert summary["status"] == "accepted"


@pytest.mark.django_db
def test_what_follows_a_cancelled_mail_runs_too(relay: FakeRelay) -> None:
    result = send_email.apply_async(
        ("Hello", "Text"), {"to": [KIM]}, link=remember.s(), link_error=remember.si("cancelled"), eta=later(1)
    )
    result.revoke()
    assert [delivery.status for delivery in run_deliveries()] == ["cancelled"]
    assert run_deliveries(due_only=False) == []
    assert received == [("cancelled",)]
    assert relay.connections == 0


@pytest.mark.django_db(transaction=True)
def test_mail_captured_in_committed_transactions_stays_off_the_broker(relay: FakeRelay) -> None:
    recording, before = RecordingTaskQueue(), task_queue.installed()
    task_queue.install(recording)
    try:
        with capture_mail() as mails:
            send_email.delay("Captured", "Text", to=[KIM])
            assert recording.woken == []
            assert [delivery.status for delivery in run_deliveries()] == ["accepted"]
            with eager_mail():
                send_email.delay("Eager", "Text", to=[KIM])
        assert [mail.subject for mail in mails] == ["Captured", "Eager"]
    finally:
        task_queue.install(before)
    assert recording.results[0] == (mails[0].delivery.pk, "accepted")


@pytest.mark.django_db(transaction=True)
def test_eager_mail_is_sent_before_the_commit(relay: FakeRelay) -> None:
    """The same applies to every task in Celery's eager mode. The documentation names this limit."""
    with eager_mail() as same, pytest.raises(ZeroDivisionError), transaction.atomic():
        assert same is relay
        send_email.delay("Hello", "Text", to=[KIM])
        assert len(relay.messages) == 1
        raise ZeroDivisionError
    assert list(outbox) == []


@pytest.mark.django_db
@pytest.mark.parametrize("before", [False, True])
def test_eager_mode_ends_with_the_block(before: bool) -> None:
    conf, notify = current_app.conf, task_queue.notify_on_commit
    kept, conf.task_always_eager = conf.task_always_eager, before
    try:
        with pytest.raises(ZeroDivisionError), eager_mail():
            assert conf.task_always_eager
            raise ZeroDivisionError
        assert conf.task_always_eager is before
        send_email.delay("Hello", "Text", to=[KIM])
        assert run_deliveries()
        assert conf.task_always_eager is before
    finally:
        conf.task_always_eager = kept
    assert task_queue.notify_on_commit is notify


@pytest.mark.django_db(transaction=True)
def test_the_app_goes_back_to_its_own_relay(settings: Any) -> None:
    """Settings that were changed in the meantime, in any way, keep their new values."""
    before = active_relay()
    assert isinstance(before, Nowhere)
    with FakeRelay() as relay:
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RETRY_FIRST": 1.0}
        assert active_relay().host == relay.host
        with FakeRelay() as inner:
            assert active_relay().port == inner.port
        assert active_relay().port == relay.port
    assert active_relay() == before
    assert settings.EMAIL_INTEGRATION["RETRY_FIRST"] == 1.0


@pytest.mark.django_db
def test_many_mails_go_over_one_connection(relay: FakeRelay) -> None:
    for number in range(20):
        send_email.delay(f"Mail {number}", "Text", to=[KIM])
    assert len(run_deliveries()) == 20
    assert (relay.connections, len(relay.messages)) == (1, 20)
    assert Delivery.objects.filter(status="accepted").count() == 20
