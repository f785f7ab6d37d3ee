"""Chords whose parts are mails, when a process is killed while it begins one, or counts the last part of one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Signature, chain, chord, current_app, group, signature
from celery.result import GroupResult

from config.local.valkey import Valkey
from email_integration.models import Delivery
from email_integration.queue import continuing
from email_integration.tasks import canvas, send_email
from email_integration.tasks.outbox import OutboxTask
from tests.acceptance.killing import results_kept_in, url_of_results
from tests.broker import messages
from tests.deliveries import ago, pretend

pytestmark = [
    pytest.mark.django_db(transaction=True),
    # Celery's backend for Redis calls what is deprecated, and leaves its connections to the collector.
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(params=["database", "redis"])
def results(request: pytest.FixtureRequest, valkey: Valkey) -> Iterator[None]:
    """Results kept in the one or the other."""
    url = url_of_results(valkey) if request.param == "redis" else "django-db"
    with results_kept_in(url):
        yield


def body() -> Signature[Any]:
    """A task that this process does not know, as one of another project."""
    made: Signature[Any] = signature("other.body", queue="others")
    return made


def mail(subject: str) -> Signature[Any]:
    made: Signature[Any] = send_email.si(subject, "Text", to=["kim@example.com"])
    return made


def prepared(subject: str) -> Signature[Any]:
    made: Signature[Any] = send_email.prepare(subject, "Text", to=["kim@example.com"])
    return made


def two_mails() -> list[Signature[Any]]:
    return [mail("one"), mail("two")]


def two_prepared() -> list[Signature[Any]]:
    return [prepared("one"), prepared("two")]


def two_chains() -> list[Signature[Any]]:
    return [chain(mail("one"), mail("two")), chain(mail("three"), mail("four"))]


def accepted(delivery: Delivery) -> Delivery:
    """The delivery as it is recorded, with its result; what follows it is not yet published."""
    row = pretend(Delivery.objects.get(pk=delivery.pk), status="accepted", next_at=None, continue_after=ago(1))
    current_app.backend.store_result(canvas.task_id_of(row), {"id": row.pk}, "SUCCESS")
    return row


def finish() -> None:
    """Have all mails accepted, and publish what follows them, until there is none."""
    for _ in range(10):
        waiting = Delivery.objects.exclude(status="accepted").exclude(options=canvas.UNCALLED)
        for one in waiting:
            accepted(one)
        if not continuing.publish_due() and not waiting:
            return


def published(valkey: Valkey) -> list[str]:
    """The ids of the bodies that were published."""
    return [message.headers["id"] for message in messages(valkey, "others")]


class Killed(BaseException):
    """As a kill: nothing that is meant for errors sees it."""


@contextlib.contextmanager
def killed_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be killed when so many mails were called."""
    call, left = OutboxTask.apply_async, [calls]

    def called(self: OutboxTask, *args: Any, **kwargs: Any) -> Any:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return call(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(OutboxTask, "apply_async", called)
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("meanwhile", ["waiting", "accepted"])
@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize("header", [two_mails, two_prepared, two_chains])
@pytest.mark.usefixtures("results")
def test_a_chord_that_was_begun_by_half_is_begun_as_a_whole(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, header: Any, calls: int, meanwhile: str
) -> None:
    """Its process was killed while it submitted the parts; they count in the chord that is begun after it."""
    result = chain(mail("first"), group(header()), body()).apply_async()
    first = accepted(Delivery.objects.get(options__contains="other.body"))
    with killed_after(calls, monkeypatch):
        continuing.publish(first)
    if meanwhile == "accepted":
        for one in Delivery.objects.exclude(pk=first.pk).exclude(options=canvas.UNCALLED):
            assert continuing.publish(accepted(one))
    assert published(valkey) == []
    finish()
    assert published(valkey) == [result.id]


@pytest.mark.usefixtures("results")
def test_a_chord_that_was_begun_twice_ends_once(valkey: Valkey) -> None:
    """Its process was killed after it had submitted all parts, and before it had noted that."""
    result = chain(mail("first"), group(mail("one"), mail("two")), body()).apply_async()
    first = Delivery.objects.get()
    for _ in range(3):
        assert continuing.publish(accepted(first))
    finish()
    assert published(valkey) == [result.id]


@pytest.mark.parametrize("results", ["redis"], indirect=True)
@pytest.mark.usefixtures("results")
def test_a_chord_whose_end_was_about_to_be_published_ends(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis lets one process publish the body, for some seconds; that one was killed before it did."""
    result = chord([mail("one"), mail("two")])(body())
    assert isinstance(result.parent, GroupResult)
    claim = current_app.backend.get_key_for_group(result.parent.id, ".c")
    one, two = Delivery.objects.order_by("created_at")
    assert continuing.publish(accepted(one))

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    two = accepted(two)
    with monkeypatch.context() as patched:
        patched.setattr(GroupResult, "restore", killed)
        with pytest.raises(Killed):
            continuing.publish(two)
    assert not continuing.publish(accepted(two))
    assert Delivery.objects.get(pk=two.pk).continue_after is not None
    assert published(valkey) == []
    current_app.backend.client.delete(claim)  # as Redis does after some seconds
    for _ in range(2):
        assert continuing.publish(accepted(two))
        assert published(valkey) == [result.id]


@pytest.mark.usefixtures("results")
def test_the_parts_of_a_chord_that_fails_are_told_so_once(valkey: Valkey) -> None:
    """What its last part has counted, and the errbacks of that part, do not wait for anything."""
    chord([mail("one"), mail("two").on_error(signature("other.sorry", queue="others"))])(body())
    one, two = Delivery.objects.order_by("created_at")
    assert continuing.publish(accepted(one))
    row = pretend(accepted(two), status="failed", code=550, reason="refused")
    current_app.backend.store_result(row.pk, ValueError("refused"), "FAILURE")
    assert continuing.publish(row)
    assert Delivery.objects.get(pk=two.pk).continue_after is None
    assert len(published(valkey)) == 1


def test_an_error_of_the_result_backend_that_passes_is_no_end_of_what_follows(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the broker is another server, whose errors are others."""

    class Away(Exception):
        pass

    send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, link=body())
    delivery = accepted(Delivery.objects.get())
    with monkeypatch.context() as patched:
        patched.setattr(canvas, "go_on", lambda *_: (_ for _ in ()).throw(Away))
        patched.setattr(current_app.backend, "exception_safe_to_retry", lambda error: isinstance(error, Away))
        assert not continuing.publish(delivery)
    assert current_app.AsyncResult(delivery.pk).state == "SUCCESS"
    assert published(valkey) == []
    assert continuing.publish(accepted(delivery))
    assert len(published(valkey)) == 1
