"""A crew and its sessions: with no faults, with a fault at one mail, or with a fault of a shared resource."""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import pytest
from django.db import DataError, OperationalError, transaction

from config.local.processes import PATIENCE
from email_integration import conf, routing
from email_integration.ledger import batches, claiming, recording
from email_integration.ledger.queues import queue_of
from email_integration.ledger.records import Change, Ended
from email_integration.message import content
from email_integration.models import (
    CircuitBreaker,
    Delivery,
    DeliveryAttempt,
    DeliveryBatch,
    SendingPause,
    ServerQuirks,
    SMTPConfig,
)
from email_integration.models.server import PipeliningChoice
from email_integration.sending import crew, dispatcher, in_hand, own_journal, points
from email_integration.sending.journal import SlotState
from email_integration.smtp import ConnectionLost, Phase, Relay, Session
from email_integration.smtpd import Fault, Message, SMTPServer
from email_integration.timezones import as_stored
from tests.claims import claimed
from tests.deliveries import (
    Clock,
    RecordingTaskQueue,
    ago,
    due_again,
    in_threads,
    pretend,
    send_due,
    statuses,
    submitted,
)
from tests.relays import config_for, patient_but, wait_longest

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

#: Number of mails in a batch of these tests, and the index of the faulty mail.
GROUP = 6
ILL = 2

#: Number of sessions in the tests with several.
SESSIONS = 4


@pytest.fixture(autouse=True)
def _one_batch(task_queue: RecordingTaskQueue, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All due mail is claimed together, and sent over one session unless a test says otherwise."""
    change(settings, RETRY_FIRST=60.0, BREAKER_PROBE_FIRST=60.0, SESSIONS=1)
    wait_longest(monkeypatch)
    monkeypatch.setattr(dispatcher._pace, "claims", lambda sessions: 100)


@pytest.fixture
def server(smtp_server: Serve) -> SMTPServer:
    server = smtp_server(security="plain", user=None)
    config_for(server)
    return server


def together(number: int = GROUP, **how: Any) -> list[str]:
    with transaction.atomic():
        return [submitted(address(place), **how).pk for place in range(number)]


def address(place: int) -> str:
    return f"u{place}@example.com"


def send_all() -> list[str]:
    """Send the due mail. Return the resulting statuses, without those of mail that was given back."""
    return sorted(status for status in send_due().elements() if status != "queued")


def stand(ids: Iterable[str]) -> list[str]:
    """Return the statuses of these mails in the database."""
    found = dict(Delivery.objects.values_list("pk", "status"))
    return [found[pk] for pk in ids]


def times_taken(server: SMTPServer) -> Counter[str]:
    return Counter(recipient for message in server.messages for recipient in message.rcpt_tos)


def each_once(server: SMTPServer, places: Iterable[int] = range(GROUP)) -> bool:
    return times_taken(server) == {address(place): 1 for place in places}


def well(server: SMTPServer, ids: list[str]) -> bool:
    """Return whether all mails except the faulty one were sent once and are recorded as accepted."""
    others = [place for place in range(len(ids)) if place != ILL]
    taken, known = times_taken(server), stand(ids)
    return all(taken[address(place)] == 1 and known[place] == "accepted" for place in others)


def change(settings: Any, **values: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **values}


# -- no faults ------------------------------------------------------------------------------------------------------


def test_all_go_over_one_session(server: SMTPServer) -> None:
    """Each mail needs one MAIL, one RCPT and one DATA."""
    together()
    assert send_all() == ["accepted"] * GROUP
    assert each_once(server)
    [session] = server.sessions
    assert [verb for verb in session.verbs if verb not in ("EHLO", "QUIT")] == [
        "MAIL",
        "RCPT",
        "DATA",
        "CONTENT",
    ] * GROUP
    assert set(DeliveryAttempt.objects.values_list("outcome", "number")) == {("accepted", 1)}
    assert not Delivery.objects.exclude(batch="", next_at=None).exists()
    assert not DeliveryBatch.objects.exists()


@pytest.mark.parametrize("sessions", [2, 4])
def test_all_go_over_so_many_sessions(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch, sessions: int
) -> None:
    """They use all sessions at once: none continues until every session has reached its final dot."""
    change(settings, SESSIONS=sessions)
    meeting = threading.Barrier(sessions)
    together(3 * sessions)
    monkeypatch.setattr(points, "hook", lambda point, *ids: point == "dot noted" and meeting.wait(PATIENCE))
    assert send_all() == ["accepted"] * 3 * sessions
    assert each_once(server, range(3 * sessions))
    assert len(server.sessions) == sessions


@pytest.mark.parametrize(
    ("times", "accepted", "opened", "attempts", "learned"),
    [
        pytest.param(SESSIONS, 2 * SESSIONS, 2 * SESSIONS, 0, [1], id="in each session"),
        pytest.param(None, SESSIONS, SESSIONS + 1, 1, [], id="in one session"),
    ],
)
def test_one_session_at_a_time_finds_out_whose_limit_it_is(
    server: SMTPServer,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    times: int | None,
    accepted: int,
    opened: int,
    attempts: int,
    learned: list[int],
) -> None:
    """Every session has sent one mail, and all are refused the next one together. A server may also count refused
    commands.

    The limit of one mail per session is learned only if the server accepts the refused mail over fresh sessions.
    """
    change(settings, SESSIONS=SESSIONS)
    SMTPConfig.objects.update(pipelining=PipeliningChoice.OFF)  # so no mail is begun before all dots are answered
    meeting = {
        "dot noted": threading.Barrier(SESSIONS),
        "before MAIL": threading.Barrier(
            SESSIONS,
            lambda: server.inject(Fault(verb="MAIL", reply="451 4.7.1 Rate limit exceeded, try later", times=times)),
        ),
    }
    met: Counter[tuple[str, str]] = Counter()
    ids = together(2 * SESSIONS)

    def meet(point: str, *ids_: str) -> None:
        met[point, ids_[0]] += 1
        first = point == "dot noted" and ids_[0] in ids[:SESSIONS]
        second = point == "before MAIL" and ids_[0] in ids[SESSIONS:] and met[point, ids_[0]] == 1
        if first or second:
            meeting[point].wait(PATIENCE)

    monkeypatch.setattr(points, "hook", meet)
    send_due()
    assert sorted(stand(ids)) == ["accepted"] * accepted + ["deferred"] * (2 * SESSIONS - accepted)
    assert len(server.sessions) == opened
    assert sum(session.transactions for session in server.sessions) == SESSIONS + opened
    assert DeliveryAttempt.objects.exclude(outcome="accepted").count() == attempts
    assert CircuitBreaker.objects.count() == attempts
    assert list(ServerQuirks.objects.values_list("mails", flat=True)) == learned
    found = routing.active_relay()
    assert isinstance(found, Relay)
    assert crew.pool.most(found) == (SESSIONS // 2 if attempts else SESSIONS)


def noting_records(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Collect the delivery ids of each record, in order."""
    records: list[list[str]] = []
    record = batches.record

    def recording_(batch: Any, changes: Sequence[Change], **how: Any) -> Any:
        records.append([change.delivery.pk for change in changes])
        return record(batch, changes, **how)

    monkeypatch.setattr(batches, "record", recording_)
    return records


def test_what_ends_together_is_one_record(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "RECORD_WITHIN", PATIENCE)
    ids, records = together(), noting_records(monkeypatch)
    assert send_all() == ["accepted"] * GROUP
    assert [sorted(one) for one in records] == [sorted(ids)]


@pytest.mark.parametrize("window", [1, 3, 100])
def test_without_a_journal_no_more_than_the_window_is_unrecorded(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """The window bounds the number of mails that a crash can leave in doubt."""
    change(settings, IN_DOUBT_WINDOW=window)
    monkeypatch.setattr(own_journal, "opened", lambda: None)
    monkeypatch.setattr(crew, "RECORD_WITHIN", PATIENCE)
    unrecorded: list[int] = []

    def take(message: Message) -> None:
        [recorded] = in_threads(DeliveryAttempt.objects.count)
        unrecorded.append(len(unrecorded) + 1 - recorded)

    together()
    server.on_message = take
    assert send_all() == ["accepted"] * GROUP
    assert max(unrecorded) <= window
    assert window < GROUP or max(unrecorded) == GROUP


def test_a_server_without_pipelining_hears_one_command_at_a_time(smtp_server: Serve) -> None:
    server = smtp_server(security="plain", user=None, pipelining=False)
    config_for(server)
    together()
    assert send_all() == ["accepted"] * GROUP
    assert each_once(server)
    assert len(server.sessions) == 1


def test_what_leaves_the_sender_open_goes_from_the_relay(server: SMTPServer) -> None:
    together(3)
    submitted(address(3), from_email="own@example.com")
    together(2)
    send_all()
    senders = [message.mail_from for message in server.messages]
    assert senders == ["noreply@example.com"] * 3 + ["own@example.com"] + ["noreply@example.com"] * 2
    assert len(server.sessions) == 1


def test_a_session_carries_no_more_than_it_may(server: SMTPServer, settings: Any) -> None:
    change(settings, SESSION_MAX_TRANSACTIONS=4)
    together(10)
    assert send_all() == ["accepted"] * 10
    assert [session.transactions for session in server.sessions] == [4, 4, 2]
    assert each_once(server, range(10))


@pytest.mark.parametrize("limits", [{"SESSION_MAX_IDLE": 0.0}, {"SESSION_MAX_TRANSACTIONS": 1}])
def test_sessions_that_carry_one_mail_each_carry_all(server: SMTPServer, settings: Any, limits: dict[str, Any]) -> None:
    change(settings, **limits)
    together()
    assert send_all() == ["accepted"] * GROUP
    assert [session.transactions for session in server.sessions] == [1] * GROUP


@pytest.mark.parametrize("size", [60, 200_000])
def test_contents_of_any_size_arrive_whole(server: SMTPServer, size: int) -> None:
    line = "a line of text\n"
    ids = together(3, body=line * (size // len(line)))
    wanted = [content.read(Delivery.objects.get(pk=pk)) for pk in ids]
    send_all()
    for bare, message in zip(wanted, server.messages, strict=True):
        assert message.content.splitlines()[-3:] == bare.splitlines()[-3:]
        assert len(message.content.splitlines()) == len(bare.splitlines()) + 1  # the sender header


# -- one faulty mail ------------------------------------------------------------------------------------------------


def fault_for_the_ill(ids: list[str], verb: Any, **what: Any) -> list[Fault]:
    """Return the faults that affect the faulty mail alone, once. DATA names no address, so there the mail's turn
    decides.
    """
    pretend(Delivery.objects.get(pk=ids[ILL]), from_header="ill@example.com", sender="ill@example.com", from_at=None)
    if verb == "DATA":
        return [Fault(verb="DATA", times=ILL), Fault(verb="DATA", times=1, **what)]
    match = "ill@example.com" if verb == "MAIL" else address(ILL)
    # MAIL that is refused over a session that has sent mail is repeated once. After a temporary refusal, a fresh
    # session is used. After a permanent one, MAIL is sent without a preceding final dot in the same write, as the
    # refusal may have concerned the dot.
    times = 2 if verb == "MAIL" and what.get("reply", "421")[:3] != "421" else 1
    return [Fault(verb=verb, times=times, match=match, **what)]


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
@pytest.mark.parametrize(("reply", "status"), [("451 4.3.0 Not now", "deferred"), ("554 5.3.0 Never", "failed")])
def test_what_is_refused_amid_others_is_refused_alone(server: SMTPServer, verb: Any, reply: str, status: str) -> None:
    """A command with a temporary or permanent refusal is sent once, and the session continues.

    MAIL is sent once more, over a fresh session if the refusal was temporary.
    """
    ids = together(from_email="own@example.com")
    server.inject(*fault_for_the_ill(ids, verb, reply=reply))
    assert send_all() == sorted(["accepted"] * (GROUP - 1) + [status])
    assert well(server, ids)
    assert stand(ids)[ILL] == status
    assert len(server.sessions) == 1 + (verb == "MAIL" and status == "deferred")
    assert server.transactions == GROUP + (verb == "MAIL")


#: The ways in which a session can end at a verb.
ENDS: dict[str, dict[str, Any]] = {
    "421": {"reply": "421 4.3.2 Going away"},
    "drop": {"drop": True},
    "hang": {"hang": True},
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_a_session_that_ends_amid_others_delays_no_mail_and_leaves_no_doubt(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch, verb: Any, end: str
) -> None:
    """If the session ends before the final dot, all mails are sent over another session, each once, the faulty one
    included.
    """
    SMTPConfig.objects.update(timeout=1)
    patient_but(monkeypatch, verb)
    ids = together(from_email="own@example.com")
    server.inject(*fault_for_the_ill(ids, verb, **ENDS[end]))
    send_all()
    assert each_once(server)
    assert stand(ids) == ["accepted"] * GROUP
    assert not DeliveryAttempt.objects.filter(outcome="in_doubt").exists()
    assert not CircuitBreaker.objects.exists()


@pytest.mark.parametrize("sessions", [1, 3])
@pytest.mark.parametrize(
    ("what", "outcome", "copies"),
    [
        ({"reply": "421 4.3.2 Going away"}, "deferred", 0),
        ({"drop": True}, "in_doubt", 0),
        ({"hang": True}, "in_doubt", 0),
        ({"drop_after_accept": True}, "in_doubt", 1),
        ({"hang_after_accept": True}, "in_doubt", 1),
    ],
)
def test_a_session_that_ends_at_the_dot_leaves_at_most_that_one_in_doubt(
    server: SMTPServer, settings: Any, what: dict[str, Any], outcome: str, copies: int, sessions: int
) -> None:
    """The number of mails claimed with it does not matter: for each of them it is known whether its dot was sent."""
    change(settings, SESSIONS=sessions, REPLY_TIMEOUT=1.0)
    ids = together()
    server.inject(*fault_for_the_ill(ids, "DOT", **what))
    statuses = send_all()
    assert statuses == ["accepted"] * (GROUP - 1) + ["deferred"], "a mail was reported twice or not at all"
    assert well(server, ids)
    assert times_taken(server)[address(ILL)] == copies
    outcomes = DeliveryAttempt.objects.exclude(outcome="accepted").values_list("delivery", "outcome")
    assert [found for pk, found in outcomes if pk == ids[ILL]] == [outcome]
    assert "in_doubt" not in [found for pk, found in outcomes if pk != ids[ILL]]


def test_of_some_recipients_each_is_settled_on_its_own(server: SMTPServer) -> None:
    ids = together()
    ids.insert(ILL, submitted("kim@example.com", "lee@example.com", "may@example.com").pk)
    server.inject(Fault(verb="RCPT", match="lee@", reply="550 5.1.1 No such user"))
    server.inject(Fault(verb="RCPT", match="may@", reply="450 4.2.1 Later"))
    send_all()
    settled = statuses(Delivery.objects.get(pk=ids[ILL]))
    assert settled == {"kim@example.com": "accepted", "lee@example.com": "failed", "may@example.com": "pending"}
    assert times_taken(server) == {address(place): 1 for place in range(GROUP)} | {"kim@example.com": 1}
    assert len(server.sessions) == 1


def test_those_that_are_too_many_at_a_time_get_it_in_another_transaction(server: SMTPServer) -> None:
    ids = together()
    many = [f"m{number}@example.com" for number in range(5)]
    ids.insert(ILL, submitted(*many).pk)
    server.inject(Fault(verb="RCPT", match="m3@", times=1, reply="452 4.5.3 Too many recipients"))
    server.inject(Fault(verb="RCPT", match="m4@", times=1, reply="452 4.5.3 Too many recipients"))
    assert send_all() == ["accepted"] * (GROUP + 1) + ["deferred"], (
        "the mail with remaining recipients was not tried again at once"
    )
    assert times_taken(server) == Counter([*many, *map(address, range(GROUP))])


def test_more_recipients_than_go_out_at_once_are_said_when_it_is_their_turn(server: SMTPServer) -> None:
    ids = together()
    many = [f"m{number}@example.com" for number in range(150)]
    ids.insert(ILL, submitted(*many).pk)
    assert send_all() == ["accepted"] * (GROUP + 1)
    assert times_taken(server) == Counter([*many, *map(address, range(GROUP))])
    assert len(server.sessions) == 1


def test_a_mail_beyond_ascii_fails_alone_where_the_server_takes_none(smtp_server: Serve) -> None:
    server = smtp_server(security="plain", user=None, smtputf8=False)
    config_for(server)
    ids = together()
    ids.insert(ILL, submitted("jörg@example.com").pk)
    send_all()
    assert stand(ids) == ["accepted"] * ILL + ["failed"] + ["accepted"] * (GROUP - ILL)
    assert each_once(server)
    assert len(server.sessions) == 1


@pytest.mark.parametrize(
    "damage", [{"content": b"damaged"}, {"has_content": False}, {"content_file": "2026/01/01/gone", "content": b""}]
)
@pytest.mark.parametrize("sessions", [1, 3])
def test_an_unreadable_content_delays_no_other_mail(
    server: SMTPServer, settings: Any, damage: dict[str, Any], sessions: int
) -> None:
    change(settings, SESSIONS=sessions)
    ids = together()
    pretend(Delivery.objects.get(pk=ids[ILL]), **damage)
    send_all()
    assert well(server, ids)
    row = Delivery.objects.get(pk=ids[ILL])
    assert (row.status, "content" in row.reason) == ("deferred", True)
    assert len(server.sessions) <= sessions


def test_a_content_that_breaks_off_in_its_midst_is_not_sent(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, stored = together(), content.stored

    def broken(delivery: Delivery) -> content.Content:
        found = stored(delivery)

        def blocks() -> content.Blocks:
            yield from found.blocks()
            raise content.ContentUnavailable(content.DAMAGED)

        return found if delivery.pk != ids[ILL] else content.Content(size=found.size, eight_bit=False, blocks=blocks)

    monkeypatch.setattr(content, "stored", broken)
    send_all()
    assert well(server, ids)
    assert (Delivery.objects.get(pk=ids[ILL]).reason, times_taken(server)[address(ILL)]) == (content.DAMAGED, 0)


def as_claimed(monkeypatch: pytest.MonkeyPatch, pk: str, **values: Any) -> None:
    """Change the values that the claiming process sees in the row."""
    claim = claiming.claim

    def damaged(*args: Any, **how: Any) -> Any:
        found = claim(*args, **how)
        for delivery in found.deliveries:
            if delivery.pk == pk:
                delivery.__dict__.update(values)
        return found

    monkeypatch.setattr(claiming, "claim", damaged)


@pytest.mark.parametrize("sender", ["a@example.com>\r\nRSET", "a\ud800@example.com"])
def test_a_sender_that_cannot_be_said_is_no_doubt_about_the_mail_before(
    server: SMTPServer, sender: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = together(from_email="own@example.com")
    as_claimed(monkeypatch, ids[ILL], sender=sender)
    send_all()
    assert well(server, ids)
    assert not DeliveryAttempt.objects.filter(outcome="in_doubt").exists()
    assert times_taken(server)[address(ILL)] == 0


# -- concurrent changes ---------------------------------------------------------------------------------------------


def amid(server: SMTPServer, act: Callable[[], object], *, place: int = ILL) -> None:
    """Run ``act`` as another process would, after the server got a mail and before it has replied."""

    def when(message: Message) -> None:
        if address(place) in message.rcpt_tos:
            in_threads(act)

    server.on_message = when


def test_what_another_has_taken_over_is_left_to_it(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease ended while the server had one mail. That mail still counts as accepted."""
    clock = Clock()
    monkeypatch.setattr(in_hand, "time", clock)
    ids = together()

    def take_over() -> None:
        clock.ahead = conf.get("LEASE")
        with transaction.atomic():  # otherwise the process that lost it might claim first
            batches.take_over(DeliveryBatch.objects.get().pk, lambda row, deliveries: [])
            assert claimed(queue=queue_of("normal"), owner="another")

    amid(server, take_over)
    send_all()
    assert each_once(server, range(ILL + 1))
    rows = dict(Delivery.objects.exclude(status="accepted").values_list("pk", "batch"))
    assert set(rows) == set(ids[ILL + 1 :])
    assert set(rows.values()) == {DeliveryBatch.objects.get(owner="another").pk}


@pytest.mark.parametrize("sessions", [1, 3])
def test_after_a_switch_none_is_begun_over_the_old_server(
    server: SMTPServer, smtp_server: Serve, settings: Any, sessions: int
) -> None:
    """This concerns the mails that were claimed for the old server."""
    change(settings, SESSIONS=sessions)
    other = smtp_server(security="plain", user=None)
    together()

    def switch() -> None:
        config_for(other, name="Another")

    amid(server, switch)
    assert send_all() == ["accepted"] * GROUP
    taken, by_other = times_taken(server), times_taken(other)
    assert taken + by_other == {address(place): 1 for place in range(GROUP)}
    if sessions == 1:
        assert set(taken) == {address(place) for place in range(ILL + 1)}
    assert not DeliveryAttempt.objects.filter(outcome="in_doubt").exists()


@pytest.mark.parametrize("sessions", [1, 3])
def test_after_a_pause_none_is_begun(server: SMTPServer, settings: Any, sessions: int) -> None:
    change(settings, SESSIONS=sessions)
    ids = together()

    def pause() -> None:
        SendingPause.objects.create(reason="moving house")

    amid(server, pause)
    send_all()
    sent = len(server.messages)
    assert sent == ILL + 1 or (sent > ILL and sessions > 1)
    assert sorted(stand(ids)) == ["accepted"] * sent + ["deferred"] * (GROUP - sent)
    assert set(Delivery.objects.filter(status="deferred").values_list("reason", flat=True)) <= {
        "sending is paused: moving house"
    }
    assert set(times_taken(server).values()) == {1}


def test_what_expires_before_its_turn_is_not_sent(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = together()
    as_claimed(monkeypatch, ids[-1], expires_at=ago(1))
    send_all()
    assert stand(ids) == ["accepted"] * (GROUP - 1) + ["expired"]
    assert each_once(server, range(GROUP - 1))


# -- the database ---------------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, fails: Callable[[Sequence[Any]], Exception | None]) -> None:
    """Make each record fail for which ``error`` returns an exception, with that exception."""
    record_changes = recording.record_changes

    def failing_record(changes: Sequence[Change], **how: Any) -> Any:
        error = fails(changes)
        if error is not None:
            raise error
        return record_changes(changes, **how)

    monkeypatch.setattr(recording, "record_changes", failing_record)


@pytest.mark.parametrize("sessions", [1, 3])
def test_a_record_that_fails_once_delays_no_mail(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch, sessions: int
) -> None:
    """Mails that the server accepted are recorded again."""
    change(settings, SESSIONS=sessions)
    ids, errors = together(), [OperationalError("deadlock detected")]
    failing(monkeypatch, lambda changes: errors.pop() if changes and errors else None)
    assert send_all() == ["accepted"] * GROUP
    assert each_once(server)
    assert errors == []
    assert DeliveryAttempt.objects.count() == len(ids)


@pytest.mark.parametrize("error", [DataError("invalid input"), UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates")])
@pytest.mark.parametrize("sessions", [1, 3])
@pytest.mark.parametrize("what", ["its attempt", "anything"])
def test_a_mail_that_cannot_be_recorded_delays_no_other(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, sessions: int, what: str
) -> None:
    """The outcomes of all other mails are recorded. For this mail, only its status is recorded if that is possible.
    Otherwise its lease decides.
    """
    change(settings, SESSIONS=sessions)
    ids = together()

    def fails(changes: Sequence[Any]) -> Exception | None:
        mine = [one for one in changes if one.delivery.pk == ids[ILL]]
        return error if mine and (what == "anything" or isinstance(mine[0], Ended)) else None

    failing(monkeypatch, fails)
    send_all()
    assert each_once(server)
    assert well(server, ids)
    row = Delivery.objects.get(pk=ids[ILL])
    if what == "anything":
        assert row.batch == DeliveryBatch.objects.get().pk, "the mail was released before the end of its lease"
    else:
        assert (row.status, row.code, row.batch) == ("accepted", 250, "")


def test_what_is_recorded_of_one_survives_a_result_that_cannot_be_stored(
    server: SMTPServer, task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcomes of the other mails in the same commit survive as well."""
    ids = together()

    def result_rows(deliveries: Collection[Delivery]) -> Mapping[str, Sequence[Any]]:
        if ids[ILL] in {one.pk for one in deliveries}:
            raise ValueError("no result")
        return {}

    monkeypatch.setattr(task_queue, "result_rows", result_rows)
    assert send_all() == ["accepted"] * GROUP
    assert stand(ids) == ["accepted"] * GROUP
    assert each_once(server)
    assert DeliveryAttempt.objects.count() == GROUP


# -- faults that do not count against a mail -----------------------------------------------------------------------


@pytest.mark.parametrize("quarantine_after", [1, 2, 3])
def test_a_server_that_is_away_puts_nothing_in_quarantine(
    server: SMTPServer, settings: Any, quarantine_after: int
) -> None:
    """Such a failure does not end a process."""
    change(settings, QUARANTINE_AFTER=quarantine_after)
    ids = together()
    server.stop()
    for _ in range(quarantine_after + 1):
        send_all()
        due_again()
        CircuitBreaker.objects.update(probe_at=ago(1))
    assert stand(ids) == ["deferred"] * GROUP
    assert set(Delivery.objects.values_list("returned", flat=True)) == {0}


def test_a_database_that_fails_at_claims_quarantines_no_mail(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The dispatcher ends, and the next one continues."""
    together()

    def gone(*args: Any, **how: Any) -> Any:
        raise OperationalError("u1@example.com")

    with monkeypatch.context() as patch:
        patch.setattr(claiming, "claim", gone)
        assert send_all() == []
    assert "OperationalError" in caplog.text
    assert "u1@" not in caplog.text
    assert set(Delivery.objects.values_list("returned", "attempts", "status")) == {(0, 0, "queued")}
    assert send_all() == ["accepted"] * GROUP


# -- the circuit breaker --------------------------------------------------------------------------------------------


def test_while_the_breaker_is_open_a_crew_waits_without_a_connection(server: SMTPServer) -> None:
    ids = together()
    server.stop()
    send_all()
    server.start()
    due_again()
    before = len(server.sessions)
    send_all()
    assert set(stand(ids)) == {"deferred"}
    assert set(Delivery.objects.values_list("waits_for_relay", flat=True)) == {True}
    assert len(server.sessions) == before


def test_a_crew_that_cannot_log_in_tries_once_for_all(smtp_server: Serve) -> None:
    """The refusal counts as the attempt of one mail. The others wait for the relay without their own login."""
    server = smtp_server()
    config_for(server, password="s3cret")
    together()
    send_all()
    assert server.failed_auths == 1
    assert list(DeliveryAttempt.objects.values_list("outcome", "code", "phase")) == [("deferred", 535, "auth")]
    assert set(Delivery.objects.values_list("status", "code", "waits_for_relay")) == {("deferred", 535, True)}
    assert CircuitBreaker.objects.get().failures == 1


def test_a_crew_that_probes_in_vain_tries_once(smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server, password="s3cret")
    together()
    send_all()
    due_again()
    CircuitBreaker.objects.update(probe_at=ago(1))
    send_all()
    assert server.failed_auths == 2
    assert DeliveryAttempt.objects.count() == 2
    assert CircuitBreaker.objects.get().failures == 2


def test_a_crew_that_may_probe_resets_the_breaker_and_goes(server: SMTPServer) -> None:
    together()
    server.stop()
    send_all()
    server.start()
    due_again()
    CircuitBreaker.objects.update(probe_at=ago(1))
    assert send_all() == ["accepted"] * GROUP
    assert not CircuitBreaker.objects.exists()
    assert each_once(server)


def test_a_login_that_is_asked_for_amid_others_trips_the_breaker_and_burns_no_mail(server: SMTPServer) -> None:
    ids = together(20)
    server.inject(Fault(verb="MAIL", times=3), Fault(verb="MAIL", reply="530 5.7.0 Authentication required", times=2))
    send_all()
    assert stand(ids) == ["accepted"] * 3 + ["deferred"] * 17
    assert CircuitBreaker.objects.count() == 1
    assert server.transactions == 5, (
        "another mail was tried after the refused login, or the refused one was not tried twice"
    )


# -- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [{"verb": "MAIL"}, {"verb": "RCPT"}, {"verb": "DATA"}])
def test_what_is_known_is_recorded_before_a_slow_server_is_waited_for(server: SMTPServer, slow: dict[str, Any]) -> None:
    """Otherwise a crash would leave these mails in doubt without need."""
    ids = together()
    verb = slow["verb"]
    seen, done = threading.Event(), threading.Event()
    server.inject(Fault(verb=verb, times=ILL + 1), Fault(verb=verb, times=1, until=seen))

    def look() -> None:
        while not (done.wait(0.01) or seen.is_set()):
            if stand([ids[ILL]]) == ["accepted"] and not times_taken(server)[address(ILL + 1)]:
                seen.set()

    in_threads(lambda: (send_all(), done.set()), look)
    assert seen.is_set()
    assert each_once(server)


def test_a_late_yes_wins(server: SMTPServer) -> None:
    """This holds regardless of changes to the mail in the meantime."""
    ids = together()
    # Not due: otherwise it would be claimed again and sent once more.
    lapsed = {"status": "deferred", "version": 40, "batch": "", "reason": "in doubt", "next_at": ago(-600)}
    amid(server, lambda: Delivery.objects.filter(pk=ids[ILL]).update(**lapsed))
    send_all()
    assert stand(ids) == ["accepted"] * GROUP


def test_a_dot_that_did_not_go_leaves_the_sender_open(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal noted the coming dot and its recipients. Afterwards it says that the mail is in progress, not in
    doubt.
    """
    noted: list[SlotState] = []
    not_said = in_hand.InHand.not_said

    def note(hand: in_hand.InHand) -> None:
        not_said(hand)
        assert hand.slot is not None
        noted.append(hand.slot.state)

    def fail(session: Session, said_ahead: object) -> None:
        session._smtp.comes_to(Phase.CONTENT)
        raise ConnectionLost(Phase.CONTENT, "gone")

    monkeypatch.setattr(in_hand.InHand, "not_said", note)
    monkeypatch.setattr(Session, "_say_dot", fail)
    [pk] = together(1)
    send_all()
    assert noted == [SlotState.IN_HAND]
    row = Delivery.objects.get(pk=pk)
    assert (row.from_header, row.sender, row.cause) == ("", "", "connection_lost")


def test_a_mail_that_is_due_since_1970_is_sent(server: SMTPServer) -> None:
    """Some callers use this date for 'at once'."""
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    pretend(submitted(address(0)), due_at=as_stored(epoch))
    assert send_all() == ["accepted"]
    assert each_once(server, [0])
