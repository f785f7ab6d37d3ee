"""Mail that appears below a dispatcher's low-water mark is found within a second, even while the mark is in effect.

Only PostgreSQL starts its search at the mark, but these tests hold for every database.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import connection, transaction

from email_integration import submit_many
from email_integration.ledger import batches, low_water
from email_integration.ledger.low_water import DROPPED_AFTER, LowWaterMark
from email_integration.ledger.queues import queue_of
from email_integration.models import DatabaseTime, Delivery
from email_integration.queue import wakeups
from email_integration.sending import dispatcher
from email_integration.sending.crew import Crew
from email_integration.smtpd import SMTPServer
from tests.claims import claim, claimed, record
from tests.deliveries import RecordingTaskQueue, ago, in_threads, pretend, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

Serve = Callable[..., SMTPServer]


@pytest.fixture(autouse=True)
def _behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Current mail is above the mark, however slow this machine is. Mail from a minute ago is below it."""
    monkeypatch.setattr(low_water, "BEHIND", 30.0)


class Stay:
    """A dispatcher's claims, with a clock that the test controls."""

    def __init__(self) -> None:
        self.now = 0.0
        self.mark = LowWaterMark(clock=lambda: self.now)

    def takes(self, **how: Any) -> list[str]:
        """Claim and record the due mail. Return the ids."""
        batch = claim(mark=self.mark, **how)
        if batch is None:
            return []
        assert record(batch)
        return [one.pk for one in batch.deliveries]

    def after_a_second(self) -> None:
        self.now += DROPPED_AFTER


@pytest.fixture
def stay(task_queue: RecordingTaskQueue) -> Stay:
    """A dispatcher that has claimed all earlier mail, minutes after that mail was due."""
    stay = Stay()
    for seconds in (300, 200, 100):
        due(seconds)
    assert len(stay.takes()) == 3
    assert stay.takes() == []
    return stay


def due(seconds: float, priority: str = "normal", **changes: Any) -> str:
    """Submit a mail that has been due for this long, and return its id."""
    delivery = submitted(priority=priority)
    pretend(delivery, next_at=ago(seconds), due_at=ago(seconds), **changes)
    return delivery.pk


def test_a_mail_that_is_made_due_earlier_is_found_within_a_second(stay: Stay) -> None:
    """For example by a host whose clock is behind."""
    late = due(250)
    found = stay.takes()
    stay.after_a_second()
    assert [*found, *stay.takes()] == [late]


def test_a_mail_of_now_is_found_at_once(stay: Stay) -> None:
    for _ in range(3):
        pk = submitted().pk
        assert stay.takes() == [pk]


def test_a_more_urgent_mail_is_found_at_once(stay: Stay) -> None:
    """Each priority has its own mark, which is no higher than the mails that were seen of it."""
    first, urgent = due(0), due(0, "high")
    assert stay.takes() == [urgent, first]


def test_what_is_behind_a_full_claim_is_found_at_once(task_queue: RecordingTaskQueue) -> None:
    """The claim has reached neither the less urgent mail of the queue nor the end of its own priority."""
    stay = Stay()
    bulk = [due(500 - number, "bulk") for number in range(3)]
    normal = [due(300 - number) for number in range(5)]
    taken = [stay.takes(limit=2) for _ in range(5)]
    assert taken == [normal[:2], normal[2:4], [normal[4], bulk[0]], bulk[1:], []]


def test_what_a_claim_has_left_is_found_at_once(task_queue: RecordingTaskQueue) -> None:
    """A large mail is sent alone, and sorts before the mails that were claimed."""
    stay = Stay()
    first, large, last = due(300), due(200, content_size=1024 * 1024), due(100)
    assert [stay.takes() for _ in range(3)] == [[first, last], [large], []]


def test_what_is_given_back_is_found_within_a_second(stay: Stay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_water, "BEHIND", 0.0)
    pk = due(0)
    batch = claimed(mark=stay.mark)
    assert [one.pk for one in batch.deliveries] == [pk]
    later = due(0)
    assert [stay.takes(), stay.takes()] == [[later], []]
    batches.release(batch)
    found = stay.takes()
    stay.after_a_second()
    assert [*found, *stay.takes()] == [pk]


def test_what_is_put_off_is_found_when_it_is_due(stay: Stay) -> None:
    """A retry becomes due later, regardless of the mails claimed until then."""
    delivery = submitted()
    Delivery.objects.filter(pk=delivery.pk).update(next_at=DatabaseTime(ahead=3600))
    for _ in range(3):
        submitted()
        assert len(stay.takes()) == 1
    Delivery.objects.filter(pk=delivery.pk).update(next_at=DatabaseTime())
    assert stay.takes() == [delivery.pk]


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_what_is_committed_late_is_found(stay: Stay, seconds: float) -> None:
    """It is found at once after a short transaction, and within a second after a long one."""
    if connection.vendor == "sqlite":
        return  # one transaction writes at a time, so nothing is claimed in the meantime
    inserted, looked = threading.Event(), threading.Event()

    def insert() -> str:
        with transaction.atomic():
            pk = due(seconds) if seconds else submitted().pk
            inserted.set()
            assert looked.wait(60)
        return pk

    def look() -> list[str]:
        assert inserted.wait(60)
        other = submitted().pk
        found = stay.takes()
        looked.set()
        return [one for one in found if one != other]

    pk, found = in_threads(insert, look)
    assert found == []
    if seconds:
        found += stay.takes()
        stay.after_a_second()
    assert [*found, *stay.takes()] == [pk]


def test_what_was_locked_by_another_is_found_within_a_second(stay: Stay, monkeypatch: pytest.MonkeyPatch) -> None:
    if connection.vendor == "sqlite":
        return  # SQLite locks no rows
    monkeypatch.setattr(low_water, "BEHIND", 0.0)
    pk, later = due(0), due(0)
    locked, looked = threading.Event(), threading.Event()

    def lock() -> None:
        with transaction.atomic():
            Delivery.objects.select_for_update().get(pk=pk)
            locked.set()
            assert looked.wait(60)

    def look() -> list[str]:
        assert locked.wait(60)
        found = stay.takes()
        looked.set()
        return found

    _, found = in_threads(lock, look)
    assert found == [later]
    found = stay.takes()
    stay.after_a_second()
    assert [*found, *stay.takes()] == [pk]


def test_a_dispatcher_leaves_only_after_a_look_at_everything(
    smtp_server: Serve, task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mail is committed without a wake-up, once the dispatcher has begun to leave."""
    config_for(smtp_server(security="plain", user=None))
    due(300)
    late: list[str] = []
    usual = wakeups.Stay.ended

    def ended(stay: wakeups.Stay, look: Callable[[], bool]) -> bool:
        late.extend([] if late else [due(200)])
        return usual(stay, look)

    monkeypatch.setattr(wakeups.Stay, "ended", ended)
    monkeypatch.setattr(low_water, "DROPPED_AFTER", 3600.0)
    assert dispatcher.dispatch(queue_of("normal")) == {"accepted": 2}


def test_what_a_dispatcher_gives_back_is_claimed_at_once(
    task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example after a change of the configuration, which must apply to mail in progress."""
    monkeypatch.setattr(dispatcher._pace, "claims", lambda sessions: 10)  # without sessions, earlier sends decide
    given_back = due(300)
    stay = dispatcher._Dispatcher(queue_of("normal"))
    stay._mark = LowWaterMark(clock=lambda: 0.0)
    with Crew(sessions=0, journal=None) as crew:
        assert stay._claim(crew)
        [batch] = stay._batches.values()
        later = due(0)
        assert stay._claim(crew)
        crew.give_back(batch)
        stay._settle(crew, crew.done(within=5.0))
        assert stay._claim(crew)
    ids = [[one.pk for one in batch.deliveries] for batch in stay._batches.values()]
    assert ids == [[later], [given_back]]


def test_a_claim_does_not_walk_past_what_has_gone(
    task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are still in PostgreSQL's indexes while another transaction may see them."""
    if connection.vendor != "postgresql":
        return
    monkeypatch.setattr(low_water, "BEHIND", 0.0)
    seen, done = threading.Event(), threading.Event()

    def see() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            assert not Delivery.objects.exists()
            seen.set()
            assert done.wait(120)

    def send() -> list[int]:
        assert seen.wait(60)
        try:
            stay = Stay()
            submit_many(EmailMessage("S", "B", "a@example.com", ["kim@example.com"]) for _ in range(500))
            with connection.cursor() as cursor:  # what other tests have left says nothing of these
                cursor.execute(f"ANALYZE {Delivery._meta.db_table}")
            while stay.takes():
                pass
            pages = [pages_of(stay.takes) for _ in range(2)]
            stay.after_a_second()
            return [*pages, pages_of(stay.takes)]
        finally:
            done.set()

    _, (first, second, without) = in_threads(see, send)
    assert max(first, second) < 20 < 50 < without


def pages_of(act: Callable[[], object]) -> int:
    """Return the number of pages that the claim made by ``act`` reads."""
    plans: list[Any] = []

    def look(execute: Callable[..., Any], text: str, values: Any, many: bool, context: dict[str, Any]) -> Any:
        if "SKIP LOCKED" in text:
            execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", values, many, context)
            plans.append(context["cursor"].fetchone()[0])
        return execute(text, values, many, context)

    with connection.execute_wrapper(look):
        act()
    [plan] = plans
    top = (json.loads(plan) if isinstance(plan, str | bytes) else plan)[0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])
