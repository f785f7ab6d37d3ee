"""A process is killed at a named point. Another process recovers its mail in progress, by the journal or
by the lease.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from email_integration.models import Delivery, DeliveryAttempt, DeliveryBatch
from email_integration.queue.sweeper import sweep
from email_integration.sending import recovery
from email_integration.smtpd import Fault, SMTPServer
from tests.children import (
    POINTS,
    Child,
    at,
    delivery_statuses,
    die,
    due_now,
    forget_journals,
    mails,
    recover,
    recover_by_lease,
    require_settled,
    send,
)
from tests.deliveries import RecordingTaskQueue, ago, statuses, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

Serve = Callable[..., SMTPServer]

SESSIONS = 3

#: For each point: the status after recovery of the mail that reached it, and the number of copies that the server has
#: by then.
FOUND = {
    "claimed": ("queued", 0),
    "in hand": ("queued", 0),
    "before a session": ("queued", 0),
    "before it is read": ("queued", 0),
    "before MAIL": ("queued", 0),
    "before the content": ("queued", 0),
    "before the dot": ("queued", 0),
    "dot noted": ("in_doubt", 0),
    "answered": ("in_doubt", 1),
    "answer noted": ("accepted", 1),
    "before the record": ("accepted", 1),
    "recorded": ("accepted", 1),
}


@pytest.fixture(autouse=True)
def folder(journals: Path, task_queue: RecordingTaskQueue, settings: Any) -> Path:
    """The folder of the journals. Mail in doubt is held, so that it can be counted."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SESSIONS": SESSIONS, "IN_DOUBT": "hold"}
    return journals


@pytest.fixture
def server(smtp_server: Serve) -> SMTPServer:
    server = smtp_server(security="plain", user=None)
    config_for(server)
    return server


def which(point: str) -> int:
    """Return the index of a mail that reaches the point: only some mails open a session."""
    return 0 if point == "before a session" else 3


def copies(server: SMTPServer) -> Counter[str]:
    """Return the number of mails with each subject that the server has."""
    return Counter(one.subject for one in server.messages)


def require_counts(server: SMTPServer, ids: list[str]) -> None:
    """Require that no mail is lost or stuck, that no mail has more than one copy, and that at most one mail for each
    session is in doubt.
    """
    require_settled()
    stand, have = delivery_statuses(*ids), copies(server)
    assert set(stand) <= {"accepted", "in_doubt"}
    assert stand.count("in_doubt") <= SESSIONS
    for place, status in enumerate(stand):
        copies_of_it = have[str(place)]
        assert copies_of_it == 1 if status == "accepted" else copies_of_it <= 1


# -- by the journal -------------------------------------------------------------------------------------------------


def test_the_points_are_those_that_are_tried() -> None:
    assert tuple(FOUND) == POINTS


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point_its_journal_settles_all_at_once(server: SMTPServer, folder: Path, point: str) -> None:
    """One of six mails reaches the point · kill -9 · another process finds the journal's lock free · all are settled
    without waiting for a lease · the mails that go back are sent, once.
    """
    ids = mails(6)
    place = which(point)
    one = ids[place]
    child = Child(send, hook=at(point, die, of=one))
    child.killed()

    recover()

    require_settled()
    status, had = FOUND[point]
    assert delivery_statuses(one) == [status]
    assert copies(server)[str(place)] == had
    assert not list(folder.iterdir())
    send()
    require_counts(server, ids)
    assert DeliveryAttempt.objects.filter(delivery=one).count() == 1


@pytest.mark.parametrize("point", POINTS[1:7])
def test_only_what_was_prepared_or_written_is_a_suspect(server: SMTPServer, point: str) -> None:
    """Killed while a mail is prepared, while the process waits for a reply, or while it writes · given back: counted,
    except after waiting.
    """
    one = submitted(body="x" * 100_000).pk
    Child(send, hook=at(point, die, of=one)).killed()
    recover()
    assert Delivery.objects.get().returned == (0 if point in ("before a session", "before MAIL") else 3)
    send()
    assert (Delivery.objects.get().status, Delivery.objects.get().returned) == ("accepted", 0)


@pytest.mark.parametrize("point", ["before the content", "before the dot"])
def test_a_small_content_is_no_suspect_once_it_was_read(server: SMTPServer, point: str) -> None:
    """Killed while the server waits for the content: it is sent together with the final dot, which is noted before."""
    one = submitted().pk
    Child(send, hook=at(point, die, of=one)).killed()
    recover()
    assert Delivery.objects.get().returned == 0
    send()
    assert delivery_statuses(one) == ["accepted"]


@pytest.mark.parametrize("point", ["answer noted", "before the record"])
def test_accepted_recipients_stay_accepted_and_the_deferred_one_is_tried_alone(server: SMTPServer, point: str) -> None:
    """RCPT: 250, 450, 250 · the dot is answered by 250 · killed before the record · two are accepted, and the third is
    tried again alone.
    """
    server.inject(Fault(verb="RCPT", reply="450 4.2.0 Mailbox busy", match="lee@", times=1))
    one = submitted("kim@example.com", "lee@example.com", "max@example.com").pk
    Child(send, hook=at(point, die, of=one)).killed()
    recover()
    require_settled()
    delivery = Delivery.objects.get()
    expected = {"kim@example.com": "accepted", "lee@example.com": "pending", "max@example.com": "accepted"}
    assert (delivery.status, statuses(delivery)) == ("deferred", expected)
    due_now()
    send()
    assert set(statuses(delivery).values()) == {"accepted"}
    assert [one.rcpt_tos for one in server.messages] == [("kim@example.com", "max@example.com"), ("lee@example.com",)]


def test_a_reply_that_refuses_is_recorded_and_waits_as_any(server: SMTPServer, settings: Any) -> None:
    """The dot is answered by 451 · killed before the record · deferred for the usual waiting time of a retry."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RETRY_FIRST": 3600.0, "RETRY_MAX": 3600.0}
    server.inject(Fault(verb="DOT", reply="451 4.3.0 Try again later", times=1))
    one = submitted().pk
    Child(send, hook=at("answer noted", die, of=one)).killed()
    recover()
    require_settled()
    delivery = Delivery.objects.get()
    assert (delivery.status, delivery.code, delivery.attempts) == ("deferred", 451, 1)
    assert delivery.due_at > DeliveryAttempt.objects.get().finished_at


def test_a_refusal_is_final(server: SMTPServer) -> None:
    """The dot is answered by 554 · killed before the record · failed."""
    server.inject(Fault(verb="DOT", reply="554 5.7.1 Spam", times=1))
    one = submitted().pk
    Child(send, hook=at("answer noted", die, of=one)).killed()
    recover()
    require_settled()
    assert (delivery_statuses(), Delivery.objects.get().code) == (["failed"], 554)


@pytest.mark.parametrize(("point", "third"), [("before the dot", "accepted"), ("dot noted", "pending")])
def test_killed_between_two_dots_of_one_mail(server: SMTPServer, point: str, third: str) -> None:
    """RCPT: 250, 250, 452 too many · the dot for two is answered and recorded · the second transaction, for the third ·
    killed there · only the third is in doubt, and the two are accepted.
    """
    server.inject(Fault(verb="RCPT", reply="452 4.5.3 Too many recipients", match="max@", times=1))
    one = submitted("kim@example.com", "lee@example.com", "max@example.com").pk
    Child(send, hook=at(point, die, of=one, time_=2)).killed()
    recover()
    require_settled()
    send()
    delivery = Delivery.objects.get()
    expected = {"kim@example.com": "accepted", "lee@example.com": "accepted", "max@example.com": third}
    assert (statuses(delivery), delivery.status) == (expected, "accepted" if third == "accepted" else "in_doubt")
    assert server.messages[0].rcpt_tos == ("kim@example.com", "lee@example.com")
    assert len(server.messages) == (2 if third == "accepted" else 1)


# -- tasks after a mail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [False, True])
def test_killed_between_record_and_continuation(
    server: SMTPServer, task_queue: RecordingTaskQueue, refused: bool
) -> None:
    """Recorded, accepted or refused at RCPT · killed before the continuation is published · the next sweep publishes it
    without waiting for a lease.
    """
    if refused:
        server.inject(Fault(verb="RCPT", reply="550 5.1.1 No such user"))
    one = submitted().pk
    task_queue.followed.add(one)
    Child(send, hook=at("recorded", die, of=one)).killed()
    assert task_queue.continued == []
    recover()
    sweep()
    assert (delivery_statuses(), task_queue.continued) == (["failed" if refused else "accepted"], [one])
    assert Delivery.objects.get().continue_after is None
    sweep()
    assert task_queue.continued == [one]


def test_killed_between_continuation_and_its_mark(
    server: SMTPServer, task_queue: RecordingTaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published · killed before that is noted · published again: at least once, and at most once more for each kill."""
    one = submitted().pk
    task_queue.followed.add(one)
    with monkeypatch.context() as patch:
        patch.setattr(task_queue, "continue_", lambda delivery: die())
        Child(send).killed()
    recover()
    sweep()
    sweep()
    assert task_queue.continued == [one]


def test_killed_at_the_answer_what_follows_is_published_by_who_recovers(
    server: SMTPServer, task_queue: RecordingTaskQueue
) -> None:
    """Killed before the record · the process that recovers the mail publishes the continuation."""
    one = submitted().pk
    task_queue.followed.add(one)
    Child(send, hook=at("answer noted", die, of=one)).killed()
    recover()
    assert (delivery_statuses(), task_queue.continued) == (["accepted"], [one])


# -- by the lease ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS)
def test_with_the_journal_gone_the_lease_decides(server: SMTPServer, folder: Path, point: str) -> None:
    """Killed on another host · its lease ends by the database's clock · mail whose dot may have been sent is in doubt,
    and only such mail may be sent twice.
    """
    ids = mails(6)
    Child(send, hook=at(point, die, of=ids[which(point)])).killed()
    forget_journals(folder)
    recover()
    found = DeliveryBatch.objects.count()
    assert found == (0 if point == "recorded" else 1) or Delivery.objects.exclude(batch="").count() > 0
    recover_by_lease()
    require_settled()
    send()
    stand, have = delivery_statuses(*ids), copies(server)
    assert set(stand) <= {"accepted", "in_doubt"}
    assert max(have.values(), default=1) == 1
    assert all(have[str(place)] == 1 for place, status in enumerate(stand) if status == "accepted")


@pytest.mark.parametrize("point", ["claimed", "dot noted", "answer noted"])
def test_what_was_not_permitted_goes_back_in_no_doubt(
    server: SMTPServer, folder: Path, settings: Any, point: str
) -> None:
    """No journal can be written: the process may send dots for the first two mails of its batch · killed · the lease
    ends · at most those two are in doubt, and the others are sent.
    """
    folder.write_text("a file, where the folder is to be")
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "IN_DOUBT_WINDOW": 2}
    ids = mails(6)
    Child(send, hook=at(point, die, of=ids[0])).killed()
    row = DeliveryBatch.objects.get()
    permitted = {pk for pk, _ in row.items[: row.permitted]}
    doubted = set(Delivery.objects.filter(pk__in=permitted).exclude(batch="").values_list("pk", flat=True))
    assert len(row.items) == 6
    assert ids[0] in doubted
    assert len(doubted) <= 2
    recover_by_lease()
    require_settled()
    send()
    assert delivery_statuses(*ids) == ["in_doubt" if pk in doubted else "accepted" for pk in ids]
    assert all(copies(server)[str(place)] == 1 for place, pk in enumerate(ids) if pk not in doubted)


def test_a_lease_is_first_suspected(server: SMTPServer, folder: Path) -> None:
    """The lease ends · the batch is marked · it is taken over only if its owner is not heard from for a while."""
    one = submitted().pk
    Child(send, hook=at("dot noted", die, of=one)).killed()
    forget_journals(folder)
    recovery.recover_leases()
    assert DeliveryBatch.objects.get().suspected_at is None
    DeliveryBatch.objects.update(lease_until=ago(1))
    recovery.recover_leases()
    recovery.recover_leases()
    assert DeliveryBatch.objects.get().suspected_at is not None
    DeliveryBatch.objects.update(suspected_at=ago(11))
    recovery.recover_leases()
    require_settled()
    assert delivery_statuses() == ["in_doubt"]


@pytest.mark.parametrize("lines", [1, 400])
def test_only_the_one_that_is_read_is_a_suspect(server: SMTPServer, settings: Any, lines: int) -> None:
    """Killed while the next mail is read, before the final dot of a small or large mail that is ready for it."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SESSIONS": 1}
    with transaction.atomic():
        ids = [submitted(f"u{place}@example.com", body=("x" * 70 + "\n") * lines).pk for place in range(3)]
    Child(send, hook=at("before it is read", die, of=ids[1])).killed()
    recover()
    returned = dict(Delivery.objects.values_list("pk", "returned"))
    assert [returned[pk] > 0 for pk in ids] == [False, True, False]
    send()
    assert set(Delivery.objects.values_list("status", flat=True)) == {"accepted"}
