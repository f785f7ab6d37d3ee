"""Batches: claimed, recorded, given back and taken over, on each database, with connections that may fail."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection, connections, transaction
from django.utils import timezone

from email_integration.ledger import batches, claiming, clock, recording, records, rows, transitions
from email_integration.message import content
from email_integration.message.options import MailOptions
from email_integration.models import Delivery, DeliveryAttempt, DeliveryBatch, RevokedTask, Status
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred, Failed, InDoubt
from email_integration.queue.bulk import Submission
from tests.claims import QUEUE, claim, claimed, ended, lose, record
from tests.deliveries import RecordingTaskQueue, ago, in_threads, mail, pretend, submitted

pytestmark = pytest.mark.django_db(transaction=True)

KIM, LEE = "kim@example.com", "lee@example.com"
LATER = Deferred(cause=Cause.PUT_OFF, code=450, reason="later")


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    clock.forget()


def many(count: int, **how: Any) -> list[str]:
    submission = Submission(MailOptions(**how))
    for number in range(count):
        submission.take(mail(f"kim{number}@example.com"))
    submission.store()
    return submission.ids


def ids(batch: batches.Batch | None) -> list[str]:
    return [] if batch is None else [one.pk for one in batch.deliveries]


def stored(pk: str) -> Delivery:
    return Delivery.objects.get(pk=pk)


def given_back(delivery: Delivery, **how: Any) -> records.Untried:
    return records.Untried(delivery=delivery, step=lambda one: transitions.giving_back(one, **how))


# -- claims ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_claimed_and_recorded(task_queue: RecordingTaskQueue) -> None:
    pks = [submitted(delivery_id=f"{number}").pk for number in range(3)]
    batch = claimed()
    assert ids(batch) == pks
    row = DeliveryBatch.objects.get()
    assert (row.pk, row.owner, row.permitted, row.items) == (batch.id, "here", 3, [[pk, 1] for pk in pks])
    assert (row.smtp_config, row.from_email, row.suspected_at) == ("Primary", "noreply@example.com", None)
    assert set(Delivery.objects.values_list("status", "batch", "version")) == {("queued", batch.id, 1)}
    assert claim() is None
    first, *others = batch.deliveries
    done = batches.record(batch, [ended(first)])
    assert (done.made, done.owned) == ([True], True)
    assert (first.status, first.batch, first.version) == ("accepted", "", 2)
    assert batch.open == set(pks[1:])
    assert batches.record(batch, [ended(others[0]), given_back(others[1])]).made == [True, True]
    assert not DeliveryBatch.objects.exists()
    assert DeliveryAttempt.objects.count() == 2
    assert list(Delivery.objects.order_by("pk").values_list("status", "batch", "version")) == [
        *([("accepted", "", 2)] * 2),
        ("queued", "", 2),
    ]
    assert task_queue.results == [(pks[0], "accepted"), (pks[1], "accepted")]
    assert ids(claim()) == [pks[2]]


def test_an_instance_is_as_its_row() -> None:
    submitted(KIM, LEE, kept="{}", subject="Grüße")
    (delivery,) = claimed().deliveries
    row = stored(delivery.pk)
    for field in Delivery._meta.concrete_fields:
        assert getattr(delivery, field.attname) == getattr(row, field.attname), field.attname
    assert content.read(delivery) == content.read(row)
    assert not delivery._state.adding


def test_a_content_that_is_not_small_is_read_when_it_is_asked_for() -> None:
    submitted(delivery_id="1")
    submitted(delivery_id="2", body="x" * 40_000)
    small, larger = claimed().deliveries
    assert "content" not in small.get_deferred_fields()
    assert "content" in larger.get_deferred_fields()
    assert b"x" * 60 in content.read(larger)


def test_the_most_urgent_are_first_and_among_them_those_due_for_longest() -> None:
    wanted = []
    for priority, age in (("high", 1), ("normal", 9), ("normal", 2), ("bulk", 100)):
        delivery = submitted(priority=priority)
        wanted.append(pretend(delivery, next_at=ago(age)).pk)
    Delivery.objects.filter(pk__in=wanted).update(version=0)
    assert ids(claim(limit=3)) == wanted[:3]
    assert ids(claim()) == wanted[3:]


def test_a_queue_has_mail_of_its_priorities_and_what_callers_chose_it_for() -> None:
    high, normal, bulk = (submitted(priority=priority).pk for priority in ("high", "normal", "bulk"))
    own = pretend(submitted(priority="high"), queue="own").pk
    late = pretend(submitted(priority="bulk"), queue="own").pk
    with_priority = pretend(submitted(priority="normal"), queue=QUEUE).pk
    assert ids(claim(priorities=("high",), queue="urgent")) == [high]
    assert ids(claim(priorities=(), queue="own")) == [own, late]
    assert ids(claim(priorities=("normal",), queue="")) == [normal]
    assert ids(claim(priorities=("bulk",))) == [with_priority, bulk]


def test_a_batch_has_as_many_as_are_wanted() -> None:
    pks = many(105)
    batch = claimed()
    assert (len(batch.deliveries), batch.is_full, batch.permitted) == (100, True, 100)
    rest = claimed(permitted=2)
    assert (len(rest.deliveries), rest.is_full, rest.permitted) == (5, False, 2)
    assert set(ids(batch)) | set(ids(rest)) == set(pks)


def test_a_batch_has_four_megabytes_of_contents() -> None:
    wanted = [pretend(submitted(), content_size=250 * 1024, next_at=ago(100 - place)).pk for place in range(20)]
    first = claimed()
    assert ids(first) == wanted[:16]
    assert first.is_full
    assert ids(claim()) == wanted[16:]


def test_a_large_mail_goes_alone() -> None:
    sizes = (10, 300 * 1024, 10, 5 * 1024 * 1024)
    wanted = [pretend(submitted(), content_size=size, next_at=ago(100 - place)).pk for place, size in enumerate(sizes)]
    first = claimed()
    assert (ids(first), first.is_full) == ([wanted[0], wanted[2]], True)
    second = claimed()
    assert (ids(second), second.is_full) == ([wanted[1]], True)
    assert ids(claim()) == [wanted[3]]


def test_a_suspect_goes_alone() -> None:
    first, second, third = (
        pretend(submitted(), returned=returned, next_at=ago(10 - place)).pk for place, returned in enumerate((2, 1, 0))
    )
    assert ids(claim()) == [first]
    assert ids(claim()) == [second, third]


def test_what_is_held_prepared_finished_or_not_due_is_never_claimed() -> None:
    for status in (*sorted(Status), "odd"):
        pretend(submitted(), status=status, next_at=None)
    for status in (Status.ACCEPTED, Status.CANCELLED, Status.IN_DOUBT):
        pretend(submitted(), status=status)  # any status that the row may have
    submitted(prepared=True)
    submitted(due_at=timezone.now() + dt.timedelta(minutes=1))
    assert claim() is None
    assert not DeliveryBatch.objects.exists()


def test_what_is_damaged_is_claimed_to_be_set_aside() -> None:
    pretend(submitted(), recipients="none")
    (delivery,) = (batch := claimed()).deliveries
    assert not rows.is_readable(delivery)
    aside = records.Untried(delivery=delivery, step=lambda one: transitions.setting_aside(one, "damaged"))
    assert batches.record(batch, [aside]).made == [True]
    assert stored(delivery.pk).status == "quarantined"


def test_two_who_claim_at_once_have_different_mails() -> None:
    pks = many(60)
    found = in_threads(*[lambda: claim(limit=20)] * 3)
    # MariaDB may skip mails that another claim is examining at that moment, even all of them. They are still due.
    if connection.vendor == "mysql" and Delivery.objects.filter(batch="").exists():
        found.append(claim(limit=60))
    else:
        assert DeliveryBatch.objects.count() == 3
    assert sorted(pk for batch in found for pk in ids(batch)) == sorted(pks)


def test_a_claim_does_not_wait_for_locked_mail() -> None:
    """It also does not find mail that is being claimed."""
    if connection.vendor == "sqlite":
        return  # SQLite locks no rows
    pks = [submitted(delivery_id=f"{number}").pk for number in range(3)]
    with transaction.atomic():
        Delivery.objects.select_for_update().get(pk=pks[0])
        (batch,) = in_threads(lambda: claim(limit=2))
        assert ids(batch) == pks[1:]


@pytest.mark.parametrize("minutes", [-10, 10])
def test_due_and_leased_are_by_the_databases_clock(monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    """The clock of this host does not matter."""
    real = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: real() + dt.timedelta(minutes=minutes))
    clock.forget()
    assert abs((clock.now() - real()).total_seconds()) < 60
    submitted()
    batch = claimed()
    row = DeliveryBatch.objects.get()
    assert 100 < (row.lease_until - real()).total_seconds() < 160
    assert not batches.expired()
    assert record(batch, LATER, wait=60)
    assert 0 < (stored(ids(batch)[0]).due_at - real()).total_seconds() < 70
    assert claim() is None


def test_the_clock_asks_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Callable[[int], Any]
) -> None:
    with django_assert_num_queries(1):
        first = clock.now()
        assert first <= clock.now()
    at = time.monotonic()
    monkeypatch.setattr(clock.time, "monotonic", lambda: at + 61)
    with django_assert_num_queries(1):
        assert (clock.now() - first).total_seconds() < 60


def test_a_claim_that_finds_nothing_writes_nothing(django_assert_num_queries: Callable[[int], Any]) -> None:
    if connection.vendor == "postgresql":
        with django_assert_num_queries(1):
            assert claim() is None
    assert not DeliveryBatch.objects.exists()


# -- records --------------------------------------------------------------------------------------------------------


def test_a_record_renews_the_lease_and_permits_more() -> None:
    many(4)
    batch = claimed(permitted=1)
    DeliveryBatch.objects.update(lease_until=ago(1))
    assert batches.suspect(batch.id)
    batch.lease_ends = 0.0
    assert batches.record(batch, [ended(batch.deliveries[0])], permitted=3).owned
    row = DeliveryBatch.objects.get()
    assert row.lease_until > clock.now()
    assert (row.suspected_at, row.permitted, batch.permitted) == (None, 3, 3)
    assert batch.lease_ends > time.monotonic()
    assert batches.record(batch, [ended(batch.deliveries[1])], permitted=2).owned
    assert DeliveryBatch.objects.get().permitted == 3


def test_the_lease_counts_from_before_the_claim(settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "LEASE": 200.0}
    submitted()
    before = time.monotonic()
    batch = claimed()
    assert before + 200 <= batch.lease_ends <= time.monotonic() + 200
    assert 190 < (DeliveryBatch.objects.get().lease_until - clock.now()).total_seconds() < 201


def test_a_lease_is_renewed_without_changes() -> None:
    submitted()
    batch = claimed()
    DeliveryBatch.objects.update(lease_until=ago(1))
    assert batches.renew(batch)
    assert not batches.expired()
    lose(batch)
    assert not batches.renew(batch)
    assert batch.open == set()


def test_all_kinds_of_changes_go_in_one_record(task_queue: RecordingTaskQueue) -> None:
    """Each change has the same effect as alone."""
    many(6)
    batch = claimed()
    one, two, three, four, five, six = batch.deliveries
    task_queue.followed |= {one.pk, five.pk}
    changes: list[records.Change] = [
        ended(one),
        ended(two, LATER, wait=60),
        ended(three, Failed(cause=Cause.REFUSED, code=550, reason="never", reply="550 who?")),
        ended(four, InDoubt(cause=Cause.IN_DOUBT, reason="lost"), wait=0),
        records.Untried(delivery=five, step=lambda it: transitions.ending(it, Status.EXPIRED, Cause.EXPIRED)),
        given_back(six, returned=1),
    ]
    assert batches.record(batch, changes).made == [True] * 6
    statuses = ["accepted", "deferred", "failed", "deferred", "expired", "queued"]
    for delivery, status in zip(batch.deliveries, statuses, strict=True):
        row = stored(delivery.pk)
        assert (row.status, row.batch, row.version) == (status, "", 2)
        for field in Delivery._meta.concrete_fields:
            assert getattr(row, field.attname) == getattr(delivery, field.attname), field.attname
    assert [stored(it.pk).continue_after is not None for it in batch.deliveries] == [True, *[False] * 3, True, False]
    assert DeliveryAttempt.objects.get(delivery=three.pk).reply == "550 who?"
    assert stored(six.pk).returned == 1
    assert not stored(one.pk).has_content
    assert stored(three.pk).has_content
    assert [status for _pk, status in task_queue.results] == ["accepted", "deferred", "failed", "deferred", "expired"]


def test_nothing_is_recorded_twice_in_one_record() -> None:
    submitted()
    batch = claimed()
    with pytest.raises(ValueError, match="must not occur twice"):
        batches.record(batch, [ended(batch.deliveries[0])] * 2)


def test_a_record_repeated_is_harmless(task_queue: RecordingTaskQueue) -> None:
    many(2)
    batch = claimed()
    first = batch.deliveries[0]
    assert batches.record(batch, [ended(first, LATER)]).made == [True]
    before = Delivery.objects.values().get(pk=first.pk)
    assert batches.record(batch, [ended(first, LATER)]).made == [False]
    assert Delivery.objects.values().get(pk=first.pk) == before
    assert DeliveryAttempt.objects.count() == 1
    assert len(task_queue.results) == 1


def test_a_database_that_refuses_one_changes_none() -> None:
    many(2)
    batch = claimed()
    fine, wrong = (ended(one) for one in batch.deliveries)
    wrong.attempt.__dict__["tls_version"] = "x" * 100 if connection.vendor != "sqlite" else None
    with pytest.raises(DatabaseError):
        batches.record(batch, [fine, wrong])
    assert set(Delivery.objects.values_list("status", "version")) == {("queued", 1)}
    assert [one.status for one in batch.deliveries] == ["queued", "queued"]
    assert batches.record(batch, [fine]).made == [True]


# -- lost answers ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def losing_the_answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Make the next commit of a batch succeed but lose its answer with the connection. Yield the names of the lost
    commits.
    """
    lost: list[str] = []

    def lose_connection(what: str) -> None:
        lost.append(what)
        raise OperationalError("server closed the connection unexpectedly")

    claims_, records_ = claiming.claim, recording._record

    def claiming_(*args: Any, **kwargs: Any) -> Any:
        found = claims_(*args, **kwargs)
        if not lost:
            lose_connection("claim")
        return found

    def recording_(*args: Any, **kwargs: Any) -> Any:
        found = records_(*args, **kwargs)
        if not lost:
            lose_connection("record")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(claiming, "claim", claiming_)
        patched.setattr(recording, "_record", recording_)
        yield lost


def test_a_claim_whose_answer_is_lost_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pks = many(3)
    with losing_the_answer(monkeypatch) as lost, pytest.raises(OperationalError):
        claim()
    assert lost == ["claim"]
    assert not DeliveryBatch.objects.exists()
    assert set(ids(claim())) == set(pks)


def test_a_claim_that_cannot_be_given_back_at_once_is_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    pks = many(3)

    def away(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("connection refused")

    with losing_the_answer(monkeypatch), monkeypatch.context() as patched:
        patched.setattr(batches, "_take_over", away)
        with pytest.raises(OperationalError, match="unexpectedly"):
            claim()
    assert DeliveryBatch.objects.count() == 1
    assert set(ids(claim())) == set(pks)


def test_a_record_whose_answer_is_lost_is_made_when_it_is_repeated(
    monkeypatch: pytest.MonkeyPatch, task_queue: RecordingTaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line is written only once: after the first try, the outcome of the commit is unknown."""
    many(2)
    batch = claimed()
    changes = [ended(one) for one in batch.deliveries]
    caplog.set_level("INFO", "email_integration.delivery")
    with losing_the_answer(monkeypatch) as lost, pytest.raises(OperationalError):
        batches.record(batch, changes)
    assert lost == ["record"]
    assert not caplog.records
    assert [one.status for one in batch.deliveries] == ["queued", "queued"]
    done = batches.record(batch, changes)
    assert (done.made, done.owned) == ([True, True], True)
    assert [one.status for one in batch.deliveries] == ["accepted", "accepted"]
    assert DeliveryAttempt.objects.count() == 2
    assert len(caplog.records) == 2


def test_what_was_to_be_cancelled_is_when_the_answer_to_its_record_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first commit gave the mail back and deleted its batch row, the only place that held the
    cancellation request.
    """
    pk = submitted().pk
    batch = claimed()
    assert transitions.cancel(pk)
    changes = [records.Untried(delivery=one, step=transitions.giving_back) for one in batch.deliveries]
    with losing_the_answer(monkeypatch), pytest.raises(OperationalError):
        batches.record(batch, changes)
    batches.record(batch, changes)
    assert Delivery.objects.get(pk=pk).status == Status.CANCELLED


def test_a_conflict_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted()
    conflict = OperationalError(1213, "Deadlock found")
    if connection.vendor == "postgresql":
        from psycopg import errors

        conflict = OperationalError("deadlock detected")
        conflict.__cause__ = errors.DeadlockDetected()
    elif connection.vendor == "sqlite":
        conflict = OperationalError("database is locked")
    failing = [conflict] * 3
    real = claiming.claim

    def claiming_(*args: Any, **kwargs: Any) -> Any:
        if failing:
            raise failing.pop()
        return real(*args, **kwargs)

    monkeypatch.setattr(claiming, "claim", claiming_)
    assert len(ids(claim())) == 1


# -- taking over ----------------------------------------------------------------------------------------------------


def test_a_batch_that_runs_out_is_marked_first() -> None:
    submitted()
    batch = claimed()
    assert not batches.expired()
    assert not batches.suspect(batch.id)
    DeliveryBatch.objects.update(lease_until=ago(1))
    assert [row.pk for row in batches.expired()] == [batch.id]
    assert not batches.expired(suspected_for=10.0)
    assert batches.suspect(batch.id)
    assert not batches.suspect(batch.id)
    assert not batches.expired(suspected_for=10.0)
    DeliveryBatch.objects.update(suspected_at=ago(11))
    assert [row.pk for row in batches.expired(suspected_for=10.0)] == [batch.id]


def test_a_takeover_decides_about_each_mail_and_gives_back_the_rest() -> None:
    many(3)
    batch = claimed(permitted=1)
    seen: list[tuple[int, list[str]]] = []

    def decide(row: DeliveryBatch, deliveries: list[Delivery]) -> list[records.Change]:
        seen.append((row.permitted, [one.pk for one in deliveries]))
        return [batches.in_doubt(row, one) for one in deliveries[: row.permitted]]

    made = batches.take_over(batch.id, decide)
    assert seen == [(1, ids(batch))]
    assert [change.delivery.pk for change in made] == ids(batch)[:1]
    assert not DeliveryBatch.objects.exists()
    first, *others = (stored(pk) for pk in ids(batch))
    assert (first.status, first.cause, first.batch) == ("deferred", "worker_lost", "")
    assert {(one.status, one.batch, one.version, one.attempts) for one in others} == {("queued", "", 2, 0)}
    assert batches.take_over(batch.id, decide) == []


def test_an_owner_that_lives_loses_what_was_taken_over_and_its_250_still_wins() -> None:
    many(3)
    batch = claimed(permitted=2)
    lose(batch)
    first, second, third = batch.deliveries
    done = batches.record(batch, [ended(first), ended(second, LATER)])
    assert (done.made, done.owned) == ([True, False], False)
    assert (batch.open, batch.lease_ends <= time.monotonic()) == (set(), True)
    assert stored(first.pk).status == "accepted"
    assert (stored(second.pk).status, stored(second.pk).attempts) == ("deferred", 1)
    assert ids(claimed(third)) == [third.pk]


def test_a_batch_that_is_being_recorded_is_not_taken_over() -> None:
    if connection.vendor == "sqlite":
        return  # SQLite locks no rows
    submitted()
    batch = claimed()
    with transaction.atomic():
        batches.record(batch, [ended(batch.deliveries[0])])
        (made,) = in_threads(lambda: batches.take_over(batch.id, lambda row, deliveries: []))
        assert made == []
    assert stored(ids(batch)[0]).status == "accepted"


def test_a_record_and_a_takeover_at_once_leave_nothing_behind() -> None:
    """The second of the two sees the changes of the first."""
    for _ in range(10):
        Delivery.objects.all().delete()
        many(5)
        batch = claimed()
        found = in_threads(lambda: record(batch, LATER), lambda: batches.take_over(batch.id, lambda row, those: []))  # noqa: B023
        assert not [one for one in found if isinstance(one, BaseException)]
        if DeliveryBatch.objects.exists():  # the row was locked during the takeover, or recorded after it
            pytest.fail("a batch without a claimed mail has a row")
        assert not Delivery.objects.exclude(batch="").exists()


def test_a_batch_is_given_back(task_queue: RecordingTaskQueue) -> None:
    many(3)
    batch = claimed()
    assert batches.record(batch, [ended(batch.deliveries[0])]).owned
    assert batches.release(batch)
    assert (batch.open, DeliveryBatch.objects.exists()) == (set(), False)
    assert sorted(Delivery.objects.values_list("status", "batch")) == [("accepted", ""), ("queued", ""), ("queued", "")]
    assert not batches.release(batch.id)
    assert len(ids(claim())) == 2


def test_a_claim_whose_batch_was_lost_is_given_back() -> None:
    """Restoring a backup of single tables can cause this."""
    kept, lost = submitted(), submitted()
    whole = claimed(kept)
    claimed(lost)
    DeliveryBatch.objects.exclude(pk=whole.id).delete()
    assert batches.give_back_lost() == 1
    assert ids(claim()) == [lost.pk]
    assert transitions.cancel(kept.pk) is not None
    DeliveryBatch.objects.all().delete()
    assert transitions.cancel(lost.pk) is not None
    assert stored(lost.pk).status == "cancelled"


# -- cancelling a claimed mail --------------------------------------------------------------------------------------


def test_a_claimed_mail_that_is_cancelled_ends_so_unless_it_is_accepted(task_queue: RecordingTaskQueue) -> None:
    many(4)
    batch = claimed()
    first, second, third, fourth = batch.deliveries
    for one in (first, second, third):
        found = transitions.cancel(one.pk)
        assert found is not None
        assert (found.status, found.cancel_requested, found.version) == ("queued", True, 1)
    batches.record(batch, [ended(fourth)])
    assert [one.cancel_requested for one in (first, second, third, fourth)] == [True, True, True, False]
    # A real outcome; a return to the queue with a known cancellation; an acceptance despite the cancellation.
    assert batches.record(batch, [ended(first, LATER), given_back(second), ended(third)]).made == [True] * 3
    assert [stored(one.pk).status for one in (first, second, third)] == ["cancelled", "cancelled", "accepted"]
    assert DeliveryAttempt.objects.get(delivery=first.pk).outcome == "deferred"
    assert not Delivery.objects.filter(cancel_requested=True).exists()
    assert dict(task_queue.results)[second.pk] == "cancelled"


def test_a_mail_that_is_cancelled_while_it_is_recorded_is_cancelled_after_that() -> None:
    """The record does not know of the cancellation yet."""
    many(2)
    batch = claimed()
    first, second = batch.deliveries
    assert transitions.cancel(first.pk) is not None
    done = batches.record(batch, [ended(first, LATER, wait=60)])
    assert (done.made, second.cancel_requested) == ([True], False)
    assert (first.status, stored(first.pk).status, stored(first.pk).attempts) == ("cancelled", "cancelled", 1)
    assert transitions.cancel(second.pk) is not None
    assert batches.release(batch)
    assert stored(second.pk).status == "cancelled"


def test_a_claimed_mail_is_not_erased_but_stopped() -> None:
    submitted()
    batch = claimed()
    (delivery,) = batch.deliveries
    erased = [{"address": "erased", "status": "failed"}]
    assert not transitions.erase(stored(delivery.pk), erased)
    assert stored(delivery.pk).cancel_requested
    assert batches.record(batch, [given_back(delivery)]).made == [True]
    assert transitions.erase(stored(delivery.pk), erased)
    assert (stored(delivery.pk).status, stored(delivery.pk).recipients) == ("cancelled", erased)


def test_a_task_that_was_revoked_before_it_came_is_claimed_as_that() -> None:
    assert transitions.cancel("early") is None
    assert transitions.cancel("early") is None
    assert RevokedTask.objects.count() == 1
    submitted(delivery_id="early")
    other = submitted(delivery_id="other").pk
    batch = claimed()
    assert {one.pk: one.cancel_requested for one in batch.deliveries} == {"early": True, other: False}
    assert record(batch, LATER)
    assert (stored("early").status, stored(other).status) == ("cancelled", "deferred")


def test_a_task_that_is_revoked_in_a_transaction_is_so_with_its_commit() -> None:
    with transaction.atomic():
        assert transitions.cancel("late") is None
        submitted(delivery_id="late")
    assert stored("late").status == "cancelled"


# -- cost -----------------------------------------------------------------------------------------------------------


def test_claims_change_no_index() -> None:
    """HOT updates: a claim writes only columns without an index."""
    if connection.vendor != "postgresql":
        return  # PostgreSQL only
    many(40)

    def hot() -> tuple[int, int]:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_stat_force_next_flush()")
            cursor.execute(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s", [Delivery._meta.db_table]
            )
            found: tuple[int, int] = cursor.fetchone()
            return found

    before = hot()
    batch = claimed()
    updated, cheap = (after - then for after, then in zip(hot(), before, strict=True))
    assert updated == len(batch.deliveries) == 40
    assert cheap >= 30  # as many as fit on their pages
