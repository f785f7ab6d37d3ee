"""Mails in Celery's canvas: a continuation runs once, when its mail is settled."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError
from celery.result import AsyncResult, GroupResult
from django.db.models import Q
from django.utils import timezone

from config.local.processes import PATIENCE, wait_until
from email_integration.delivery import cancel, discard, release
from email_integration.exceptions import DeliveryFailed
from email_integration.models import Delivery
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import dispatch, send_email
from tests.acceptance.tasks import become_a_mail, fail, note, note_error, note_failed_id
from tests.stack import Stack

Notes = Callable[[str], list[Any]]
pytestmark = pytest.mark.usefixtures("app")

DEFERRED_FIRST = Fault(verb="RCPT", reply="450 4.2.0 <kim@example.com> busy", times=1)
REFUSED = Fault(verb="RCPT", reply="550 5.1.1 <unknown@example.com> unknown", match="unknown@")


def mail(subject: str = "Subject", to: str = "kim@example.com", **more: Any) -> Any:
    return send_email.si(subject, "Text", to=[to], **more)


_UNSETTLED = Q(next_at__isnull=False) | Q(continue_after__isnull=False)


def quiet() -> None:
    """Wait until no mail has work left."""
    wait_until(lambda: not Delivery.objects.filter(_UNSETTLED).exists(), what="all mails settled")


@pytest.mark.parametrize("faults", [[], [DEFERRED_FIRST]], ids=["at once", "after a deferral"])
def test_a_chain_goes_on_once_from_its_first_middle_and_last_mail(
    server: SMTPServer, notes: Notes, tag: str, faults: list[Fault]
) -> None:
    """Needless wake-ups change nothing."""
    server.inject(*faults)
    result = chain(
        mail("first"), note.s(tag=f"{tag}-1"), mail("middle"), note.si("two", tag=f"{tag}-2"), mail("last")
    ).apply_async()
    assert result.get(timeout=PATIENCE)["status"] == "accepted"
    for _ in range(6):
        dispatch.apply_async(("mail",), queue="mail")
    last = note.apply_async(("end",), {"tag": f"{tag}-end"}, queue="mail")
    last.get(timeout=PATIENCE)
    quiet()
    first = Delivery.objects.get(pk=notes(f"{tag}-1")[0][0]["id"])
    assert notes(f"{tag}-1") == [[{**notes(f"{tag}-1")[0][0], "message_id": first.message_id, "status": "accepted"}]]
    assert notes(f"{tag}-2") == [["two"]]
    assert [message.subject for message in server.messages] == ["first", "middle", "last"]


def test_a_failed_mail_fails_the_rest_of_its_chain_and_calls_the_errback_once(
    server: SMTPServer, notes: Notes, tag: str
) -> None:
    server.inject(REFUSED)
    errbacks = [note_error.s(tag=f"{tag}-error"), note_failed_id.s(tag=f"{tag}-id"), mail("sorry")]
    failing = mail(to="unknown@example.com").set(link_error=errbacks)
    result = chain(failing, note.s(tag=f"{tag}-next"), mail("never")).apply_async()
    with pytest.raises(DeliveryFailed) as caught:
        result.get(timeout=PATIENCE)
    assert (caught.value.code, caught.value.status) == (550, "failed")
    wait_until(lambda: notes(f"{tag}-id") and server.messages, what="the errbacks")
    quiet()
    failed = Delivery.objects.get(status="failed")
    assert notes(f"{tag}-error") == [
        [failed.pk, "DeliveryFailed", "failed: 550 the server says the mailbox does not exist (550 5.1.1)"]
    ]
    assert notes(f"{tag}-id") == [failed.pk]
    assert notes(f"{tag}-next") == []
    assert [message.subject for message in server.messages] == ["sorry"]


def test_link_and_link_error_of_apply_async(server: SMTPServer, notes: Notes, tag: str) -> None:
    server.inject(DEFERRED_FIRST, REFUSED)
    links = {
        "link": [note.s(tag=f"{tag}-link"), note.si("more", tag=f"{tag}-more")],
        "link_error": note_error.s(tag=f"{tag}-error"),
    }
    good = send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, **links)
    bad = send_email.apply_async(("Subject", "Text"), {"to": ["unknown@example.com"]}, **links)
    assert good.get(timeout=PATIENCE)["status"] == "accepted"
    with pytest.raises(DeliveryFailed):
        bad.get(timeout=PATIENCE)
    quiet()
    wait_until(lambda: notes(f"{tag}-link") and notes(f"{tag}-more"), what="both links")
    assert [arguments[0]["id"] for arguments in notes(f"{tag}-link")] == [good.id]
    assert notes(f"{tag}-more") == [["more"]]
    assert [arguments[0] for arguments in notes(f"{tag}-error")] == [bad.id]
    assert len(AsyncResult(good.id).children) == 2


def test_groups_and_chords_wait_for_their_mails(server: SMTPServer, notes: Notes, tag: str) -> None:
    server.inject(DEFERRED_FIRST)
    together = group(mail(f"Group {number}") for number in range(3)).apply_async()
    body = chord([*(mail(f"Chord {number}") for number in range(3)), note.si(7, tag=f"{tag}-header")])(
        note.s(tag=f"{tag}-body")
    )
    assert [found["status"] for found in together.get(timeout=PATIENCE)] == ["accepted"] * 3
    found = body.get(timeout=PATIENCE)
    assert [item if item == 7 else item["status"] for item in found] == ["accepted"] * 3 + [7]
    quiet()
    assert len(notes(f"{tag}-body")) == 1
    to_all = chord([mail("Header"), note.si(7, tag=f"{tag}-header")])(mail("Body"))
    assert to_all.get(timeout=PATIENCE)["status"] == "accepted"
    assert len(server.messages) == 8


def test_a_failing_member_fails_its_chord_and_not_the_others(server: SMTPServer, notes: Notes, tag: str) -> None:
    server.inject(REFUSED)
    by_mail = chord([mail("one"), mail("two", to="unknown@example.com")])(note.s(tag=f"{tag}-body"))
    by_task = chord([mail("three"), fail.si()])(note.s(tag=f"{tag}-body"))
    for result, error in ((by_mail, DeliveryFailed), (by_task, ValueError)):
        # The error depends on whether the body or the member is evaluated first.
        with pytest.raises((error, ChordError)):
            result.get(timeout=PATIENCE)
        with pytest.raises(ChordError):
            AsyncResult(result.id).get(timeout=PATIENCE)
    quiet()
    assert notes(f"{tag}-body") == []
    assert sorted(message.subject for message in server.messages) == ["one", "three"]


IN_DOUBT = Fault(verb="DOT", drop_after_accept=True, match="Subject: doubted", times=2)


def test_a_mail_in_doubt_that_is_sent_again_is_continued_once(server: SMTPServer, notes: Notes, tag: str) -> None:
    """The server receives the mail twice; its continuation runs once."""
    server.inject(dataclasses.replace(IN_DOUBT, times=1))
    result = chain(mail("doubted"), note.s(tag=f"{tag}-next"), mail("last")).apply_async(link=note.si(tag=f"{tag}-end"))
    assert result.get(timeout=PATIENCE)["status"] == "accepted"
    quiet()
    wait_until(lambda: notes(f"{tag}-end"), what="the link")
    assert [len(notes(f"{tag}-{word}")) for word in ("next", "end")] == [1, 1]
    assert [message.subject for message in server.messages] == ["doubted", "doubted", "last"]


@pytest.mark.parametrize("decided", ["release", "discard"])
def test_a_mail_held_in_doubt_holds_up_what_follows_until_a_person_decides(
    server: SMTPServer, notes: Notes, tag: str, decided: str
) -> None:
    server.inject(IN_DOUBT)
    errors = note_error.s(tag=f"{tag}-error")
    alone = mail("doubted", in_doubt="hold").apply_async(link=note.s(tag=f"{tag}-link"), link_error=errors)
    body = chord([mail("doubted", in_doubt="hold"), mail("other")])(note.s(tag=f"{tag}-body"))
    wait_until(lambda: Delivery.objects.filter(status="in_doubt").count() == 2, what="a mail in doubt")
    assert alone.state == "RETRY"
    assert not body.ready()
    wait_until(lambda: Delivery.objects.filter(status="accepted").exists(), what="the other mail accepted")
    decide = release if decided == "release" else discard
    assert all(decide(delivery.pk) for delivery in Delivery.objects.filter(status="in_doubt"))
    if decided == "release":
        assert alone.get(timeout=PATIENCE)["status"] == "accepted"
        assert len(body.get(timeout=PATIENCE)) == 2
        wait_until(lambda: notes(f"{tag}-link"), what="the link")
    else:
        with pytest.raises(DeliveryFailed, match="discarded by a user"):
            alone.get(timeout=PATIENCE)
        with pytest.raises((ChordError, DeliveryFailed)):
            body.get(timeout=PATIENCE)
        wait_until(lambda: notes(f"{tag}-error"), what="link_error")
    quiet()
    found = [len(notes(f"{tag}-{word}")) for word in ("link", "body", "error")]
    assert found == ([1, 1, 0] if decided == "release" else [0, 0, 1])


@pytest.mark.parametrize("ended", ["cancelled", "expired"])
def test_a_mail_that_is_cancelled_or_expires_fails_what_follows(
    server: SMTPServer, notes: Notes, tag: str, ended: str
) -> None:
    when = {"countdown": 3600} if ended == "cancelled" else {"countdown": 3600, "expires": 0.5}
    errors = note_error.s(tag=f"{tag}-error")
    steps = chain(mail("never").set(**when, link_error=errors), note.s(tag=f"{tag}-next"), mail("nor this"))
    results = [
        steps.apply_async(),
        chord([mail("never").set(**when), mail("other")])(note.s(tag=f"{tag}-next")),
        group(mail("never").set(**when), mail("another")).apply_async(),
    ]
    if ended == "cancelled":
        waiting = list(Delivery.objects.filter(content_size__gt=0).exclude(due_at__lte=timezone.now()))
        assert len(waiting) == 3
        assert all(cancel(delivery.pk) for delivery in waiting)
    for result in results:
        with pytest.raises((ChordError, DeliveryFailed)):
            result.get(timeout=PATIENCE)
    wait_until(lambda: notes(f"{tag}-error"), what="link_error")
    quiet()
    assert len(notes(f"{tag}-error")) == 1
    assert notes(f"{tag}-next") == []
    assert Delivery.objects.filter(status=ended).count() == 3
    assert sorted(message.subject for message in server.messages) == ["another", "other"]


def test_canvas_in_canvas(server: SMTPServer, notes: Notes, tag: str) -> None:
    server.inject(DEFERRED_FIRST)
    nested = chain(
        note.si("start", tag=f"{tag}-start"),
        group(
            chain(mail("a1"), mail("a2")),
            chord([mail("b1"), mail("b2")], note.s(tag=f"{tag}-inner")),
            mail("c"),
        ),
        note.s(tag=f"{tag}-joined"),
        mail("end"),
    )
    assert nested.apply_async().get(timeout=PATIENCE)["status"] == "accepted"
    quiet()
    assert sorted(message.subject for message in server.messages) == ["a1", "a2", "b1", "b2", "c", "end"]
    assert [len(notes(f"{tag}-{word}")) for word in ("start", "inner", "joined")] == [1, 1, 1]
    assert len(notes(f"{tag}-joined")[0][0]) == 3


def test_a_task_can_be_replaced_by_a_mail(server: SMTPServer, notes: Notes, tag: str) -> None:
    """The mail takes over the task's id, its place in the chain and its callbacks."""
    server.inject(DEFERRED_FIRST)
    replaced = become_a_mail.si("replaced", "kim@example.com")
    result = chain(replaced, note.s(tag=f"{tag}-next")).apply_async()
    assert result.get(timeout=PATIENCE)["status"] == "accepted"
    alone = become_a_mail.apply_async(("alone", "kim@example.com"), link=note.s(tag=f"{tag}-link"))
    assert alone.get(timeout=PATIENCE)["id"] == alone.id
    body = chord([become_a_mail.si("member", "kim@example.com"), mail("other")])(note.s(tag=f"{tag}-body"))
    assert len(body.get(timeout=PATIENCE)) == 2
    quiet()
    wait_until(lambda: notes(f"{tag}-link"), what="the link")
    assert [len(notes(f"{tag}-{word}")) for word in ("next", "link", "body")] == [1, 1, 1]
    assert sorted(message.subject for message in server.messages) == ["alone", "member", "other", "replaced"]


def test_an_old_idempotency_key_does_not_hold_up_a_group_a_chord_or_a_chain(
    server: SMTPServer, notes: Notes, tag: str
) -> None:
    first = send_email.delay("once", "Text", to=["kim@example.com"], idempotency_key=tag)
    first.get(timeout=PATIENCE)
    again = mail("once", idempotency_key=tag)
    together: GroupResult = group(again.clone(), mail("new")).apply_async()
    body = chord([again.clone(), mail("newer")])(note.s(tag=f"{tag}-body"))
    next_step = chain(again.clone(), note.s(tag=f"{tag}-next")).apply_async()
    assert [found["status"] for found in together.get(timeout=PATIENCE)] == ["accepted", "accepted"]
    assert [found["status"] for found in body.get(timeout=PATIENCE)] == ["accepted", "accepted"]
    assert next_step.get(timeout=PATIENCE)["id"] == first.id
    assert [len(notes(f"{tag}-{word}")) for word in ("body", "next")] == [1, 1]
    assert sorted(message.subject for message in server.messages) == ["new", "newer", "once"]


def test_what_follows_a_mail_waits_for_a_broker_that_was_lost_meanwhile(
    server: SMTPServer, notes: Notes, tag: str, app: Stack
) -> None:
    """The mail is accepted and its result says so; the chain continues once the broker is back."""
    from tests import services

    killed = threading.Event()
    server.inject(Fault(verb="DOT", until=killed))
    result = chain(mail("kept"), note.s(tag=f"{tag}-next")).apply_async()
    wait_until(lambda: server.transactions, what="the command MAIL")
    services.broker.kill()
    killed.set()
    try:
        wait_until(lambda: Delivery.objects.get().status == "accepted", what="the mail accepted")
        assert result.parent is not None
        assert result.parent.get(timeout=PATIENCE)["status"] == "accepted"
    finally:
        services.broker.start()
    assert result.get(timeout=PATIENCE)["status"] == "accepted"
    assert len(notes(f"{tag}-next")) == 1
    assert len(server.messages) == 1
