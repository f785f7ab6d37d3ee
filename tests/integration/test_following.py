"""A mail that is begun in the same write as the final dot of the mail before it, and events between the two."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, transaction

from config.local.processes import PATIENCE
from email_integration import routing
from email_integration.delivery import manual
from email_integration.models import CircuitBreaker, Delivery, DeliveryAttempt, SMTPConfig
from email_integration.routing import resolver
from email_integration.sending import crew, dispatcher, guard, points
from email_integration.sending.in_hand import InHand
from email_integration.sending.journal import Journal, JournalUnavailable, Slot
from email_integration.sending.sessions import pool
from email_integration.smtp import Relay, Reply, Session
from email_integration.smtpd import Fault, SMTPServer
from tests.deliveries import RecordingTaskQueue, ago, in_threads, send_due, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _one_session(task_queue: RecordingTaskQueue, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All due mail is claimed together, and sent over one session unless a test says otherwise."""
    change(settings, RETRY_FIRST=60.0, BREAKER_PROBE_FIRST=60.0, SESSIONS=1)
    monkeypatch.setattr(dispatcher._pace, "claims", lambda sessions: 100)
    # A mail is begun ahead only if this has not passed meanwhile, which a busy machine may exceed.
    monkeypatch.setattr(guard, "ANSWER_HOLDS", PATIENCE)


@pytest.fixture
def server(smtp_server: Callable[..., SMTPServer]) -> SMTPServer:
    server = smtp_server(security="plain", user=None)
    config_for(server)
    return server


@pytest.fixture(autouse=True)
def _no_session_is_left(server: SMTPServer) -> Iterator[None]:
    """Require that every session was returned to the pool."""
    yield
    assert [ours.lent for ours in pool._sessions.values() if ours.lent] == []


def change(settings: Any, **values: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **values}


def together(number: int, **how: Any) -> list[str]:
    with transaction.atomic():
        return [submitted(f"u{place}@example.com", **how).pk for place in range(number)]


def stand(ids: list[str]) -> list[str]:
    found = dict(Delivery.objects.values_list("pk", "status"))
    return [found[pk] for pk in ids]


def received(server: SMTPServer) -> list[str]:
    """Return the recipients in the order in which they got mail."""
    return [recipient for message in server.messages for recipient in message.rcpt_tos]


def at(monkeypatch: pytest.MonkeyPatch, point: str, delivery: str, do: Callable[[], object]) -> None:
    """Call ``do`` when the delivery reaches the point for the first time."""
    left = [do]

    def hook(name: str, *ids: str) -> None:
        if name == point and delivery in ids and left:
            left.pop()()

    monkeypatch.setattr(points, "hook", hook)


def verbs(server: SMTPServer) -> list[list[str]]:
    return [session.verbs for session in server.sessions]


def test_a_mail_is_in_progress_before_the_dot_that_its_commands_are_sent_with(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is only noted as waiting, so a death of the process at this time does not count against it."""
    first, second = together(2)
    seen: list[str] = []
    monkeypatch.setattr(points, "hook", lambda name, *ids: seen.append(f"{name} {'AB'[ids[0] == second]}"))
    send_due()
    mine = [each for each in seen if each[:-2] in ("in hand", "before MAIL", "dot noted", "answered")]
    assert mine == [
        *("in hand A", "before MAIL A", "in hand B", "before MAIL B", "dot noted A", "answered A"),
        *("dot noted B", "answered B"),
    ]
    assert stand([first, second]) == ["accepted"] * 2


@pytest.mark.parametrize(
    ("column", "value", "status"), [("expires_at", "past", "expired"), ("cancel_requested", True, "cancelled")]
)
def test_it_is_not_gone_on_with_if_it_is_to_end_by_then(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch, column: str, value: Any, status: str
) -> None:
    """The session on which it was begun is closed. The next mail uses another session."""
    ids = together(3)
    turns: list[crew._Turn] = []
    take_along = crew.Crew.take_along

    def noting(self: crew.Crew, turn: crew._Turn) -> crew._Turn | None:
        taken = take_along(self, turn)
        turns.extend([taken] if taken else [])
        return taken

    monkeypatch.setattr(crew.Crew, "take_along", noting)

    def end_it() -> None:
        (turn,) = turns
        assert turn.work.delivery.pk == ids[1]
        setattr(turn.work.delivery, column, ago(1) if value == "past" else value)

    at(monkeypatch, "answered", ids[0], end_it)
    send_due()
    assert stand(ids) == ["accepted", status, "accepted"]
    assert received(server) == ["u0@example.com", "u2@example.com"]
    assert [one.count("CONTENT") for one in verbs(server)] == [1, 1]


def test_a_cancellation_that_a_record_brings_is_heeded(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cancelled while the mail before it waits for the reply to its dot and an earlier mail is recorded."""
    monkeypatch.setattr(crew, "MOST_RECORDED", 1)
    ids = together(3)
    asked, known, waited = threading.Event(), threading.Event(), []

    def hook(name: str, *given: str) -> None:
        if name == "before the record" and ids[0] in given:
            waited.append(asked.wait(PATIENCE))
        elif name == "dot noted" and ids[1] in given:
            manual.cancel(ids[2])
            asked.set()
        elif name == "recorded" and ids[0] in given:
            known.set()
        elif name == "answered" and ids[1] in given:
            waited.append(known.wait(PATIENCE))

    monkeypatch.setattr(points, "hook", hook)
    send_due()
    assert waited == [True, True]
    assert stand(ids) == ["accepted", "accepted", "cancelled"]
    assert received(server) == ["u0@example.com", "u1@example.com"]


def test_what_a_dot_was_refused_with_is_not_said_of_it(server: SMTPServer) -> None:
    server.inject(Fault(verb="DOT", reply="550 5.7.1 Spam", times=1))
    ids = together(3)
    send_due()
    assert stand(ids) == ["failed", "accepted", "accepted"]
    assert len(server.sessions) == 1


@pytest.mark.parametrize("how", [{"reply": "421 4.3.2 Going away"}, {"drop": True}, {"drop_after_accept": True}])
def test_after_the_end_of_its_session_it_goes_over_another_one_in_no_doubt(
    server: SMTPServer, how: dict[str, Any]
) -> None:
    server.inject(Fault(verb="DOT", times=1, **how))
    ids = together(3)
    send_due()
    assert stand(ids) == ["deferred", "accepted", "accepted"]
    assert DeliveryAttempt.objects.filter(outcome="in_doubt").count() == ("reply" not in how)
    assert received(server).count("u1@example.com") == 1


def test_a_server_that_is_found_at_fault_is_not_gone_on_with(server: SMTPServer) -> None:
    """The server's reply to the mail before it has tripped its breaker."""
    server.inject(Fault(verb="DOT", reply="451 4.7.1 Sending rate limit exceeded"))
    ids = together(8)
    send_due()
    assert CircuitBreaker.objects.count() == 1
    assert stand(ids) == ["deferred"] * 8
    assert received(server) == []
    assert sum(one.count("CONTENT") for one in verbs(server)) < 8
    assert all(one.count("MAIL") <= one.count("CONTENT") + 1 for one in verbs(server))


def test_one_that_kills_is_neither_begun_ahead_nor_followed(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = together(3)
    Delivery.objects.filter(pk=ids[1]).update(returned=2)
    in_hand: set[str] = set()
    beside: list[set[str]] = []

    def hook(name: str, *given: str) -> None:
        if name == "in hand":
            in_hand.add(given[0])
        elif name == "before the dot" and given[0] == ids[1]:
            beside.append(set(in_hand))
        elif name == "answer noted":
            in_hand.discard(given[0])

    monkeypatch.setattr(points, "hook", hook)
    while "queued" in stand(ids):
        send_due()
    assert beside == [{ids[1]}]
    assert stand(ids) == ["accepted"] * 3


def test_one_whose_content_is_in_a_storage_is_not_begun_ahead(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would wait for the storage with the final dot of another mail before it."""
    ids = together(2)
    Delivery.objects.filter(pk=ids[1]).update(content_file="away")
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(points, "hook", lambda name, *given: seen.append((name, given[0])))
    send_due()
    assert seen.index(("answered", ids[0])) < seen.index(("in hand", ids[1]))
    assert stand(ids) == ["accepted", "deferred"]


def test_one_that_cannot_be_read_keeps_no_dot_from_being_said(server: SMTPServer) -> None:
    ids = together(3)
    Delivery.objects.filter(pk=ids[1]).update(content=b"damaged")
    send_due()
    assert stand(ids) == ["accepted", "deferred", "accepted"]
    assert received(server) == ["u0@example.com", "u2@example.com"]
    assert len(server.sessions) == 1


def test_another_thread_that_has_nothing_to_do_takes_it_over_from_a_slow_one(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply to a final dot does not arrive until all others are sent."""
    change(settings, SESSIONS=2)
    monkeypatch.setattr(crew, "_WAITS_FOR_SESSION", 0.01)
    others_are_sent = threading.Event()
    server.inject(Fault(verb="DOT", match="u0@example.com", until=others_are_sent, times=1))
    ids = together(6)

    def look() -> None:
        while not others_are_sent.is_set():
            if {f"u{place}@example.com" for place in range(1, 6)} <= {*received(server)}:
                others_are_sent.set()
            others_are_sent.wait(0.01)

    monkeypatch.setattr(points, "hook", lambda *a: print(*a, flush=True))
    in_threads(send_due, look)
    assert stand(ids) == ["accepted"] * 6
    assert sorted(received(server)) == [f"u{place}@example.com" for place in range(6)]


def test_the_journal_has_one_slot_of_one_that_was_taken_over(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(settings, SESSIONS=2)
    monkeypatch.setattr(crew, "_WAITS_FOR_SESSION", 0.01)
    take, free = Journal.take, Slot.free
    held: dict[Slot, str] = {}

    def taking(self: Journal, delivery_id: str, *more: Any, **how: Any) -> Slot:
        slot = take(self, delivery_id, *more, **how)
        held[slot] = delivery_id
        return slot

    def freeing(self: Slot) -> None:
        free(self)
        del held[self]

    monkeypatch.setattr(Journal, "take", taking)
    monkeypatch.setattr(Slot, "free", freeing)
    others_are_sent = threading.Event()
    server.inject(Fault(verb="DOT", match="u0@example.com", until=others_are_sent))
    ids = together(6)
    slots: list[list[str]] = []

    def hook(name: str, *given: str) -> None:
        if name == "dot noted" and given[0] != ids[0]:
            slots.append([delivery for delivery in [*held.values()] if delivery])
            if len(slots) == 5:
                others_are_sent.set()

    monkeypatch.setattr(points, "hook", hook)
    send_due()
    assert all(len(each) == len(set(each)) for each in slots)
    assert not held
    assert stand(ids) == ["accepted"] * 6


def test_where_one_session_is_all_no_other_thread_takes_it_over(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not begin the mail either, and its session would be closed needlessly."""
    SMTPConfig.objects.update(max_connections=1)
    change(settings, SESSIONS=4)
    monkeypatch.setattr(crew, "_WAITS_FOR_SESSION", 0.0)
    server.inject(Fault(verb="DOT", delay=0.1))
    together(5)
    send_due()
    assert verbs(server) == [["EHLO", *["MAIL", "RCPT", "DATA", "CONTENT"] * 5]]


def test_a_server_that_is_to_have_fewer_sessions_has_fewer_at_once(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain of mails that follow each other ends to close its session."""
    change(settings, SESSIONS=4)
    ids = together(40)
    lock = threading.Lock()
    at_the_dot, answered, beside = set[str](), list[str](), list[int]()

    def hook(name: str, *given: str) -> None:
        with lock:
            if name == "dot noted":
                at_the_dot.add(given[0])
                if len(answered) > 20:
                    beside.append(len(at_the_dot))
            elif name == "answered":
                at_the_dot.discard(given[0])
                answered.append(given[0])
                if len(answered) == 10:
                    relay = routing.active_relay()
                    assert isinstance(relay, Relay)
                    pool.reduce(relay)
                    pool.reduce(relay)

    monkeypatch.setattr(points, "hook", hook)
    server.inject(Fault(verb="DOT", delay=0.01))
    send_due()
    assert stand(ids) == ["accepted"] * 40
    assert set(beside) == {1}


def test_after_the_end_of_its_dispatcher_it_is_not_sent(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its outcome would not be recorded."""
    together(6)
    waits, ended = threading.Event(), threading.Event()
    leave = crew.Crew.__exit__

    def hook(name: str, *given: str) -> None:
        if name == "dot noted":
            waits.set()
            assert ended.wait(PATIENCE)

    def fail(self: Any, *given: Any) -> None:
        assert waits.wait(PATIENCE)
        raise KeyError("The dispatcher ends.")

    def leaving(self: crew.Crew, *given: Any) -> None:
        threading.Timer(0.1, ended.set).start()
        leave(self, *given)

    monkeypatch.setattr(points, "hook", hook)
    monkeypatch.setattr(dispatcher._Dispatcher, "_settle", fail)
    monkeypatch.setattr(crew.Crew, "__exit__", leaving)
    with pytest.raises(KeyError):
        send_due()
    assert received(server) == ["u0@example.com"]


def test_what_keeps_it_from_being_begun_leaves_the_other_in_no_doubt(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database becomes unreachable during the query for the active relay."""
    ids = together(4)
    from_database = resolver._from_database
    fails = threading.Event()

    def asking() -> Any:
        if fails.is_set():
            fails.clear()
            raise OperationalError("server closed the connection unexpectedly")
        return from_database()

    def hook(name: str, *given: str) -> None:
        if name == "before MAIL" and ids[1] in given and not received(server):
            fails.set()
            routing.forget()

    monkeypatch.setattr(resolver, "_from_database", asking)
    monkeypatch.setattr(points, "hook", hook)
    send_due()
    assert stand(ids) == ["accepted"] * 4
    assert not DeliveryAttempt.objects.exclude(outcome="accepted").exists()


def test_one_that_waits_where_the_journal_has_failed_goes_back_with_its_batch(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was claimed with a journal: without a slot, a death of the process would leave no record of doubt."""
    ids = together(12)
    take, tried = Journal.take, list[str]()

    def taking(self: Journal, delivery_id: str, *more: Any, **how: Any) -> Slot:
        if delivery_id == ids[3]:
            tried.append(delivery_id)
            if len(tried) == 1:  # another thread has discovered it in the meantime
                (one,) = crews
                with one._lock:
                    one._journal = None
                    for batch in {work.batch.id: work.batch for work in one._todo}.values():
                        one._give_back(batch)
            raise JournalUnavailable("No space left on device")
        return take(self, delivery_id, *more, **how)

    crews: list[crew.Crew] = []
    enter, before_dot = crew.Crew.__enter__, InHand.before_dot
    with_slot, without_slot = set[str](), set[str]()

    def entering(self: crew.Crew) -> crew.Crew:
        crews.append(self)
        return enter(self)

    def noting(self: InHand, *given: Any) -> Any:
        (without_slot if self.slot is None else with_slot).add(self._batch.id)
        return before_dot(self, *given)

    monkeypatch.setattr(crew.Crew, "__enter__", entering)
    monkeypatch.setattr(Journal, "take", taking)
    monkeypatch.setattr(InHand, "before_dot", noting)
    send_due()
    assert stand(ids)[:3] == ["accepted"] * 3
    assert tried
    assert with_slot
    assert with_slot.isdisjoint(without_slot), "a batch with a journal sent a mail without a slot"
    assert received(server) == list(dict.fromkeys(received(server)))


def test_a_session_that_others_wait_for_is_given_back(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(pool), "is_awaited", lambda self, relay: True)
    finish, ahead = Session.finish, list[Any]()

    def finishing(self: Session, **how: Any) -> Reply:
        ahead.append(how["ahead"])
        return finish(self, **how)

    monkeypatch.setattr(Session, "finish", finishing)
    ids = together(3)
    send_due()
    assert (stand(ids), ahead) == (["accepted"] * 3, [None] * 3)


def test_an_answer_that_is_too_old_by_the_dot_is_not_used(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The renewal of the first mail's lease took too long."""
    finish, ahead = Session.finish, list[Any]()

    def finishing(self: Session, **how: Any) -> Reply:
        ahead.append(how["ahead"])
        return finish(self, **how)

    monkeypatch.setattr(Session, "finish", finishing)
    monkeypatch.setattr(guard, "ANSWER_HOLDS", -1.0)
    ids = together(3)
    send_due()
    assert ahead == [None] * 3
    assert stand(ids) == ["accepted"] * 3
    assert verbs(server) == [["EHLO", *["MAIL", "RCPT", "DATA", "CONTENT"] * 3]]


def test_how_long_it_waited_for_the_other_is_not_its_own_time(server: SMTPServer) -> None:
    server.inject(Fault(verb="DOT", delay=0.2))
    together(3)
    began = time.monotonic()
    send_due()
    whole = time.monotonic() - began
    assert sum(one.duration or whole for one in DeliveryAttempt.objects.all()) <= whole


def test_a_session_that_may_carry_no_more_begins_none(server: SMTPServer, settings: Any) -> None:
    change(settings, SESSION_MAX_TRANSACTIONS=2)
    together(5)
    send_due()
    assert [one.count("MAIL") for one in verbs(server)] == [2, 2, 1]


def test_the_sender_of_a_configuration_is_asked_for_when_it_is_begun(server: SMTPServer) -> None:
    """No command is repeated when there are no faults."""
    together(4)
    send_due()
    assert SMTPConfig.objects.count() == 1
    assert verbs(server) == [["EHLO", *["MAIL", "RCPT", "DATA", "CONTENT"] * 4]]
