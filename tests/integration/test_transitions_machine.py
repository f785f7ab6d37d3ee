"""Whatever workers, people, sweeps and crashes do to one delivery in whatever order, the promises hold.

Hypothesis plays several workers, each of which may stop for good, or for long, between any two of its steps, on the
real ledger and its database. Time passes in the database: what is due, leased or expired is moved into the past.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from django.db import transaction
from django.db.models import F
from django.utils import timezone
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
from email_integration.ledger import records, rows, transitions
from email_integration.models import FINAL, Delivery, DeliveryAttempt, Status
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted, Deferred, Failed, InDoubt, Outcome
from email_integration.queue import retry_now, sweeper
from email_integration.routing import gate
from email_integration.sending import attempt as attempting
from email_integration.smtp import Relay, Reply
from tests.deliveries import RecordingDoorbell, ago, submitted

pytestmark = pytest.mark.django_db

KIM, LEE = "kim@example.com", "lee@example.com"
RELAY = Relay(name="Primary", host="mail.example.com")
NO, LATER = Reply(code=550, enhanced="5.1.1", text="no"), Reply(code=450, enhanced="4.2.0", text="later")
#: Orders of events that are tried.
EXAMPLES = 60

#: Events in each.
STEPS = 40

NUMBERS = st.integers(min_value=0, max_value=3)
#: How an attempt goes on from where it can be tried: mostly to the claim.
FATES = st.sampled_from(["claim", "claim", "claim", "claim", "later", "relay", "gate", "never"])
#: To the final dot: the code, None for none, and whether it is for all who are left.
REPLIES = st.tuples(st.sampled_from([250, 250, 450, None, 550]), st.booleans())


@dataclass(kw_only=True)
class Worker:
    """One process at one attempt: what it believes of the delivery, and how far it has come."""

    delivery: Delivery
    recipients: tuple[str, ...]
    step: str = "prepared"
    outcome: Outcome | None = None
    #: How many doubts had been recorded when it sent the final dot.
    doubts: int = 0
    #: Its lease ran out before it sent the final dot.
    is_late: bool = False


class Ledger(RuleBasedStateMachine):
    """One delivery to two people, several workers, a sweep, and persons who decide."""

    def __init__(self) -> None:
        super().__init__()
        # Taken back at the end; to commit each step would take a hundred times as long.
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.pk = submitted(KIM, LEE).pk
        self.workers: list[Worker] = []
        #: Those who have sent a final dot of which nothing was recorded, dead ones among them.
        self.unrecorded: list[Worker] = []
        self.fence = 0
        self.was_final = self.is_reopened = False
        self.accepted: set[str] = set()
        #: For so many steps nothing ends it: else most of the story would be told of what is finished.
        self.calm = 0

    @initialize(calm=st.integers(min_value=0, max_value=STEPS))
    def be_calm_at_first(self, calm: int) -> None:
        self.calm = calm

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    def row(self) -> Delivery:
        return Delivery.objects.get(pk=self.pk)

    def doubts(self) -> int:
        return DeliveryAttempt.objects.filter(outcome=Status.IN_DOUBT).count()

    def at(self, step: str) -> list[Worker]:
        return [worker for worker in self.workers if worker.step == step]

    # -- what a worker does -----------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.workers) < 4)
    @rule(is_due=st.booleans())
    def begin(self, is_due: bool) -> None:
        """It is rung for: load the row, and bring it to where it can be tried."""
        if is_due:
            self.a_while_passes()
        delivery = rows.load(self.pk)
        assert delivery is not None
        skipped = attempting._prepare(delivery, timezone.now())
        if skipped is None and delivery.status not in FINAL:
            self.workers.append(Worker(delivery=delivery, recipients=rows.pending(delivery)))

    @precondition(lambda self: self.workers)
    @rule(number=NUMBERS, fate=FATES, reply=REPLIES, wait=st.sampled_from([0.0, 60.0]))
    def go_on(self, number: int, fate: str, reply: tuple[int | None, bool], wait: float) -> None:
        """One worker takes its next step: to an end or the claim, to the final dot, to the reply, to the record.

        One rule for them all: Hypothesis leaves out some rules in each story, and each step needs those before.
        """
        worker = self.workers.pop(number % len(self.workers))
        if worker.step == "prepared" and fate != "claim":
            self.come_to_an_end(worker, fate)
        elif worker.step == "prepared":
            self.claim(worker)
        elif worker.step == "claimed":
            self.send_the_final_dot(worker)
        elif worker.step == "sent":
            self.hear(worker, *reply)
        else:
            self.record(worker, wait)

    @precondition(lambda self: len(self.workers) > 1)
    @rule(number=NUMBERS)
    def crash(self, number: int) -> None:
        self.workers.pop(number % len(self.workers))

    def come_to_an_end(self, worker: Worker, fate: str) -> None:
        if fate == "gate":
            transitions.wait_for_relay(
                worker.delivery, gate.GateClosed(RELAY, 535, "login", "the login is wrong"), wait=900
            )
            return
        outcome: Outcome = Deferred(cause=Cause.PUT_OFF, code=450, reason="later", relay_at_fault=fate == "relay")
        if fate == "never" and not self.calm:
            outcome = Failed(cause=Cause.REFUSED, code=550, reason="no", refused=dict.fromkeys(worker.recipients, NO))
        transitions.record(worker.delivery, outcome, records.Try(route=RELAY, started_at=timezone.now(), wait=60))

    def claim(self, worker: Worker) -> None:
        if transitions.claim(worker.delivery, RELAY, from_header="a@example.com", sender="a@example.com"):
            worker.step = "claimed"
            self.workers.append(worker)

    def send_the_final_dot(self, worker: Worker) -> None:
        """At once after the claim: if that took too long, the dot is not sent."""
        if worker.is_late:
            return
        worker.doubts = self.doubts()
        for other in self.unrecorded:
            assert worker.doubts > other.doubts, "a second final dot, and no record of a doubt about the first"
        worker.step = "sent"
        self.workers.append(worker)
        self.unrecorded.append(worker)

    def hear(self, worker: Worker, code: int | None, for_all: bool) -> None:
        """The reply, or None."""
        for_all = for_all and not self.calm
        if self.calm and (code == 550 or (code == 250 and len(worker.recipients) == 1)):
            code = 450
        if code == 250:
            taken = worker.recipients if for_all else worker.recipients[:1]
            refused = {one: LATER for one in worker.recipients if one not in taken}
            worker.outcome = Accepted(code=250, accepted=taken, refused=refused)
        elif code == 450:
            worker.outcome = Deferred(cause=Cause.PUT_OFF, code=450, reason="later")
        elif code == 550:
            worker.outcome = Failed(cause=Cause.REFUSED, code=550, reason="never")
        else:
            worker.outcome = InDoubt(cause=Cause.IN_DOUBT, reason="lost after the final dot")
        worker.step = "heard"
        self.workers.append(worker)

    def record(self, worker: Worker, wait: float) -> None:
        """However late that is."""
        assert worker.outcome is not None
        before = self.row()
        moved = transitions.record(
            worker.delivery, worker.outcome, records.Try(route=RELAY, started_at=timezone.now(), wait=wait)
        )
        after = self.row()
        if moved:
            self.unrecorded.remove(worker)
            assert worker.delivery.fence == after.fence
            assert worker.delivery.recipients == after.recipients
        else:
            assert (before.status, before.fence, before.recipients) == (after.status, after.fence, after.recipients)
        if isinstance(worker.outcome, Accepted):
            standing = {item["address"]: item["status"] for item in after.recipients}
            assert {standing[address] for address in worker.outcome.accepted} == {"accepted"}
            assert "pending" in standing.values() or after.status == Status.ACCEPTED

    # -- what others do ---------------------------------------------------------------------------------------------

    @rule(what=st.sampled_from([sweeper.sweep, retry_now.wake]))
    def look_at_all(self, what: Any) -> None:
        what()

    @precondition(lambda self: not self.calm)
    @rule(how=st.sampled_from([manual.cancel, manual.discard, manual.send_now, manual.send_now, manual.release]))
    def a_person_decides(self, how: Any) -> None:
        before = self.row()
        try:
            done = how(self.pk)
        except ContentUnavailable:
            return
        self.is_reopened = done and how in (manual.send_now, manual.release)
        assert not self.is_reopened or before.status in manual.CAN_BE_SENT

    # -- time -------------------------------------------------------------------------------------------------------

    def a_while_passes(self) -> None:
        """What was put off is due, and is rung for."""
        Delivery.objects.filter(status__in=transitions.CLAIMABLE).update(due_at=ago(0), ring_after=ago(1))

    @precondition(lambda self: self.at("claimed") or self.unrecorded)
    @rule()
    def the_lease_runs_out(self) -> None:
        """Whoever has claimed it is dead, or slow and goes on later."""
        Delivery.objects.filter(status=Status.SENDING).update(lease_until=ago(1), ring_after=ago(1))
        for worker in self.at("claimed"):
            worker.is_late = True

    @precondition(lambda self: not self.calm)
    @rule(what=st.sampled_from([{"expires_at": ago(1)}, {"unfinished": F("unfinished") + 3}]))
    def it_waits_for_days_or_kills_its_workers(self, what: Any) -> None:
        Delivery.objects.update(**what)

    # -- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def the_promises(self) -> None:
        self.calm = max(self.calm - 1, 0)
        row = self.row()
        is_final = row.status in FINAL
        assert row.fence >= self.fence
        assert is_final or not self.was_final or self.is_reopened, "a finished delivery has become unfinished"
        # The sweep comes by again, unless nothing is left to do, or a person has to decide.
        assert (row.ring_after is None) == (is_final or row.status == Status.IN_DOUBT)
        assert is_final == (row.finished_at is not None)
        assert not (is_final and rows.pending(row))
        accepted = {item["address"] for item in row.recipients if item["status"] == "accepted"}
        assert accepted >= self.accepted, "who was accepted is so no more"
        self.fence, self.was_final, self.is_reopened, self.accepted = row.fence, is_final, False, accepted


@pytest.mark.parametrize("policy", ["resend", "hold"])
def test_in_whatever_order_the_promises_hold(bell: RecordingDoorbell, settings: Any, policy: str) -> None:
    """No second final dot without a record of doubt, nothing accepted forgotten, nothing stuck, nothing revived."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "IN_DOUBT": policy}
    run_state_machine_as_test(
        Ledger,
        settings=hypothesis_settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None),
    )


@pytest.mark.extra
@pytest.mark.timeout(900)
def test_the_promises_hold_for_longer(bell: RecordingDoorbell) -> None:
    """The same with many more orders."""
    run_state_machine_as_test(
        Ledger, settings=hypothesis_settings(max_examples=5 * EXAMPLES, stateful_step_count=STEPS, deadline=None)
    )
