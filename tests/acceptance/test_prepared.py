"""Mails that are submitted first and sent when their signature runs: the broker knows only their ids."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from celery import chain, chord, current_app, group
from celery.exceptions import ChordError
from celery.result import AsyncResult
from django.db import transaction
from django.utils import timezone
from django_celery_results.models import TaskResult

from config.local.processes import PATIENCE, wait_until
from email_integration.exceptions import DeliveryFailed, InvalidMail
from email_integration.ledger import transitions
from email_integration.models import Delivery
from email_integration.queue import retry_now
from email_integration.smtpd import SMTPServer
from email_integration.tasks import dispatch, send_email, send_prepared
from tests import services
from tests.acceptance.tasks import NOTES, become_a_prepared_mail, note, note_error
from tests.acceptance.test_canvas import DEFERRED_FIRST, REFUSED, quiet
from tests.acceptance.test_secrecy import broker_contents, leaks
from tests.stack import Stack

Notes = Callable[[str], list[Any]]
pytestmark = pytest.mark.usefixtures("app")


def prepare(subject: str = "Subject", to: str = "kim@example.com", **more: Any) -> Any:
    return send_email.prepare(subject, "Text", to=[to], **more)


def delivery_of(mail: Any) -> Delivery:
    return Delivery.objects.get(pk=mail.kwargs["delivery_id"])


def subjects(server: SMTPServer) -> list[str]:
    return sorted(message.subject for message in server.messages)


def test_a_chain_goes_on_from_a_prepared_mail_and_the_broker_holds_nothing_of_it(
    server: SMTPServer, notes: Notes, tag: str, app: Stack
) -> None:
    server.inject(DEFERRED_FIRST)
    mail = send_email.prepare("secret-subject", "secret-body", "secret-sender@example.com", ["kim@example.com"])
    app.worker.end()
    result = chain(
        note.si("first", tag=tag), mail, note.s(tag=f"{tag}-next"), prepare("secret-subject 2")
    ).apply_async()
    contents = broker_contents()
    assert mail.kwargs["delivery_id"] in contents
    assert not leaks(contents)
    assert delivery_of(mail).status == "prepared"
    app.start_worker()
    assert result.get(timeout=PATIENCE)["status"] == "accepted"
    quiet()
    assert [found[0]["id"] for found in notes(f"{tag}-next")] == [mail.kwargs["delivery_id"]]
    assert subjects(server) == ["secret-subject", "secret-subject 2"]
    assert not leaks("\n".join(str(row) for row in TaskResult.objects.values()))


def test_until_it_is_run_nothing_sends_it(server: SMTPServer) -> None:
    """No wake-up, sweep, corrected configuration or person sends it."""
    mail = prepare("not yet")
    dispatch.apply_async(("mail",), queue="mail")
    retry_now.wake()
    retry_now.wake_on_commit()
    assert not Delivery.objects.filter(next_at__lte=timezone.now()).exists()
    send_email.delay("another", "Text", to=["kim@example.com"]).get(timeout=PATIENCE)
    prepared = delivery_of(mail)
    assert (prepared.status, prepared.due_at) == ("prepared", prepared.expires_at)
    assert mail.delay().get(timeout=PATIENCE)["id"] == prepared.pk
    assert AsyncResult(prepared.pk).get(timeout=PATIENCE)["status"] == "accepted"
    assert subjects(server) == ["another", "not yet"]


def test_in_groups_chords_links_and_as_a_replacement(server: SMTPServer, notes: Notes, tag: str) -> None:
    server.inject(DEFERRED_FIRST, REFUSED)
    links = {"link": note.s(tag=f"{tag}-link"), "link_error": note_error.s(tag=f"{tag}-error")}
    linked = prepare("linked").apply_async(**links)
    refused = prepare("refused", to="unknown@example.com").apply_async(**links)
    together = group(prepare(f"group {number}") for number in range(2)).apply_async()
    body = chord([prepare("header"), note.si(7, tag=f"{tag}-header")])(note.s(tag=f"{tag}-body"))
    to_all = chord([note.si(7, tag=f"{tag}-header")])(prepare("body"))
    callback = note.apply_async(("parent",), {"tag": f"{tag}-parent"}, link=prepare("callback"))
    became = become_a_prepared_mail.apply_async(("became", "kim@example.com"), link=note.s(tag=f"{tag}-became"))
    member = chord([become_a_prepared_mail.si("member", "kim@example.com"), prepare("other")])(
        note.s(tag=f"{tag}-members")
    )
    assert linked.get(timeout=PATIENCE)["status"] == "accepted"
    with pytest.raises(DeliveryFailed):
        refused.get(timeout=PATIENCE)
    assert [found["status"] for found in together.get(timeout=PATIENCE)] == ["accepted"] * 2
    assert len(body.get(timeout=PATIENCE)) == 2
    assert to_all.get(timeout=PATIENCE)["status"] == "accepted"
    assert callback.get(timeout=PATIENCE) == "parent"
    assert became.get(timeout=PATIENCE)["status"] == "accepted"
    assert len(member.get(timeout=PATIENCE)) == 2
    quiet()
    wait_until(lambda: len(server.messages) == 9 and notes(f"{tag}-became"), what="the continuations")
    assert [len(notes(f"{tag}-{word}")) for word in ("link", "body", "became", "members")] == [1] * 4
    assert [found[0] for found in notes(f"{tag}-error")] == [refused.id]
    assert not Delivery.objects.filter(status="prepared").exists()


def test_run_twice_it_is_sent_once_and_continued_once(server: SMTPServer, notes: Notes, tag: str) -> None:
    """A second run with the same id changes nothing, before and after the mail is settled.

    Another id returns its state.
    """
    server.inject(DEFERRED_FIRST)
    mail = prepare("twice")
    link = note.s(tag=tag)
    for _ in range(2):
        mail.apply_async(task_id=f"{tag}-id", link=link)
    assert AsyncResult(f"{tag}-id").get(timeout=PATIENCE)["status"] == "accepted"
    mail.apply_async(task_id=f"{tag}-id", link=link)
    message = {"task_id": f"{tag}-id", "link": link}
    current_app.send_task(send_prepared.name, kwargs=mail.kwargs, **message)
    other = current_app.send_task(send_prepared.name, kwargs=mail.kwargs, link=note.s(tag=f"{tag}-other"))
    assert other.get(timeout=PATIENCE)["id"] == mail.kwargs["delivery_id"]
    assert chain(mail, note.s(tag=f"{tag}-again")).apply_async().get(timeout=PATIENCE)["status"] == "accepted"
    quiet()
    assert [len(notes(key)) for key in (tag, f"{tag}-other", f"{tag}-again")] == [1, 1, 1]
    assert subjects(server) == ["twice"]


def test_prepared_twice_with_one_key_it_is_one_mail(server: SMTPServer, notes: Notes, tag: str) -> None:
    """A caller that was interrupted prepares the mail again, and its chain is complete."""
    prepare("once", idempotency_key=tag)
    again = prepare("once", idempotency_key=tag)
    assert chain(again, note.s(tag=tag)).apply_async().get(timeout=PATIENCE)["status"] == "accepted"
    late = chain(prepare("once", idempotency_key=tag), note.s(tag=f"{tag}-late")).apply_async()
    assert late.get(timeout=PATIENCE)["status"] == "accepted"
    assert [len(notes(key)) for key in (tag, f"{tag}-late")] == [1, 1]
    assert subjects(server) == ["once"]


def test_what_ended_before_it_was_run_fails_what_follows(server: SMTPServer, notes: Notes, tag: str) -> None:
    cancelled, expired = prepare("never"), prepare("never", expires_at=timezone.now() + dt.timedelta(seconds=0.2))
    assert transitions.cancel(cancelled.kwargs["delivery_id"]) is not None
    wait_until(lambda: delivery_of(expired).status == "expired", what="the mail expired")
    for mail, status in ((cancelled, "cancelled"), (expired, "expired")):
        started = {"task_id": f"{tag}-{status}", "link_error": note_error.s(tag=f"{tag}-error")}
        for _ in range(2):
            mail.apply_async(**started)
        with pytest.raises(DeliveryFailed) as caught:
            AsyncResult(f"{tag}-{status}").get(timeout=PATIENCE)
        assert caught.value.status == status
        next_step = chain(note.si(tag=tag), mail, note.s(tag=f"{tag}-next")).apply_async()
        with pytest.raises(DeliveryFailed):
            next_step.get(timeout=PATIENCE)
    body = chord([cancelled, note.si(tag=tag)])(note.s(tag=f"{tag}-next"))
    with pytest.raises((ChordError, DeliveryFailed)):
        body.get(timeout=PATIENCE)
    wait_until(lambda: len(notes(f"{tag}-error")) == 2, what="the errbacks")
    quiet()
    assert sorted(found[0] for found in notes(f"{tag}-error")) == [f"{tag}-cancelled", f"{tag}-expired"]
    assert notes(f"{tag}-next") == []
    assert server.messages == []


def test_a_rollback_leaves_nothing_and_the_signature_fails(server: SMTPServer, notes: Notes, tag: str) -> None:
    with transaction.atomic():
        mail = prepare("lost")
        transaction.set_rollback(True)
    assert not Delivery.objects.exists()
    link_error = note_error.s(tag=f"{tag}-error")
    by_chain = chain(note.si(tag=tag), mail.clone().set(link_error=link_error), note.s(tag=f"{tag}-next")).apply_async()
    by_call = mail.apply_async(link_error=link_error)
    by_name = current_app.send_task(send_prepared.name, kwargs=mail.kwargs, link_error=link_error)
    for result in (by_chain, by_call, by_name):
        with pytest.raises(DeliveryFailed, match="rolled back"):
            result.get(timeout=PATIENCE)
    wait_until(lambda: len(notes(f"{tag}-error")) == 3, what="the errbacks")
    assert notes(f"{tag}-next") == []


def test_run_in_the_transaction_that_prepares_it(server: SMTPServer, notes: Notes, tag: str) -> None:
    """As the first step of a chain, it is sent after the commit, and not sent after a rollback."""
    with transaction.atomic():
        result = chain(prepare("kept"), note.s(tag=tag)).apply_async()
    with transaction.atomic():
        chain(prepare("lost"), note.s(tag=tag)).apply_async()
        transaction.set_rollback(True)
    assert result.get(timeout=PATIENCE)["status"] == "accepted"
    quiet()
    assert len(notes(tag)) == 1
    assert subjects(server) == ["kept"]


def test_eta_countdown_and_expires_count_from_the_run(server: SMTPServer) -> None:
    soon = timezone.now() + dt.timedelta(seconds=1)
    later = [prepare("later").apply_async(eta=soon), prepare("later").apply_async(countdown=1)]
    never = prepare("never").apply_async(countdown=5, expires=0.3)
    with pytest.raises(DeliveryFailed, match="expired"):
        never.get(timeout=PATIENCE)
    for result in later:
        result.get(timeout=PATIENCE)
    assert [message.subject for message in server.messages if message.received_at >= soon.timestamp()] == ["later"] * 2


def test_a_process_that_does_not_know_the_app_runs_it(server: SMTPServer, notes: Notes, tag: str) -> None:
    server.inject(DEFERRED_FIRST)
    mail = prepare("by name")
    program = """
import sys
from celery import Celery, signature
app = Celery(broker=sys.argv[1])
next_step = signature("tests.acceptance.tasks.note", kwargs={"tag": sys.argv[2]}, app=app)
signature(sys.argv[3], kwargs={"delivery_id": sys.argv[4]}, app=app).apply_async(link=next_step)
"""
    arguments = [services.broker.url, tag, mail.task, mail.kwargs["delivery_id"]]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, timeout=PATIENCE, env={})
    wait_until(lambda: notes(tag), what="the continuation")
    quiet()
    assert [found[0]["id"] for found in notes(tag)] == [mail.kwargs["delivery_id"]]
    assert subjects(server) == ["by name"]


def test_a_person_sends_a_copy_of_what_is_never_run(server: SMTPServer) -> None:
    from email_integration.delivery import resend, send_now

    mail = prepare("stranded")
    assert not send_now(mail.kwargs["delivery_id"])
    copy = resend(mail.kwargs["delivery_id"])
    wait_until(lambda: Delivery.objects.get(pk=copy.pk).status == "accepted", what="the mail accepted")
    assert delivery_of(mail).status == "prepared"


def test_a_wrong_mail_is_refused_when_it_is_prepared() -> None:
    with pytest.raises(InvalidMail):
        prepare(to="no address")
    with pytest.raises(TypeError):
        prepare(colour="red")
    assert not Delivery.objects.exists()


def test_eagerly_and_called_directly(server: SMTPServer, tag: str, app: Stack, monkeypatch: Any) -> None:
    monkeypatch.setenv(NOTES, str(app.folder / "notes"))
    current_app.conf.task_always_eager = True
    try:
        result = chain(prepare("eager"), note.s(tag=tag)).apply_async()
        assert result.get()["status"] == "accepted"
        missing = send_prepared.si(delivery_id="missing").apply_async()
        with pytest.raises(DeliveryFailed):
            missing.get()
    finally:
        current_app.conf.task_always_eager = False
    mail = prepare("direct")
    assert mail()["status"] in {"queued", "sending", "accepted"}  # a worker may take it at once
    assert AsyncResult(mail.kwargs["delivery_id"]).get(timeout=PATIENCE)["status"] == "accepted"
    assert subjects(server) == ["direct", "eager"]


def test_revoking_the_result_of_a_prepared_mail_cancels_it(server: SMTPServer) -> None:
    """The result has a different id from the mail's."""
    mail = prepare()
    result = mail.apply_async(countdown=3600)
    assert result.id != mail.kwargs["delivery_id"]
    result.revoke()
    assert delivery_of(mail).status == "cancelled"
    assert server.messages == []
