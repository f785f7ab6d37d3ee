"""Every transition of a delivery, and who wins when two want one."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import DatabaseError, transaction
from django.utils import timezone

from email_integration.ledger import continuation, records, rows, task_queue, transitions
from email_integration.ledger.sql import Row
from email_integration.models import Delivery, DeliveryAttempt, Status
from email_integration.on_commit import after_commit
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted, Deferred, Failed, InDoubt
from email_integration.queue import retry_now
from email_integration.smtp import Phase, Relay, Reply
from tests.deliveries import RecordingDoorbell, ago, in_threads, pretend, statuses, submitted

pytestmark = pytest.mark.django_db(transaction=True)

KIM, LEE, SAM = "kim@example.com", "lee@example.com", "sam@example.com"
RELAY = Relay(name="Primary", host="mail.example.com", password="s3cret")
OTHER = Relay(name="Backup", host="backup.example.com")
TRY = records.Try(route=RELAY, started_at=ago(1), wait=60)


@pytest.fixture(autouse=True)
def _bell(bell: RecordingDoorbell) -> None:
    pass


def taken(*to: str) -> Accepted:
    return Accepted(code=250, accepted=to or (KIM,), refused={})


def claimed(*to: str, relay: Relay = RELAY) -> Delivery:
    delivery = submitted(*to or (KIM,))
    assert transitions.claim(delivery, relay, from_header="a@example.com", sender="a@example.com")
    return delivery


def stored(delivery: Delivery) -> Delivery:
    return Delivery.objects.get(pk=delivery.pk)


def same(delivery: Delivery) -> bool:
    """Whether the instance says what the row says."""
    row = stored(delivery)
    fields = [field.attname for field in Delivery._meta.concrete_fields if field.attname != "content"]
    return all(getattr(row, name) == getattr(delivery, name) for name in fields)


# -- the claim ------------------------------------------------------------------------------------------------------


def test_a_claim_is_for_one(settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "LEASE": 150.0}
    delivery = submitted()
    other = stored(delivery)
    assert transitions.claim(delivery, RELAY, from_header="a@b.example", sender="a@b.example")
    assert not transitions.claim(other, RELAY, from_header="b@example.com", sender="b@example.com")
    assert same(delivery)
    assert (delivery.status, delivery.from_header, delivery.smtp_config) == ("sending", "a@b.example", "Primary")
    assert delivery.lease_until == delivery.ring_after
    assert delivery.lease_until is not None
    assert delivery.lease_until - timezone.now() > dt.timedelta(seconds=140)


def test_of_many_claims_at_once_one_wins() -> None:
    pk = submitted().pk

    def claim() -> bool:
        delivery = rows.load(pk)
        return delivery is not None and transitions.claim(
            delivery, RELAY, from_header="a@example.com", sender="a@example.com"
        )

    assert sorted(in_threads(*[claim] * 4)) == [False, False, False, True]
    assert Delivery.objects.get().fence == 1


@pytest.mark.parametrize("status", [status for status in Status if status not in transitions.CLAIMABLE])
def test_what_is_finished_or_in_somebodys_hands_is_not_claimed(status: Status) -> None:
    delivery = pretend(submitted(), status=status)
    assert not transitions.claim(delivery, RELAY, from_header="a@b.example", sender="a@b.example")


def test_a_repeated_ring_takes_the_mail_from_a_worker_that_has_not_claimed_it() -> None:
    slow = submitted()
    assert transitions.begin_again(stored(slow))
    assert not transitions.claim(slow, RELAY, from_header="a@example.com", sender="a@example.com")


# -- outcomes -------------------------------------------------------------------------------------------------------


def test_an_acceptance_ends_it(bell: RecordingDoorbell) -> None:
    delivery = claimed()
    assert transitions.record(delivery, taken(), TRY)
    assert same(delivery)
    assert (delivery.status, delivery.code, delivery.reason) == ("accepted", 250, "accepted by the server")
    assert (delivery.ring_after, delivery.lease_until, delivery.continued) == (None, None, True)
    assert delivery.finished_at is not None
    assert bell.reports == [(delivery.pk, "accepted")]
    logged = DeliveryAttempt.objects.get()
    assert (logged.number, logged.outcome, logged.phase, logged.host) == (
        1,
        "accepted",
        "final_dot",
        "mail.example.com",
    )


@pytest.mark.parametrize("at_fault", [True, False])
def test_a_deferral_waits_as_long_as_it_was_told(at_fault: bool) -> None:
    delivery = claimed()
    assert transitions.record(
        delivery, Deferred(cause=Cause.PUT_OFF, code=450, reason="put off", relay_at_fault=at_fault), TRY
    )
    assert same(delivery)
    assert (delivery.status, delivery.code, delivery.waits_for_relay) == ("deferred", 450, at_fault)
    assert (delivery.due_at - timezone.now()).total_seconds() == pytest.approx(60, abs=5)
    assert (delivery.ring_after, delivery.rings, delivery.attempts) == (delivery.due_at, 0, 1)


def test_a_deferral_beyond_the_expiry_is_looked_at_when_it_expires() -> None:
    delivery = claimed()
    delivery = pretend(delivery, expires_at=timezone.now() + dt.timedelta(seconds=30))
    transitions.record(delivery, Deferred(cause=Cause.PUT_OFF, reason="later"), TRY)
    assert delivery.ring_after == delivery.expires_at


def test_a_failure_ends_it() -> None:
    delivery = claimed()
    assert transitions.record(
        delivery, Failed(cause=Cause.REFUSED, code=554, reason="refused", phase=Phase.FINAL_DOT), TRY
    )
    assert same(delivery)
    assert (delivery.status, delivery.code) == ("failed", 554)
    assert statuses(delivery) == {KIM: "failed"}


@pytest.mark.parametrize(("policy", "status"), [("resend", "deferred"), ("hold", "in_doubt")])
def test_doubt_is_resent_or_held_by_policy(settings: Any, policy: str, status: str) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "IN_DOUBT": policy}
    delivery = claimed()
    assert transitions.record(delivery, InDoubt(cause=Cause.IN_DOUBT, reason="lost after the final dot"), TRY)
    assert delivery.status == status
    assert (delivery.ring_after is None) == (policy == "hold")
    assert DeliveryAttempt.objects.get().outcome == "in_doubt"


def test_recipients_are_settled_one_by_one_over_attempts() -> None:
    delivery = claimed(KIM, LEE, SAM)
    no, later = Reply(code=550, enhanced="5.1.1", text="no"), Reply(code=450, enhanced="4.2.0", text="later")
    transitions.record(delivery, Accepted(code=250, accepted=(KIM,), refused={LEE: no, SAM: later}), TRY)
    assert (delivery.status, delivery.code, delivery.reason) == ("deferred", 450, "1 of 3 recipients were put off")
    assert rows.pending(stored(delivery)) == (SAM,)
    assert transitions.claim(delivery, RELAY, from_header="a@b.example", sender="a@b.example")
    transitions.record(delivery, taken(SAM), TRY)
    assert (delivery.status, delivery.code) == ("accepted", 250)
    assert statuses(delivery) == {KIM: "accepted", LEE: "failed", SAM: "accepted"}
    assert delivery.attempts == 2


def test_an_attempt_is_logged_without_address_or_secret() -> None:
    delivery = claimed()
    transitions.record(delivery, Deferred(cause=Cause.PUT_OFF, code=450, reason="put off (450)"), TRY)
    logged = " ".join(str(value) for value in DeliveryAttempt.objects.values()[0].values())
    assert "kim" not in logged
    assert "s3cret" not in logged


# -- who is late ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "late",
    [
        Deferred(cause=Cause.PUT_OFF, reason="later"),
        Failed(cause=Cause.REFUSED, reason="never"),
        InDoubt(cause=Cause.IN_DOUBT, reason="lost"),
    ],
)
def test_who_was_overtaken_changes_nothing(bell: RecordingDoorbell, late: Any) -> None:
    slow = claimed()
    transitions.record(stored(slow), taken(), TRY)
    assert not transitions.record(slow, late, TRY)
    assert stored(slow).status == "accepted"
    assert len(bell.reports) == 1


@pytest.mark.parametrize("since", ["deferred", "sending", "in_doubt", "expired", "cancelled", "quarantined", "failed"])
def test_a_late_250_wins_over_whatever_has_happened_since(since: str) -> None:
    slow = claimed(KIM, LEE)
    quick = pretend(slow, status="deferred", lease_until=None)
    if since == "sending":
        assert transitions.claim(quick, OTHER, from_header="a@example.com", sender="a@example.com")
    elif since == "failed":
        assert transitions.record(quick, Failed(cause=Cause.REFUSED, code=554, reason="never"), TRY)
    elif since in ("deferred", "in_doubt"):
        assert transitions.record(quick, InDoubt(cause=Cause.IN_DOUBT, reason="lost"), TRY)
        pretend(quick, status=since)
    else:
        assert transitions.end(quick, Status(since), Cause.EXPIRED)
    assert transitions.record(slow, taken(KIM, LEE), TRY)
    assert same(slow)
    assert (slow.status, slow.code, slow.reason) == ("accepted", 250, "accepted by the server")
    assert statuses(slow) == {KIM: "accepted", LEE: "accepted"}


def test_a_late_250_for_some_leaves_the_rest_to_whoever_is_sending_it_now() -> None:
    """Were it due again, a third worker would send it, and nobody had recorded how the second one fared."""
    slow = claimed(KIM, LEE)
    quick = pretend(slow, status="deferred", lease_until=None)
    assert transitions.claim(quick, OTHER, from_header="a@example.com", sender="a@example.com")
    later = Reply(code=450, enhanced="4.2.0", text="later")
    assert transitions.record(slow, Accepted(code=250, accepted=(KIM,), refused={LEE: later}), TRY)
    assert same(slow)
    assert (slow.status, slow.lease_until) == ("sending", quick.lease_until)
    assert statuses(slow) == {KIM: "accepted", LEE: "pending"}
    assert not transitions.record(quick, Deferred(cause=Cause.PUT_OFF, reason="later"), TRY)
    assert transitions.lease_ran_out(pretend(quick, lease_until=ago(1)))
    assert statuses(slow) == {KIM: "accepted", LEE: "pending"}


def test_a_result_that_cannot_be_stored_does_not_keep_the_outcome_from_being_recorded() -> None:
    delivery = claimed()
    assert transitions.record(delivery, taken(), TRY, report=False)
    assert stored(delivery).status == "accepted"


def test_an_attempt_that_follows_a_repeated_ring_has_the_time_of_a_lease(settings: Any) -> None:
    """A large mail on a slow line kills nobody: it must not be overtaken and counted each time."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "LEASE": 150.0, "RING_AFTER": 30.0}
    for rings, patience in ((1, 150), (2, 150), (3, 240), (9, 900)):
        delivery = pretend(submitted(), rings=rings)
        assert transitions.begin_again(delivery)
        assert delivery.ring_after is not None
        assert (delivery.ring_after - timezone.now()).total_seconds() == pytest.approx(patience, abs=5)


def test_two_late_250_are_recorded_once(bell: RecordingDoorbell) -> None:
    slow = claimed()
    quick = pretend(slow, status="deferred")
    assert transitions.claim(quick, RELAY, from_header="a@example.com", sender="a@example.com")
    assert transitions.record(slow, taken(), TRY)
    assert not transitions.record(quick, taken(), TRY)
    assert bell.reports == [(slow.pk, "accepted")]


def test_late_250s_of_two_workers_at_once_are_recorded_once(bell: RecordingDoorbell) -> None:
    slow = claimed()
    quick = pretend(slow, status="deferred")
    assert transitions.claim(quick, RELAY, from_header="a@example.com", sender="a@example.com")
    found = in_threads(lambda: transitions.record(slow, taken(), TRY), lambda: transitions.record(quick, taken(), TRY))
    assert sorted(found) == [False, True]
    assert stored(slow).status == "accepted"
    assert DeliveryAttempt.objects.count() == 1


def test_a_250_for_a_delivery_that_was_deleted_is_nobodys() -> None:
    delivery = claimed()
    Delivery.objects.all().delete()
    assert not transitions.record(delivery, taken(), TRY)


def test_a_lease_that_ran_out_is_in_doubt_and_found_out_once() -> None:
    delivery = claimed()
    other = stored(delivery)
    assert transitions.lease_ran_out(delivery)
    assert not transitions.lease_ran_out(other)
    assert delivery.status == "deferred"
    assert delivery.due_at <= timezone.now()
    assert DeliveryAttempt.objects.get().outcome == "in_doubt"


def test_the_attempt_of_a_lost_worker_names_that_worker_and_its_configuration() -> None:
    """And not whoever finds it out."""
    delivery = submitted()
    relay = dataclasses.replace(RELAY, version="as saved at noon")
    assert transitions.claim(delivery, relay, from_header="a@example.com", sender="a@example.com")
    lost = pretend(delivery, worker="elsewhere:4711", lease_until=ago(1))
    assert transitions.lease_ran_out(lost)
    found = DeliveryAttempt.objects.get()
    assert (found.worker, found.config_version, found.smtp_config) == ("elsewhere:4711", "as saved at noon", "Primary")


class _Unstorable(RecordingDoorbell):
    """The database refuses the row of the result: after the delivery was updated, before the commit."""

    failures = 1

    def report(self, delivery: Delivery) -> Sequence[Row]:
        if self.failures:
            self.failures -= 1
            return [Row(model=DeliveryAttempt, values={"delivery": delivery.pk})]
        return super().report(delivery)


@pytest.mark.parametrize(
    "outcome",
    [
        taken(),
        Failed(cause=Cause.REFUSED, code=554, reason="never"),
        Deferred(cause=Cause.PUT_OFF, code=450, reason="later"),
    ],
)
def test_what_was_rolled_back_can_be_recorded_again(outcome: Any) -> None:
    """The instance must not believe in a fence that the database has never seen."""
    task_queue.install(_Unstorable())
    delivery = claimed()
    with pytest.raises(DatabaseError):
        transitions.record(delivery, outcome, TRY)
    assert same(delivery)
    assert delivery.status == "sending"
    assert transitions.record(delivery, outcome, TRY)
    assert same(delivery)
    assert delivery.status != "sending"
    assert DeliveryAttempt.objects.count() == 1


def test_a_late_250_is_recorded_without_the_key_of_the_content(settings: Any) -> None:
    """Keys may have been changed meanwhile, and not every process has the new one yet."""
    slow = claimed()
    quick = pretend(slow, lease_until=ago(1))
    assert transitions.lease_ran_out(quick)
    other = Fernet.generate_key().decode()
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [other]}
    assert transitions.record(slow, taken(), TRY)
    assert stored(slow).status == "accepted"


def test_what_fails_after_the_commit_keeps_nothing_else_from_being_done(
    bell: RecordingDoorbell, caplog: pytest.LogCaptureFixture
) -> None:
    """Results may be kept elsewhere, where the text of a failure may quote the mail."""

    def failing(text: str) -> None:
        raise OSError(f"{text} kim@example.com")

    done: list[str] = []
    with transaction.atomic():
        after_commit("store a result", functools.partial(failing, "no room for"), using=None)
        after_commit("tell of a delivery", lambda: done.append("told"), using=None)
        assert not done
    assert done == ["told"]
    assert "Could not store a result (OSError)." in caplog.text
    assert "kim@" not in caplog.text


# -- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.EXPIRED, Status.CANCELLED, Status.QUARANTINED])
def test_an_end_is_final(bell: RecordingDoorbell, status: Status) -> None:
    delivery = submitted()
    assert transitions.end(delivery, status, Cause.CANCELLED, "over")
    assert same(delivery)
    assert (delivery.status, delivery.reason, delivery.ring_after) == (status, "over", None)
    assert delivery.cause == delivery.recipients[0]["cause"] == "cancelled"
    assert not transitions.end(stored(delivery), Status.EXPIRED, Cause.EXPIRED)
    assert bell.reports == [(delivery.pk, status)]


def test_what_expires_partly_accepted_stays_accepted() -> None:
    delivery = claimed(KIM, LEE)
    later = Reply(code=450, enhanced="4.2.0", text="later")
    transitions.record(delivery, Accepted(code=250, accepted=(KIM,), refused={LEE: later}), TRY)
    assert transitions.end(delivery, Status.EXPIRED, Cause.EXPIRED)
    assert (delivery.status, delivery.code, delivery.cause) == ("accepted", 250, "")
    assert delivery.reason == "accepted by the server for 1 of 2 recipients"
    assert statuses(delivery) == {KIM: "accepted", LEE: "failed"}


def test_what_waits_can_be_cancelled(bell: RecordingDoorbell) -> None:
    delivery = submitted()
    found = transitions.cancel(delivery.pk)
    assert found is not None
    assert stored(delivery).status == "cancelled"
    assert bell.reports == [(delivery.pk, "cancelled")]


def test_what_is_being_sent_or_finished_or_unknown_cannot_be_cancelled() -> None:
    sending, finished = claimed(), claimed()
    transitions.record(finished, taken(), TRY)
    assert [transitions.cancel(pk) for pk in (sending.pk, finished.pk, "unknown")] == [None, None, None]
    assert stored(sending).status == "sending"


def test_a_cancellation_and_a_claim_at_once_do_not_both_happen() -> None:
    delivery = submitted()
    own = stored(delivery)
    cancelled, won = in_threads(
        lambda: transitions.cancel(delivery.pk),
        lambda: transitions.claim(own, RELAY, from_header="a@b.example", sender="a@b.example"),
    )
    assert bool(cancelled) != won
    assert stored(delivery).status == ("sending" if won else "cancelled")


# -- what follows ---------------------------------------------------------------------------------------------------


def test_what_follows_is_kept_until_it_was_set_going(bell: RecordingDoorbell) -> None:
    delivery = submitted()
    bell.followed.add(delivery.pk)
    assert transitions.claim(delivery, RELAY, from_header="a@b.example", sender="a@b.example")
    transitions.record(delivery, taken(), TRY)
    assert not delivery.continued
    assert delivery.ring_after is not None
    assert not continuation.resume(stored(delivery))  # whoever recorded it is at it
    assert continuation.resume(pretend(delivery, lease_until=ago(1)))
    continuation.done(delivery.pk)
    row = stored(delivery)
    assert (row.continued, row.ring_after) == (True, None)


# -- waking ---------------------------------------------------------------------------------------------------------


def test_waking_makes_due_what_waits_for_its_relay_and_nothing_else() -> None:
    def deferred(**how: Any) -> Delivery:
        delivery = claimed()
        transitions.record(delivery, Deferred(cause=Cause.PUT_OFF, reason="later", **how), TRY)
        return delivery

    waits, greylisted = deferred(relay_at_fault=True), deferred()
    done = deferred(relay_at_fault=True)
    assert transitions.claim(done, RELAY, from_header="a@example.com", sender="a@example.com")
    transitions.record(done, taken(), TRY)
    assert retry_now.wake() == 1
    woken = stored(waits)
    assert woken.due_at <= timezone.now()
    assert (woken.ring_after, woken.rings, woken.fence) == (woken.due_at, 0, waits.fence)
    assert stored(greylisted).due_at > timezone.now()
    assert not stored(done).waits_for_relay
