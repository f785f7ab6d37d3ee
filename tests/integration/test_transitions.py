"""Every transition of a delivery, and which one wins if two conflict."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import DatabaseError, transaction
from django.utils import timezone

from email_integration.ledger import batches, clock, columns, continuation, recording, rows, transitions
from email_integration.ledger.batches import Batch
from email_integration.ledger.sql import Row
from email_integration.ledger.task_queue import install
from email_integration.models import DatabaseTime, Delivery, DeliveryAttempt, DeliveryBatch, RevokedTask, Status
from email_integration.on_commit import after_commit
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted, Deferred, Failed, InDoubt, Outcome
from email_integration.queue import retry_now
from email_integration.smtp import Phase, Relay, Reply
from tests import claims
from tests.claims import RELAY
from tests.deliveries import RecordingTaskQueue, ago, in_threads, pretend, statuses, submitted

pytestmark = pytest.mark.django_db(transaction=True)

KIM, LEE, SAM = "kim@example.com", "lee@example.com", "sam@example.com"
OTHER = Relay(name="Backup", host="backup.example.com")


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def taken(*to: str) -> Accepted:
    return Accepted(code=250, accepted=to or (KIM,), refused={})


def claimed(*to: str, relay: Relay = RELAY) -> tuple[Batch, Delivery]:
    batch = claims.claimed(submitted(*to or (KIM,)), relay=relay)
    (delivery,) = batch.deliveries
    return batch, delivery


def recorded(*to: str, outcome: Outcome, **how: Any) -> Delivery:
    batch, delivery = claimed(*to)
    assert claims.record(batch, outcome, **how)
    return delivery


def stored(delivery: Delivery) -> Delivery:
    return Delivery.objects.get(pk=delivery.pk)


def same(delivery: Delivery) -> bool:
    """Return whether the instance equals its row."""
    row = stored(delivery)
    fields = [field.attname for field in Delivery._meta.concrete_fields if field.attname != "content"]
    return all(getattr(row, name) == getattr(delivery, name) for name in fields)


# -- the claim ------------------------------------------------------------------------------------------------------


def test_a_claim_is_for_one() -> None:
    delivery = submitted()
    batch = claims.claimed(delivery)
    assert claims.claim(delivery) is None
    assert same(batch.deliveries[0])
    assert batch.deliveries[0].batch == batch.id
    assert (batch.deliveries[0].status, batch.deliveries[0].current_status) == ("queued", "sending")


def test_of_many_claims_at_once_one_wins() -> None:
    pk = submitted().pk
    found = in_threads(*[lambda: claims.claim(pk)] * 4)
    assert sum(one is not None for one in found) == 1
    assert all(one is None or isinstance(one, Batch) for one in found)
    assert Delivery.objects.get().version == 1


def test_a_transition_without_the_claim_changes_nothing() -> None:
    _batch, delivery = claimed()
    assert not transitions.end(stored(delivery), Status.EXPIRED, Cause.EXPIRED)
    assert not transitions.send_now(stored(delivery))
    assert not transitions.set_aside(stored(delivery), "damaged")
    assert not transitions.erase(stored(delivery), delivery.recipients)
    assert same(delivery)


# -- outcomes -------------------------------------------------------------------------------------------------------


def test_an_acceptance_ends_it(task_queue: RecordingTaskQueue) -> None:
    delivery = recorded(outcome=taken())
    assert same(delivery)
    assert (delivery.status, delivery.code, delivery.reason) == ("accepted", 250, "accepted by the server")
    assert (delivery.next_at, delivery.batch, delivery.continue_after) == (None, "", None)
    assert delivery.is_settled
    assert delivery.finished_at is not None
    assert task_queue.results == [(delivery.pk, "accepted")]
    logged = DeliveryAttempt.objects.get()
    assert (logged.number, logged.outcome, logged.phase, logged.host) == (
        1,
        "accepted",
        "final_dot",
        "mail.example.com",
    )


@pytest.mark.parametrize("at_fault", [True, False])
def test_a_deferral_waits_as_long_as_the_outcome_says(at_fault: bool) -> None:
    later = Deferred(cause=Cause.PUT_OFF, code=450, reason="put off", relay_at_fault=at_fault)
    delivery = recorded(outcome=later, wait=60)
    assert same(delivery)
    assert (delivery.status, delivery.code, delivery.waits_for_relay) == ("deferred", 450, at_fault)
    assert (delivery.due_at - clock.now()).total_seconds() == pytest.approx(60, abs=5)
    assert (delivery.next_at, delivery.returned, delivery.attempts) == (delivery.due_at, 0, 1)


def test_a_deferral_beyond_the_expiry_is_claimed_when_it_expires() -> None:
    pretend(submitted(), expires_at=timezone.now() + dt.timedelta(seconds=30))
    batch = claims.claimed()
    assert claims.record(batch, Deferred(cause=Cause.PUT_OFF, reason="later"), wait=60)
    (delivery,) = batch.deliveries
    assert delivery.next_at == delivery.expires_at


def test_a_failure_ends_it() -> None:
    delivery = recorded(outcome=Failed(cause=Cause.REFUSED, code=554, reason="refused", phase=Phase.FINAL_DOT))
    assert same(delivery)
    assert (delivery.status, delivery.code) == ("failed", 554)
    assert statuses(delivery) == {KIM: "failed"}


@pytest.mark.parametrize(("policy", "status"), [("resend", "deferred"), ("hold", "in_doubt")])
def test_doubt_is_resent_or_held_by_policy(settings: Any, policy: str, status: str) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "IN_DOUBT": policy}
    delivery = recorded(outcome=InDoubt(cause=Cause.IN_DOUBT, reason="lost after the final dot"))
    assert delivery.status == status
    assert (delivery.next_at is None) == (policy == "hold")
    assert DeliveryAttempt.objects.get().outcome == "in_doubt"


def test_recipients_are_settled_one_by_one_over_attempts() -> None:
    no, later = Reply(code=550, enhanced="5.1.1", text="no"), Reply(code=450, enhanced="4.2.0", text="later")
    outcome = Accepted(code=250, accepted=(KIM,), refused={LEE: no, SAM: later})
    delivery = recorded(KIM, LEE, SAM, outcome=outcome, wait=0)
    assert (delivery.status, delivery.code, delivery.reason) == ("deferred", 450, "1 of 3 recipients were deferred")
    assert rows.pending(stored(delivery)) == (SAM,)
    batch = claims.claimed(delivery)
    assert claims.record(batch, taken(SAM))
    (delivery,) = batch.deliveries
    assert (delivery.status, delivery.code) == ("accepted", 250)
    assert statuses(delivery) == {KIM: "accepted", LEE: "failed", SAM: "accepted"}
    assert delivery.attempts == 2


def test_an_attempt_is_logged_without_address_or_secret() -> None:
    recorded(outcome=Deferred(cause=Cause.PUT_OFF, code=450, reason="put off (450)"))
    logged = " ".join(str(value) for value in DeliveryAttempt.objects.values()[0].values())
    assert "kim" not in logged
    assert "s3cret" not in logged


# -- other parts of a record ----------------------------------------------------------------------------------------


def test_what_it_was_sent_with_is_pinned_once_a_dot_was_sent() -> None:
    """A mail in doubt is sent again unchanged."""
    batch, delivery = claimed()
    relay = dataclasses.replace(RELAY, version="as saved at noon")
    lost = InDoubt(cause=Cause.IN_DOUBT, reason="lost")
    how = {"from_header": "a@b.example", "sender": "a@b.example", "redirected_to": "sink@example.com"}
    assert claims.record(batch, lost, relay=relay, **how)
    assert same(delivery)
    assert (delivery.from_header, delivery.sender, delivery.redirected_to) == tuple(how.values())
    assert (delivery.smtp_config, delivery.config_version) == ("Primary", "as saved at noon")
    assert delivery.worker == columns.this_worker()


def test_a_sender_of_its_own_stays() -> None:
    batch = claims.claimed(submitted(from_email="own@example.com"))
    before = batch.deliveries[0].from_header
    assert claims.record(batch, from_header="other@example.com", sender="other@example.com")
    assert stored(batch.deliveries[0]).from_header == before


def test_a_sender_that_the_server_does_not_allow_is_left_open_again() -> None:
    refused = Deferred(cause=Cause.CONFIG_SENDER, code=550, reason="not allowed")
    batch, delivery = claimed()
    assert claims.record(batch, refused, from_header="a@b.example", sender="a@b.example", wait=0)
    assert same(delivery)
    assert (delivery.from_header, delivery.sender) == ("", "")


def test_a_withheld_recipient_is_settled_in_the_same_record() -> None:
    batch, delivery = claimed(KIM, LEE)
    change = dataclasses.replace(claims.ended(delivery, taken(KIM)), withheld=(LEE,))
    assert batches.record(batch, [change]).made == [True]
    assert statuses(delivery) == {KIM: "accepted", LEE: "failed"}
    assert delivery.recipients[1]["cause"] == "withheld"
    assert delivery.status == "accepted"


# -- late results ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "late",
    [
        Deferred(cause=Cause.PUT_OFF, reason="later"),
        Failed(cause=Cause.REFUSED, reason="never"),
        InDoubt(cause=Cause.IN_DOUBT, reason="lost"),
    ],
)
def test_an_overtaken_worker_changes_nothing(task_queue: RecordingTaskQueue, late: Any) -> None:
    slow, delivery = claimed()
    claims.lose(slow)
    pretend(delivery, next_at=ago(1))
    assert claims.record(claims.claimed(delivery))
    before = stored(delivery)
    done = batches.record(slow, [claims.ended(delivery, late)])
    assert (done.made, done.owned) == ([False], False)
    assert (before.status, before.version) == (stored(delivery).status, stored(delivery).version) == ("accepted", 4)
    assert task_queue.results == [(delivery.pk, "deferred"), (delivery.pk, "accepted")]


@pytest.mark.parametrize("since", ["deferred", "sending", "in_doubt", "expired", "cancelled", "quarantined", "failed"])
def test_a_late_250_wins_over_whatever_has_happened_since(since: str) -> None:
    batch, slow = claimed(KIM, LEE)
    claims.lose(batch)
    quick = pretend(slow, next_at=ago(1))
    if since == "sending":
        claims.claimed(quick, relay=OTHER)
    elif since == "failed":
        assert claims.record(claims.claimed(quick), Failed(cause=Cause.REFUSED, code=554, reason="never"))
    elif since == "in_doubt":
        pretend(quick, status=since, next_at=None)
    elif since != "deferred":
        assert transitions.end(quick, Status(since), Cause.EXPIRED)
    assert batches.record(batch, [claims.ended(slow, taken(KIM, LEE))]).made == [True]
    assert same(slow)
    assert (slow.status, slow.code, slow.reason) == ("accepted", 250, "accepted by the server")
    assert (slow.batch, slow.next_at) == ("", None)
    assert statuses(slow) == {KIM: "accepted", LEE: "accepted"}


def test_a_late_250_for_some_leaves_the_rest_to_the_current_sender() -> None:
    """If it became due again, a third worker would send it before the second worker's result is recorded."""
    batch, slow = claimed(KIM, LEE)
    claims.lose(batch)
    pretend(slow, next_at=ago(1))
    quick = claims.claimed(slow, relay=OTHER)
    later = Reply(code=450, enhanced="4.2.0", text="later")
    outcome = Accepted(code=250, accepted=(KIM,), refused={LEE: later})
    assert recording.accept_late(claims.ended(slow, outcome))
    assert same(slow)
    assert (slow.status, slow.batch) == ("deferred", quick.id)
    assert statuses(slow) == {KIM: "accepted", LEE: "pending"}
    assert claims.claim(slow) is None
    # The worker that is sending it adds its own result to this record.
    assert claims.record(quick, Failed(cause=Cause.REFUSED, code=554, reason="never"))
    assert statuses(slow) == {KIM: "accepted", LEE: "failed"}
    assert (stored(slow).status, stored(slow).batch) == ("accepted", "")
    assert not DeliveryBatch.objects.exists()


def test_a_result_that_cannot_be_stored_does_not_keep_the_outcome_from_being_recorded(
    task_queue: RecordingTaskQueue,
) -> None:
    delivery = recorded(outcome=taken(), store_result=False)
    assert stored(delivery).status == "accepted"
    assert not task_queue.results


def test_two_late_250_are_recorded_once(task_queue: RecordingTaskQueue) -> None:
    batch, slow = claimed()
    claims.lose(batch)
    pretend(slow, next_at=ago(1))
    quick = claims.claimed(slow)
    task_queue.results.clear()
    assert claims.record(batch)
    assert not claims.record(quick)
    assert task_queue.results == [(slow.pk, "accepted")]
    assert DeliveryAttempt.objects.filter(outcome="accepted").count() == 1


def test_late_250s_of_two_workers_at_once_are_recorded_once(task_queue: RecordingTaskQueue) -> None:
    batch, slow = claimed()
    claims.lose(batch)
    pretend(slow, next_at=ago(1))
    quick = claims.claimed(slow)
    assert sorted(in_threads(lambda: claims.record(batch), lambda: claims.record(quick))) == [False, True]
    assert stored(slow).status == "accepted"
    assert DeliveryAttempt.objects.filter(outcome="accepted").count() == 1


def test_a_250_for_a_deleted_delivery_is_ignored() -> None:
    batch, _delivery = claimed()
    Delivery.objects.all().delete()
    assert not claims.record(batch)
    assert not DeliveryBatch.objects.exists()


def test_the_attempt_of_a_lost_worker_names_that_worker_and_its_configuration() -> None:
    """It does not name the worker that discovers the loss."""
    delivery = submitted()
    relay = dataclasses.replace(RELAY, version="as saved at noon")
    claims.lose(claims.claimed(delivery, relay=relay, owner="elsewhere:4711"))
    found = DeliveryAttempt.objects.get()
    assert (found.worker, found.config_version, found.smtp_config) == ("elsewhere:4711", "as saved at noon", "Primary")
    row = stored(delivery)
    assert (row.status, row.cause, row.attempts) == ("deferred", "worker_lost", 1)
    # The mail is sent again unchanged.
    assert (row.from_header, row.smtp_config) == ("noreply@example.com", "Primary")


class _Unstorable(RecordingTaskQueue):
    """A task queue whose result row the database refuses, after the update of the delivery and before the commit."""

    failures = 1

    def result_rows(self, deliveries: Collection[Delivery]) -> Mapping[str, Sequence[Row]]:
        if self.failures:
            self.failures -= 1
            return {one.pk: [Row(model=DeliveryAttempt, values={"delivery": one.pk})] for one in deliveries}
        return super().result_rows(deliveries)


@pytest.mark.parametrize(
    "outcome",
    [
        taken(),
        Failed(cause=Cause.REFUSED, code=554, reason="never"),
        Deferred(cause=Cause.PUT_OFF, code=450, reason="later"),
    ],
)
def test_what_was_rolled_back_can_be_recorded_again(outcome: Any) -> None:
    """The instance must not keep a version that was never committed."""
    install(_Unstorable())
    batch, delivery = claimed()
    with pytest.raises(DatabaseError):
        claims.record(batch, outcome)
    assert same(delivery)
    assert (delivery.batch, batch.open) == (batch.id, {delivery.pk})
    assert claims.record(batch, outcome)
    assert same(delivery)
    assert (delivery.batch, batch.open) == ("", set())
    assert DeliveryAttempt.objects.count() == 1


def test_a_late_250_is_recorded_without_the_key_of_the_content(settings: Any) -> None:
    """Keys may have changed in the meantime, and some processes may not have the new key yet."""
    batch, slow = claimed()
    claims.lose(batch)
    other = Fernet.generate_key().decode()
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [other]}
    assert claims.record(batch)
    assert stored(slow).status == "accepted"


def test_what_fails_after_the_commit_keeps_nothing_else_from_being_done(
    task_queue: RecordingTaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Results may be stored elsewhere, and the text of a failure may quote the mail."""

    def failing(text: str) -> None:
        raise OSError(f"{text} kim@example.com")

    done: list[str] = []
    with transaction.atomic():
        after_commit("store a result", functools.partial(failing, "no room for"), using=None)
        after_commit("send a signal of a delivery", lambda: done.append("sent"), using=None)
        assert not done
    assert done == ["sent"]
    assert "Could not store a result (OSError)." in caplog.text
    assert "kim@" not in caplog.text


# -- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.EXPIRED, Status.CANCELLED, Status.QUARANTINED])
def test_an_end_is_final(task_queue: RecordingTaskQueue, status: Status) -> None:
    delivery = submitted()
    assert transitions.end(delivery, status, Cause.CANCELLED, "over")
    assert same(delivery)
    assert (delivery.status, delivery.reason, delivery.next_at) == (status, "over", None)
    assert delivery.cause == delivery.recipients[0]["cause"] == "cancelled"
    assert not transitions.end(stored(delivery), Status.EXPIRED, Cause.EXPIRED)
    assert task_queue.results == [(delivery.pk, status)]


def test_what_expires_partly_accepted_stays_accepted() -> None:
    later = Reply(code=450, enhanced="4.2.0", text="later")
    delivery = recorded(KIM, LEE, outcome=Accepted(code=250, accepted=(KIM,), refused={LEE: later}))
    assert transitions.end(delivery, Status.EXPIRED, Cause.EXPIRED)
    assert (delivery.status, delivery.code, delivery.cause) == ("accepted", 250, "")
    assert delivery.reason == "accepted by the server for 1 of 2 recipients"
    assert statuses(delivery) == {KIM: "accepted", LEE: "failed"}


def test_what_waits_can_be_cancelled(task_queue: RecordingTaskQueue) -> None:
    delivery = submitted()
    found = transitions.cancel(delivery.pk)
    assert found is not None
    assert stored(delivery).status == "cancelled"
    assert task_queue.results == [(delivery.pk, "cancelled")]


def test_what_is_finished_or_unknown_cannot_be_cancelled() -> None:
    finished = recorded(outcome=taken())
    assert [transitions.cancel(pk) for pk in (finished.pk, "unknown")] == [None, None]
    assert stored(finished).status == "accepted"
    assert list(RevokedTask.objects.values_list("pk", flat=True)) == ["unknown"]


def test_a_cancellation_and_a_claim_at_once_leave_it_cancelled_or_asked_for() -> None:
    delivery = submitted()
    cancelled, batch = in_threads(lambda: transitions.cancel(delivery.pk), lambda: claims.claim(delivery.pk))
    assert cancelled is not None
    row = stored(delivery)
    assert (row.status, row.batch, row.cancel_requested) in (
        ("cancelled", "", False),
        ("queued", batch and batch.id, True),
    )


# -- continuations --------------------------------------------------------------------------------------------------


def test_what_follows_is_kept_until_it_was_published(task_queue: RecordingTaskQueue) -> None:
    delivery = submitted()
    task_queue.followed.add(delivery.pk)
    assert claims.record(claims.claimed(delivery))
    assert not stored(delivery).is_settled
    assert not continuation.take_due(10)  # the recording process is still publishing
    pretend(delivery, continue_after=ago(1))
    assert [one.pk for one in continuation.take_due(10)] == [delivery.pk]
    assert not continuation.take_due(10)
    continuation.later(delivery.pk, -1.0)
    assert [one.pk for one in continuation.take_due(10)] == [delivery.pk]
    continuation.done(delivery)
    continuation.later(delivery.pk, -1.0)
    assert stored(delivery).is_settled


def test_an_end_without_a_worker_leaves_the_continuation_to_an_immediate_sweep(task_queue: RecordingTaskQueue) -> None:
    delivery = submitted()
    task_queue.followed.add(delivery.pk)
    assert transitions.cancel(delivery.pk) is not None
    assert task_queue.sweeps == 1
    assert [one.pk for one in continuation.take_due(10)] == [delivery.pk]


def test_a_late_250_publishes_nothing_that_was_published_before(task_queue: RecordingTaskQueue) -> None:
    batch, delivery = claimed()
    task_queue.followed.add(delivery.pk)
    claims.lose(batch)
    assert transitions.end(stored(delivery), Status.EXPIRED, Cause.EXPIRED)
    continuation.done(delivery)
    assert claims.record(batch)
    assert (stored(delivery).status, stored(delivery).continue_after) == ("accepted", None)


# -- waking ---------------------------------------------------------------------------------------------------------


def test_waking_makes_due_what_waits_for_its_relay_and_nothing_else() -> None:
    def deferred(**how: Any) -> Delivery:
        return recorded(outcome=Deferred(cause=Cause.PUT_OFF, reason="later", **how))

    waits, greylisted = deferred(relay_at_fault=True), deferred()
    done = pretend(deferred(relay_at_fault=True), next_at=ago(1))
    assert claims.record(claims.claimed(done))
    assert retry_now.wake() == 1
    woken = stored(waits)
    # Compared in the database, whose clock this process knows only to some microseconds.
    assert Delivery.objects.filter(pk=waits.pk, next_at__lte=DatabaseTime()).exists()
    assert woken.version == waits.version
    assert stored(greylisted).due_at > clock.now()
    assert not stored(done).waits_for_relay


@pytest.mark.parametrize("use_tz", [True, False])
def test_a_time_of_the_database_is_found_by_what_was_read_of_it(use_tz: bool, settings: Any) -> None:
    """This includes databases that store times as text."""
    settings.USE_TZ = use_tz
    delivery = submitted()
    rows = Delivery.objects.filter(pk=delivery.pk)
    for ahead in [milliseconds / 1000 for milliseconds in range(0, 1000, 7)]:
        rows.update(due_at=DatabaseTime(ahead=ahead))
        assert rows.filter(due_at=rows.get().due_at).exists()
