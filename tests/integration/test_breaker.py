"""The circuit breaker of a faulty relay. Half-open probes go one at a time, and a relay that works again wakes all
mail.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from config.local.processes import PATIENCE
from email_integration import conf, routing
from email_integration.exceptions import DeliveryDeferred
from email_integration.ledger import batches
from email_integration.ledger.queues import queue_of
from email_integration.models import CircuitBreaker, Delivery, SMTPConfig
from email_integration.outcomes import schedule
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred
from email_integration.queue import retry_now
from email_integration.queue.sweeper import sweep
from email_integration.routing import breaker
from email_integration.sending import direct, in_hand, points
from email_integration.smtp import Relay
from email_integration.smtpd import Fault, SMTPServer
from tests.deliveries import Clock, RecordingTaskQueue, ago, attempt, in_threads, mail, pretend, send_due, submitted
from tests.relays import config_for

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

#: In seconds: longer than any test takes.
LONG = 60.0


#: Scale: one second of a breaker's wait lasts this many seconds here. No test takes that long, even on a busy machine.
UNIT = 20

FIRST_AT_LIMIT = breaker._FIRST_AT_LIMIT


@pytest.fixture(autouse=True)
def _patient(task_queue: RecordingTaskQueue, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "_FIRST_AT_LIMIT", 5.0 * UNIT)
    monkeypatch.setattr(breaker, "_LONGEST_WITHOUT_SERVICE", breaker._LONGEST_WITHOUT_SERVICE * UNIT)
    monkeypatch.setattr(retry_now, "_SOON", retry_now._SOON * UNIT)
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "RETRY_FIRST": 5.0 * UNIT,
        "RETRY_MAX": 900.0 * UNIT,
        "BREAKER_PROBE_FIRST": 5.0 * UNIT,
        "BREAKER_PROBE_MAX": 900.0 * UNIT,
        "SESSIONS": 1,
    }


def relay() -> Relay:
    """Return the active relay."""
    found = routing.active_relay()
    assert isinstance(found, Relay)
    return found


def wrong_password(smtp_server: Serve) -> tuple[SMTPServer, SMTPConfig]:
    server = smtp_server()
    return server, config_for(server, password="s3cret")


def probe_is_due() -> None:
    """Let the time pass until a probe of the relay is due."""
    assert CircuitBreaker.objects.update(probe_at=ago(1)) == 1


def attempt_all() -> None:
    for pk in Delivery.objects.filter(due_at__lte=timezone.now()).order_by("created_at").values_list("pk", flat=True):
        attempt(pk)


def put_off_all() -> None:
    """Defer all mail until long after the test."""
    later = timezone.now() + schedule.seconds(LONG)
    Delivery.objects.filter(next_at__isnull=False).update(due_at=later, next_at=later)


def waiting() -> int:
    """Return the number of deferred mails that are not due."""
    return Delivery.objects.filter(status="deferred", waits_for_relay=True, due_at__gt=timezone.now()).count()


def units_until_probe() -> float:
    return (CircuitBreaker.objects.get().probe_at - timezone.now()).total_seconds() / UNIT


# -- tripping -------------------------------------------------------------------------------------------------------


def test_many_mails_on_a_wrong_password_make_one_login_and_none_is_burnt(smtp_server: Serve) -> None:
    server, _ = wrong_password(smtp_server)
    for _ in range(30):
        submitted()
    attempt_all()
    assert (server.failed_auths, len(server.sessions)) == (1, 1)
    assert waiting() == 30
    assert Delivery.objects.filter(attempts=0, code=535, smtp_config="Primary Mail Server").count() == 29
    assert len(set(Delivery.objects.values_list("reason", flat=True))) == 1
    row = CircuitBreaker.objects.get()
    assert (row.code, row.failures, row.host) == (535, 1, "localhost")


def test_what_was_put_off_expires_in_time_all_the_same(smtp_server: Serve) -> None:
    wrong_password(smtp_server)
    attempt(submitted().pk)
    soon = timezone.now() + schedule.seconds(30)
    delivery = submitted(expires_at=soon)
    attempt(delivery.pk)
    assert Delivery.objects.get(pk=delivery.pk).next_at == soon


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_a_sender_of_the_configurations_own_that_it_may_not_use_trips_it(smtp_server: Serve, verb: Any) -> None:
    """A mail's own sender does not trip it: the next mail may have another sender."""
    refusal = "553 5.7.1 Sender rejected: not your address"
    server = smtp_server(faults=[Fault(verb=verb, reply=refusal, times=2)])
    config_for(server)
    own = submitted(from_email="own@example.com")
    attempt(own.pk)
    own.refresh_from_db()
    assert (own.status, own.cause, own.waits_for_relay) == ("deferred", "sender_not_allowed", False)
    assert not CircuitBreaker.objects.exists()
    attempt(submitted().pk)
    assert CircuitBreaker.objects.get().cause == "config_sender"
    waits = submitted()
    attempt(waits.pk)
    waits.refresh_from_db()
    assert (waits.attempts, waits.status, waits.cause, waits.waits_for_relay) == (0, "deferred", "config_sender", True)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("along", [False, True])
def test_an_envelope_sender_of_a_mails_own_is_not_the_configurations(
    smtp_server: Serve, verb: Any, along: bool, settings: Any
) -> None:
    """At that point the server does not know the From header, which has the configuration's sender."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SESSIONS": 1}  # keeps the order of the mails
    server = smtp_server(faults=[Fault(verb=verb, reply="553 5.7.1 Sender rejected: not your address", times=1)])
    config_for(server)
    own = submitted(envelope_sender="bounces+17@example.com")
    if along:
        submitted(from_email="other@example.com")
        send_due()
    else:
        attempt(own.pk)
    own.refresh_from_db()
    assert (own.status, own.cause, own.waits_for_relay) == ("deferred", "sender_not_allowed", False)
    assert not CircuitBreaker.objects.exists()


@pytest.mark.parametrize("envelope", [{}, {"envelope_sender": "bounces+17@example.com"}])
def test_mail_goes_with_the_sender_that_was_corrected(smtp_server: Serve, envelope: dict[str, Any]) -> None:
    """The mail was claimed with the previous sender, which the server refused at the final dot."""
    refusal = "554 Message rejected: Email address is not verified"
    server = smtp_server(faults=[Fault(verb="DOT", reply=refusal, times=1)])
    config = config_for(server, from_email="former@example.com")
    refused = submitted(**envelope)
    attempt(refused.pk)
    refused.refresh_from_db()
    assert (refused.status, refused.cause) == ("deferred", "config_sender")
    config.from_email = "present@example.com"
    config.save()
    attempt(pretend(refused, due_at=ago(1), next_at=ago(1)).pk)
    (message,) = server.messages
    assert message.parsed["From"] == "present@example.com"
    assert message.mail_from == envelope.get("envelope_sender", "present@example.com")


@pytest.mark.parametrize("reply", ["450 4.7.1 Too much mail", "452 4.5.3 Too many recipients: Too many messages sent"])
def test_a_limit_before_any_recipient_trips_it(smtp_server: Serve, reply: str) -> None:
    """One mail discovers the limit; the others wait without an attempt. Probes are scheduled as for an unavailable
    server.
    """
    server = smtp_server(faults=[Fault(verb="MAIL", reply=reply)])
    config_for(server)
    for _ in range(5):
        submitted()
    attempt_all()
    assert waiting() == 5
    assert sorted(Delivery.objects.values_list("attempts", "cause")) == [*[(0, "limit")] * 4, (1, "limit")]
    row = CircuitBreaker.objects.get()
    assert (row.cause, row.code) == ("limit", int(reply[:3]))
    waits_of_probes = []
    for _ in range(6):
        probe_is_due()
        attempt(submitted().pk)
        waits_of_probes.append(round(units_until_probe()))
    assert waits_of_probes == pytest.approx([10, 20, 40, 45, 45, 45], abs=2)


def test_a_wrong_sender_of_the_configurations_own_leaves_it_closed(smtp_server: Serve) -> None:
    """Mail with another sender would be accepted."""
    server = smtp_server(faults=[Fault(verb="MAIL", reply="553 5.1.8 No such domain", times=1)])
    config_for(server)
    attempt(submitted().pk)
    assert Delivery.objects.get().waits_for_relay
    assert not CircuitBreaker.objects.exists()
    other = submitted(from_email="own@example.com")
    attempt(other.pk)
    assert Delivery.objects.get(pk=other.pk).status == "accepted"


def test_a_breaker_keeps_no_secret(smtp_server: Serve) -> None:
    wrong_password(smtp_server)
    attempt(submitted().pk)
    assert "s3cret" not in str(CircuitBreaker.objects.values())


def test_while_sessions_last_it_costs_no_query(smtp_server: Serve, django_assert_num_queries: Any) -> None:
    server = smtp_server()
    config_for(server)
    direct.send_directly(mail())
    with django_assert_num_queries(0):
        direct.send_directly(mail())
    assert (len(server.sessions), len(server.messages)) == (1, 2)


# -- waiting times --------------------------------------------------------------------------------------------------


def waits(failure: Deferred, count: int) -> list[float]:
    """Return how long the relay is left alone after each of ``count`` failed probes, in units."""
    here = Relay(name="r", host="mail.example.com")
    breaker.reset_all()
    return [round(breaker.trip(here, failure, probing=number > 0) / UNIT) for number in range(count)]


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (Cause.NOT_CONNECTED, None),
        (Cause.TLS_FAILED, None),
        (Cause.SILENT, None),
        (Cause.NO_TOKEN, None),
        (Cause.UNAVAILABLE, 421),
    ],
)
def test_a_server_that_comes_back_by_itself_is_found_within_a_minute(cause: Cause, code: int | None) -> None:
    """The cause decides, not the reply code."""
    assert waits(Deferred(cause=cause, code=code, reason="away"), 8) == [5, 10, 20, 40, 45, 45, 45, 45]


@pytest.mark.parametrize(("cause", "code"), [(Cause.LIMIT, 421), (Cause.LIMIT, 450), (Cause.ACCOUNT_RATE, 454)])
def test_a_server_that_takes_so_many_a_second_is_tried_in_the_next(
    monkeypatch: pytest.MonkeyPatch, cause: Cause, code: int
) -> None:
    monkeypatch.setattr(breaker, "_FIRST_AT_LIMIT", FIRST_AT_LIMIT * UNIT)
    assert waits(Deferred(cause=cause, code=code, reason="slower"), 8) == [1, 2, 4, 8, 16, 32, 45, 45]


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (Cause.LOGIN, 535),
        (Cause.CLIENT, 554),
        (Cause.LOGIN_LATER, 454),
        (Cause.TOO_MANY_LOGINS, 421),
        (Cause.ACCOUNT_QUOTA, 450),
        (Cause.ACCOUNT_BLOCKED, 550),
    ],
)
def test_a_server_that_refuses_us_is_left_alone_longer_and_longer(cause: Cause, code: int) -> None:
    """Providers lock accounts after many failed logins."""
    assert waits(Deferred(cause=cause, code=code, reason="no"), 10) == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]


def test_a_hint_when_to_come_back_is_honoured_within_reason(smtp_server: Serve) -> None:
    assert waits(Deferred(cause=Cause.LOGIN_LATER, code=454, reason="no", retry_in=100.0 * UNIT), 6) == [
        100,
        100,
        100,
        100,
        100,
        160,
    ]
    assert waits(Deferred(cause=Cause.LOGIN_LATER, code=454, reason="no", retry_in=86400.0 * UNIT), 1) == [900]
    CircuitBreaker.objects.all().delete()
    config_for(smtp_server(faults=[Fault(verb="AUTH", reply="454 4.7.0 Too many logins, try again in 6000 seconds")]))
    delivery = submitted()
    attempt(delivery.pk)
    assert units_until_probe() == pytest.approx(300, abs=10)
    assert (Delivery.objects.get().due_at - timezone.now()).total_seconds() / UNIT == pytest.approx(315, abs=20)


# -- probing --------------------------------------------------------------------------------------------------------


def test_a_sweep_is_called_for_the_time_of_each_probe_once(smtp_server: Serve, task_queue: RecordingTaskQueue) -> None:
    config_for(smtp_server(faults=[Fault(verb="MAIL", reply="450 4.7.1 Too much mail", times=2)]))
    for _ in range(20):
        submitted()
    attempt_all()
    assert task_queue.later_sweeps == [pytest.approx(5 * UNIT, abs=2 * UNIT)]
    probe_is_due()
    sweep()
    attempt_all()
    assert task_queue.later_sweeps == [pytest.approx(units * UNIT, abs=2 * UNIT) for units in (5, 10)]
    probe_is_due()
    sweep()
    attempt_all()
    assert Delivery.objects.filter(status="accepted").count() == 1
    assert len(task_queue.later_sweeps) == 2


def test_no_sweep_is_called_for_a_probe_that_is_far_off(
    smtp_server: Serve, task_queue: RecordingTaskQueue, settings: Any
) -> None:
    """A worker should not hold a message for that long. The scheduled sweeps are frequent enough."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "BREAKER_PROBE_FIRST": 600.0 * UNIT}
    wrong_password(smtp_server)
    submitted()
    attempt_all()
    assert units_until_probe() > LONG
    assert task_queue.later_sweeps == []


@pytest.mark.parametrize(
    ("of_mail", "of_breaker"),
    [((500, 5000), (5, 50)), ((5, 50), (500, 5000))],
    ids=["mail waits longer", "the breaker waits longer"],
)
def test_the_times_of_mail_and_of_the_breaker_are_settings_of_their_own(
    smtp_server: Serve, settings: Any, of_mail: tuple[int, int], of_breaker: tuple[int, int]
) -> None:
    """The first mail waits for its own retry. The second finds the relay at fault, and the third waits
    for the relay.
    """
    names = ("RETRY_FIRST", "RETRY_MAX", "BREAKER_PROBE_FIRST", "BREAKER_PROBE_MAX")
    times = {name: float(units * UNIT) for name, units in zip(names, (*of_mail, *of_breaker), strict=True)}
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **times}
    config = config_for(smtp_server(faults=[Fault(verb="DATA", reply="451 4.3.0 Try again later", times=1)]))
    refused = submitted()
    attempt(refused.pk)
    config.password = "s3cret"
    config.save()
    attempt(submitted().pk)
    put_off = submitted()
    attempt(put_off.pk)

    def units_until(pk: str) -> float:
        return (Delivery.objects.get(pk=pk).due_at - timezone.now()).total_seconds() / UNIT

    assert units_until_probe() == pytest.approx(of_breaker[0], abs=2)
    assert units_until(refused.pk) == pytest.approx(of_mail[0], abs=2)
    assert units_until(put_off.pk) == pytest.approx(2 * of_breaker[1], abs=2)


def test_a_probe_in_vain_keeps_it_open_for_twice_as_long(smtp_server: Serve) -> None:
    server, _ = wrong_password(smtp_server)
    for expected in (5, 10, 20):
        delivery = submitted()
        attempt(delivery.pk)
        assert units_until_probe() == pytest.approx(expected, abs=2)
        probe_is_due()
    assert server.failed_auths == 3


def test_a_probe_that_meets_the_same_limit_at_its_recipient_keeps_it_open(
    smtp_server: Serve, task_queue: RecordingTaskQueue
) -> None:
    """Some servers count at RCPT, where the refusal could concern the recipient alone. So each probe
    uses another mail.
    """
    config_for(smtp_server(faults=[Fault(verb="RCPT", reply="450 rcpt rate limit exceeded", times=6)]))
    ids = [submitted(f"u{place}@example.com").pk for place in range(6)]
    send_due()
    assert Delivery.objects.filter(attempts=1).count() == 3
    waits = [round(units_until_probe())]
    for _ in range(3):
        put_off_all()
        task_queue.woken.clear()
        probe_is_due()
        sweep()
        assert task_queue.woken
        send_due()
        waits.append(round(units_until_probe()))
    assert waits == pytest.approx([5, 10, 20, 40], abs=2)
    assert list(Delivery.objects.values_list("attempts", flat=True)) == [1] * 6
    assert waiting() == 6
    probe_is_due()
    Delivery.objects.filter(pk=ids[0]).update(due_at=ago(1), next_at=ago(1))
    attempt(ids[0])
    assert not CircuitBreaker.objects.exists()


def test_a_limit_is_for_everybody_however_slowly_mail_comes(smtp_server: Serve) -> None:
    """Each mail is sent by its own dispatcher, after the previous dispatcher has left."""
    config_for(smtp_server(faults=[Fault(verb="RCPT", reply="450 rcpt rate limit exceeded", times=None)]))
    for place in range(3):
        assert not CircuitBreaker.objects.exists()
        submitted(f"u{place}@example.com")
        send_due()
    assert CircuitBreaker.objects.get().cause == "limit"


def test_a_limit_of_one_recipient_does_not_keep_it_open_for_another_fault(smtp_server: Serve) -> None:
    config_for(smtp_server(faults=[Fault(verb="RCPT", reply="450 rcpt rate limit exceeded")]))
    breaker.trip(relay(), Deferred(cause=Cause.TROUBLE, code=451, reason="it is in trouble"), probing=False)
    probe_is_due()
    attempt(submitted().pk)
    assert not CircuitBreaker.objects.exists()


def test_of_many_at_once_one_probes(smtp_server: Serve) -> None:
    server, _ = wrong_password(smtp_server)
    attempt(submitted().pk)
    probe_is_due()
    server.inject(Fault(verb="AUTH", delay=0.5, times=1))
    ids = [submitted().pk for _ in range(6)]
    in_threads(*[lambda pk=pk: attempt(pk) for pk in ids])
    assert server.failed_auths == 2
    assert CircuitBreaker.objects.get().failures == 2


def test_sweeps_have_one_mail_try_a_relay_whatever_comes_of_it(
    task_queue: RecordingTaskQueue, smtp_server: Serve
) -> None:
    """If due mail is not claimed, each sweep would otherwise wake one more mail and request the next sweep."""
    config_for(smtp_server())
    wait = breaker.trip(relay(), Deferred(cause=Cause.LOGIN, code=535, reason="the login is wrong"), probing=False)
    assert wait
    for _ in range(3):
        pretend(submitted(), status="deferred", waits_for_relay=True)
    put_off_all()
    CircuitBreaker.objects.update(probe_at=ago(1))
    task_queue.woken.clear()
    for _ in range(3):
        sweep()
    assert (waiting(), task_queue.woken, task_queue.sweeps) == (2, [queue_of("normal")] * 3, 0)


def test_a_probe_that_is_killed_is_replaced(smtp_server: Serve) -> None:
    wrong_password(smtp_server)
    attempt(submitted().pk)
    probe_is_due()
    assert breaker.ask(relay())  # the process is killed after this
    with pytest.raises(breaker.BreakerOpen):
        breaker.ask(relay())
    assert 0 < units_until_probe() * UNIT <= 2 * relay().timeout + conf.get("LEASE")
    probe_is_due()
    assert breaker.ask(relay())


def test_a_probe_with_an_unreadable_mail_lets_another_mail_probe(smtp_server: Serve) -> None:
    server, _ = wrong_password(smtp_server)
    attempt(submitted().pk)
    server.password = "s3cret"
    probe_is_due()
    poison = submitted()
    pretend(poison, content=b"damaged", waits_for_relay=True)
    attempt(poison.pk)
    assert Delivery.objects.get(pk=poison.pk).reason == "the stored content is damaged"
    assert breaker.ask(relay())


def test_a_success_over_a_session_that_was_there_before_resets_it_too(smtp_server: Serve) -> None:
    """Otherwise probes would use that session, one per sweep, and the other mail would go on waiting."""
    server = smtp_server()
    config_for(server)
    first, second = submitted(), submitted()
    direct.send_directly(mail())
    breaker.trip(relay(), Deferred(cause=Cause.LIMIT, code=421, reason="too many connections"), probing=False)
    pretend(second, status="deferred", waits_for_relay=True)
    put_off_all()
    pretend(first, status="deferred", waits_for_relay=True, due_at=ago(1), next_at=ago(1))
    attempt(first.pk)
    assert len(server.sessions) == 1
    assert not CircuitBreaker.objects.exists()
    assert waiting() == 0


def test_a_probe_that_loses_its_mail_to_another_worker_resets_it(
    smtp_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = wrong_password(smtp_server)
    attempt(submitted().pk)
    server.password = "s3cret"
    probe_is_due()
    clock = Clock()
    clock.ahead = conf.get("LEASE")
    monkeypatch.setattr(in_hand, "time", clock)
    monkeypatch.setattr(batches, "renew", lambda batch: False)
    attempt(submitted().pk)
    assert server.messages == []
    assert not CircuitBreaker.objects.exists()


def test_the_sweep_has_a_relay_tried_that_may_be(smtp_server: Serve, task_queue: RecordingTaskQueue) -> None:
    """All other mail waits for up to half an hour, and the mail that was to probe may be gone."""
    wrong_password(smtp_server)
    for _ in range(4):
        submitted()
    attempt_all()
    put_off_all()
    task_queue.woken.clear()
    assert sweep() == 0  # the probe is not due yet
    probe_is_due()
    assert sweep() == 1
    assert waiting() == 3
    attempt_all()
    assert CircuitBreaker.objects.get().failures == 2


def test_the_sweep_lets_rest_who_waits_for_another_relay(smtp_server: Serve, task_queue: RecordingTaskQueue) -> None:
    wrong_password(smtp_server)
    attempt(submitted().pk)
    probe_is_due()
    CircuitBreaker.objects.update(key="of one that was replaced")
    put_off_all()
    assert sweep() == 0


# -- resetting ------------------------------------------------------------------------------------------------------


def test_the_first_success_resets_it_and_wakes_all_mail(smtp_server: Serve, task_queue: RecordingTaskQueue) -> None:
    server, _ = wrong_password(smtp_server)
    for _ in range(10):
        submitted()
    attempt_all()
    server.password = "s3cret"  # corrected at the server
    probe_is_due()
    sweeps = task_queue.sweeps
    attempt(submitted().pk)
    assert not CircuitBreaker.objects.exists()
    assert (waiting(), task_queue.sweeps > sweeps) == (0, True)
    attempt_all()
    assert set(Delivery.objects.values_list("status", flat=True)) == {"accepted"}
    assert (len(server.messages), len(server.sessions)) == (11, 2)


def test_a_fixed_configuration_drains_the_queue_at_once(smtp_server: Serve, task_queue: RecordingTaskQueue) -> None:
    server, config = wrong_password(smtp_server)
    for _ in range(10):
        submitted()
    attempt_all()
    sweeps = task_queue.sweeps
    config.password = "password"
    config.save()
    assert not CircuitBreaker.objects.exists()
    assert (waiting(), task_queue.sweeps > sweeps) == (0, True)
    attempt_all()
    assert len(server.messages) == 10
    assert (server.failed_auths, server.auths) == (1, 1)


def test_the_breaker_of_a_replaced_relay_holds_up_no_mail(smtp_server: Serve) -> None:
    """This holds even if a mail that was begun with the old relay trips it afterwards."""
    wrong_password(smtp_server)
    old = relay()
    attempt(submitted().pk)
    new = smtp_server()
    SMTPConfig.objects.activate(config_for(new, name="Backup", is_active=False))
    breaker.trip(old, Deferred(cause=Cause.LOGIN, code=535, reason="the login is wrong"), probing=False)
    attempt_all()
    assert len(new.messages) == 1
    assert breaker.is_open(old)
    assert not breaker.is_open(relay())


def test_a_mail_that_failed_before_it_was_reset_trips_it_for_a_moment_alone(smtp_server: Serve) -> None:
    wrong_password(smtp_server)
    attempt(submitted().pk)
    probe_is_due()
    assert breaker.reset(relay())
    wait = breaker.trip(relay(), Deferred(cause=Cause.LOGIN, code=535, reason="no"), probing=True)
    assert wait / UNIT == pytest.approx(5, abs=1)
    assert not breaker.reset(Relay(name="another", host="mail.example.com"))


# -- resetting while a mail is deferred -----------------------------------------------------------------------------


def test_a_mail_that_is_put_off_just_after_it_was_reset_does_not_sleep(
    smtp_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found the breaker open and is recorded only after all other mail was woken."""
    wrong_password(smtp_server)
    attempt(submitted().pk)

    def late(point: str, *delivery_ids: str) -> None:
        if point == "before the record":
            in_threads(lambda: retry_now.reset_breaker(relay()))

    monkeypatch.setattr(points, "hook", late)
    delivery = submitted()
    attempt(delivery.pk)
    assert Delivery.objects.get(pk=delivery.pk).due_at <= timezone.now()


def test_a_mail_that_is_put_off_while_it_is_reset_does_not_sleep(
    smtp_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On databases where writers do not wait for each other: it is recorded after all mail was woken, before any
    process can see the closed breaker.
    """
    server, _ = wrong_password(smtp_server)
    attempt(submitted().pk)
    server.password = "s3cret"
    delivery = submitted()
    woken, put_off = threading.Event(), threading.Event()
    wake = retry_now.wake

    def slow(*ids: str) -> int:
        count = wake(*ids)
        if not woken.is_set() and connection.vendor != "sqlite":  # its writers wait for each other
            woken.set()
            put_off.wait(PATIENCE)
        return count

    def work() -> None:
        if connection.vendor != "sqlite":
            woken.wait(PATIENCE)
        attempt(delivery.pk)
        put_off.set()

    monkeypatch.setattr(retry_now, "wake", slow)
    found = in_threads(lambda: retry_now.reset_breaker(relay()), work)
    assert found == [None, None]
    assert waiting() == 0


def test_no_mail_sleeps_however_resetting_and_putting_off_meet(smtp_server: Serve) -> None:
    wrong_password(smtp_server)
    here = relay()
    failure = Deferred(cause=Cause.LOGIN, code=535, reason="the login is wrong")
    for _ in range(10):
        breaker.trip(here, failure, probing=False)
        ids = [submitted().pk for _ in range(5)]
        works: list[Callable[[], Any]] = [lambda pk=pk: attempt(pk) for pk in ids]
        found = in_threads(*works, lambda: retry_now.reset_breaker(here))
        assert not [one for one in found if isinstance(one, Exception)]
        # A mail that found it closed has tried to log in and tripped it again.
        retry_now.reset_breaker(here)
        assert waiting() == 0


# -- the direct backend ---------------------------------------------------------------------------------------------


def test_the_direct_backend_obeys_it(smtp_server: Serve) -> None:
    server, _ = wrong_password(smtp_server)
    attempt(submitted().pk)
    with pytest.raises(DeliveryDeferred) as raised:
        direct.send_directly(mail())
    assert raised.value.code == 535
    assert len(server.sessions) == 1


def test_the_direct_backend_trips_and_resets_it(smtp_server: Serve) -> None:
    server, _ = wrong_password(smtp_server)
    for _ in range(3):
        with pytest.raises(DeliveryDeferred):
            direct.send_directly(mail())
    assert server.failed_auths == 1
    server.password = "s3cret"
    probe_is_due()
    direct.send_directly(mail())
    assert not CircuitBreaker.objects.exists()


def test_a_callers_transaction_makes_no_other_process_wait(smtp_server: Serve) -> None:
    """A failure that the direct backend finds inside a transaction becomes visible with its commit."""
    server, _ = wrong_password(smtp_server)
    with transaction.atomic():
        for _ in range(2):
            with pytest.raises(DeliveryDeferred):
                direct.send_directly(mail())
        assert in_threads(lambda: breaker.is_open(relay())) == [False]
    assert breaker.is_open(relay())
    server.password = "s3cret"
    probe_is_due()
    with transaction.atomic():
        direct.send_directly(mail())
        assert breaker.is_open(relay())
    assert not breaker.is_open(relay())


def test_what_a_rolled_back_transaction_found_out_is_forgotten(smtp_server: Serve) -> None:
    wrong_password(smtp_server)
    with pytest.raises(DeliveryDeferred), transaction.atomic():
        direct.send_directly(mail())
    assert not CircuitBreaker.objects.exists()
