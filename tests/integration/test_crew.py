"""A group over one session: all goes well, or something goes wrong with one of them, or with what they share."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from django.db import DataError, OperationalError, transaction
from email_integration.sending.group import attempt_group

from config.local.smtp_server import Fault, Message, SMTPServer
from email_integration import conf
from email_integration.delivery import manual
from email_integration.ledger import continuation, records, rows, sql, transitions
from email_integration.message import content
from email_integration.models import Delivery, DeliveryAttempt, RelayGate, SendingPause, SMTPConfig, Status
from email_integration.queue.sweeper import sweep
from email_integration.sending import group
from email_integration.tasks import deliver_group
from tests.deliveries import Clock, RecordingDoorbell, ago, in_threads, pretend, statuses, submitted
from tests.relays import config_for, patient_but

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

#: Mails in a group of these tests, and the place of the one that something happens to.
GROUP = 6
ILL = 2


@pytest.fixture(autouse=True)
def _bell(bell: RecordingDoorbell, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RETRY_FIRST": 60.0}


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


def attempt_all(ids: Iterable[str]) -> list[str]:
    """Try them as a group; the statuses it tells of."""
    return [str(delivery.status) for delivery in attempt_group(list(ids))]


def stand(ids: Iterable[str]) -> list[str]:
    """How they stand in the database."""
    found = dict(Delivery.objects.values_list("pk", "status"))
    return [found[pk] for pk in ids]


def times_taken(server: SMTPServer) -> Counter[str]:
    return Counter(recipient for message in server.messages for recipient in message.rcpt_tos)


def each_once(server: SMTPServer, places: Iterable[int] = range(GROUP)) -> bool:
    return times_taken(server) == {address(place): 1 for place in places}


def well(server: SMTPServer, ids: list[str]) -> bool:
    """Whether all but the ill one went once, and are known to."""
    others = [place for place in range(len(ids)) if place != ILL]
    taken, known = times_taken(server), stand(ids)
    return all(taken[address(place)] == 1 and known[place] == "accepted" for place in others)


def change(settings: Any, **values: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **values}


# -- all goes well --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together_claimed", [1, 3, 100])
def test_all_go_over_one_session(server: SMTPServer, settings: Any, together_claimed: int) -> None:
    """Each is said MAIL, RCPT and DATA once, whatever goes out together."""
    change(settings, GROUP_COMMIT=together_claimed)
    ids = together()
    assert attempt_all(ids) == ["accepted"] * GROUP
    assert each_once(server)
    [session] = server.sessions
    assert [verb for verb in session.verbs if verb not in ("EHLO", "QUIT")] == [
        "MAIL",
        "RCPT",
        "DATA",
        "CONTENT",
    ] * GROUP
    assert set(DeliveryAttempt.objects.values_list("outcome", "number")) == {("accepted", 1)}
    assert not Delivery.objects.exclude(lease_until=None, ring_after=None).exists()


def test_the_outcome_of_one_and_the_claim_of_the_next_are_one_commit(
    server: SMTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, made = together(), sql.make
    commits: list[list[str]] = []

    def making(moves: Any, **how: Any) -> list[bool]:
        commits.append([str(move.values["status"]) for move in moves])
        return made(moves, **how)

    monkeypatch.setattr(sql, "make", making)
    attempt_all(ids)
    assert commits == [["sending"], *[["accepted", "sending"]] * (GROUP - 1), ["accepted"]]


@pytest.mark.parametrize("together_claimed", [1, 3, 100])
def test_group_commit_claims_so_many_in_one_commit(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch, together_claimed: int
) -> None:
    """No more than so many are claimed at a time, which is what a crash can leave in doubt."""
    change(settings, GROUP_COMMIT=together_claimed)
    ids, made, claims = together(), sql.make, []

    def making(moves: Any, **how: Any) -> list[bool]:
        done = made(moves, **how)
        claims.append(Delivery.objects.filter(status="sending").count())
        return done

    monkeypatch.setattr(sql, "make", making)
    assert attempt_all(ids) == ["accepted"] * GROUP
    assert max(claims) == min(together_claimed, GROUP)


def test_a_server_without_pipelining_hears_one_command_at_a_time(smtp_server: Serve) -> None:
    server = smtp_server(security="plain", user=None, pipelining=False)
    config_for(server)
    ids = together()
    assert attempt_all(ids) == ["accepted"] * GROUP
    assert each_once(server)
    assert len(server.sessions) == 1


def test_what_leaves_the_sender_open_goes_from_the_relay(server: SMTPServer) -> None:
    ids = [*together(3), submitted(address(3), from_email="own@example.com").pk, *together(2)]
    attempt_all(ids)
    senders = [message.mail_from for message in server.messages]
    assert senders == ["noreply@example.com"] * 3 + ["own@example.com"] + ["noreply@example.com"] * 2
    assert len(server.sessions) == 1


def test_a_session_carries_no_more_than_it_may(server: SMTPServer, settings: Any) -> None:
    change(settings, SESSION_MAX_TRANSACTIONS=4)
    ids = together(10)
    assert attempt_all(ids) == ["accepted"] * 10
    assert [session.transactions for session in server.sessions] == [4, 4, 2]
    assert each_once(server, range(10))


@pytest.mark.parametrize("limits", [{"SESSION_MAX_IDLE": 0.0}, {"SESSION_MAX_TRANSACTIONS": 1}])
def test_sessions_that_carry_one_mail_each_carry_all(server: SMTPServer, settings: Any, limits: dict[str, Any]) -> None:
    change(settings, **limits)
    assert attempt_all(together()) == ["accepted"] * GROUP
    assert [session.transactions for session in server.sessions] == [1] * GROUP


@pytest.mark.parametrize("size", [60, 200_000])
def test_contents_of_any_size_arrive_whole(server: SMTPServer, size: int) -> None:
    line = "a line of text\n"
    ids = together(3, body=line * (size // len(line)))
    wanted = [content.read(Delivery.objects.get(pk=pk)) for pk in ids]
    attempt_all(ids)
    for bare, message in zip(wanted, server.messages, strict=True):
        assert message.content.splitlines()[-3:] == bare.splitlines()[-3:]
        assert len(message.content.splitlines()) == len(bare.splitlines()) + 1  # the sender's


# -- one of them is ill ---------------------------------------------------------------------------------------------


def fault_for_the_ill(ids: list[str], verb: Any, **what: Any) -> list[Fault]:
    """What happens to the ill one alone, once; at DATA, which names nobody, to the one whose turn it is."""
    pretend(Delivery.objects.get(pk=ids[ILL]), from_header="ill@example.com", sender="ill@example.com", from_at=None)
    if verb == "DATA":
        return [Fault(verb="DATA", times=ILL), Fault(verb="DATA", times=1, **what)]
    match = "ill@example.com" if verb == "MAIL" else address(ILL)
    # A refused MAIL is asked once more: it was said ahead, or over a session that has carried mail.
    times = 2 if verb == "MAIL" and what.get("reply", "421")[:3] != "421" else 1
    return [Fault(verb=verb, times=times, match=match, **what)]


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
@pytest.mark.parametrize(("reply", "status"), [("451 4.3.0 Not now", "deferred"), ("554 5.3.0 Never", "failed")])
def test_what_is_refused_amid_a_group_is_refused_alone(server: SMTPServer, verb: Any, reply: str, status: str) -> None:
    """For now or for good: it is said once, and the session goes on; MAIL, which was said ahead, is said once more,
    over a fresh session if it is for now.
    """
    ids = together(from_email="own@example.com")
    server.inject(*fault_for_the_ill(ids, verb, reply=reply))
    assert sorted(attempt_all(ids)) == sorted(["accepted"] * (GROUP - 1) + [status])
    assert well(server, ids)
    assert stand(ids)[ILL] == status
    assert len(server.sessions) == 1 + (verb == "MAIL" and status == "deferred")
    assert server.transactions == GROUP + (verb == "MAIL")


#: How a session can end at a verb.
ENDS: dict[str, dict[str, Any]] = {
    "421": {"reply": "421 4.3.2 Going away"},
    "drop": {"drop": True},
    "hang": {"hang": True},
}


@pytest.mark.parametrize("commit", [1, 3])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_a_session_that_ends_amid_a_group_delays_nobody_and_leaves_no_doubt(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch, verb: Any, end: str, commit: int
) -> None:
    """Before the final dot: over another session all are sent, each once, the ill one too."""
    change(settings, GROUP_COMMIT=commit)
    SMTPConfig.objects.update(timeout=1)
    patient_but(monkeypatch, verb)
    ids = together(from_email="own@example.com")
    server.inject(*fault_for_the_ill(ids, verb, **ENDS[end]))
    attempt_all(ids)
    assert each_once(server)
    assert stand(ids) == ["accepted"] * GROUP
    assert not DeliveryAttempt.objects.filter(outcome="in_doubt").exists()
    assert not RelayGate.objects.exists()


@pytest.mark.parametrize("commit", [1, 3, 100])
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
    server: SMTPServer, settings: Any, what: dict[str, Any], outcome: str, copies: int, commit: int
) -> None:
    """However many were claimed along with it: of those it is known that no dot of theirs was sent."""
    change(settings, GROUP_COMMIT=commit, REPLY_TIMEOUT=1.0)
    ids = together()
    server.inject(*fault_for_the_ill(ids, "DOT", **what))
    told = attempt_all(ids)
    assert sorted(told) == ["accepted"] * (GROUP - 1) + ["deferred"], "each is told of once"
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
    attempt_all(ids)
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
    assert attempt_all(ids) == ["accepted"] * (GROUP + 1)
    assert times_taken(server) == Counter([*many, *map(address, range(GROUP))])


def test_more_recipients_than_go_out_at_once_are_said_when_it_is_their_turn(server: SMTPServer) -> None:
    ids = together()
    many = [f"m{number}@example.com" for number in range(150)]
    ids.insert(ILL, submitted(*many).pk)
    assert attempt_all(ids) == ["accepted"] * (GROUP + 1)
    assert times_taken(server) == Counter([*many, *map(address, range(GROUP))])
    assert len(server.sessions) == 1


def test_a_mail_beyond_ascii_fails_alone_where_the_server_takes_none(smtp_server: Serve) -> None:
    server = smtp_server(security="plain", user=None, smtputf8=False)
    config_for(server)
    ids = together()
    ids.insert(ILL, submitted("jörg@example.com").pk)
    attempt_all(ids)
    assert stand(ids) == ["accepted"] * ILL + ["failed"] + ["accepted"] * (GROUP - ILL)
    assert each_once(server)
    assert len(server.sessions) == 1


@pytest.mark.parametrize(
    "damage", [{"content": b"damaged"}, {"has_content": False}, {"content_file": "2026/01/01/gone", "content": b""}]
)
@pytest.mark.parametrize("commit", [1, 3])
def test_a_content_that_cannot_be_read_holds_up_nobody(
    server: SMTPServer, settings: Any, damage: dict[str, Any], commit: int
) -> None:
    change(settings, GROUP_COMMIT=commit)
    ids = together()
    pretend(Delivery.objects.get(pk=ids[ILL]), **damage)
    attempt_all(ids)
    assert well(server, ids)
    row = Delivery.objects.get(pk=ids[ILL])
    assert (row.status, "content" in row.reason) == ("deferred", True)
    assert len(server.sessions) == 1


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
    attempt_all(ids)
    assert well(server, ids)
    assert (Delivery.objects.get(pk=ids[ILL]).reason, times_taken(server)[address(ILL)]) == (content.DAMAGED, 0)


@pytest.mark.parametrize("sender", ["a@example.com>\r\nRSET", "a\ud800@example.com"])
def test_a_sender_that_cannot_be_said_is_no_doubt_about_the_mail_before(
    server: SMTPServer, sender: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have gone out with the dot of that one, which had not been sent."""
    ids, load_all = together(from_email="own@example.com"), rows.load_all

    def damaged(wanted: Sequence[str]) -> list[Delivery]:
        found = load_all(wanted)
        for delivery in found:
            if delivery.pk == ids[ILL]:
                delivery.sender = sender
        return found

    monkeypatch.setattr(rows, "load_all", damaged)
    attempt_all(ids)
    assert well(server, ids)
    assert not DeliveryAttempt.objects.filter(outcome="in_doubt").exists()
    assert times_taken(server)[address(ILL)] == 0


# -- others meanwhile -----------------------------------------------------------------------------------------------


def amid(server: SMTPServer, act: Callable[[], object], *, place: int = ILL) -> None:
    """Do something as another process would, while the server has a mail and has not said so."""

    def when(message: Message) -> None:
        if address(place) in message.rcpt_tos:
            in_threads(act)

    server.on_message = when


@pytest.mark.parametrize("commit", [1, 3])
def test_what_somebody_else_has_claimed_is_left_to_him(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch, commit: int
) -> None:
    change(settings, GROUP_COMMIT=commit)
    ids = together()
    make = sql.make

    def overtaken(moves: Sequence[sql.Move], **how: Any) -> list[bool]:
        in_its_hands = {"status": "sending", "fence": 7, "lease_until": ago(-60), "ring_after": ago(-60)}
        Delivery.objects.filter(pk=ids[ILL], status="queued").update(**in_its_hands)
        return make(moves, **how)

    monkeypatch.setattr(sql, "make", overtaken)
    told = attempt_all(ids)
    assert told == ["accepted"] * (GROUP - 1)
    assert well(server, ids)
    assert stand(ids)[ILL] == "sending"
    assert times_taken(server)[address(ILL)] == 0


def test_what_is_cancelled_amid_a_group_is_not_sent(server: SMTPServer) -> None:
    ids = together()
    amid(server, lambda: manual.cancel(ids[ILL]), place=0)
    attempt_all(ids)
    assert well(server, ids)
    assert stand(ids)[ILL] == "cancelled"
    assert times_taken(server)[address(ILL)] == 0


@pytest.mark.parametrize("commit", [1, 3])
def test_after_a_switch_none_is_begun_over_the_old_server(
    server: SMTPServer, smtp_server: Serve, settings: Any, commit: int
) -> None:
    """Not even the one whose envelope went out with the dot of the last one."""
    change(settings, GROUP_COMMIT=commit)
    other = smtp_server(security="plain", user=None)
    ids = together()

    def switch() -> None:
        config_for(other, name="Another")

    amid(server, switch)
    assert sorted(attempt_all(ids)) == ["accepted"] * GROUP
    assert times_taken(server) == {address(place): 1 for place in range(ILL + 1)}
    assert times_taken(other) == {address(place): 1 for place in range(ILL + 1, GROUP)}
    assert not DeliveryAttempt.objects.filter(outcome="in_doubt").exists()


@pytest.mark.parametrize("commit", [1, 3])
def test_after_a_pause_none_is_begun(server: SMTPServer, settings: Any, commit: int) -> None:
    change(settings, GROUP_COMMIT=commit)
    ids = together()

    def pause() -> None:
        SendingPause.objects.create(reason="moving house")

    amid(server, pause)
    attempt_all(ids)
    assert stand(ids) == ["accepted"] * (ILL + 1) + ["deferred"] * (GROUP - ILL - 1)
    assert set(Delivery.objects.filter(status="deferred").values_list("reason", flat=True)) == {
        "sending is paused: moving house"
    }
    assert each_once(server, range(ILL + 1))


def test_what_expires_before_its_turn_is_not_sent(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, load_all = together(), rows.load_all

    def loaded(wanted: Sequence[str]) -> list[Delivery]:
        found = load_all(wanted)
        last = next((one for one in found if one.pk == ids[-1]), None)
        if last is not None and len(found) > 1:
            amid(server, lambda: setattr(last, "expires_at", ago(1)), place=0)
            pretend(last, expires_at=ago(1))
        return found

    monkeypatch.setattr(rows, "load_all", loaded)
    attempt_all(ids)
    assert stand(ids) == ["accepted"] * (GROUP - 1) + ["expired"]
    assert each_once(server, range(GROUP - 1))


# -- the database ---------------------------------------------------------------------------------------------------


def failing_once(monkeypatch: pytest.MonkeyPatch, pk: str, error: Exception) -> None:
    """The first commit that would claim it fails."""
    failures, make = [error], sql.make

    def failing(moves: Sequence[sql.Move], **how: Any) -> list[bool]:
        if failures and any(move.pk == pk and move.values.get("status") == Status.SENDING for move in moves):
            raise failures.pop()
        return make(moves, **how)

    monkeypatch.setattr(sql, "make", failing)


@pytest.mark.parametrize("commit", [1, 3])
def test_a_commit_that_fails_once_delays_nobody(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch, commit: int
) -> None:
    """What the server has taken is recorded, and who was not claimed is sent after that."""
    change(settings, GROUP_COMMIT=commit)
    ids = together()
    failing_once(monkeypatch, ids[3], OperationalError("deadlock detected"))
    assert attempt_all(ids) == ["accepted"] * GROUP
    assert each_once(server)
    assert DeliveryAttempt.objects.count() == GROUP


@pytest.mark.parametrize("error", [DataError("invalid input"), UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates")])
@pytest.mark.parametrize("commit", [1, 3])
def test_one_that_cannot_be_written_holds_up_nobody(
    server: SMTPServer, settings: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, commit: int
) -> None:
    """Whatever is wrong with it, all the others are sent, and what is known of them is recorded."""
    change(settings, GROUP_COMMIT=commit)
    ids, make = together(), sql.make

    def failing(moves: Sequence[sql.Move], **how: Any) -> list[bool]:
        if any(move.pk == ids[ILL] and move.values.get("status") == Status.SENDING for move in moves):
            raise error
        return make(moves, **how)

    monkeypatch.setattr(sql, "make", failing)
    with contextlib.suppress(DataError):
        attempt_all(ids)
    taken = times_taken(server)
    assert [taken[address(place)] for place in range(ILL)] == [1] * ILL
    assert not Delivery.objects.filter(status="sending").exists()
    if commit == 1:
        assert well(server, ids)
    assert taken[address(ILL)] == 0


def test_what_is_recorded_of_one_survives_a_result_that_cannot_be_stored(
    server: SMTPServer, bell: RecordingDoorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of the others in the same commit."""
    ids = together()

    def report(delivery: Delivery) -> Sequence[sql.Row]:
        if delivery.pk == ids[ILL]:
            raise ValueError("no result")
        return ()

    monkeypatch.setattr(bell, "report", report)
    assert attempt_all(ids) == ["accepted"] * GROUP
    assert stand(ids) == ["accepted"] * GROUP
    assert each_once(server)
    assert DeliveryAttempt.objects.count() == GROUP


# -- what was rung for before ---------------------------------------------------------------------------------------


def rung_again(ids: list[str], bell: RecordingDoorbell) -> list[str]:
    """The ring of a sweep for all of them."""
    Delivery.objects.filter(ring_after__isnull=False).update(ring_after=ago(1))
    bell.rings.clear()
    sweep()
    return [pk for pk in ids if pk in bell.rung]


def test_what_was_rung_for_before_goes_over_one_session_too(server: SMTPServer, bell: RecordingDoorbell) -> None:
    ids = together()
    assert rung_again(ids, bell) == ids
    assert attempt_all(ids) == ["accepted"] * GROUP
    assert len(server.sessions) == 1
    assert set(Delivery.objects.values_list("unfinished", flat=True)) == {0}


@pytest.mark.parametrize("quarantine_after", [1, 2, 3])
def test_a_server_that_is_away_puts_nothing_in_quarantine(
    server: SMTPServer, bell: RecordingDoorbell, settings: Any, quarantine_after: int
) -> None:
    """A group that cannot be sent is tried one by one, and no worker was lost by that."""
    change(settings, QUARANTINE_AFTER=quarantine_after)
    ids = together()
    server.stop()
    attempt_all(rung_again(ids, bell))
    assert stand(ids) == ["deferred"] * GROUP
    assert set(Delivery.objects.values_list("unfinished", flat=True)) == {0}


def test_a_database_that_fails_amid_a_group_is_nobodys_fault(
    server: SMTPServer, bell: RecordingDoorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, make = rung_again(together(), bell), sql.make

    def failing(moves: Sequence[sql.Move], **how: Any) -> list[bool]:
        if any(move.values.get("status") == Status.SENDING for move in moves):
            raise OperationalError("deadlock detected")
        return make(moves, **how)

    with monkeypatch.context() as patch:
        patch.setattr(sql, "make", failing)
        with pytest.raises(OperationalError):
            attempt_all(ids)
    assert set(Delivery.objects.values_list("unfinished", flat=True)) == {0}
    assert attempt_all(ids) == ["accepted"] * GROUP


class Killed(BaseException):
    """Ends a worker: nothing more is recorded."""


def killing(monkeypatch: pytest.MonkeyPatch, killer: str) -> tuple[list[str], threading.Event]:
    """Let whoever reads the content of this one die, which is noted; the event says that the worker is dead."""
    deaths: list[str] = []
    stored, make, is_dead = content.stored, sql.make, threading.Event()

    def dying(delivery: Delivery) -> content.Content:
        if delivery.pk == killer:
            deaths.append(killer)
            is_dead.set()
            raise Killed
        return stored(delivery)

    def recording(moves: Sequence[sql.Move], **how: Any) -> list[bool]:
        if is_dead.is_set():
            raise Killed
        return make(moves, **how)

    monkeypatch.setattr(content, "stored", dying)
    monkeypatch.setattr(sql, "make", recording)
    return deaths, is_dead


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("quarantine_after", [2, 3])
def test_one_that_kills_its_worker_each_time_is_put_aside_and_the_others_survive(
    server: SMTPServer,
    bell: RecordingDoorbell,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    quarantine_after: int,
    in_file: bool,
) -> None:
    """None of them is held to be what kills, and reading a large content leaves nobody else in doubt."""
    change(settings, QUARANTINE_AFTER=quarantine_after)
    if in_file:
        backend = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(tmp_path)}}
        settings.STORAGES = {**settings.STORAGES, "email_integration": backend}
        change(settings, PAYLOAD_STORAGE_THRESHOLD=1000)
    ids = [*together(10), submitted("killer@example.com", body="x\n" * 1000).pk, *together(9)]
    deaths, is_dead = killing(monkeypatch, ids[10])
    todo = ids
    for _ in range(quarantine_after + 3):
        with contextlib.suppress(Killed):
            attempt_all(todo)
        is_dead.clear()
        Delivery.objects.filter(status="sending").update(lease_until=ago(1))
        todo = rung_again(ids, bell)
    assert stand(ids) == ["accepted"] * 10 + ["quarantined"] + ["accepted"] * 9
    assert len(deaths) == 1 + quarantine_after  # the first attempt of a mail is not counted
    doubts = DeliveryAttempt.objects.filter(outcome="in_doubt").count()
    assert doubts == 0 if in_file else doubts <= len(deaths)


# -- the gate -------------------------------------------------------------------------------------------------------


def test_behind_a_closed_gate_a_group_waits_without_a_connection(server: SMTPServer) -> None:
    ids = together()
    server.stop()
    attempt_all(ids)
    server.start()
    Delivery.objects.update(due_at=ago(1))
    before = len(server.sessions)
    attempt_all(ids)
    assert set(stand(ids)) == {"deferred"}
    assert set(Delivery.objects.values_list("waits_for_relay", flat=True)) == {True}
    assert len(server.sessions) == before


def test_a_group_that_cannot_log_in_tries_once_and_tells_the_rest(smtp_server: Serve) -> None:
    """What it was told is the attempt of one of them; the others wait for the relay, without a login of their own."""
    server = smtp_server()
    config_for(server, password="s3cret")
    ids = together()
    attempt_all(ids)
    assert server.failed_auths == 1
    assert list(DeliveryAttempt.objects.values_list("outcome", "code", "phase")) == [("deferred", 535, "auth")]
    assert set(Delivery.objects.values_list("status", "code", "waits_for_relay")) == {("deferred", 535, True)}
    assert RelayGate.objects.get().failures == 1


def test_a_group_that_probes_in_vain_tries_once(smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server, password="s3cret")
    ids = together()
    attempt_all(ids)
    Delivery.objects.update(due_at=ago(1))
    RelayGate.objects.update(probe_at=ago(1))
    attempt_all(ids)
    assert server.failed_auths == 2
    assert DeliveryAttempt.objects.count() == 2
    assert RelayGate.objects.get().failures == 2


def test_a_group_that_is_let_through_to_probe_opens_the_gate_and_goes(server: SMTPServer) -> None:
    ids = together()
    server.stop()
    attempt_all(ids)
    server.start()
    Delivery.objects.update(due_at=ago(1))
    RelayGate.objects.update(probe_at=ago(1))
    assert attempt_all(ids) == ["accepted"] * GROUP
    assert not RelayGate.objects.exists()
    assert each_once(server)


def test_a_login_that_is_asked_for_amid_a_group_closes_the_gate_and_burns_no_mail(server: SMTPServer) -> None:
    ids = together(20)
    server.inject(Fault(verb="MAIL", times=3), Fault(verb="MAIL", reply="530 5.7.0 Authentication required"))
    attempt_all(ids)
    assert stand(ids) == ["accepted"] * 3 + ["deferred"] * 17
    assert RelayGate.objects.count() == 1
    assert server.transactions == 5, "the one that was said ahead is asked once more, and no other"


# -- what follows, and time -----------------------------------------------------------------------------------------


def test_what_follows_one_of_a_slow_group_is_not_set_going_by_two(
    server: SMTPServer, bell: RecordingDoorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told of only when its lease had ended and somebody else had come to it."""
    ids, gone_on = together(2), list[str]()
    bell.followed = set(ids)
    monkeypatch.setattr("email_integration.tasks.canvas.go_on", lambda app, delivery: gone_on.append(delivery.pk))
    run = group._Convoy.run

    def slow(convoy: Any) -> None:
        run(convoy)
        Delivery.objects.filter(pk=ids[0]).update(lease_until=ago(1))
        for one in convoy.ended:
            if one.pk == ids[0]:
                one.lease_until = ago(1)
        row = Delivery.objects.get(pk=ids[0])
        assert continuation.resume(row)  # another worker

    monkeypatch.setattr(group._Convoy, "run", slow)
    assert deliver_group.apply((ids,)).get() == {"accepted": 2}
    assert gone_on == [ids[1]]


def test_what_has_ended_is_told_of_before_long(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others may take their time: what follows it does not wait for all of them."""
    monkeypatch.setattr(group, "_AT_MOST", 0.0)
    told = attempt_group(together())
    next(told)
    assert Delivery.objects.filter(status="accepted").count() < GROUP
    assert [delivery.status for delivery in told] == ["accepted"] * (GROUP - 1)
    assert len(server.sessions) == 1


@pytest.mark.parametrize("slow", [{"verb": "MAIL"}, {"verb": "RCPT"}, {"verb": "DATA"}])
def test_what_is_known_is_recorded_before_a_slow_server_is_waited_for(server: SMTPServer, slow: dict[str, Any]) -> None:
    """A crash would leave it in doubt without need."""
    ids = together()
    verb = slow["verb"]
    seen, done = threading.Event(), threading.Event()
    server.inject(Fault(verb=verb, times=ILL + 1), Fault(verb=verb, times=1, until=seen))

    def look() -> None:
        while not (done.wait(group._PROMPTLY) or seen.is_set()):
            if stand([ids[ILL]]) == ["accepted"] and not times_taken(server)[address(ILL + 1)]:
                seen.set()

    in_threads(lambda: (attempt_all(ids), done.set()), look)
    assert seen.is_set()
    assert each_once(server)


def test_a_claim_that_is_about_to_end_is_not_used(server: SMTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the next mail may have taken long, and somebody else may come to this one when its lease has ended."""
    clock = Clock()
    monkeypatch.setattr(group, "time", clock)
    ids = together()
    together_ = transitions.record_and_claim

    def slow(ended: Any, wanted: Sequence[records.Claim], **how: Any) -> Any:
        if any(claim.delivery.pk == ids[ILL] for claim in wanted):
            clock.ahead += conf.get("LEASE") - conf.get("REPLY_TIMEOUT") + 1
        return together_(ended, wanted, **how)

    monkeypatch.setattr(transitions, "record_and_claim", slow)
    attempt_all(ids)
    assert well(server, ids)
    assert times_taken(server)[address(ILL)] == 0
    assert stand(ids)[ILL] == "deferred"


def test_a_late_yes_wins(server: SMTPServer) -> None:
    """Whatever somebody has made of the mail meanwhile."""
    ids = together()
    lapsed = {"status": "deferred", "fence": 40, "lease_until": None, "reason": "in doubt"}
    amid(server, lambda: Delivery.objects.filter(pk=ids[ILL]).update(**lapsed))
    attempt_all(ids)
    assert stand(ids) == ["accepted"] * GROUP
