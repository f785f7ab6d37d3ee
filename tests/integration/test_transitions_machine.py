"""The promises hold for every order of events that workers, people, sweeps and crashes cause at two deliveries.

Hypothesis plays several workers, each of which may stop for good, or for long, between any two of its steps. It uses
the real ledger and its database. To let time pass, due times, leases and expiry times are moved into the past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from email_integration.delivery import manual
from email_integration.exceptions import ContentUnavailable
from email_integration.ledger import batches, recording, records, rows, transitions
from email_integration.ledger.batches import Batch
from email_integration.models import FINAL, Delivery, DeliveryAttempt, DeliveryBatch, Status
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted, Deferred, Failed, InDoubt, Outcome
from email_integration.queue import retry_now
from email_integration.routing.breaker import BreakerOpen
from email_integration.smtp import Reply
from tests import claims
from tests.claims import RELAY
from tests.deliveries import RecordingTaskQueue, ago, submitted

pytestmark = pytest.mark.django_db

KIM, LEE = "kim@example.com", "lee@example.com"
NO, LATER = Reply(code=550, enhanced="5.1.1", text="no"), Reply(code=450, enhanced="4.2.0", text="later")
#: Number of tested orders of events; a third of them on a database that is slower than SQLite in memory.
EXAMPLES = 60

#: Number of events in each order.
STEPS = 40

NUMBERS = st.integers(min_value=0, max_value=5)
#: The next event of a mail in progress: mostly a final dot.
FATES = st.sampled_from(["dot", "dot", "dot", "dot", "back", "relay", "breaker", "expired"])
#: The reply to the final dot: the code, or None for no reply, and whether it is for all remaining recipients.
REPLIES = st.tuples(st.sampled_from([250, 250, 450, None, 550]), st.booleans())


@dataclass(kw_only=True)
class Mail:
    """One delivery of a worker's batch: the worker's knowledge of it, and its next step."""

    delivery: Delivery
    place: int
    recipients: tuple[str, ...]
    step: str = "in hand"
    change: records.Change | None = None
    #: Number of recorded doubts about it at the moment its final dot was sent.
    doubts: int = 0


@dataclass(kw_only=True)
class Worker:
    """A process with a batch. ``is_late`` is set once its lease has expired, and it then sends no more final dots."""

    batch: Batch
    mails: list[Mail] = field(default_factory=list)
    is_late: bool = False


class Ledger(RuleBasedStateMachine):
    """Two deliveries to two recipients each, several workers, a sweep, and people who make decisions."""

    def __init__(self) -> None:
        super().__init__()
        # Rolled back at the end: to commit each step would take a hundred times as long.
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.pks = [submitted(KIM, LEE).pk for _ in range(2)]
        self.workers: list[Worker] = []
        #: Mails with a final dot whose outcome is not recorded, including those of dead workers.
        self.unrecorded: list[Mail] = []
        self.versions = dict.fromkeys(self.pks, 0)
        self.final: set[str] = set()
        self.reopened: set[str] = set()
        self.accepted: dict[str, set[str]] = {pk: set() for pk in self.pks}
        #: Number of remaining steps in which no delivery finishes. Otherwise most steps would concern finished
        #: deliveries.
        self.calm = 0

    @initialize(calm=st.integers(min_value=0, max_value=STEPS))
    def be_calm_at_first(self, calm: int) -> None:
        self.calm = calm

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    def row(self, pk: str) -> Delivery:
        return Delivery.objects.get(pk=pk)

    def doubts(self, pk: str) -> int:
        return DeliveryAttempt.objects.filter(delivery=pk, outcome=Status.IN_DOUBT).count()

    # -- a worker's steps -------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.workers) < 4)
    @rule(limit=st.integers(min_value=1, max_value=2), permitted=st.sampled_from([None, 1]), is_due=st.booleans())
    def claim(self, limit: int, permitted: int | None, is_due: bool) -> None:
        if is_due:
            Delivery.objects.filter(next_at__isnull=False).update(next_at=ago(1))
        batch = claims.claim(limit=limit, permitted=permitted)
        if batch is None:
            assert not Delivery.objects.filter(next_at__lt=ago(0), batch="").exists()
            return
        assert len(batch.deliveries) <= limit
        for one in batch.deliveries:
            assert one.status not in (*FINAL, Status.IN_DOUBT)
            assert (one.batch, one.version) == (batch.id, self.row(one.pk).version)
        mails = [
            Mail(delivery=one, place=place, recipients=rows.pending(one)) for place, one in enumerate(batch.deliveries)
        ]
        self.workers.append(Worker(batch=batch, mails=mails))

    @precondition(lambda self: self.workers)
    @rule(number=NUMBERS, which=NUMBERS, fate=FATES, reply=REPLIES)
    def go_on(self, number: int, which: int, fate: str, reply: tuple[int | None, bool]) -> None:
        """Do the next step of one mail of one worker: to the final dot, to another outcome, or to the reply.

        This is a single rule because Hypothesis omits some rules in each run, and each step needs the previous ones.
        """
        worker = self.workers[number % len(self.workers)]
        mails = [one for one in worker.mails if one.step != "to record"]
        if not mails:
            return
        mail = mails[which % len(mails)]
        if mail.step == "sent":
            self.hear(mail, *reply)
        elif fate != "dot" or mail.delivery.cancel_requested:
            self.come_to_no_dot(mail, fate)
        elif mail.place < worker.batch.permitted and not worker.is_late:
            self.send_the_final_dot(mail)

    def come_to_no_dot(self, mail: Mail, fate: str) -> None:
        delivery = mail.delivery
        if fate == "breaker":
            breaker_open = BreakerOpen(RELAY, 535, "login", "the login is wrong")
            mail.change = records.Untried(
                delivery=delivery, step=lambda one: transitions.waiting_for_relay(one, breaker_open, wait=900)
            )
        elif fate == "relay":
            later = Deferred(cause=Cause.PUT_OFF, code=450, reason="later", relay_at_fault=True)
            mail.change = claims.ended(delivery, later)
        elif fate == "expired" and not self.calm:
            mail.change = records.Untried(
                delivery=delivery, step=lambda one: transitions.ending(one, Status.EXPIRED, Cause.EXPIRED)
            )
        else:
            mail.change = records.Untried(delivery=delivery, step=transitions.giving_back)
        mail.step = "to record"

    def send_the_final_dot(self, mail: Mail) -> None:
        mail.doubts = self.doubts(mail.delivery.pk)
        for other in self.unrecorded:
            if other.delivery.pk == mail.delivery.pk:
                assert mail.doubts > other.doubts, (
                    "a second final dot was sent without a record of doubt about the first"
                )
        mail.step = "sent"
        self.unrecorded.append(mail)

    def hear(self, mail: Mail, code: int | None, for_all: bool) -> None:
        """Receive this reply; None means no reply."""
        for_all = for_all and not self.calm
        if self.calm and (code == 550 or (code == 250 and len(mail.recipients) == 1)):
            code = 450
        outcome: Outcome
        if code == 250:
            taken = mail.recipients if for_all else mail.recipients[:1]
            refused = {one: LATER for one in mail.recipients if one not in taken}
            outcome = Accepted(code=250, accepted=taken, refused=refused)
        elif code == 450:
            outcome = Deferred(cause=Cause.PUT_OFF, code=450, reason="later")
        elif code == 550:
            outcome = Failed(cause=Cause.REFUSED, code=550, reason="never")
        else:
            outcome = InDoubt(cause=Cause.IN_DOUBT, reason="lost after the final dot")
        mail.change = claims.ended(mail.delivery, outcome, wait=60 if for_all else 0)
        mail.step = "to record"

    @precondition(lambda self: any(one.step == "to record" for worker in self.workers for one in worker.mails))
    @rule(number=NUMBERS, how=st.sampled_from(["once", "once", "answer lost", "together"]))
    def record(self, number: int, how: str) -> None:
        """Record one mail, or all mails of the worker, however late."""
        ready = [one for one in self.workers if any(mail.step == "to record" for mail in one.mails)]
        worker = ready[number % len(ready)]
        mails = [mail for mail in worker.mails if mail.step == "to record"]
        mails = mails if how == "together" else mails[:1]
        before = {mail.delivery.pk: self.row(mail.delivery.pk) for mail in mails}
        changes = [mail.change for mail in mails if mail.change is not None]
        if how == "answer lost":
            self.lose_the_answer(worker, changes)
        permits = len(worker.batch.deliveries)
        done = batches.record(worker.batch, changes, permitted=permits)
        for mail, made in zip(mails, done.made, strict=True):
            self.was_recorded(mail, made, before[mail.delivery.pk], answer_was_lost=how == "answer lost")
        worker.mails = [mail for mail in worker.mails if mail not in mails]
        if not done.owned:
            # The worker no longer owns its unsent mails. Its sent mails still get their replies.
            worker.is_late = True
            worker.mails = [mail for mail in worker.mails if mail in self.unrecorded]
        if not worker.mails:
            self.workers.remove(worker)

    def lose_the_answer(self, worker: Worker, changes: Sequence[records.Change]) -> None:
        """Commit the record without the worker's knowledge."""
        known = [dict(change.delivery.__dict__) for change in changes]
        recording.record_changes(
            changes, batch=worker.batch.id, closes=worker.batch.open <= {one.delivery.pk for one in changes}
        )
        for change, before in zip(changes, known, strict=True):
            change.delivery.__dict__.clear()
            change.delivery.__dict__.update(before)

    def was_recorded(self, mail: Mail, made: bool, before: Delivery, *, answer_was_lost: bool) -> None:
        after = self.row(mail.delivery.pk)
        if made:
            assert mail.delivery.version == after.version
            assert mail.delivery.recipients == after.recipients
        elif not answer_was_lost:
            assert (before.status, before.version, before.recipients) == (after.status, after.version, after.recipients)
        if mail in self.unrecorded and (made or answer_was_lost):
            self.unrecorded.remove(mail)
        outcome = mail.change.outcome if isinstance(mail.change, records.Ended) else None
        if isinstance(outcome, Accepted):
            status_of = {item["address"]: item["status"] for item in after.recipients}
            assert {status_of[address] for address in outcome.accepted} == {"accepted"}
            assert "pending" in status_of.values() or after.status == Status.ACCEPTED

    @precondition(lambda self: len(self.workers) > 1)
    @rule(number=NUMBERS)
    def crash(self, number: int) -> None:
        self.workers.pop(number % len(self.workers))

    # -- steps of others --------------------------------------------------------------------------------------------

    @rule(knows=st.booleans())
    def recover(self, knows: bool) -> None:
        """Take over expired batches. Permitted mails become in doubt; if a journal ``knows``, only those whose dot was
        sent.
        """
        for row in batches.expired():
            batches.suspect(row.pk)
            DeliveryBatch.objects.filter(pk=row.pk, suspected_at__isnull=False).update(suspected_at=ago(11))
        for row in batches.expired(suspected_for=10.0):
            sent = {mail.delivery.pk for mail in self.unrecorded if mail.delivery.batch == row.pk}

            def decide(row: DeliveryBatch, deliveries: list[Delivery], sent: set[str] = sent) -> list[records.Change]:
                places = {pk: place for place, (pk, _version) in enumerate(row.items)}
                doubtful = [
                    one for one in deliveries if places[one.pk] < row.permitted and (not knows or one.pk in sent)
                ]
                return [batches.in_doubt(row, one) for one in doubtful]

            batches.take_over(row.pk, decide)
            assert not DeliveryBatch.objects.filter(pk=row.pk).exists()

    @precondition(lambda self: self.workers)
    @rule(number=NUMBERS)
    def the_lease_runs_out(self, number: int) -> None:
        """Let the lease expire: the worker is dead, or slow and continues later."""
        worker = self.workers[number % len(self.workers)]
        DeliveryBatch.objects.filter(pk=worker.batch.id).update(lease_until=ago(1))
        worker.is_late = True

    @rule()
    def leases_of_the_dead_run_out(self) -> None:
        alive = [worker.batch.id for worker in self.workers]
        DeliveryBatch.objects.exclude(pk__in=alive).update(lease_until=ago(1))

    @rule()
    def wake(self) -> None:
        retry_now.wake()

    @precondition(lambda self: not self.calm)
    @rule(
        which=NUMBERS,
        how=st.sampled_from([manual.cancel, manual.discard, manual.send_now, manual.send_now, manual.release]),
    )
    def a_person_decides(self, which: int, how: Any) -> None:
        pk = self.pks[which % len(self.pks)]
        before = self.row(pk)
        try:
            done = how(pk)
        except ContentUnavailable:
            return
        if done and how in (manual.send_now, manual.release):
            assert before.status in manual.CAN_BE_SENT
            assert not before.batch
            self.reopened.add(pk)
        if done and how is manual.cancel:
            after = self.row(pk)
            assert after.status in FINAL or (after.batch and after.cancel_requested)

    # -- invariants -------------------------------------------------------------------------------------------------

    @invariant()
    def the_promises(self) -> None:
        self.calm = max(self.calm - 1, 0)
        batch_rows = {row.pk: row for row in DeliveryBatch.objects.all()}
        claimed = set()
        for pk in self.pks:
            row = self.row(pk)
            is_final = row.status in FINAL
            assert row.version >= self.versions[pk]
            assert is_final or pk not in self.final or pk in self.reopened, "a finished delivery is unfinished again"
            # It can be claimed again, unless it is finished or needs a person's decision.
            assert (row.next_at is None) == (is_final or row.status == Status.IN_DOUBT)
            assert is_final == (row.finished_at is not None)
            assert not (is_final and rows.pending(row))
            assert not (is_final and row.batch)
            # A claimed mail is listed in a batch row. Without it, the mail would never be taken over.
            assert not row.batch or pk in [known for known, _version in batch_rows[row.batch].items]
            assert not row.cancel_requested or row.batch, "a request to cancel was ignored"
            claimed.add(row.batch)
            accepted = {item["address"] for item in row.recipients if item["status"] == "accepted"}
            assert accepted >= self.accepted[pk], "an accepted recipient is no longer accepted"
            self.versions[pk], self.accepted[pk] = row.version, accepted
            (self.final.add if is_final else self.final.discard)(pk)
        self.reopened.clear()
        assert set(batch_rows) == claimed - {""}, "a batch without a claimed mail has a row"


@pytest.mark.parametrize("policy", ["resend", "hold"])
def test_in_whatever_order_the_promises_hold(task_queue: RecordingTaskQueue, settings: Any, policy: str) -> None:
    """No second final dot without a record of doubt. No acceptance is lost, no delivery is stuck, and no finished one
    becomes unfinished.
    """
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "IN_DOUBT": policy}
    examples = EXAMPLES if connection.vendor == "sqlite" else EXAMPLES // 3
    run_state_machine_as_test(
        Ledger, settings=hypothesis_settings(max_examples=examples, stateful_step_count=STEPS, deadline=None)
    )


@pytest.mark.extra
@pytest.mark.timeout(900)
def test_the_promises_hold_for_longer(task_queue: RecordingTaskQueue) -> None:
    """The same with many more orders."""
    run_state_machine_as_test(
        Ledger, settings=hypothesis_settings(max_examples=5 * EXAMPLES, stateful_step_count=STEPS, deadline=None)
    )
